"""One image of ids for each slice, in a folder: for whoever wants files to look at or to train on.

    NAME_masks/z0000.png ...    uint16 PNG; uint32 TIFF (.tif) where there are more than 65535 objects

Slices are those of the work grid, numbered from 0 as in every table (frames in time: t0000.png). Each image says in a text
that seggeo made it, by which `is_ours` knows a folder that may be replaced: one with a file of anybody else may not.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.pyramid import BLOCK
from seggeo.output.volume_labels import Ids, bands, drawn_volume, id_type
from seggeo.protocols import Result, SinkOptions

_NAME = re.compile(r"[zt]\d{4,}\.(png|tif)")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MARK = b"Software\0seggeo"
_LEVEL = 3
"""Of deflate: 6 takes three times as long for two thirds of the bytes."""
_ZLIB, _LAST = b"\x78\x5e", b"\x03\x00"
"""What begins and ends a stream of zlib whose pieces are packed one by one."""


def write_masks(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as a folder of one grey image for each slice and return `path`.

    Same result, same bytes.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    frame, kind = result.frame, id_type(result)
    rows = bands(drawn_volume(result), (frame.depth, frame.height, frame.width), kind)
    write = _PngWriter().write if kind == np.uint16 else _write_tiff
    with publishing(path, options.scratch) as temporary:
        temporary.mkdir()
        for z in range(frame.depth):
            write(temporary / _name(z, frame, kind), islice(rows, -(-frame.height // BLOCK)), frame)
    return path


def is_ours(path: Path) -> bool:
    """True for a folder that `write_masks` made and nobody put anything into, which may be replaced as a whole."""
    try:
        entries = list(path.iterdir())
        return bool(entries) and all(_NAME.fullmatch(entry.name) and _is_marked(entry) for entry in entries)
    except OSError:
        return False


def _name(z: int, frame: Frame, kind: np.dtype[Any]) -> str:
    digits = max(4, len(str(frame.depth - 1)))
    return f"{'t' if frame.is_series else 'z'}{z:0{digits}d}.{'png' if kind == np.uint16 else 'tif'}"


def _is_marked(path: Path) -> bool:
    """True for an image that carries the mark as `write_masks` puts it."""
    import tifffile

    if path.suffix == ".png":
        with path.open("rb") as file:
            return _MARK in file.read(80)
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.pages.first.software == "seggeo")
    except (tifffile.TiffFileError, ValueError, IndexError):
        return False


class _PngWriter:
    """Writes grey PNGs of 16 bits, packed as their rows come; stretches without an object are packed once for all of them."""

    def __init__(self) -> None:
        self._blank: dict[int, tuple[Ids, bytes]] = {}  # by rows

    def write(self, path: Path, rows: Iterator[Ids], frame: Frame) -> None:
        """Write one slice."""
        checksum = 1
        with path.open("wb") as file:
            file.write(_SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", frame.width, frame.height, 16, 0, 0, 0, 0)))
            file.write(_chunk(b"tEXt", _MARK) + _chunk(b"IDAT", _ZLIB))
            for band in rows:
                packed, checksum = self._packed(band, checksum)
                file.write(_chunk(b"IDAT", packed))
            file.write(_chunk(b"IDAT", _LAST + struct.pack(">I", checksum)) + _chunk(b"IEND", b""))

    def _packed(self, band: Ids, checksum: int) -> tuple[bytes, int]:
        """A band as a piece of deflate that needs nothing of the pieces before it, and Adler's sum of all so far."""
        blank, packed = self._blank.get(len(band), (None, b""))
        if band is blank:
            low, high = checksum & 0xFFFF, checksum >> 16
            return packed, (high + len(band) * (1 + 2 * band.shape[1]) * low) % 65521 << 16 | low
        lines = np.zeros((len(band), 1 + 2 * band.shape[1]), np.uint8)  # each row begins with its filter: none
        lines[:, 1:] = band.astype(">u2").view(np.uint8)
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = packer.compress(lines.data) + packer.flush(zlib.Z_FULL_FLUSH)
        if not band.any():
            self._blank[len(band)] = band, packed
        return packed, zlib.adler32(lines.data, checksum)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _write_tiff(path: Path, rows: Iterator[Ids], frame: Frame) -> None:
    """A grey TIFF of 32 bits in strips."""
    import tifffile

    strips = (zlib.compress(band.astype("<u4").tobytes(), _LEVEL) for band in rows)
    with path.open("w+b") as stream, tifffile.TiffWriter(stream) as target:
        target.write(
            strips, shape=(frame.height, frame.width), dtype="uint32", rowsperstrip=BLOCK, compression="adobe_deflate",
            photometric="minisblack", software="seggeo", metadata=None,
        )  # fmt: skip

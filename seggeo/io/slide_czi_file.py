"""The container of a Zeiss CZI: its directory of subblocks, its metadata, and the pixels of one subblock.

A CZI is a row of segments, each with a name and a length. The first says where the directory and the metadata lie; the
directory lists every subblock: the rectangle it shows, the size it is stored at, its channel and where its pixels are. So a
window costs what its subblocks cost, whatever the size of the file. Pixels are plain, JPEG XR or Zstandard, which imagecodecs
decodes.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.io.slide_pyramid import MAX_BLOCK_BYTES
from seggeo.io.slide_tiff_text import MAX_XML_BYTES

_HEADER = 32
"""Bytes before a segment's content: name, bytes allocated, bytes used."""
_LEAST_START = 256
"""A subblock's metadata begin here at the earliest, counted from its content."""
_MOST_DIMENSIONS = 16
PIXELS: Mapping[int, tuple[str, int]] = {
    0: ("u1", 1), 1: ("u2", 1), 2: ("f4", 1), 3: ("u1", 3), 4: ("u2", 3), 8: ("f4", 3), 9: ("u1", 4), 12: ("u4", 1)
}  # fmt: skip
"""Type and samples of each kind of pixel; colours are stored as blue, green, red, and the fourth is alpha."""
_PLAIN, _JPEG_XR, _ZSTD, _ZSTD_HEADED = 0, 4, 5, 6
_REFUSED = {1: "JPEG", 2: "LZW"}
"""Rarely met: no file is known by which the order of their colours could be settled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subblock:
    """One entry of the directory."""

    position: int
    """Of its segment in the file."""
    pixel: int
    compression: int
    row: int
    """First row, in full-resolution pixels of the slide's own coordinates; may be negative."""
    col: int
    size: tuple[int, int]
    """Full-resolution rows and columns it shows."""
    stored: tuple[int, int]
    """Rows and columns it holds."""
    order: int
    """Where subblocks overlap, the highest number lies on top."""
    index: Mapping[str, int]
    """Its place along the other dimensions: C, Z, T, S and so on."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one sample."""
        return np.dtype(f"<{PIXELS[self.pixel][0]}")

    @property
    def samples(self) -> int:
        """Samples of one pixel."""
        return PIXELS[self.pixel][1]


class CziFile:
    """An open file; may be read from several threads."""

    def __init__(self, path: str, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            directory, metadata = self._places()
            self.subblocks = self._directory(directory)
            self.xml = self._metadata(metadata) if metadata else ""
        except BaseException:
            self.close()
            raise

    def decode(self, block: Subblock) -> NDArray[Any]:
        """Pixels `(h, w, samples)` as stored, red first.

        Raises:
            SourceError: Its compression is not known.
            ValueError: It does not hold what the directory says; codecs raise errors of their own.
        """
        head = self._content(block.position, b"ZISRAWSUBBLOCK", 16)
        metadata_bytes, _, data_bytes = struct.unpack("<iiq", head)
        (count,) = struct.unpack("<i", self._read(block.position + _HEADER + 16 + 28, 4))
        start = block.position + _HEADER + max(_LEAST_START, 16 + 32 + 20 * count) + metadata_bytes
        shape = (*block.stored, block.samples)
        if not 0 <= data_bytes <= 2 * MAX_BLOCK_BYTES or metadata_bytes < 0 or not 0 <= count <= _MOST_DIMENSIONS:
            raise ValueError(f"a subblock of {data_bytes} bytes")
        values = self._decoded(self._read(start, data_bytes), block, shape)
        if values.size != prod(shape):
            raise ValueError(f"a subblock holds {values.size} values and should hold {prod(shape)}")
        return values.reshape(shape)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _decoded(self, data: bytes, block: Subblock, shape: tuple[int, ...]) -> NDArray[Any]:
        """The values of a subblock, colours in the order of red, green, blue."""
        bytes_in_all = prod(shape) * block.dtype.itemsize
        if block.compression == _JPEG_XR:
            out = np.empty(shape if block.samples > 1 else shape[:2], block.dtype)
            return np.asarray(imagecodecs.jpegxr_decode(data, out=out))  # it knows the order of its colours
        if block.compression == _PLAIN:
            values = np.frombuffer(data, block.dtype)
        elif block.compression == _ZSTD:
            values = np.frombuffer(imagecodecs.zstd_decode(data, out=bytes_in_all), block.dtype)
        elif block.compression == _ZSTD_HEADED:
            values = _unpacked(data, bytes_in_all, block.dtype)
        else:
            kind = _REFUSED.get(block.compression, f"method {block.compression}")
            raise SourceError(
                what=f"{self._name} is compressed by {kind}", why="nothing here decodes that",
                mend="save it again in ZEN with JPEG XR or Zstandard, or without compression",
            )  # fmt: skip
        if block.samples == 1:
            return values
        colours = values.reshape(-1, block.samples)
        return colours[:, [2, 1, 0, 3][: block.samples]]

    def _places(self) -> tuple[int, int]:
        """Where the directory and the metadata are."""
        part, directory, metadata = struct.unpack_from("<iqq", self._content(0, b"ZISRAWFILE", 80), 48)
        if part != 0:
            raise SourceError(
                what=f"{self._name} is one part of a CZI of several files", why="its directory is in the first of them",
                mend="save it as one file in ZEN",
            )  # fmt: skip
        return directory, metadata

    def _directory(self, position: int) -> tuple[Subblock, ...]:
        (count,) = struct.unpack("<i", self._content(position, b"ZISRAWDIRECTORY", 4))
        if not 0 <= count <= self._size // _HEADER:
            raise ValueError(f"a directory of {count} subblocks")
        (used,) = struct.unpack("<q", self._read(position + 24, 8))
        data = self._read(position + _HEADER + 128, min(max(used - 128, 0), self._size))
        found, at = [], 0
        for _ in range(count):
            (dimensions,) = struct.unpack_from("<i", data, at + 28)
            if not 0 < dimensions <= _MOST_DIMENSIONS:
                raise ValueError(f"a subblock of {dimensions} dimensions")
            found.append(_entry(data[at : at + 32 + 20 * dimensions]))
            at += 32 + 20 * dimensions
        return tuple(found)

    def _metadata(self, position: int) -> str:
        (size,) = struct.unpack("<i", self._content(position, b"ZISRAWMETADATA", 4))
        if not 0 <= size <= MAX_XML_BYTES:
            raise ValueError(f"metadata of {size} bytes")
        return self._read(position + _HEADER + 256, size).decode("utf-8", "replace")

    def _content(self, position: int, segment: bytes, size: int) -> bytes:
        """The first bytes of a segment's content, if it is the one that should be there."""
        data = self._read(position, _HEADER + size)
        if data[:16].rstrip(b"\0") != segment:
            raise ValueError(f"byte {position} should begin a {segment.decode()}")
        return data[_HEADER:]

    def _read(self, position: int, size: int) -> bytes:
        if position < 0 or size < 0 or position + size > self._size:
            raise ValueError(f"bytes {position} to {position + size} of a file of {self._size}: it is cut off or damaged")
        with self._lock:
            self._file.seek(position)
            data = self._file.read(size)
        if len(data) < size:
            raise ValueError(f"byte {position + len(data)} cannot be read")
        return data


def _entry(data: bytes) -> Subblock:
    """A subblock from its bytes in the directory."""
    schema, pixel, position, part, compression, count = struct.unpack("<2siqii6xi", data[:32])
    if schema != b"DV" or pixel not in PIXELS or part != 0:
        raise ValueError(f"a subblock of schema {schema!r}, pixel type {pixel} and file {part}")
    place: dict[str, tuple[int, int, int]] = {}
    for i in range(count):
        axis, start, size, _, stored = struct.unpack_from("<4siifi", data, 32 + 20 * i)
        place[axis.rstrip(b"\0").decode("ascii")] = start, size, stored or size
    (row, height, rows), (col, width, cols) = place.pop("Y"), place.pop("X")
    if min(height, width, rows, cols) < 1:
        raise ValueError(f"a subblock of {rows} x {cols} px")
    order = place.pop("M", (0, 0, 0))[0]
    return Subblock(
        position=position, pixel=pixel, compression=compression, row=row, col=col, size=(height, width), stored=(rows, cols),
        order=order, index={axis: start for axis, (start, _, _) in place.items()},
    )  # fmt: skip


def _unpacked(data: bytes, bytes_in_all: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zstandard with a header of 1 byte, or of 3 which tell whether low and high bytes were packed apart."""
    length = data[0]
    is_apart = length == 3 and data[1] == 1 and bool(data[2] & 1)
    values = np.frombuffer(imagecodecs.zstd_decode(data[length:], out=bytes_in_all), np.uint8)
    if is_apart:
        values = np.ascontiguousarray(values.reshape(2, -1).T)
    return values.reshape(-1).view(dtype)

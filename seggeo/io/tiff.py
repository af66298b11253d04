"""What a TIFF says about its own blocks, read without decoding: sparse blocks, cut-off files, hidden references.

Only the fields that seggeo needs are parsed: each directory's block layout and the two arrays of offsets and byte counts.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.geometry import Window

_TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}
_MAX_DIRECTORIES = 64
_WIDTH, _HEIGHT, _STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_COUNTS = 256, 257, 273, 278, 279
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _GDAL_METADATA = 284, 322, 323, 324, 325, 42112
_WANTED = {254, 277, _WIDTH, _HEIGHT, _STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_COUNTS, _PLANAR,
           _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS, _GDAL_METADATA}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparse:
    """Which blocks of an image were never written; GDAL reads zeros there and calls them valid."""

    height: int
    """Rows of one block."""
    width: int
    """Columns of one block."""
    empty: NDArray[np.bool_]
    """`(block rows, block columns)`, True = not in the file."""

    @property
    def share(self) -> float:
        """Share of blocks that are not in the file."""
        return float(self.empty.mean())

    def covers(self, window: Window) -> bool:
        """True when no pixel of a full-resolution window is in the file."""
        rows = slice(window.row // self.height, (window.row_stop - 1) // self.height + 1)
        cols = slice(window.col // self.width, (window.col_stop - 1) // self.width + 1)
        return bool(self.empty[rows, cols].all())

    def at(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`(len(rows), len(cols))`, True where the full-resolution pixel is not in the file; both in ascending order."""
        down, right = rows // self.height, cols // self.width
        blocks = self.empty[down[0] : down[-1] + 1, right[0] : right[-1] + 1]
        whole: NDArray[np.bool_] = np.repeat(
            np.repeat(blocks, np.bincount(down - down[0]), axis=0), np.bincount(right - right[0]), axis=1
        )
        return whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """One image of a TIFF: sizes in pixels and where its blocks lie in the file."""

    height: int
    width: int
    block_height: int
    block_width: int
    planes: int
    """1, or the number of bands when each band has blocks of its own."""
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]
    metadata: bytes
    """GDAL's own XML, empty when there is none."""

    def sparse(self) -> Sparse | None:
        """The blocks that were never written, or None when all were."""
        rows, cols = -(-self.height // self.block_height), -(-self.width // self.block_width)
        if len(self.offsets) != self.planes * rows * cols:
            return None
        missing = (self.offsets == 0) | (self.counts == 0)
        if not missing.any():
            return None
        empty = missing.reshape(self.planes, rows, cols).all(axis=0)
        return Sparse(height=self.block_height, width=self.block_width, empty=empty) if empty.any() else None


def read_directories(path: str) -> list[Directory]:
    """The directories of a TIFF in file order, the full-resolution image first.

    Raises:
        SourceError: The file ends inside a directory, or a directory cannot be understood.
    """
    try:
        with open(path, "rb") as file:
            return _walk(file)
    except (struct.error, ValueError, KeyError, OSError, OverflowError) as error:
        raise SourceError(
            what=f"{path} is a damaged TIFF",
            why=f"its directory of blocks cannot be read ({error})",
            mend="copy or download the file again",
        ) from error


def check_complete(path: str, directories: list[Directory]) -> None:
    """Refuse a TIFF whose blocks lie beyond its end.

    Raises:
        SourceError: The file is shorter than its own directory says.
    """
    size = os.path.getsize(path)
    for directory in directories:
        if len(directory.offsets) == 0:
            continue
        ends = directory.offsets + directory.counts
        if int(ends.max()) > size:
            lost = int((ends > size).sum())
            raise SourceError(
                what=f"{path} is cut off: it has {size} bytes and should have at least {int(ends.max())}",
                why=f"{lost} of {len(ends)} blocks of its {directory.width} x {directory.height} image lie beyond its end",
                mend="copy or download the file again",
            )


def _walk(file: BinaryIO) -> list[Directory]:
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}[head[:2]]
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    (place,) = struct.unpack(order + "Q", head[8:16]) if big else struct.unpack(order + "I", head[4:8])
    directories: list[Directory] = []
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MAX_DIRECTORIES:
        seen.add(place)
        tags, place = _read_tags(file, place, order=order, big=big)
        directory = _directory(tags)
        if directory is not None:
            directories.append(directory)
    if not directories:
        raise ValueError("no image in it")
    return directories


def _read_tags(file: BinaryIO, place: int, *, order: str, big: bool) -> tuple[dict[int, NDArray[np.uint64]], int]:
    file.seek(place)
    head, entry, link = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    (count,) = struct.unpack(order + head, file.read(struct.calcsize(order + head)))
    if count > 4096:
        raise ValueError(f"{count} tags in one directory")
    size = struct.calcsize(order + entry)
    body = file.read(count * size + struct.calcsize(order + link))
    (following,) = struct.unpack(order + link, body[count * size :])
    tags = {}
    for i in range(count):
        tag, kind, length, value = struct.unpack(order + entry, body[i * size : (i + 1) * size])
        if tag in _WANTED and kind in _TYPES and length:  # a tag without a value is as good as none, to libtiff too
            tags[tag] = _values(file, kind=_TYPES[kind], length=length, value=value, order=order)
    return tags, following


def _values(file: BinaryIO, *, kind: str, length: int, value: bytes, order: str) -> NDArray[np.uint64]:
    """Values of one tag, from the entry itself or from where it points."""
    dtype = np.dtype(order + kind)
    if length * dtype.itemsize <= len(value):
        return np.frombuffer(value, dtype, length).astype(np.uint64)
    (place,) = struct.unpack(order + ("Q" if len(value) == 8 else "I"), value)
    if place + length * dtype.itemsize > os.fstat(file.fileno()).st_size:
        raise ValueError(f"{length} values at byte {place} lie beyond the end")
    file.seek(place)
    return np.frombuffer(file.read(length * dtype.itemsize), dtype).astype(np.uint64)


def _directory(tags: dict[int, NDArray[np.uint64]]) -> Directory | None:
    if _WIDTH not in tags or _HEIGHT not in tags:
        return None
    height, width = int(tags[_HEIGHT][0]), int(tags[_WIDTH][0])
    tiled = _TILE_OFFSETS in tags
    offsets = tags.get(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, np.zeros(0, np.uint64))
    counts = tags.get(_TILE_COUNTS if tiled else _STRIP_COUNTS)
    if counts is None or len(counts) != len(offsets):
        # Old writers leave the counts out; libtiff estimates them and so nothing can be said about the end.
        counts = np.minimum(offsets, 1)
    rows = int(tags[_TILE_HEIGHT][0]) if tiled else int(tags.get(_ROWS_PER_STRIP, np.array([height]))[0])
    separate = int(tags.get(_PLANAR, np.array([1]))[0]) == 2
    return Directory(
        height=height,
        width=width,
        block_height=max(1, rows if tiled else min(rows, height)),
        block_width=max(1, int(tags[_TILE_WIDTH][0]) if tiled else width),
        planes=int(tags.get(277, np.array([1]))[0]) if separate else 1,
        offsets=offsets,
        counts=counts,
        metadata=tags[_GDAL_METADATA].astype(np.uint8).tobytes() if _GDAL_METADATA in tags else b"",
    )

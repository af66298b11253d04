"""Stacks in TIFF files (plain pages, ImageJ, OME, LSM; BigTIFF; tiles and strips), read by rows or by tiles.

1. Planes that lie uncompressed in one piece are read by the rows that are asked for.
2. Others are read by the tiles or strips that a box meets; these are decoded whole, and kept no longer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.checks import fingerprint_of
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.slide_bytes import FileBytes, check_claim
from seggeo.io.slide_pyramid import MAX_BLOCK_BYTES, damaged_slide
from seggeo.io.slide_tiff import check_decoder, cut_off, decode_block, plane_of
from seggeo.io.slide_tiff_layout import open_directories
from seggeo.io.volume_file import Box, VolumeFacts
from seggeo.io.volume_tiff_facts import tiff_volume_facts
from seggeo.io.volume_tiff_layout import Stack, choose_stack

_RUN_BYTES = 16 * 2**20
"""Bytes of whole rows that are read at a time."""
_UNPACKED, _YCBCR = 1, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planes:
    """Where the planes of a stack lie in the file, in the order of its axes."""

    offsets: NDArray[np.int64]
    """`(planes, blocks)`; of raw planes `(planes, 1)`. 0: not in the file."""
    counts: NDArray[np.int64]
    tables: tuple[bytes | None, ...]
    """JPEG tables of each plane."""
    lost: NDArray[np.bool_]
    """`(planes,)`, True for those without a page."""
    is_raw: bool
    """True where each plane is one piece of rows without compression."""


def open_tiff_volume(path: str, name: str, reading: Reading) -> TiffVolume:
    """The volume in a TIFF.

    Raises:
        SourceError: Damaged, cut off, planes that are not in the file, blocks too large to decode, or no volume.
    """
    with ExitStack() as opened:
        try:
            tif = opened.enter_context(open_directories(path))
            stack = choose_stack(tif, name)
            planes = _find_planes(tif, stack, name)
            block = _block(stack.keyframe, name, is_raw=planes.is_raw)
            missing = _missing(stack, planes, reading, name)
            facts = tiff_volume_facts(tif, stack, chunk=block, missing=missing, name=name)
            _check_ends(planes, os.path.getsize(path), name)
            if not planes.is_raw:
                check_decoder(stack.keyframe, name)
            volume = TiffVolume(tif, path, stack=stack, planes=planes, facts=facts, name=name)
        except SourceError:
            raise
        except READ_ERRORS as error:
            raise damaged_slide(name, error) from error
        opened.pop_all()
    return volume


class TiffVolume:
    """A `VolumeFile` over the planes of a TIFF."""

    def __init__(self, tif: Any, path: str, *, stack: Stack, planes: _Planes, facts: VolumeFacts, name: str) -> None:
        self.facts = facts
        self._tif, self._path, self._name = tif, path, name
        self._stack, self._planes = stack, planes
        self._stored = np.dtype(stack.keyframe.dtype).newbyteorder(tif.byteorder)
        self._together = int(stack.keyframe.planarconfig) == 1
        self._decoder = None if planes.is_raw else stack.keyframe.decode
        self._bytes = FileBytes(path)

    def read(self, box: Box, channel: int, time: int) -> NDArray[Any]:
        """See `VolumeFile`; blocks that were never written are 0."""
        slices, rows, cols = box
        out = np.zeros(tuple(s.stop - s.start for s in box), self.facts.dtype)
        if out.size == 0:
            return out
        page, sample = divmod(channel, self._stack.samples)
        pieces = self._rows if self._planes.is_raw else self._blocks
        for i in range(slices.start, slices.stop):
            plane = self._plane(i, time, page)
            try:
                for row, col, values in pieces(plane, sample, rows, cols):
                    _paste(out[i - slices.start], values, row - rows.start, col - cols.start)
            except READ_ERRORS as error:
                raise damaged_slide(self._name, error, f" in {self.facts.axes[0]} {i}") from error
        return out

    def is_empty(self, box: Box) -> bool:
        """See `VolumeFile`: none of its blocks is in the file, in any channel and time."""
        slices, rows, cols = box
        stack = self._stack
        times = 1 if stack.is_series else stack.size("T")
        planes = [
            self._plane(i, t, c)
            for i in range(slices.start, slices.stop) for t in range(times) for c in range(stack.size("C"))
        ]  # fmt: skip
        if self._planes.is_raw:
            return not self._planes.offsets[planes].any()
        copies = 1 if self._together else int(stack.keyframe.samplesperpixel)
        blocks = [index for s in range(copies) for index, _, _ in self._met(s, rows, cols)]
        picked = np.ix_(planes, blocks)
        return not ((self._planes.offsets[picked] != 0) & (self._planes.counts[picked] != 0)).any()

    def fingerprint(self) -> dict[str, Any]:
        """See `VolumeFile`."""
        return fingerprint_of(self._path)

    def close(self) -> None:
        """Release the file."""
        self._tif.close()
        self._bytes.close()

    def _plane(self, first: int, time: int, page: int) -> int:
        return self._stack.plane(0, first, page) if self._stack.is_series else self._stack.plane(first, time, page)

    def _rows(self, plane: int, sample: int, rows: slice, cols: slice) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Rows of a plane that lies in one piece, cut to the columns that are asked for."""
        place = int(self._planes.offsets[plane, 0])
        if place == 0:
            return
        _, height, width = self.facts.shape
        samples = int(self._stack.keyframe.samplesperpixel) if self._together else 1
        row_bytes = width * samples * self._stored.itemsize
        if not self._together:
            place += sample * height * row_bytes
        many = max(1, _RUN_BYTES // row_bytes)
        for first in range(rows.start, rows.stop, many):
            count = min(many, rows.stop - first)
            raw = self._bytes.read(count * row_bytes, place + first * row_bytes)
            values = np.frombuffer(raw, self._stored).reshape(count, width, samples)
            yield first, cols.start, values[:, cols, sample if self._together else 0]

    def _blocks(self, plane: int, sample: int, rows: slice, cols: slice) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Decoded tiles or strips of a plane that a box meets."""
        block = self.facts.chunk[1:]
        keyframe, table = self._stack.keyframe, self._planes.tables[plane]
        assert self._decoder is not None
        for index, row, col in self._met(0 if self._together else sample, rows, cols):
            count, place = int(self._planes.counts[plane, index]), int(self._planes.offsets[plane, index])
            if count and place:
                raw = self._bytes.read(count, place)
                check_claim(raw, int(keyframe.compression), block)
                values = decode_block(raw, index, keyframe=keyframe, decoder=self._decoder, tables=table)
                height, width = self._shape(row, col)
                values = values[:height, :width]
                if values.shape[:2] != (height, width):
                    raise ValueError(f"the block at row {row}, column {col} has {values.shape[0]} x {values.shape[1]} pixels")
                yield row, col, values[..., sample if self._together else 0]

    def _met(self, sample: int, rows: slice, cols: slice) -> Iterator[tuple[int, int, int]]:
        """Number, first row and first column of the blocks that a box meets."""
        (height, width), (_, full_height, full_width) = self.facts.chunk[1:], self.facts.shape
        down, across = -(-full_height // height), -(-full_width // width)
        for i in range(rows.start // height, -(-rows.stop // height)):
            for j in range(cols.start // width, -(-cols.stop // width)):
                yield (sample * down + i) * across + j, i * height, j * width

    def _shape(self, row: int, col: int) -> tuple[int, int]:
        """Rows and columns of the block that starts there, cut at the image."""
        (height, width), (_, full_height, full_width) = self.facts.chunk[1:], self.facts.shape
        return min(height, full_height - row), min(width, full_width - col)


def _paste(out: NDArray[Any], values: NDArray[Any], row: int, col: int) -> None:
    """Values into the part of `out` that they cover when their first pixel lies at `row`, `col`, which may be negative."""
    top, left = max(0, row), max(0, col)
    bottom, right = min(len(out), row + values.shape[0]), min(out.shape[1], col + values.shape[1])
    out[top:bottom, left:right] = values[top - row : bottom - row, left - col : right - col]


def _find_planes(tif: Any, stack: Stack, name: str) -> _Planes:
    count = int(np.prod([n for _, n in stack.pages], dtype=np.int64))
    keyframe, series = stack.keyframe, stack.series
    plain = _is_plain(keyframe)
    samples = int(keyframe.samplesperpixel)
    size = int(keyframe.imagelength) * int(keyframe.imagewidth) * samples * np.dtype(keyframe.dtype).itemsize
    if series.dataoffset is not None and plain:  # also planes without a page of their own, as ImageJ writes past 4 GB
        offsets = int(series.dataoffset) + np.arange(count, dtype=np.int64)[:, None] * size
        none, lost = (None,) * count, np.zeros(count, np.bool_)
        return _Planes(offsets=offsets, counts=np.full_like(offsets, size), tables=none, lost=lost, is_raw=True)
    pages = list(series.pages)
    if len(pages) != count:
        raise SourceError(
            what=f"{name} has {len(pages)} pages where its axes need {count}",
            why="some of its planes are not in the file", mend="copy or export it again",
        )  # fmt: skip
    found = [plane_of(page, keyframe) for page in pages]
    blocks = _block_count(keyframe)
    offsets, counts = np.zeros((count, blocks), np.int64), np.zeros((count, blocks), np.int64)
    for i, plane in enumerate(found):
        if plane is not None:
            listed = min(len(plane.offsets), len(plane.counts))
            if listed < blocks:
                raise ValueError(f"{listed} blocks are listed for page {i} where {blocks} are needed")
            offsets[i], counts[i] = plane.offsets[:blocks], plane.counts[:blocks]
    lost = np.array([plane is None for plane in found])
    tables = tuple(None if plane is None else plane.tables for plane in found)
    if plain and _in_one_piece(offsets, counts, size):
        whole = counts.sum(axis=1)[:, None]
        return _Planes(offsets=offsets[:, :1], counts=whole, tables=tables, lost=lost, is_raw=True)
    return _Planes(offsets=offsets, counts=counts, tables=tables, lost=lost, is_raw=False)


def _is_plain(page: Any) -> bool:
    """True for strips of whole numbers of bytes as they are."""
    bits, dtype = page.bitspersample, np.dtype(page.dtype)
    whole = (bits if isinstance(bits, int) else bits[0]) == dtype.itemsize * 8
    unpacked = int(page.compression) == _UNPACKED and int(page.predictor) == 1 and int(page.fillorder) == 1
    return bool(whole and unpacked and not page.is_tiled and int(page.photometric) != _YCBCR)


def _in_one_piece(offsets: NDArray[np.int64], counts: NDArray[np.int64], size: int) -> bool:
    """True where the strips of every plane in the file follow each other and make up its pixels."""
    present = offsets.any(axis=1)
    follow = (offsets[present, 1:] == offsets[present, :-1] + counts[present, :-1]).all()
    return bool(follow and (counts[present].sum(axis=1) == size).all())


def _block_count(page: Any) -> int:
    rows = int(page.tilelength) if page.is_tiled else min(int(page.rowsperstrip), int(page.imagelength))
    cols = int(page.tilewidth) if page.is_tiled else int(page.imagewidth)
    if min(rows, cols) < 1:
        raise ValueError(f"blocks of {rows} x {cols} pixels")
    copies = 1 if int(page.planarconfig) == 1 else int(page.samplesperpixel)
    return -(-int(page.imagelength) // rows) * -(-int(page.imagewidth) // cols) * copies


def _block(page: Any, name: str, *, is_raw: bool) -> tuple[int, int]:
    """Rows and columns that are decoded together; raw rows are read one by one."""
    if is_raw:
        return 1, int(page.imagewidth)
    height = int(page.tilelength) if page.is_tiled else min(int(page.rowsperstrip), int(page.imagelength))
    width = int(page.tilewidth) if page.is_tiled else int(page.imagewidth)
    size = height * width * np.dtype(page.dtype).itemsize * (int(page.samplesperpixel) if int(page.planarconfig) == 1 else 1)
    if size > MAX_BLOCK_BYTES:
        raise SourceError(
            what=f"{name} has blocks of {size >> 20} MiB",
            why=f"each must be decoded whole, and the limit is {MAX_BLOCK_BYTES >> 20} MiB",
            mend="write it in tiles: bfconvert -tilex 512 -tiley 512 IN OUT.ome.tif",
        )
    return height, width


def _missing(stack: Stack, planes: _Planes, reading: Reading, name: str) -> frozenset[int]:
    """Slices of which a plane is not in the file, where the user allows that."""
    shape = tuple(n for _, n in stack.pages)
    lost = planes.lost.reshape(shape)
    first = next(i for i, (axis, _) in enumerate(stack.pages) if axis == ("T" if stack.is_series else "Z"))
    found = frozenset(np.flatnonzero(lost.any(axis=tuple(i for i in range(len(shape)) if i != first))).tolist())
    if found and not reading.allow_gaps:
        raise SourceError(
            what=f"{name} lacks {int(lost.sum())} of its {lost.size} planes",
            why=f"they are not in the file: of {len(found)} slices, the first is {min(found) + 1}",
            mend="copy it again, or add --allow-gaps where they were never taken",
        )
    return found


def _check_ends(planes: _Planes, size: int, name: str) -> None:
    ends = planes.offsets.astype(np.uint64) + planes.counts.astype(np.uint64)
    if int(ends.max(initial=0)) > size:
        raise cut_off(name, size, int(ends.max()))

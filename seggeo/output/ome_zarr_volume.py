"""The levels of a label volume as chunks of an OME-Zarr, each made from the one below it while slices come, in flat memory.

Every level is half as wide and high as the one before it, and half as deep once its voxels would else be flatter than they
are deep: a stack of thick slices keeps them all until rows and columns are as coarse. A series keeps all its frames.

1. `VolumeLevels.put` keeps each block of full resolution as runs of equal ids; it waits for its chunks and for the level above;
2. when a level's slices have filled the depth of a chunk, all chunks of that depth are written; those without an object
   are not;
3. a level's slice is made as soon as the one or two slices below it are complete (`halve`, `halve_pair`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seggeo.output.pyramid import BLOCK, Block, halve, halve_pair

LEVEL = 3
"""Of deflate: whole ids repeat, so 1 takes as long and leaves 1.4 times the bytes, 6 takes 3 times as long for 0.65 of them."""
_SIDE, _DEPTH = 256, 32
_SLAB = 1 << 27
"""Voxels that wait, as runs of some tenth of their size, until the depth of a chunk is full."""
_FLAT = 2**0.5
"""A step along z is halved, too, while it is at most so many of the others' mean: steps then stay as equal as they can be."""

_Runs = tuple[NDArray[np.uint32], NDArray[np.uint32]]
"""Lengths and ids of a block's runs, row by row: made and read in a tenth of the time of deflate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeLevel:
    """One resolution of a volume."""

    shape: tuple[int, int, int]
    step: tuple[int, int, int]
    """Voxels of full resolution in one, along each axis."""
    chunk: tuple[int, int, int]


def volume_levels(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], *, is_series: bool
) -> tuple[VolumeLevel, ...]:
    """All levels of a volume, full resolution first, down to rows and columns that one chunk holds.

    Args:
        shape: Slices, rows and columns.
        spacing: Steps along them; the first is of no matter for a series.
        is_series: True where slices are frames in time.
    """
    levels = [_level(shape, (1, 1, 1), is_series=is_series)]
    while max(levels[-1].shape[1:]) > _SIDE:
        depth, height, width = levels[-1].shape
        z, rows, cols = levels[-1].step
        is_thin = z * spacing[0] <= _FLAT * (rows * spacing[1] * cols * spacing[2]) ** 0.5
        deeper = 2 if is_thin and depth > 1 and not is_series else 1
        halved = (-(-depth // deeper), -(-height // 2), -(-width // 2))
        levels.append(_level(halved, (z * deeper, 2 * rows, 2 * cols), is_series=is_series))
    return tuple(levels)


def _level(shape: tuple[int, int, int], step: tuple[int, int, int], *, is_series: bool) -> VolumeLevel:
    depth, height, width = shape
    deep = 1 if is_series else min(depth, _DEPTH, max(1, _SLAB // (height * width)))
    return VolumeLevel(shape=shape, step=step, chunk=(deep, min(height, _SIDE), min(width, _SIDE)))


class VolumeLevels:
    """Takes the blocks of a label volume and writes the chunks of every level."""

    def __init__(self, folder: Path, levels: tuple[VolumeLevel, ...]) -> None:
        """Start the levels; their folders, named 0, 1, ..., lie in `folder`."""
        self._levels, self._folder = levels, folder
        self._slab = [0] * len(levels)  # of each level the chunk along z that is in work, and its blocks by place
        self._chunks: list[dict[tuple[int, int], list[tuple[int, _Runs]]]] = [{} for _ in levels]
        self._slice = [0] * len(levels)  # likewise the slice in work, and blocks of the level below it
        self._waiting: list[dict[tuple[int, int], list[tuple[int, int, int, _Runs]]]] = [{} for _ in levels]

    def put(self, z: int, row: int, col: int, block: Block) -> None:
        """Add one block of full resolution.

        Args:
            z, row, col: Slice, and place in its grid of blocks; calls come in this order, empty blocks may be left out.
            block: Ids, uint32 `(BLOCK, BLOCK)`; 0 is background, and what lies outside the volume.
        """
        self._put(0, z, row, col, block)

    def finish(self) -> None:
        """Complete all levels."""
        for level in range(len(self._levels)):
            self._make_slice(level)
            self._write_slab(level)

    def _put(self, level: int, z: int, row: int, col: int, block: Block) -> None:
        if not block.any():
            return
        deep = self._levels[level].chunk[0]
        if self._slab[level] != z // deep:
            self._write_slab(level)
            self._slab[level] = z // deep
        runs = _runs(block)
        self._chunks[level].setdefault((row, col), []).append((z % deep, runs))
        if level + 1 < len(self._levels):
            self._pass_on(level + 1, z, row, col, runs)

    def _pass_on(self, level: int, z: int, row: int, col: int, runs: _Runs) -> None:
        """Let a block of the level below wait for a slice of this one."""
        thick = self._thickness(level)
        if self._slice[level] != z // thick:
            self._make_slice(level)
            self._slice[level] = z // thick
        self._waiting[level].setdefault((row // 2, col // 2), []).append((z % thick, row % 2, col % 2, runs))

    def _thickness(self, level: int) -> int:
        return self._levels[level].step[0] // self._levels[level - 1].step[0]

    def _make_slice(self, level: int) -> None:
        waiting, self._waiting[level] = self._waiting[level], {}
        for row, col in sorted(waiting):
            block = _joined(waiting[row, col], self._thickness(level))
            self._put(level, self._slice[level], row, col, block)

    def _write_slab(self, level: int) -> None:
        chunks, self._chunks[level] = self._chunks[level], {}
        deep, height, width = self._levels[level].chunk
        for row, col in sorted(chunks):
            slab = np.zeros((deep, BLOCK, BLOCK), "<u4")
            for z, runs in chunks[row, col]:
                slab[z] = _drawn(runs)
            for down, right, chunk in _cut(slab, height, width):
                place = self._folder / str(level) / str(self._slab[level]) / str(row * (BLOCK // _SIDE) + down)
                place.mkdir(parents=True, exist_ok=True)
                name = str(col * (BLOCK // _SIDE) + right)
                (place / name).write_bytes(zlib.compress(np.ascontiguousarray(chunk).data, LEVEL))


def _runs(block: Block) -> _Runs:
    flat = block.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    return np.diff(ends, prepend=-1).astype(np.uint32), flat[ends]


def _drawn(runs: _Runs) -> Block:
    return np.repeat(runs[1], runs[0]).reshape(BLOCK, BLOCK)


def _joined(parts: list[tuple[int, int, int, _Runs]], thick: int) -> Block:
    """One block of the level above up to four blocks of one slice, or eight of two: place along z, row, col, and pixels."""
    half = BLOCK // 2
    block = np.zeros((BLOCK, BLOCK), np.uint32)
    for down, right in sorted({part[1:3] for part in parts}):
        pair = np.zeros((thick, BLOCK, BLOCK), np.uint32)
        for z, _, _, runs in (part for part in parts if part[1:3] == (down, right)):
            pair[z] = _drawn(runs)
        quarter = halve(pair[0]) if thick == 1 else halve_pair(pair)
        block[down * half : (down + 1) * half, right * half : (right + 1) * half] = quarter
    return block


def _cut(slab: Block, height: int, width: int) -> Iterator[tuple[int, int, Block]]:
    """Row and column of a chunk within the blocks of a slab, and its ids, where there is any."""
    for down in range(BLOCK // _SIDE):
        for right in range(BLOCK // _SIDE):
            chunk = slab[:, down * _SIDE : down * _SIDE + height, right * _SIDE : right * _SIDE + width]
            if chunk.any():
                yield down, right, chunk

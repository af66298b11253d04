"""A work grid at another GSD: area averages going down, bilinear going up, the same at a place whatever window reads it.

1. `axis_taps` gives, for each work row (column), the level rows (columns) that contribute and how much.
2. `Resampled` computes fixed squares of the work grid from one level of the pyramid, each always from the same pixels in
   the same order, and keeps them in a cache; windows are cut out of these squares.
3. Only valid pixels contribute; a work pixel is valid when at least half of its area is.
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from seggeo.geometry import Window
from seggeo.io.blocks import Decoded, SlabCache
from seggeo.io.levels import SLAB_BYTES, Level

_CHUNK = 512
_SOURCE_SIDE = 2048
"""Longest side of the level window behind one square, so that strong reductions without overviews stay small."""
_LARGEST_BLOCK = 256
"""Side of a block whose sum of 16-bit values fits in 32 bits."""


class Resampled:
    """Windows of a work grid of `shape` pixels, each `step` pixels of `level` tall and wide."""

    def __init__(self, level: Level, *, shape: tuple[int, int], step: tuple[float, float]) -> None:
        self._level = level
        self._step = step
        side = _CHUNK
        while side > 8 and side * max(step) > _SOURCE_SIDE:
            side //= 2
        self._side = side
        frame = Window(row=0, col=0, height=shape[0], width=shape[1])
        self._slabs = SlabCache(frame=frame, block=(side, side), memory_bytes=SLAB_BYTES, decode=self._decode)

    def read(self, window: Window) -> Decoded:
        """Values `(c, h, w)` and valid `(h, w)` of a window of the work grid."""
        return self._slabs.read(window)

    def is_empty(self, window: Window) -> bool:
        """True when nothing that a window depends on is in the file."""
        (down, right), (height, width) = self._step, self._level.shape
        source = Window.from_bounds(
            max(0, min(floor(window.row * down) - 1, height - 1)),
            max(0, min(floor(window.col * right) - 1, width - 1)),
            min(ceil(window.row_stop * down) + 1, height),
            min(ceil(window.col_stop * right) + 1, width),
        )
        return self._level.is_empty(source)

    def _decode(self, window: Window) -> Decoded:
        """A rectangle of whole squares, computed square by square: sums then never depend on the rectangle."""
        pieces = []
        for row in range(window.row, window.row_stop, self._side):
            across = []
            for col in range(window.col, window.col_stop, self._side):
                stops = min(row + self._side, window.row_stop), min(col + self._side, window.col_stop)
                across.append(self._square(Window.from_bounds(row, col, *stops)))
            pieces.append((np.concatenate([d for d, _ in across], axis=2), np.concatenate([v for _, v in across], axis=1)))
        return np.concatenate([d for d, _ in pieces], axis=1), np.concatenate([v for _, v in pieces], axis=0)

    def _square(self, window: Window) -> Decoded:
        if self.is_empty(window):
            return self._level.blank(window.shape), np.zeros(window.shape, np.bool_)
        (rows, row, row_stop), (cols, col, col_stop) = self._taps(window)
        data, valid = self._level.read(Window.from_bounds(row, col, row_stop, col_stop))
        if not valid.any():
            return self._level.blank(window.shape), np.zeros(window.shape, np.bool_)
        if valid.all() and (factor := self._factor(data, window)):
            return _block_means(data, factor), np.ones(window.shape, np.bool_)
        # uint8 sums are exact enough in single precision; wider types would lose their last bits.
        kind = np.float32 if data.dtype.itemsize == 1 else np.float64
        rows, cols = rows.astype(kind), cols.astype(kind)
        if valid.all():
            return _cast(_apply(rows, cols, data, kind), data.dtype), np.ones(window.shape, np.bool_)
        weight = _apply(rows, cols, valid[None], kind)[0]
        total = _apply(rows, cols, np.where(valid, data, data.dtype.type(0)), kind)
        seen = weight >= kind(0.5) * (1 - 1e-6)
        mean = np.where(seen, total / np.where(seen, weight, kind(1)), kind(0))
        return _cast(mean, data.dtype), seen

    def _factor(self, data: NDArray[Any], window: Window) -> int:
        """Side of the blocks that make a pixel each, where that is all there is to it and their sums are exact; else 0."""
        side = int(self._step[0])
        is_whole = self._step[0] == self._step[1] == side and 2 <= side <= _LARGEST_BLOCK
        is_exact = data.dtype in (np.uint8, np.uint16)
        return side if is_whole and is_exact and data.shape[1:] == (window.height * side, window.width * side) else 0

    def _taps(self, window: Window) -> tuple[tuple[csr_array, int, int], tuple[csr_array, int, int]]:
        height, width = self._level.shape
        return (
            axis_taps(window.row, window.row_stop, step=self._step[0], size=height),
            axis_taps(window.col, window.col_stop, step=self._step[1], size=width),
        )


def _block_means(data: NDArray[Any], side: int) -> NDArray[np.generic]:
    """Means of blocks of `side` x `side` pixels, rounded to nearest, ties to even."""
    height, width = data.shape[1] // side, data.shape[2] // side
    rows = data.reshape(-1, height, side, width * side)
    down = rows[:, :, 0].astype(np.uint32)
    for i in range(1, side):
        down += rows[:, :, i]
    blocks = down.reshape(-1, height, width, side)
    total = blocks[..., 0].copy()
    for i in range(1, side):
        total += blocks[..., i]
    return _cast(total / np.float64(side * side), data.dtype)


def axis_taps(start: int, stop: int, *, step: float, size: int) -> tuple[csr_array, int, int]:
    """Weights of source pixels for work pixels `start` to `stop - 1` along one axis.

    Args:
        start, stop: Work pixels.
        step: Source pixels in one work pixel; from 1 on the source is averaged over it, below 1 interpolated.
        size: Source pixels along the axis.

    Returns:
        `(stop - start, last - first)` weights whose rows sum to 1, `first` and `last` (half-open source range).
    """
    index = np.arange(start, stop, dtype=np.float64)
    if step >= 1:
        high = np.minimum((index + 1) * step, size)
        low = np.minimum(index * step, high - 1e-6)
        first = np.floor(low + 1e-9).astype(np.int64)
        taps = first[:, None] + np.arange(int(np.ceil(step)) + 1)
        weights = np.clip(np.minimum(high[:, None], taps + 1.0) - np.maximum(low[:, None], taps), 0, None)
        weights[weights < 1e-9] = 0  # slivers from rounding i * step
    else:
        centre = np.clip((index + 0.5) * step - 0.5, 0, size - 1)
        first = np.minimum(np.floor(centre).astype(np.int64), max(size - 2, 0))
        taps = first[:, None] + np.arange(2)
        weights = np.stack([1 - (centre - first), centre - first], axis=1)
    weights = np.where(taps < size, weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    used = weights > 0
    begin, end = int(taps[used].min()), int(taps[used].max()) + 1
    rows = np.broadcast_to(np.arange(len(index))[:, None], taps.shape)
    return csr_array((weights[used], (rows[used], taps[used] - begin)), shape=(len(index), end - begin)), begin, end


def _apply(rows: csr_array, cols: csr_array, data: NDArray[Any], kind: type[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Weighted sums of `(c, h, w)` along rows, then columns, in precision `kind`."""
    out = np.empty((data.shape[0], rows.shape[0], cols.shape[0]), kind)
    for band, values in zip(out, data, strict=True):
        down = rows @ values.astype(kind)
        band[...] = (cols @ np.ascontiguousarray(down.T)).T
    return out


def _cast(values: NDArray[np.floating], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    whole: NDArray[np.generic] = np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return whole

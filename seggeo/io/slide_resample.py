"""The work grid of a slide at an MPP of its own, from several threads at once.

The grid is that of `Resampled`: fixed squares, each computed from the same pixels in the same order. Here the squares lie
in the cache of blocks, which threads share, and colours stay interleaved: 3 times the rate for three bands of 8 bits.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Window
from seggeo.io.blocks import Decoded
from seggeo.io.levels import Level
from seggeo.io.resample import Resampled
from seggeo.io.slide_blocks import BlockCache
from seggeo.io.slide_level import SlideLevel
from seggeo.io.slide_pyramid import Block

_SPACE = 16
"""Numbers between two rows."""


def as_level(level: SlideLevel) -> Level:
    """A slide's level offers of a raster's what `Resampled` and `sample_level` use."""
    return cast("Level", level)


class SharedResampled(Resampled):
    """Windows of a work grid of `shape` pixels, each `step` pixels of `level` tall and wide."""

    def __init__(self, level: SlideLevel, *, shape: tuple[int, int], step: tuple[float, float], cache: BlockCache) -> None:
        super().__init__(as_level(level), shape=shape, step=step)
        self._slide_level = level
        self._cache = cache
        self._shape = shape
        self._key = object()  # of this grid alone: the cache may outlive it

    def pixels(self, window: Window) -> Decoded:
        """Values `(h, w, c)` and valid `(h, w)` of a window of the work grid."""
        side = self._side
        blank = self._slide_level.blank((0, 0))
        data, valid = np.empty((*window.shape, blank.shape[0]), blank.dtype), np.ones(window.shape, np.bool_)
        for row in range(window.row // side * side, window.row_stop, side):
            for col in range(window.col // side * side, window.col_stop, side):
                place = Window.from_bounds(row, col, min(row + side, self._shape[0]), min(col + side, self._shape[1]))
                part = place.intersect(window)
                block = self._cache.get((self._key, row, col), partial(self._computed, place))
                if part is None or block is None:
                    continue
                data[part.slices(window)] = block[0][part.slices(place)]
                if block[1] is not None:
                    valid[part.slices(window)] = block[1][part.slices(place)]
        return data, valid

    def _computed(self, place: Window) -> Block:
        """One square of the grid."""
        if not self.is_empty(place):
            (rows, row, row_stop), (cols, col, col_stop) = self._taps(place)
            data, valid = self._slide_level.pixels(Window.from_bounds(row, col, row_stop, col_stop))
            if valid.all():
                return _weighed(rows, cols, data), None
        data, valid = self._square(place)
        return np.ascontiguousarray(data.transpose(1, 2, 0)), valid


def _weighed(rows: Any, cols: Any, data: NDArray[Any]) -> NDArray[Any]:
    """Weighted sums of `(h, w, c)` along rows, then columns; rounded where the dtype is whole numbers."""
    # uint8 sums are exact enough in single precision; wider types would lose their last bits.
    kind = np.float32 if data.dtype.itemsize == 1 else np.float64
    height, width, bands = data.shape
    # Rows a power of two apart share one set of a processor's cache, and turning them over then takes three times as long.
    spaced = np.zeros((height, width * bands + _SPACE), kind)
    spaced[:, : width * bands] = data.reshape(height, -1)
    down = rows.astype(kind) @ spaced
    across = cols.astype(kind)
    out = np.empty((down.shape[0], across.shape[0], bands), data.dtype)
    for band in range(bands):
        values = across @ np.ascontiguousarray(down[:, band : width * bands : bands].T)
        if data.dtype.kind in "iu":
            limits = np.iinfo(data.dtype)
            np.clip(np.rint(values, out=values), limits.min, limits.max, out=values)
        out[..., band] = values.T
    return out

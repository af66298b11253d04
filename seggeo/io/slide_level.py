"""One image of a slide's pyramid: windows put together from its blocks, with what was scanned in them."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Window
from seggeo.io.blocks import Decoded
from seggeo.io.slide_blocks import BlockCache
from seggeo.io.slide_pyramid import Block, Pyramid


class SlideLevel:
    """A level in the channels asked for; offers what `Resampled` and `sample_level` ask of a raster's `Level`."""

    def __init__(
        self, pyramid: Pyramid, index: int, *, channels: tuple[int, ...], cache: BlockCache, nodata: float | None = None
    ) -> None:
        level = pyramid.facts.levels[index]
        self.shape = level.shape
        self.ratio = level.downsample
        """Full-resolution rows and columns in one pixel of this level."""
        self.storage = level.block
        """Rows and columns of one block."""
        self._index = index
        self._level = level
        self._pyramid = pyramid
        self._channels = channels
        self._cache = cache
        self._nodata = nodata

    def read(self, window: Window) -> Decoded:
        """Values `(c, h, w)`, a transposed view, and valid `(h, w)` of a window of this level.

        Raises:
            SourceError: The file is damaged there.
        """
        data, valid = self.pixels(window)
        return data.transpose(2, 0, 1), valid

    decode = read

    def pixels(self, window: Window) -> Decoded:
        """Values `(h, w, c)` in memory of that order, and valid `(h, w)`; the same from any number of threads."""
        height, width = self.storage
        data = np.empty((*window.shape, len(self._channels)), self._pyramid.facts.dtype)
        valid = np.ones(window.shape, np.bool_)
        for row in range(window.row // height, (window.row_stop - 1) // height + 1):
            for col in range(window.col // width, (window.col_stop - 1) // width + 1):
                self._copy(row, col, window, data, valid)
        if self._nodata is not None:
            valid &= (data != self._nodata).any(axis=2)
        if data.dtype.kind == "f":
            valid &= np.isfinite(data).all(axis=2)
        return data, valid

    def blank(self, shape: tuple[int, int]) -> NDArray[np.generic]:
        """Zeros `(c, *shape)` of the dtype and channels that are read."""
        return np.zeros((len(self._channels), *shape), self._pyramid.facts.dtype)

    def is_empty(self, window: Window) -> bool:
        """True when no block of a window of this level was ever written."""
        missing = self._level.missing
        if missing is None:
            return False
        height, width = self.storage
        rows = slice(window.row // height, (window.row_stop - 1) // height + 1)
        cols = slice(window.col // width, (window.col_stop - 1) // width + 1)
        return bool(missing[rows, cols].all())

    def close(self) -> None:
        """Nothing: the pyramid is closed by the source that opened it."""

    def _copy(self, row: int, col: int, window: Window, data: NDArray[np.generic], valid: NDArray[np.bool_]) -> None:
        """What one block has of a window, into the arrays of that window."""
        height, width = self.storage
        place = Window.from_bounds(
            row * height, col * width, min((row + 1) * height, self.shape[0]), min((col + 1) * width, self.shape[1])
        )
        part = place.intersect(window)
        if part is None:
            return
        block = self._block(row, col)
        if block is None:
            data[part.slices(window)] = 0
            valid[part.slices(window)] = False
            return
        values, scanned = block
        data[part.slices(window)] = values[part.slices(place)]
        if scanned is not None:
            valid[part.slices(window)] = scanned[part.slices(place)]

    def _block(self, row: int, col: int) -> Block | None:
        decode = partial(self._pyramid.block, self._index, row, col, self._channels)
        return self._cache.get((self._index, row, col), decode)

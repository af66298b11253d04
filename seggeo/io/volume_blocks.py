"""Blocks of a volume, decoded once while they are kept: slices that lie in one chunk cost one decoding."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Window
from seggeo.io.slide_blocks import BlockCache
from seggeo.io.slide_pyramid import Block
from seggeo.io.volume_file import VolumeFile
from seggeo.io.volume_view import View

CACHE_BYTES = 256 * 2**20
BLOCK_BYTES = 48 * 2**20
"""Most that a block of several chunks may hold."""
_SIDE = 256
"""Least rows and columns of a block: small chunks are read several at a time."""
_SLAB = 16
"""Slices read together where slicing runs across the file's own slices, each of which holds a line of every one of them."""


class Blocks:
    """Planes of a work grid, put together from blocks; may be read from several threads."""

    def __init__(self, file: VolumeFile, view: View, time: int) -> None:
        self._file, self._view, self._time = file, view, time
        self._cache = BlockCache(CACHE_BYTES)
        self.shape = _block_shape(file, view)
        """Slices, rows and columns of a block."""

    def plane(self, window: Window, z: int, channel: int) -> NDArray[Any]:
        """`(h, w)` voxels of a window of slice `z`."""
        dtype = self._file.facts.dtype
        out = np.zeros(window.shape, dtype)
        for place in self._places(window):
            block = self._block(z // self.shape[0], place, channel)
            if block is None:
                continue
            top, left = place[0] * self.shape[1], place[1] * self.shape[2]
            of = Window(row=top, col=left, height=block.shape[1], width=block.shape[2])
            shared = of.intersect(window)
            if shared is not None:
                out[shared.slices(window)] = block[z % self.shape[0]][shared.slices(of)]
        return out

    def is_empty(self, window: Window, z: int, stop: int | None = None) -> bool:
        """True when it is known without decoding that nothing was written in a window of slice `z`, or of `z` to `stop`."""
        rows, cols = window.slices()
        return self._file.is_empty(self._view.box(slice(z, stop or z + 1), rows, cols))

    def clear(self) -> None:
        """Forget what is kept."""
        self._cache.clear()

    def _places(self, window: Window) -> Iterator[tuple[int, int]]:
        _, height, width = self.shape
        rows = range(window.row // height, (window.row_stop - 1) // height + 1)
        cols = range(window.col // width, (window.col_stop - 1) // width + 1)
        return ((row, col) for row in rows for col in cols)

    def _block(self, slab: int, place: tuple[int, int], channel: int) -> NDArray[Any] | None:
        def decode() -> Block | None:
            frame = self._view.frame
            limits = frame.depth, frame.height, frame.width
            z, rows, cols = (
                slice(i * n, min((i + 1) * n, limit)) for i, n, limit in zip((slab, *place), self.shape, limits, strict=True)
            )
            box = self._view.box(z, rows, cols)
            if self._file.is_empty(box):
                return None
            values = self._file.read(box, channel, self._time).transpose(self._view.order)
            return np.ascontiguousarray(values), None

        found = self._cache.get((slab, *place, channel), decode)
        return None if found is None else found[0]


def _block_shape(file: VolumeFile, view: View) -> tuple[int, int, int]:
    """Slices, rows and columns that are decoded together: a chunk, or several small ones."""
    facts, frame = file.facts, view.frame
    layers, height, width = (max(1, facts.chunk[axis]) for axis in view.order)
    height, width = height * ceil(_SIDE / height), width * ceil(_SIDE / width)
    layers = min(layers, frame.depth)
    height, width = min(height, frame.height), min(width, frame.width)
    if view.order[0] != 0 and layers < _SLAB:
        layers = min(_SLAB, frame.depth)
    room = BLOCK_BYTES // max(1, height * width * facts.dtype.itemsize)
    chunk = facts.chunk[view.order[0]]
    return max(min(layers, chunk), min(layers, room)), height, width

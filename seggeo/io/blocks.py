"""A byte-limited cache of decoded rectangles, so that overlapping windows never make a block twice.

GDAL keeps the blocks of tiled files itself and faster than Python could; this cache stands where GDAL's is not enough:
work grids whose pixels are computed, and files whose blocks are wider than the windows that are read from them.

1. A window is rounded out to blocks; those not in the cache are gathered into rectangles (`_rectangles`).
2. Each rectangle is decoded in one go and kept as one slab; a block belongs to exactly one slab.
3. The window is copied together from its slabs; the slabs used longest ago are dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Window

Decoded = tuple[NDArray[np.generic], NDArray[np.bool_]]
"""Values `(c, h, w)` and valid `(h, w)` of one window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slab:
    blocks: Window
    """Blocks, counted in block rows and columns."""
    window: Window
    data: NDArray[np.generic]
    valid: NDArray[np.bool_]


class SlabCache:
    """Windows of an image that is made block by block by `decode`."""

    def __init__(
        self, *, frame: Window, block: tuple[int, int], memory_bytes: int, decode: Callable[[Window], Decoded]
    ) -> None:
        self._frame = frame
        self._block = block
        self._memory_bytes = memory_bytes
        self._decode = decode
        self._slabs: OrderedDict[int, _Slab] = OrderedDict()
        self._owner: dict[tuple[int, int], int] = {}
        self._count = 0
        self._held_bytes = 0

    def read(self, window: Window) -> Decoded:
        """Values and valid pixels of a window that lies in the frame."""
        bh, bw = self._block
        blocks = Window.from_bounds(
            window.row // bh, window.col // bw, (window.row_stop - 1) // bh + 1, (window.col_stop - 1) // bw + 1
        )
        for missing in _rectangles(self._missing(blocks)):
            self._add(missing.shift(blocks.row, blocks.col))
        slabs = self._touch(blocks)
        data = np.empty((slabs[0].data.shape[0], *window.shape), slabs[0].data.dtype)
        valid = np.empty(window.shape, np.bool_)
        for slab in slabs:
            part = slab.window.intersect(window)
            if part is not None:
                data[:, *part.slices(window)] = slab.data[:, *part.slices(slab.window)]
                valid[part.slices(window)] = slab.valid[part.slices(slab.window)]
        self._drop(keep=len(slabs))
        return data, valid

    def clear(self) -> None:
        """Forget everything."""
        self._slabs.clear()
        self._owner.clear()
        self._held_bytes = 0

    def _missing(self, blocks: Window) -> NDArray[np.bool_]:
        missing = np.ones(blocks.shape, np.bool_)
        for row in range(blocks.height):
            for col in range(blocks.width):
                missing[row, col] = (blocks.row + row, blocks.col + col) not in self._owner
        return missing

    def _add(self, blocks: Window) -> None:
        bh, bw = self._block
        window = Window.from_bounds(
            blocks.row * bh,
            blocks.col * bw,
            min(blocks.row_stop * bh, self._frame.row_stop),
            min(blocks.col_stop * bw, self._frame.col_stop),
        )
        data, valid = self._decode(window)
        self._count += 1
        self._slabs[self._count] = _Slab(blocks=blocks, window=window, data=data, valid=valid)
        self._held_bytes += data.nbytes + valid.nbytes
        for place in _places(blocks):
            self._owner[place] = self._count

    def _touch(self, blocks: Window) -> list[_Slab]:
        keys = dict.fromkeys(self._owner[place] for place in _places(blocks))
        for key in keys:
            self._slabs.move_to_end(key)
        return [self._slabs[key] for key in keys]

    def _drop(self, *, keep: int) -> None:
        """Forget the oldest slabs beyond the limit, but none of the `keep` youngest."""
        while self._held_bytes > self._memory_bytes and len(self._slabs) > keep:
            _, slab = self._slabs.popitem(last=False)
            self._held_bytes -= slab.data.nbytes + slab.valid.nbytes
            for place in _places(slab.blocks):
                del self._owner[place]


def _places(blocks: Window) -> Iterator[tuple[int, int]]:
    return ((row, col) for row in range(blocks.row, blocks.row_stop) for col in range(blocks.col, blocks.col_stop))


def _rectangles(missing: NDArray[np.bool_]) -> Iterator[Window]:
    """Disjoint rectangles that cover the True cells: runs of a row, carried down while the rows below have the same."""
    left = missing.copy()
    for row in range(left.shape[0]):
        while left[row].any():
            first = int(left[row].argmax())
            run = left[row, first:]
            stop = first + (len(run) if run.all() else int(run.argmin()))
            last = row
            while last + 1 < left.shape[0] and left[last + 1, first:stop].all():
                last += 1
            left[row : last + 1, first:stop] = False
            yield Window.from_bounds(row, first, last + 1, stop)

"""Pyramids whose levels can be sliced like arrays: OME-Zarr, and TIFFs whose pixels lie uncompressed in one piece."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.io.slide_pyramid import Block, SlideFacts, damaged_slide

Slicer = Callable[[slice, slice, tuple[int, ...]], NDArray[Any]]
"""Rows, columns and channels (0-based) of one level, as `(h, w, c)`."""
READ_ERRORS = (
    ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, NotImplementedError, OSError,
    RuntimeError, TypeError, ValueError, struct.error, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What reading a damaged file can raise in tifffile, imagecodecs, zarr and nibabel."""
LARGEST_BLOCK = 512
_PAGE_AXES = {"Z": "z-slices", "T": "time points", "A": "angles", "H": "lifetimes", "P": "positions", "M": "mosaic tiles"}


class ArrayPyramid:
    """A `Pyramid` over one slicer per level."""

    def __init__(self, facts: SlideFacts, slicers: Sequence[Slicer], *, name: str, close: Callable[[], None]) -> None:
        self.facts = facts
        self._slicers = tuple(slicers)
        self._name = name
        self._close = close

    def block(self, level: int, row: int, col: int, channels: tuple[int, ...]) -> Block | None:
        """See `Pyramid`; the arrays say zero where nothing was written, so no block is ever missing."""
        (height, width), (rows, cols) = self.facts.levels[level].block, self.facts.levels[level].shape
        down = slice(row * height, min((row + 1) * height, rows))
        right = slice(col * width, min((col + 1) * width, cols))
        try:
            values = self._slicers[level](down, right, channels)
        except SourceError:
            raise
        except READ_ERRORS as error:
            where = f" in rows {down.start}-{down.stop - 1}, columns {right.start}-{right.stop - 1} of level {level}"
            raise damaged_slide(self._name, error, where) from error
        native = values.dtype.newbyteorder("=")
        return np.ascontiguousarray(values, native), None

    def close(self) -> None:
        """Release the file."""
        self._close()


def array_slicer(array: Any, axes: str) -> Slicer:
    """The slicer of an array of these axes: Y, X, perhaps C (channels) and S (samples of a channel), all others of length 1."""

    def read(rows: slice, cols: slice, channels: tuple[int, ...]) -> NDArray[Any]:
        samples = array.shape[axes.index("S")] if "S" in axes else 1
        outer = sorted({channel // samples for channel in channels})
        pieces = [_slice(array, axes, rows, cols, c) for c in outer]
        stacked = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=2)
        order = [outer.index(c // samples) * samples + c % samples for c in channels]
        return stacked if order == list(range(stacked.shape[2])) else stacked[..., order]

    return read


def check_axes(axes: str, shape: Sequence[int], name: str) -> None:
    """Refuse stacks and time series, of which nobody said which slice is meant.

    Raises:
        SourceError: An axis besides rows, columns, channels and samples is longer than 1.
    """
    if "Y" not in axes or "X" not in axes:
        raise SourceError(what=f"{name} holds no image", why=f"its axes are {axes or 'none'}", mend="give an image file")
    longer = [(axis, n) for axis, n in zip(axes, shape, strict=True) if axis not in "YXCS" and n > 1]
    if longer:
        said = ", ".join(f"{n} {_PAGE_AXES.get(axis, 'pages')}" for axis, n in longer)
        raise SourceError(
            what=f"{name} holds {said}",
            why="a slide is one plane, and which of them is meant would be a guess",
            mend="write the one that is meant, or a projection, as a file of its own",
        )
    if prod(shape) == 0:
        raise SourceError(what=f"{name} has no pixels", why=f"its shape is {tuple(shape)}", mend="check it")


def array_block(shape: tuple[int, int], chunk: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns of a block: a chunk of the array, several where chunks are small, never larger than the level."""
    rows, cols = chunk or (LARGEST_BLOCK, LARGEST_BLOCK)
    height = rows * max(1, LARGEST_BLOCK // 2 // max(1, rows))
    width = cols * max(1, LARGEST_BLOCK // 2 // max(1, cols))
    return min(height, shape[0]), min(width, shape[1])


def _slice(array: Any, axes: str, rows: slice, cols: slice, channel: int) -> NDArray[Any]:
    """One channel of an array with all its samples, `(h, w, s)`."""
    picks = {"Y": rows, "X": cols, "S": slice(None), "C": channel}
    values = np.asarray(array[tuple(picks.get(axis, 0) for axis in axes)])
    kept = [axis for axis in axes if axis in "YXS"]
    ordered = values.transpose([kept.index(axis) for axis in "YXS" if axis in kept])
    return ordered if "S" in kept else ordered[..., None]

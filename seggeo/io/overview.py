"""A small picture of a whole scene, for the stretch, for calibration and for previews, at bounded cost."""

from __future__ import annotations

from math import ceil, prod, sqrt

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.geometry import Window
from seggeo.io.blocks import Decoded
from seggeo.io.levels import Level

MAX_DECODED = 256 * 10**6
"""Pixels that are decoded for one overview at most: some seconds."""


def is_cheap(level: Level, share: float) -> bool:
    """True when all of a level may be decoded for an overview; `share` of it is in the file."""
    return prod(level.shape) * share <= MAX_DECODED


def sample_level(level: Level, *, shape: tuple[int, int], step: tuple[float, float], share: float) -> Decoded:
    """Nearest pixels of a level too large to decode, from a lattice of its blocks; the rest is not valid.

    Args:
        level: The image.
        shape: Rows and columns of the result.
        step: Level pixels in one pixel of the result.
        share: Share of the level that is in the file.

    Raises:
        SourceError: None of these blocks can be decoded; if only some cannot, their pixels are not valid.
    """
    rows, cols = (_centres(n, s, size) for n, s, size in zip(shape, step, level.shape, strict=True))
    height, width = level.storage
    block_rows, block_cols = np.unique(rows // height), np.unique(cols // width)
    cost = len(block_rows) * len(block_cols) * height * width * share
    every = max(1, ceil(sqrt(cost / MAX_DECODED)))
    data = level.blank(shape)
    valid = np.zeros(shape, np.bool_)
    trouble: SourceError | None = None
    for block_row in block_rows[::every]:
        down = np.flatnonzero(rows // height == block_row)
        for block_col in block_cols[::every]:
            right = np.flatnonzero(cols // width == block_col)
            window = _block_window(int(block_row), int(block_col), level)
            if level.is_empty(window):
                continue
            try:
                values, real = level.decode(window)
            except SourceError as error:  # the tiles that need this block will say so
                trouble = error
                continue
            place = np.ix_(rows[down] - block_row * height, cols[right] - block_col * width)
            data[:, down[0] : down[-1] + 1, right[0] : right[-1] + 1] = values[:, place[0], place[1]]
            valid[down[0] : down[-1] + 1, right[0] : right[-1] + 1] = real[place]
    if trouble is not None and not valid.any():
        raise trouble
    return data, valid


def _centres(count: int, step: float, size: int) -> NDArray[np.int64]:
    return np.minimum(((np.arange(count) + 0.5) * step).astype(np.int64), size - 1)


def _block_window(block_row: int, block_col: int, level: Level) -> Window:
    height, width = level.storage
    row, col = block_row * height, block_col * width
    return Window.from_bounds(row, col, min(row + height, level.shape[0]), min(col + width, level.shape[1]))

"""Pixels in the convex hull of each of many masks, in step.

The hull is that of the midpoints of all pixel sides, and a pixel counts when its centre lies in it or on its border, as in
`skimage.morphology.convex_hull_image`. In doubled coordinates all of that is integers:

1. `_profiles`: for every doubled row, how far left the mask reaches (for its right side: the same, mirrored).
2. `_hull_points`: the hull of a profile goes from its first point to the one with the smallest slope, and so on (R. A. Jarvis,
   1973); all profiles take a step at once.
3. `_reach`: columns between the hull's two sides, at every row.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from seggeo.rle import IntArray, Spans, ragged_ranges

_FAR = 1 << 40
"""Stands where a mask has no pixel in a row."""
_CELLS = 1 << 16
"""Values of the profiles in work at once: they stay in the processor's cache."""


def convex_areas(spans: Spans, count: int) -> IntArray:
    """Pixels in the convex hull of each of `count` masks, at least those of the mask.

    Args:
        spans: Sorted by (owner, row, start), rows and columns counted from the mask's own box.
        count: Owners run from 0 to `count - 1`; each has a pixel.
    """
    owner, row, left, right = _extents(spans)
    height = np.zeros(count, np.int64)
    np.maximum.at(height, owner, row + 1)
    areas = np.zeros(count, np.int64)
    order = np.argsort(height, kind="stable")  # masks of like height share a table with little air in it
    begin = np.searchsorted(owner, np.arange(count + 1))
    low = 0
    while low < count:
        high = _table_stop(height[order], low)
        masks = order[low:high]
        rows, which = ragged_ranges(begin[masks], begin[masks + 1] - begin[masks])
        areas[masks] = _areas((which, row[rows], left[rows], right[rows]), height[masks])
        low = high
    return areas


def _table_stop(height: IntArray, low: int) -> int:
    """Where a table of masks that begins at `low` ends: not too much air, not too many values."""
    tallest = int(height[low]) + max(int(height[low]) // 4, 2)
    fitting = low + max(_CELLS // (2 * tallest + 1), 1)
    return min(int(np.searchsorted(height, tallest, side="right")), fitting)


def _extents(spans: Spans) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Owner, row, first and last column of every row of every mask."""
    begins = np.ones(len(spans), bool)
    begins[1:] = (spans.owner[1:] != spans.owner[:-1]) | (spans.row[1:] != spans.row[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first, len(spans))[1:] - 1
    return spans.owner[first], spans.row[first], spans.start[first], spans.stop[last] - 1


def _areas(rows: tuple[IntArray, IntArray, IntArray, IntArray], height: IntArray) -> IntArray:
    """Pixels in the hulls of masks given as (mask, row, first column, last column)."""
    owner, row, left, right = rows
    count = len(height)
    sides = _profiles((owner, row), np.stack([left, -right]), (count, int(height.max())))
    reach = _reach(sides, np.tile(height, 2))
    widths = -reach[count:] - reach[:count] + 1
    return np.asarray(np.where(np.arange(widths.shape[1]) < height[:, None], widths, 0).sum(axis=1), np.int64)


def _profiles(at: tuple[IntArray, IntArray], reach: IntArray, shape: tuple[int, int]) -> IntArray:
    """Doubled columns over doubled rows -1 to 2 height - 1, first all left sides, then all mirrored right ones."""
    owner, row = at
    count, height = shape
    table = np.full((2, count, 2 * height + 1), _FAR, np.int64)
    for side in range(2):
        column = 2 * reach[side]
        for shift in (0, 2):  # a pixel's upper and lower side; rows are unique for each mask, so nothing is assigned twice
            table[side, owner, 2 * row + shift] = np.minimum(table[side, owner, 2 * row + shift], column)
        table[side, owner, 2 * row + 1] = column - 1
    return table.reshape(2 * count, -1)


def _hull_points(table: IntArray, last: IntArray) -> NDArray[np.bool_]:
    """True for the points of each profile's lower convex hull; `last` is the final point of each."""
    is_point = np.zeros(table.shape, bool)
    is_point[:, 0] = True
    going, at, size = np.arange(len(table)), np.zeros(len(table), np.int64), table.shape[1]
    # Mirrored, so that of equal slopes argmin takes the farthest; quotients of small integers that are equal are equal as
    # floats, too. What is not ahead is lifted out of the way.
    live = table[:, ::-1].astype(np.float64)
    ahead = size - 1 - np.arange(2 * size - 1, dtype=np.float64)
    distance = sliding_window_view(np.maximum(ahead, 1), size)
    lift = sliding_window_view(np.where(ahead > 0, 0, float(_FAR)), size)
    while len(going):
        slope = live - live[np.arange(len(going)), size - 1 - at][:, None]
        slope += lift[at]
        slope /= distance[at]
        at = size - 1 - np.argmin(slope, axis=1)
        is_point[going, at] = True
        more = at < last[going]
        if not more.all():
            going, at, live = going[more], at[more], live[more]
    return is_point


def _reach(table: IntArray, height: IntArray) -> IntArray:
    """The first column at or right of the hull's side, for every row of every profile."""
    is_point = _hull_points(table, 2 * height)
    along = np.arange(table.shape[1])
    before = np.maximum.accumulate(np.where(is_point, along, 0), axis=1)[:, 1::2]
    after = np.minimum.accumulate(np.where(is_point, along, table.shape[1] - 1)[:, ::-1], axis=1)[:, ::-1][:, 1::2]
    here = along[1::2]
    low, high = np.take_along_axis(table, before, 1), np.take_along_axis(table, after, 1)
    run = np.maximum(after - before, 1)
    line = low * run + (high - low) * (here - before)  # doubled column times run
    return np.asarray(-(-line // (2 * run)), np.int64)

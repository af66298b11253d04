"""Watershed by steepest ascent: the basins of a height image and the necks between them.

1. `ascend`: every pixel steps to its highest 4-neighbour until none is higher; pixels that end on the same plateau
   are one basin. A pixel's way depends on the heights along it and on nothing else, so a basin that lies inside two
   windows is the same in both.
2. `necks`: for every two basins that touch, the highest pass between them.
3. `join`: basins flow together, highest pass first, where a `JoinRule` says that they are one object.

Equal heights are decided by direction (up, left, right, down) and by scan order, never by position in the array, so
that moving the window does not move the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Basins:
    """A partition of a mask into the catchments of its height maxima."""

    labels: Labels
    """`(h, w)`, 1 to n in scan order of the maxima, 0 outside the mask."""
    height: NDArray[np.float32]
    """Height of each maximum, `(n,)`."""
    centre: NDArray[np.float64]
    """Mean row and column of each maximum's plateau, `(n, 2)`."""

    def __len__(self) -> int:
        return len(self.height)


def ascend(height: NDArray[np.floating], mask: NDArray[np.bool_]) -> Basins:
    """The basins of `height` inside `mask`; each is 4-connected.

    Args:
        height: `(h, w)`, finite inside the mask.
        mask: `(h, w)`.
    """
    rows, cols = mask.shape
    padded = np.full((rows + 2, cols + 2), -np.inf, np.float32)
    np.copyto(padded[1:-1, 1:-1], height, where=mask, casting="same_kind")
    at = np.flatnonzero(padded > -np.inf)
    goal = at + _uphill(padded).ravel()[at]
    place = np.zeros(padded.size, np.int64)
    place[at] = np.arange(len(at))
    peak = np.zeros(padded.shape, bool)
    peak.ravel()[at[goal == at]] = True
    plateau, count = ndimage.label(peak)
    labels = np.zeros(padded.shape, np.int32)
    labels.ravel()[at] = plateau.ravel()[at][_follow(place[goal])]
    top, centre = _peaks(plateau[1:-1, 1:-1], count, padded[1:-1, 1:-1])
    return Basins(labels=labels[1:-1, 1:-1], height=top, centre=centre)


def climb(at: NDArray[np.int64], height: NDArray[np.float32], width: int) -> NDArray[np.int32]:
    """As `ascend`, for few pixels of a large image: the basin of each, 0 to n - 1 in scan order of the maxima.

    Args:
        at: Flat indices of the pixels, ascending; none in the first or last row, or in the last column.
        height: Flat image; lower outside `at` than anywhere in it.
        width: Of the image, px.
    """
    goal, top = at.copy(), height[at]
    for step in (-width, -1, 1, width):
        beside = height[at + step]
        higher = np.flatnonzero(beside > top)
        goal[higher], top[higher] = at[higher] + step, beside[higher]
    place = np.empty(len(height), np.int64)
    place[at] = np.arange(len(at))
    ends = _follow(place[goal])
    peaks = np.flatnonzero(goal == at)
    number = np.empty(len(at), np.int32)
    number[peaks] = _plateaus(at[peaks], width)
    basins: NDArray[np.int32] = number[ends]
    return basins


def _plateaus(peaks: NDArray[np.int64], width: int) -> NDArray[np.int32]:
    """The 4-connected group of each place, numbered from 0 in scan order."""
    one, two = [], []
    for step in (1, width):
        beside = np.searchsorted(peaks, peaks + step)
        meets = np.flatnonzero(peaks.take(beside, mode="clip") == peaks + step)
        one.append(meets)
        two.append(beside[meets])
    return linked(np.concatenate(one), np.concatenate(two), len(peaks))


def linked(one: NDArray[np.int64], two: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """The group of each of `count` things of which `one[k]` and `two[k]` belong together, from 0 by its first member."""
    if not len(one):
        return np.arange(count, dtype=np.int32)
    edges = coo_array((np.ones(len(one), np.int8), (one, two)), shape=(count, count))
    groups: NDArray[np.int32] = connected_components(edges, directed=False)[1]
    return groups


def _uphill(padded: NDArray[np.float32]) -> NDArray[np.int32]:
    """Step in flat indices from each pixel to its highest 4-neighbour, 0 on maxima; the outermost ring stays 0."""
    width = padded.shape[1]
    step = np.zeros(padded.shape, np.int32)
    inner, top = step[1:-1, 1:-1], padded[1:-1, 1:-1].copy()
    for row, col in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        beside = padded[1 + row : padded.shape[0] - 1 + row, 1 + col : width - 1 + col]
        higher = beside > top
        np.copyto(top, beside, where=higher)
        np.copyto(inner, row * width + col, where=higher)
    return step


def _follow(goal: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each pointer ends, by doubling."""
    while True:
        further = goal[goal]
        if np.array_equal(further, goal):
            return goal
        goal = further


def _peaks(plateau: Labels, count: int, height: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    row, col = np.nonzero(plateau)
    owner = plateau[row, col] - 1
    size = np.bincount(owner, minlength=count)
    top = np.zeros(count, np.float32)
    top[owner] = height[row, col]
    sums = [np.bincount(owner, weights=axis, minlength=count) / size for axis in (row, col)]
    return top, np.stack(sums, axis=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Necks:
    """Pairs of touching labels `a < b`, each once, sorted; three arrays of one length."""

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    height: NDArray[np.float32]
    """The highest pass: the greatest, over the pairs of 4-neighbours that meet, of the lower of the two heights."""
    length: NDArray[np.int64]
    """How many pairs of 4-neighbours meet."""


def necks(labels: Labels, height: NDArray[np.floating] | None = None) -> Necks:
    """Every pair of positive labels that touch by sides.

    Args:
        labels: `(h, w)`.
        height: `(h, w)`; without it all passes are 0.
    """
    pairs, passes = [], []
    base = int(labels.max(initial=0)) + 1
    for one, two in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        here, there = labels[one], labels[two]
        meet = np.nonzero((here != there) & (here > 0) & (there > 0))
        low, high = np.minimum(here[meet], there[meet]), np.maximum(here[meet], there[meet])
        pairs.append(low.astype(np.int64) * base + high)
        if height is not None:
            passes.append(np.minimum(height[one][meet], height[two][meet]))
    keys, inverse, length = np.unique(np.concatenate(pairs), return_inverse=True, return_counts=True)
    top = np.full(len(keys), -np.inf if height is not None else 0.0, np.float32)
    if height is not None:
        np.maximum.at(top, inverse, np.concatenate(passes))
    return Necks(a=keys // base, b=keys % base, height=top, length=length)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRule:
    """When two groups of basins that meet are one object: any of the three suffices."""

    neck: float
    """Their pass is higher than this share of the lower group's maximum, 0 to 1."""
    min_distance: float
    """Their maxima are nearer than this, px."""
    min_area: int
    """The smaller one has fewer pixels."""


def join(basins: Basins, passes: Necks, rule: JoinRule) -> Labels:
    """The group of every basin, `(n + 1,)` with 0 for the background, numbered from 1 in scan order.

    Passes are taken from the highest down; a group is represented by its highest maximum.
    """
    area = np.bincount(basins.labels.ravel(), minlength=len(basins) + 1)[1:]
    order = np.empty(len(basins), np.int64)
    order[np.lexsort((np.arange(len(basins)), -basins.height))] = np.arange(len(basins))
    parent = _drain(basins, passes, order, rule.neck)
    groups = _Groups(parent=parent.tolist(), area=np.bincount(parent, weights=area, minlength=len(basins)).tolist())
    high, low = parent[passes.a - 1], parent[passes.b - 1]
    apart = np.flatnonzero(high != low)
    apart = apart[np.lexsort((low[apart], high[apart], -passes.height[apart]))]
    heights, centres, places = basins.height.tolist(), basins.centre.tolist(), order.tolist()
    near = rule.min_distance**2
    for a, b, neck in zip(high[apart].tolist(), low[apart].tolist(), passes.height[apart].tolist(), strict=True):
        one, two = groups.root(a), groups.root(b)
        if one == two:
            continue
        if places[one] > places[two]:
            one, two = two, one
        (row, col), (other_row, other_col) = centres[one], centres[two]
        if (
            neck > rule.neck * heights[two]
            or min(groups.area[one], groups.area[two]) < rule.min_area
            or (row - other_row) ** 2 + (col - other_col) ** 2 < near
        ):
            groups.join(one, two)
    roots = np.array([groups.root(i) for i in range(len(basins))], np.int64)
    new = np.zeros(len(basins) + 1, np.int32)
    new[1:] = np.unique(roots, return_inverse=True)[1] + 1
    return new


def _drain(basins: Basins, passes: Necks, order: NDArray[np.int64], neck: float) -> NDArray[np.int64]:
    """Where each basin flows when its highest pass alone settles that it is a ripple on a higher neighbour.

    Nothing can join a basin before its own highest pass is taken, so these joins need no order; on real outlines they
    are nine in ten.
    """
    low = np.concatenate([passes.a, passes.b]) - 1
    high = np.concatenate([passes.b, passes.a]) - 1
    height = np.concatenate([passes.height, passes.height])
    rank = np.lexsort((order[high], -height, low))
    low, high, height = low[rank], high[rank], height[rank]
    first = np.concatenate([[True], low[1:] != low[:-1]]) if len(low) else np.zeros(0, bool)
    ripple = first & (order[high] < order[low]) & (height > neck * basins.height[low])
    goal = np.arange(len(basins))
    goal[low[ripple]] = high[ripple]
    return _follow(goal)


@dataclass(slots=True, kw_only=True)
class _Groups:
    """Disjoint sets of basins; a set's name is its highest basin."""

    parent: list[int]
    area: list[float]

    def root(self, i: int) -> int:
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, high: int, low: int) -> None:
        self.parent[low] = high
        self.area[high] += self.area[low]

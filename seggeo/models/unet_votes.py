"""Votes of pixels for their objects' centres, and the piles that they make; nothing but places that hold votes is looked at.

1. `cast`: a pixel looks where its offset leads. What happens from there on depends on the place alone, so that a
   million pixels become some thousand places with a count, and everything after is about those.
2. `_twice`: from there the vote looks twice more, which gathers the votes closely.
3. `heap_up`: counts smoothed by a Gaussian, worked out only where some vote is near, and climbed to the tops.
4. `join_near`: piles closer than their objects' sizes allow are one object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from seggeo.models.basins import climb

Index = NDArray[np.int64]
_LEAST = 1e-3
"""Smoothed votes at a pixel below which it is of no pile."""
_TRUNCATE = 3.0
"""Sigmas at which the Gaussian ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """Where the pixels of a foreground vote."""

    first: Index
    """`(n,)` flat index of the place that each pixel's offset leads to."""
    place: Index
    """`(m,)` these places, ascending, each once."""
    count: Index
    """`(m,)` pixels that lead there."""
    goal: Index
    """`(m,)` flat index of the place where their votes fall in the end."""


def cast(at: Index, inside: NDArray[np.bool_], offset: NDArray[np.float32]) -> Votes:
    """The votes of the pixels `at`, flat indices of all that are `inside`, ascending."""
    height, width = inside.shape
    row = np.repeat(np.arange(height), np.count_nonzero(inside, axis=1))
    first = _landing(row, at - row * width, offset.reshape(2, -1)[:, at], inside.shape)
    count = np.bincount(first, minlength=inside.size)
    place = np.flatnonzero(count)
    return Votes(first=first, place=place, count=count[place], goal=_twice(place, inside, offset))


def _landing(row: Index, col: Index, offset: NDArray[np.float32], shape: tuple[int, ...]) -> Index:
    """Flat index of the pixel that offsets lead to, at most as far as the window's side."""
    to_row, to_col = row + offset[0], col + offset[1]
    for to, side in ((to_row, shape[0]), (to_col, shape[1])):
        np.rint(to, out=to)
        np.clip(to, 0, side - 1, out=to)
    to_row *= shape[1]
    to_row += to_col  # whole numbers, exact in 64 bits
    return np.asarray(to_row, np.int64)


def _twice(place: Index, inside: NDArray[np.bool_], offset: NDArray[np.float32]) -> Index:
    """Where votes that fell on these places go in two more steps; outside the foreground they stay."""
    flat, flow = inside.ravel(), offset.reshape(2, -1)
    goal = place.copy()
    for _ in range(2):
        again = np.flatnonzero(flat[goal])
        here = goal[again]
        row, col = np.divmod(here, inside.shape[1])
        goal[again] = _landing(row, col, flow[:, here], inside.shape)
    return goal


def heap_up(votes: Votes, shape: tuple[int, ...], sigma: float) -> NDArray[np.int32]:
    """The pile, 1 to k, that the votes of each place fell on, `(m,)`.

    Args:
        votes: Of a window.
        shape: `(h, w)` of the window.
        sigma: Of the Gaussian, px.
    """
    weights = _gaussian(sigma)
    reach = len(weights) - 1
    width = shape[1] + reach + 1  # beyond the last column, which the next row's first one follows, lie zeros
    count = np.zeros((shape[0] + 2 * reach + 2) * width, np.float32)
    row, col = np.divmod(votes.goal, shape[1])
    goal = (row + reach + 1) * width + col
    # Fewer than 2^24 votes, so that a sum of whole numbers is exact in 32 bits.
    top, which = np.unique(goal, return_inverse=True)
    count[top] = np.bincount(which, weights=votes.count)
    down = _beside(top, width * np.arange(-reach, reach + 1), shape, width)
    smooth = np.zeros_like(count)
    smooth[down] = _weighed(count, down, width, weights)
    near = _beside(down, np.arange(-reach, reach + 1), shape, width)
    count[top] = 0
    count[near] = _weighed(smooth, near, 1, weights)
    at = near[count[near] > _LEAST]
    if count[top].min(initial=1) <= _LEAST:
        at = np.union1d(at, top)
    pile = np.empty(count.size, np.int32)
    pile[at] = climb(at, count, width) + 1
    return np.asarray(pile[goal], np.int32)


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """Half of a Gaussian's weights, the middle one first, as `scipy.ndimage.gaussian_filter` makes them."""
    reach = int(_TRUNCATE * sigma + 0.5)
    if not reach:
        return np.ones(1)
    step = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * step**2)
    return np.asarray((weights / weights.sum())[reach:], np.float64)


def _beside(places: Index, steps: Index, shape: tuple[int, ...], width: int) -> Index:
    """All places of the window that one of `steps` leads to from one of `places`, ascending."""
    rows, margin = shape[0], len(steps) // 2 + 1
    is_near = np.zeros((rows + 2 * margin, width), bool)
    flat = is_near.ravel()
    for step in steps:
        flat[places + step] = True
    is_near[:margin] = is_near[margin + rows :] = False
    is_near[:, shape[1] :] = False
    return np.flatnonzero(flat)


def _weighed(values: NDArray[np.float32], places: Index, step: int, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values around places, `step` apart, weighed; added from the outside in, as scipy does."""
    total = values[places] * weights[0]
    for far in range(len(weights) - 1, 0, -1):
        pair = values[places - far * step].astype(np.float64) + values[places + far * step]
        total += pair * weights[far]
    return np.asarray(total, np.float64)


def join_near(votes: Votes, pile: NDArray[np.int32], width: int, join: float) -> Index:
    """The object of each pile, by its number: piles nearer than their sizes allow are joined, nearest first.

    Args:
        votes: Of a window.
        pile: `(m,)` of each place.
        width: Of the window, px.
        join: Share of the sum of two piles' radii below which they are one.
    """
    area = np.bincount(pile, weights=votes.count).astype(np.int64)
    size = np.maximum(area, 1)
    ends = np.divmod(votes.goal, width)
    centre = np.stack([np.bincount(pile, weights=votes.count * end) / size for end in ends], axis=1)
    radius = np.sqrt(area / np.pi)
    group = np.arange(len(area))
    real = np.flatnonzero(area > 0)
    if len(real) < 2:
        return group
    pairs = cKDTree(centre[real]).query_pairs(2 * join * float(radius.max()), output_type="ndarray")
    if not len(pairs):
        return group
    a, b = real[pairs[:, 0]], real[pairs[:, 1]]
    apart = np.hypot(*(centre[a] - centre[b]).T)
    near = apart < join * (radius[a] + radius[b])
    order = np.lexsort((b[near], a[near], apart[near]))
    for i, j in zip(a[near][order], b[near][order], strict=True):
        while group[i] != i:
            i = group[i]
        while group[j] != j:
            j = group[j]
        group[max(i, j)] = min(i, j)
    while not np.array_equal(group[group], group):
        group = group[group]
    return group

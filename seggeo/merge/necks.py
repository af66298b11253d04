"""Where a chain of cross-sections narrows and widens again: two objects that touch, one above the other.

Masks of one slice cannot tell that the cap of one ball is not the cap of the next; how areas go from slice to slice can.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
_OUTLINE = 0.5
"""Pixels by which an outline may be off either way: no neck is seen in what that explains."""


def necks(area: IntArray, centre: NDArray[np.float64], begins: BoolArray, share: float) -> BoolArray:
    """Links at which chains are parted: `(n,)`, True where a cross-section begins a new object in the midst of its chain.

    A link is at a neck if the smaller of its two areas is less than `share` of the largest areas on both sides of it, even if
    its outline is half a pixel too tight and theirs as much too wide. Of the links at necks the chain is parted where the
    centre leaves its way most, in radii of the smaller section, for a cap lies over the middle of its own ball; of equals at
    the narrowest. Then the two pieces are looked at again.

    Args:
        area: Of the cross-sections, one chain after the other, slices ascending, px; `(n,)`.
        centre: Mean row and column, `(n, 2)`.
        begins: True at the first of each chain, `(n,)`.
        share: From 0 to 1; 0 parts nothing.
    """
    cuts = np.zeros(len(area), np.bool_)
    rows, begins = np.arange(len(area)), begins.copy()
    while len(rows) and share > 0:
        found = _narrowest(area[rows], centre[rows], begins, share)
        cuts[rows[found]] = True
        begins |= found
        part = np.cumsum(begins) - 1
        again = np.zeros(int(part[-1]) + 1, np.bool_)
        again[part[found]] = True
        again[part[found] - 1] = True
        rows, begins = rows[again[part]], begins[again[part]]
    return cuts


def _narrowest(area: IntArray, centre: NDArray[np.float64], begins: BoolArray, share: float) -> BoolArray:
    """The link of each chain at which it is parted, if any; several if nothing tells them apart."""
    part = np.cumsum(begins) - 1
    behind, ahead = _running_max(area, part), _running_max(area[::-1], part[-1] - part[::-1])[::-1]
    smaller = np.minimum(area[1:], area[:-1])
    widest = np.minimum(behind[:-1], ahead[1:])
    is_neck = ~begins[1:] & _is_neck(smaller, widest, share)
    at = np.flatnonzero(is_neck) + 1
    moved = np.hypot(*_jumps(centre, begins)[at].T) / np.maximum(1.0, np.sqrt(smaller[at - 1] / np.pi))
    # Tenths of a radius, for less is noise; then all of it, that a link is chosen from either end alike.
    order = np.lexsort((-moved, area[at] + area[at - 1], -np.round(moved, 1), part[at]))
    at, moved = at[order], moved[order]
    best = np.zeros(len(area), np.bool_)
    if len(at):
        key = np.stack([part[at].astype(np.float64), moved, area[at] + area[at - 1]])
        leads = np.concatenate([[True], part[at][1:] != part[at][:-1]])
        lead = np.maximum.accumulate(np.where(leads, np.arange(len(at)), 0))
        best[at[(key == key[:, lead]).all(axis=0)]] = True
    return best


def _is_neck(smaller: IntArray, widest: IntArray, share: float) -> BoolArray:
    pixel = _OUTLINE * np.sqrt(np.pi)
    return np.asarray(np.sqrt(smaller) + pixel < np.sqrt(share) * (np.sqrt(widest) - pixel))


def _running_max(values: IntArray, part: IntArray) -> IntArray:
    """Largest value so far within each part."""
    lift = part * (int(values.max()) + 1)
    return np.asarray(np.maximum.accumulate(values + lift) - lift)


def _jumps(centre: NDArray[np.float64], begins: BoolArray) -> NDArray[np.float64]:
    """Motion of each centre from the one before, less the mean of the motions beside it; `(n, 2)`."""
    motion = np.diff(centre, axis=0, prepend=centre[:1])
    motion[begins] = 0
    both = ~begins[1:] & ~begins[:-1]  # two links that follow each other in one chain
    beside, count = np.zeros_like(motion), np.zeros(len(motion))
    beside[1:][both] += motion[:-1][both]
    beside[:-1][both] += motion[1:][both]
    count[1:] += both
    count[:-1] += both
    return np.asarray(motion - beside / np.maximum(count, 1)[:, None])

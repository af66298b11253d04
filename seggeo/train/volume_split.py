"""How one volume is divided: a block of neighbouring slices is held back, with slices between that neither side sees.

Slices next to each other show the same objects, so that drawn at random they would measure memory. What lies between is as
deep as the median object, and at least so deep that no slice is among the neighbours, or under the smoothing, of both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

import numpy as np

from seggeo.train.scenes import Scene

_MOST = 0.5
"""Part of a volume that a block and what lies around it may take."""
_FAIR = 0.3
"""By how much of the wanted count a block's objects may miss it, where that saves one of the two gaps."""


class Block(NamedTuple):
    """Slices held back, and slices learnt from."""

    train: list[Scene]
    val: list[Scene]


def block_of(slices: Sequence[Scene], share: float) -> Block | None:
    """A volume divided by a block of slices; None for one of too few.

    Args:
        slices: The scenes of one volume, in any order.
        share: Part of the slices, and about of the objects, that is wanted for validation.
    """
    ordered = sorted(slices, key=lambda scene: scene.z)
    least = 2 * max(scene.reach for scene in ordered)
    for gap in dict.fromkeys((max(least, _median_depth(ordered)), least)):
        block = _best(ordered, share, gap)
        if block is not None:
            return block
    return None


def _best(ordered: list[Scene], share: float, gap: int) -> Block | None:
    """The block whose objects are about as many as wanted, and of such blocks the first that costs fewest slices."""
    z, objects = np.array([scene.z for scene in ordered]), np.array([len(scene.objects) for scene in ordered])
    before = np.concatenate([[0], np.cumsum(objects)])  # objects of all slices before one
    count = max(1, round(share * len(ordered)))
    first = np.arange(len(ordered) - count + 1)
    low, high = np.searchsorted(z, z[first] - gap), np.searchsorted(z, z[first + count - 1] + gap, side="right")
    judged, lost = before[first + count] - before[first], before[high] - before[low]
    fits = (high - low <= _MOST * len(ordered)) & (judged > 0) & (lost < before[-1])
    if not fits.any():
        return None
    wanted = share * before[-1]
    off = np.abs(judged - wanted)
    off[off <= _FAIR * wanted] = 0
    best = int(np.lexsort((high - low, off, ~fits))[0])
    return Block(train=ordered[: low[best]] + ordered[high[best] :], val=ordered[best : best + count])


def _median_depth(ordered: Sequence[Scene]) -> int:
    """Slices, from its first to its last, of the median object."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for scene in ordered:
        for name in map(int, scene.ids):
            first.setdefault(name, scene.z)
            last[name] = scene.z
    return ceil(np.median([last[name] - first[name] + 1 for name in first])) if first else 0

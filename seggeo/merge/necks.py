"""Where a chain of cross-sections narrows and widens again: two objects that touch, one above the other.

Masks of one slice cannot tell that the cap of one ball is not the cap of the next; how areas go from slice to slice can.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, pi, sqrt


def necks(area: Sequence[int], centre: Sequence[tuple[float, float]], share: float) -> list[int]:
    """Positions at which a new object begins, ascending.

    A link is at a neck if the smaller of its two areas is less than `share` of the largest areas on both sides of it. Of the
    links at necks the chain is parted at the one where the centre moves most, in radii of the smaller section, for a cap lies
    over the middle of its own ball; of equals at the narrowest. Then the two pieces are looked at again.

    Args:
        area: Of the cross-sections in order, px.
        centre: Mean row and column of each.
        share: From 0 to 1.
    """
    cuts: list[int] = []
    waiting = [(0, len(area))]
    while waiting:
        first, stop = waiting.pop()
        at = _neck(area, centre, share, (first, stop))
        if at is not None:
            cuts.append(at)
            waiting += [(first, at), (at, stop)]
    return sorted(cuts)


def _neck(
    area: Sequence[int], centre: Sequence[tuple[float, float]], share: float, part: tuple[int, int]
) -> int | None:  # fmt: skip
    first, stop = part
    if stop - first < 3:
        return None
    behind = [area[first]]
    for i in range(first + 1, stop):
        behind.append(max(behind[-1], area[i]))
    ahead = area[stop - 1]
    found: list[tuple[float, int, int]] = []
    for i in range(stop - 1, first, -1):  # between i - 1 and i
        ahead = max(ahead, area[i])
        smaller = min(area[i - 1], area[i])
        if smaller < share * min(behind[i - 1 - first], ahead):
            found.append((_moved(centre[i - 1], centre[i], smaller), -(area[i - 1] + area[i]), i))
    return max(found)[2] if found else None


def _moved(a: tuple[float, float], b: tuple[float, float], smaller: int) -> float:
    """Distance of two centres in radii of a disc of the smaller area, in tenths, at least of a pixel: less is noise."""
    return round(hypot(a[0] - b[0], a[1] - b[1]) / max(1.0, sqrt(smaller / pi)), 1)

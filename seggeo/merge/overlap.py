"""Cross-sections of two slices: which overlap, which are each other's best, also when each is moved on over a gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances
from seggeo.rle import Spans, overlaps

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
SMALLER = 3.0
"""Overlap as a share of the smaller mask must reach this many times the least IoU, where the IoU itself does not: the caps of a
ball are much smaller than the sections beside them."""
BRIDGE = 2.0
"""Over missed slices the least IoU is this many times as much, for what lies between was not seen; but not between two
cross-sections alone between gaps, which have no motion to be moved by and may have gone a long way."""
_FAR = 1 << 28
"""Rows between tries: more than any slice has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """Cross-sections of one slice that may still be linked."""

    z: int
    index: IntArray
    """Positions in the slice."""
    spans: Spans
    """From the top row down, for so they are compared fastest; owners count within this record."""
    area: IntArray
    label: NDArray[np.int32]
    centre: FloatArray
    """Mean row and column, `(n, 2)`."""
    back: FloatArray
    """Motion of the centre from the slice before, `(n, 2)`; NaN where there is no link."""
    ahead: FloatArray
    """The same to the slice after."""

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def of(cls, z: int, pieces: Instances) -> Sections:
        """All of a slice."""
        spans, n = pieces.spans(), len(pieces)
        length = spans.stop - spans.start
        area = np.bincount(spans.owner, weights=length, minlength=n)
        row = np.bincount(spans.owner, weights=spans.row * length, minlength=n)
        col = np.bincount(spans.owner, weights=(spans.start + spans.stop - 1) * length, minlength=n) / 2
        order = np.argsort((spans.row << 32) + spans.start, kind="stable")
        return cls(
            z=z, index=np.arange(n), spans=spans.take(order), area=area.astype(np.int64), label=pieces.label,
            centre=np.stack([row, col], axis=1) / np.maximum(area, 1)[:, None],
            back=np.full((n, 2), np.nan), ahead=np.full((n, 2), np.nan),
        )  # fmt: skip

    def take(self, which: IntArray) -> Sections:
        """The picked cross-sections, in that order."""
        place = np.full(len(self), -1)
        place[which] = np.arange(len(which))
        spans = self.spans.take(place[self.spans.owner] >= 0)
        return Sections(
            z=self.z, index=self.index[which], area=self.area[which], label=self.label[which], centre=self.centre[which],
            back=self.back[which], ahead=self.ahead[which],
            spans=Spans(owner=place[spans.owner], row=spans.row, start=spans.start, stop=spans.stop),
        )  # fmt: skip

    def moved(self, which: BoolArray, by: FloatArray) -> Spans:
        """Pixels of some, each moved by rows and columns `(n, 2)`, rounded."""
        spans = self.spans.take(which[self.spans.owner])
        shift = np.rint(np.where(which[:, None], by, 0)).astype(np.int64)
        rows, cols = shift[spans.owner, 0], shift[spans.owner, 1]
        return Spans(owner=spans.owner, row=spans.row + rows, start=spans.start + cols, stop=spans.stop + cols)


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Cross-sections that are one object: positions in the slice before and in the one after, each at most once."""

    a: IntArray
    b: IntArray

    @classmethod
    def none(cls) -> Links:
        """No links."""
        return cls(a=np.zeros(0, np.int64), b=np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Masks of two slices that share pixels and a class."""

    a: IntArray
    b: IntArray
    iou: FloatArray
    of_a: FloatArray
    """Shared pixels as a share of a's."""
    of_b: FloatArray

    @classmethod
    def of(cls, before: Sections, after: Sections, met: tuple[IntArray, IntArray, IntArray]) -> Pairs:
        """Pairs with so many shared pixels, as `rle.overlaps` gives them."""
        a, b, shared = met
        same = before.label[a] == after.label[b]
        a, b, shared = a[same], b[same], shared[same]
        iou = shared / (before.area[a] + after.area[b] - shared)
        return cls(a=a, b=b, iou=iou, of_a=shared / before.area[a], of_b=shared / after.area[b])

    def linked(self, least: FloatArray) -> Links:
        """Pairs in which each is the other's best of those not yet paired; of equals the first in both slices.

        Best is what has the highest sum of IoU and share of the smaller mask: by IoU alone another ball that begins beside a
        large section would win over that section's own tip.

        Args:
            least: Least IoU of every pair.
        """
        smaller = np.maximum(self.of_a, self.of_b)
        good = np.flatnonzero((self.iou >= least) | (smaller >= np.minimum(1.0, SMALLER * least)))
        likeness = (self.iou + smaller)[good]
        order = np.lexsort((self.a[good] + self.b[good], -likeness))  # equals that share a mask differ in the sum
        a, b = self.a[good][order], self.b[good][order]
        found_a, found_b = [a[:0]], [b[:0]]
        while len(a):
            both = _is_first(a) & _is_first(b)
            found_a.append(a[both])
            found_b.append(b[both])
            free = ~(np.isin(a, a[both]) | np.isin(b, b[both]))
            a, b = a[free], b[free]
        return Links(a=np.concatenate(found_a), b=np.concatenate(found_b))


def neighbours(before: Sections, after: Sections, least: float) -> tuple[Pairs, Links]:
    """Pairs of neighbouring slices, and the links among them."""
    pairs = Pairs.of(before, after, overlaps(before.spans, after.spans))
    return pairs, pairs.linked(np.full(len(pairs.a), least))


def bridges(before: Sections, after: Sections, least: float) -> Links:
    """Links of what ends in one slice to what begins in a later one.

    They are compared where they are, and each moved half the way at its own speed, or one of them all the way where the other's
    speed is not known; what fits better counts.
    """
    if not len(before) or not len(after):
        return Links.none()
    way = float(after.z - before.z)
    a_moves, b_moves = ~np.isnan(before.back[:, 0]), ~np.isnan(after.ahead[:, 0])
    back, ahead = way * before.back, -way * after.ahead
    tries = [
        (before.spans, after.spans),
        (before.moved(a_moves, back / 2), after.moved(b_moves, ahead / 2)),
        (before.moved(a_moves, back), after.spans.take(~b_moves[after.spans.owner])),
        (before.spans.take(~a_moves[before.spans.owner]), after.moved(b_moves, ahead)),
    ]
    a, b, shared = overlaps(_stacked([a for a, _ in tries], len(before)), _stacked([b for _, b in tries], len(after)))
    pairs = Pairs.of(before, after, (a % len(before), b % len(after), shared))
    alone = ~(a_moves[pairs.a] | b_moves[pairs.b])
    return pairs.linked(np.where(alone, least, min(0.9, BRIDGE * least)))


def _stacked(tries: list[Spans], count: int) -> Spans:
    """All as one, each in rows of its own, so that only the same tries meet; owners go on from `count` to `count`."""
    owner = np.concatenate([one.owner + i * count for i, one in enumerate(tries)])
    row = np.concatenate([one.row + i * _FAR for i, one in enumerate(tries)])
    return Spans(
        owner=owner,
        row=row,
        start=np.concatenate([one.start for one in tries]),
        stop=np.concatenate([one.stop for one in tries]),
    )


def _is_first(values: IntArray) -> NDArray[np.bool_]:
    """True where a value occurs for the first time."""
    place = np.arange(len(values))
    first = np.zeros(int(values.max()) + 1, np.int64)
    first[values[::-1]] = place[::-1]
    return np.asarray(first[values] == place)

"""Slice to slice: which cross-sections are one object of a volume.

1. Of two neighbouring slices the pairs that overlap best *both ways* are linked, and of what is left again, so a link is the
   same from either side and no object has two cross-sections in a slice.
2. What ends in one slice and what begins two or more slices on are then paired in the same way, nearer ones first: a missed
   slice does not part an object.
3. Chains of links are objects, but where one narrows to a neck and widens again it is two that touch (`necks`).

One slice after the other is looked at, and only cross-sections that may still be linked are held, so memory follows the
fullest slices and not the volume. Nothing depends on the direction in which slices are numbered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances
from seggeo.merge.necks import necks
from seggeo.rle import Spans, overlaps

IntArray = NDArray[np.int64]
SMALLER = 3.0
"""Overlap as a share of the smaller mask must reach this many times the least IoU, where the IoU itself does not: the caps of a
ball are much smaller than the sections beside them."""
BRIDGE = 2.0
"""Over missed slices the least IoU is this many times as much: what lies between was not seen."""
_FORK = 0.5
"""A mask is a branch of another if this share of it lies on that one, and it is not smaller than this share of its sibling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRules:
    """When cross-sections are one object."""

    iou: float = 0.3
    """Least IoU of two linked masks."""
    gap: int = 2
    """Slices in which an object may be missed."""
    neck: float = 0.6
    """Least area of a neck, of the smaller of the widest places on both sides; 0 never parts an object."""
    min_voxels: int = 0
    """Smallest object that is kept."""
    min_score: float = 0.0
    """Least mean score, over voxels, of an object that is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linked:
    """What is known of one slice at once: the chain of each of its cross-sections."""

    z: int
    chain: IntArray
    """`(n,)` numbers in order of first appearance, from 0."""
    first_new: int
    """Chains from this number on begin here."""
    bridged: int
    """Links over missed slices that end here."""
    forks: list[Fork]
    """Of chains that end or begin between the slice before and this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """An object that becomes two, or two that become one, between slices `z - 1` and `z`."""

    kind: str
    """branch or merge."""
    z: int
    stem: tuple[int, int]
    """Slice and position of the cross-section of the one."""
    others: tuple[tuple[int, int], ...]
    """Slice and position of those of the others; one of them is linked to the stem."""


@dataclass(slots=True, kw_only=True)
class Breaks:
    """Where chains part into objects: for a slice the positions of cross-sections that begin an object, and what is dropped."""

    starts: dict[int, list[int]] = field(default_factory=dict)
    """Positions where a chain goes on as another object."""
    dropped: dict[int, list[int]] = field(default_factory=dict)
    """Positions of first cross-sections of objects that are too small or too poor."""
    parted: int = 0
    objects: int = 0


@dataclass(slots=True, kw_only=True)
class _Chain:
    """One chain of links, as far as it goes."""

    last_z: int
    z: list[int]
    index: list[int]
    area: list[int]
    score: list[float]
    centre: list[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """Cross-sections of one slice that may still be linked to later ones."""

    z: int
    index: IntArray
    """Positions in the slice."""
    spans: Spans
    """Owners count within this record."""
    area: IntArray
    label: NDArray[np.int32]
    chain: IntArray

    def take(self, keep: NDArray[np.bool_]) -> _Slice:
        """The picked cross-sections."""
        place = np.cumsum(keep) - 1
        mine = keep[self.spans.owner]
        spans = self.spans.take(mine)
        return _Slice(
            z=self.z, index=self.index[keep],
            spans=Spans(owner=place[spans.owner], row=spans.row, start=spans.start, stop=spans.stop),
            area=self.area[keep], label=self.label[keep], chain=self.chain[keep],
        )  # fmt: skip


class Linker:
    """Takes slices in ascending order, empty ones may be left out; `breaks` is complete after `finish`."""

    def __init__(self, rules: LinkRules) -> None:
        self.breaks = Breaks()
        self._rules = rules
        self._behind: list[_Slice] = []
        self._chains: dict[int, _Chain] = {}
        self._count = 0

    def add(self, z: int, pieces: Instances) -> Linked:
        """Link the cross-sections of slice `z` to those before."""
        n = len(pieces)
        spans, area = pieces.spans(), pieces.area
        chain = np.full(n, -1, np.int64)
        self._behind = [one for one in self._behind if z - one.z <= self._rules.gap + 1]
        mine = _Slice(z=z, index=np.arange(n), spans=spans, area=area, label=pieces.label, chain=chain)
        bridged, forks = 0, []
        for at in range(len(self._behind) - 1, -1, -1):
            before, free = self._behind[at], np.flatnonzero(chain < 0)
            if not len(free) or not len(before.index):
                continue
            after = mine if len(free) == n else mine.take(chain < 0)
            pairs = _Pairs.of(before, after)
            a, b = pairs.linked(self._rules.iou if z - before.z == 1 else min(0.9, BRIDGE * self._rules.iou))
            chain[after.index[b]] = before.chain[a]
            if z - before.z == 1:
                forks = _forks(before, after, pairs, (a, b))
            else:
                bridged += len(a)
            loose = np.ones(len(before.index), np.bool_)
            loose[a] = False
            self._behind[at] = before.take(loose)
        first_new = self._count
        new = np.flatnonzero(chain < 0)
        chain[new] = first_new + np.arange(len(new))
        self._count += len(new)
        self._note(z, chain, pieces, _centres(spans, area))
        self._behind.append(_Slice(z=z, index=np.arange(n), spans=spans, area=area, label=pieces.label, chain=chain))
        self._close(z)
        return Linked(z=z, chain=chain, first_new=first_new, bridged=bridged, forks=forks)

    def finish(self) -> Breaks:
        """After the last slice: where the chains part."""
        self._close(None)
        return self.breaks

    def _note(self, z: int, chain: IntArray, pieces: Instances, centre: NDArray[np.float64]) -> None:
        area, score = pieces.area.tolist(), pieces.score.tolist()
        for i, number in enumerate(chain.tolist()):
            one = self._chains.get(number)
            if one is None:
                one = self._chains[number] = _Chain(last_z=z, z=[], index=[], area=[], score=[], centre=[])
            one.last_z = z
            one.z.append(z)
            one.index.append(i)
            one.area.append(area[i])
            one.score.append(score[i])
            one.centre.append((centre[i, 0], centre[i, 1]))

    def _close(self, z: int | None) -> None:
        """Part, and weigh, the chains that cannot grow any more."""
        done = [n for n, one in self._chains.items() if z is None or z - one.last_z > self._rules.gap]
        for number in done:
            self._part(self._chains.pop(number))

    def _part(self, chain: _Chain) -> None:
        cuts = necks(chain.area, chain.centre, self._rules.neck) if self._rules.neck else []
        for at in cuts:
            self.breaks.starts.setdefault(chain.z[at], []).append(chain.index[at])
        self.breaks.parted += len(cuts)
        for first, stop in zip([0, *cuts], [*cuts, len(chain.area)], strict=True):
            area = chain.area[first:stop]
            voxels = sum(area)
            score = sum(a * s for a, s in zip(area, chain.score[first:stop], strict=True)) / max(voxels, 1)
            if voxels < self._rules.min_voxels or score < self._rules.min_score:
                self.breaks.dropped.setdefault(chain.z[first], []).append(chain.index[first])
            else:
                self.breaks.objects += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """Masks of two slices that share pixels."""

    a: IntArray
    b: IntArray
    iou: NDArray[np.float64]
    smaller: NDArray[np.float64]
    """Shared pixels as a share of the smaller mask."""
    of_a: NDArray[np.float64]
    of_b: NDArray[np.float64]

    @property
    def likeness(self) -> NDArray[np.float64]:
        """By which partners are chosen: IoU and the share of the smaller mask together.

        By IoU alone another ball that begins beside a large section would win over that section's own tip.
        """
        return self.iou + self.smaller

    @classmethod
    def of(cls, before: _Slice, after: _Slice) -> _Pairs:
        a, b, shared = overlaps(before.spans, after.spans)
        same = before.label[a] == after.label[b]
        a, b, shared = a[same], b[same], shared[same]
        of_a, of_b = shared / before.area[a], shared / after.area[b]
        iou = shared / (before.area[a] + after.area[b] - shared)
        return cls(a=a, b=b, iou=iou, smaller=np.maximum(of_a, of_b), of_a=of_a, of_b=of_b)

    def linked(self, least: float) -> tuple[IntArray, IntArray]:
        """Pairs in which each is the other's best of those not yet paired, of equals the first in the slice."""
        good = np.flatnonzero((self.iou >= least) | (self.smaller >= min(1.0, SMALLER * least)))
        a, b, iou = self.a[good], self.b[good], self.likeness[good]
        found_a, found_b = [a[:0]], [b[:0]]
        while len(a):
            best_of_a, best_of_b = _best(a, b, iou), _best(b, a, iou)
            both = (best_of_a[a] == b) & (best_of_b[b] == a)
            found_a.append(a[both])
            found_b.append(b[both])
            free = ~(np.isin(a, a[both]) | np.isin(b, b[both]))
            a, b, iou = a[free], b[free], iou[free]
        return np.concatenate(found_a), np.concatenate(found_b)


def _best(one: IntArray, other: IntArray, iou: NDArray[np.float64]) -> IntArray:
    """For each of `one` its partner of the highest IoU."""
    order = np.lexsort((other, -iou, one))
    first = np.unique(one[order], return_index=True)[1]
    best = np.full(int(one.max()) + 1, -1, np.int64)
    best[one[order][first]] = other[order][first]
    return best


def _forks(before: _Slice, after: _Slice, pairs: _Pairs, links: tuple[IntArray, IntArray]) -> list[Fork]:
    """Objects that branch or join between two neighbouring slices: linked once, and lying on another that is linked to none."""
    a_of, b_of = np.full(len(after.index), -1), np.full(len(before.index), -1)
    a_of[links[1]], b_of[links[0]] = links[0], links[1]
    found: list[Fork] = []
    branches = (b_of[pairs.a] >= 0) & (a_of[pairs.b] < 0) & (pairs.of_b >= _FORK)
    branches &= after.area[pairs.b] >= _FORK * after.area[b_of[pairs.a]]
    for stem in np.unique(pairs.a[branches]):
        others = [int(b_of[stem]), *pairs.b[branches & (pairs.a == stem)].tolist()]
        found.append(_fork("branch", (before, int(stem)), (after, others), after.z))
    merges = (a_of[pairs.b] >= 0) & (b_of[pairs.a] < 0) & (pairs.of_a >= _FORK)
    merges &= before.area[pairs.a] >= _FORK * before.area[a_of[pairs.b]]
    for stem in np.unique(pairs.b[merges]):
        others = [int(a_of[stem]), *pairs.a[merges & (pairs.b == stem)].tolist()]
        found.append(_fork("merge", (after, int(stem)), (before, others), after.z))
    return found


def _fork(kind: str, stem: tuple[_Slice, int], others: tuple[_Slice, list[int]], z: int) -> Fork:
    of, which = others
    return Fork(
        kind=kind, z=z, stem=(stem[0].z, int(stem[0].index[stem[1]])),
        others=tuple((of.z, int(of.index[i])) for i in which),
    )  # fmt: skip


def _centres(spans: Spans, area: IntArray) -> NDArray[np.float64]:
    """Mean row and column of each mask, `(n, 2)`."""
    length = spans.stop - spans.start
    row = np.bincount(spans.owner, weights=spans.row * length, minlength=len(area))
    col = np.bincount(spans.owner, weights=(spans.start + spans.stop - 1) / 2 * length, minlength=len(area))
    return np.stack([row, col], axis=1) / np.maximum(area, 1)[:, None]


def number(slices: Iterator[Linked], breaks: Breaks, gap: int) -> Iterator[tuple[int, IntArray]]:
    """Ids of the cross-sections of every slice, from 1 in order of each object's first; 0 for those that are dropped."""
    recent: list[tuple[int, dict[int, int]]] = []
    following = 1
    for one in slices:
        recent = [(z, ids) for z, ids in recent if one.z - z <= gap + 1]
        starts, dropped = set(breaks.starts.get(one.z, ())), set(breaks.dropped.get(one.z, ()))
        ids = np.zeros(len(one.chain), np.int64)
        current: dict[int, int] = {}
        for i, chain in enumerate(one.chain.tolist()):
            if chain < one.first_new and i not in starts:
                current[chain] = next(known[chain] for _, known in reversed(recent) if chain in known)
            elif i in dropped:
                current[chain] = 0
            else:
                current[chain], following = following, following + 1
            ids[i] = current[chain]
        recent.append((one.z, current))
        yield one.z, ids

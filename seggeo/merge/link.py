"""Slice to slice: which cross-sections are one object of a volume.

1. Of two neighbouring slices the pairs that overlap best *both ways* are linked, and of what is left again, so a link is the
   same from either side and no object has two cross-sections in a slice.
2. What ends in one slice and what begins in a later one are then paired in the same way, nearer ones first, each moved on as it
   moved beside the gap: a missed slice does not part an object, a leaning one neither.
3. Chains of links are objects, but where one narrows to a neck and widens again it is two that touch (`necks`).

One slice after the other is looked at, and only cross-sections that may still be linked are held, so memory follows the
fullest slices and not the volume. Nothing depends on the direction in which slices are numbered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances
from seggeo.merge.chains import Breaks, Chains, Rows
from seggeo.merge.forks import Fork, forks
from seggeo.merge.overlap import Links, Sections, bridges, neighbours

IntArray = NDArray[np.int64]


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
class _Newest:
    """The last slice seen: what it continues is known, but not yet what else may be bridged to it."""

    sections: Sections
    score: NDArray[np.float32]
    chain: IntArray
    """-1 where nothing in the slice before goes on here."""
    forks: list[Fork]


class Linker:
    """Takes slices in ascending order, empty ones may be left out; `breaks` is complete after `finish`.

    What is missed between two slices is bridged with the motion on both sides of the gap, so a slice is given back when the
    next one is known.
    """

    def __init__(self, rules: LinkRules) -> None:
        self._rules = rules
        self._chains = Chains(neck=rules.neck, min_voxels=rules.min_voxels, min_score=rules.min_score)
        self._newest: _Newest | None = None
        self._behind: list[tuple[Sections, IntArray]] = []
        self._count = 0

    def walk(self, slices: Iterable[tuple[int, Instances]]) -> Iterator[Linked]:
        """All slices one after the other, `add` and `finish` together."""
        for z, pieces in slices:
            yield from self.add(z, pieces)
        yield from self.finish()

    @property
    def breaks(self) -> Breaks:
        """Where the chains part that have ended."""
        return self._chains.breaks

    def add(self, z: int, pieces: Instances) -> list[Linked]:
        """Take the cross-sections of slice `z`; the slice before, settled, if there is one."""
        sections = Sections.of(z, pieces)
        chain = np.full(len(pieces), -1, np.int64)
        last, told = self._newest, []
        links, met = Links.none(), []
        if last is not None and z - last.sections.z == 1:
            pairs, links = neighbours(last.sections, sections, self._rules.iou)
            met = forks(last.sections, sections, pairs, links)
            motion = sections.centre[links.b] - last.sections.centre[links.a]
            last.sections.ahead[links.a] = motion
            sections.back[links.b] = motion
        if last is not None:
            told = [self._settle(last, links.a)]
            chain[links.b] = last.chain[links.a]
        self._newest = _Newest(sections=sections, score=pieces.score, chain=chain, forks=met)
        self._forget(z)
        return told

    def finish(self) -> list[Linked]:
        """After the last slice: that slice, settled."""
        told = [] if self._newest is None else [self._settle(self._newest, np.zeros(0, np.int64))]
        self._newest = None
        self._forget(None)
        self._chains.finish()
        return told

    def _settle(self, last: _Newest, goes_on: IntArray) -> Linked:
        """Bridge what begins in this slice, number what is still new, and keep what ends here."""
        sections, chain, bridged = last.sections, last.chain, 0
        for at in range(len(self._behind) - 1, -1, -1):
            free = np.flatnonzero(chain < 0)
            before, known = self._behind[at]
            if not len(free) or not len(before):
                continue
            links = bridges(before, sections.take(free), self._rules.iou)
            chain[free[links.b]] = known[links.a]
            bridged += len(links.a) if sections.z - before.z > 1 else 0
            loose = np.setdiff1d(np.arange(len(before)), links.a, assume_unique=True)
            self._behind[at] = before.take(loose), known[loose]
        new, first_new = np.flatnonzero(chain < 0), self._count
        chain[new] = first_new + np.arange(len(new))
        self._count += len(new)
        ends = np.setdiff1d(np.arange(len(sections)), goes_on, assume_unique=True)
        self._behind.append((sections.take(ends), chain[ends]))
        self._chains.add(Rows.of(sections, chain, last.score))
        return Linked(z=sections.z, chain=chain, first_new=first_new, bridged=bridged, forks=last.forks)

    def _forget(self, z: int | None) -> None:
        """Let go of what ended too far behind the slice that is settled next; all, at the end."""
        gone = [one for one in self._behind if z is None or z - one[0].z > self._rules.gap + 1]
        self._behind = self._behind[len(gone) :]
        for _, chain in gone:
            self._chains.close(chain)


def number(slices: Iterable[Linked], breaks: Breaks, gap: int) -> Iterator[tuple[int, IntArray]]:
    """Ids of the cross-sections of every slice, from 1 in order of each object's first; 0 for those that are dropped."""
    following = 1
    seen_z, seen_chain, seen_id = (np.zeros(0, np.int64) for _ in range(3))  # sorted by chain
    for one in slices:
        begins = one.chain >= one.first_new
        begins[breaks.starts.get(one.z, [])] = True
        kept = begins.copy()
        kept[breaks.dropped.get(one.z, [])] = False
        ids = np.zeros(len(one.chain), np.int64)
        ids[~begins] = seen_id[np.searchsorted(seen_chain, one.chain[~begins])]
        ids[kept] = following + np.arange(int(kept.sum()))
        following += int(kept.sum())
        yield one.z, ids
        old = (one.z - seen_z <= gap) & ~np.isin(seen_chain, one.chain)
        z = np.concatenate([seen_z[old], np.full(len(ids), one.z)])
        chain, known = np.concatenate([seen_chain[old], one.chain]), np.concatenate([seen_id[old], ids])
        order = np.argsort(chain, kind="stable")
        seen_z, seen_chain, seen_id = z[order], chain[order], known[order]

"""Objects that branch or join from one slice to the next: they are told, not guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seggeo.merge.overlap import Links, Pairs, Sections

_FORK = 0.5
"""A mask is a branch of another if this share of it lies on that one, and it is not smaller than this share of its sibling."""


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


def forks(before: Sections, after: Sections, pairs: Pairs, links: Links) -> list[Fork]:
    """Objects that branch or join between two neighbouring slices: linked once, and lying on another that is linked to none."""
    a_of, b_of = np.full(len(after), -1), np.full(len(before), -1)
    a_of[links.b], b_of[links.a] = links.a, links.b
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


def _fork(kind: str, stem: tuple[Sections, int], others: tuple[Sections, list[int]], z: int) -> Fork:
    of, which = others
    return Fork(
        kind=kind, z=z, stem=(stem[0].z, int(stem[0].index[stem[1]])),
        others=tuple((of.z, int(of.index[i])) for i in which),
    )  # fmt: skip

"""From groups of readings to one object each.

1. A whole reading stands, unchanged: the one farthest from its window's sides.
2. Otherwise the pieces are joined, each without the cores of the other tiles that reported the object.
3. A lone reading that a better one from another tile explains is dropped: a cut sliver of it (a duplicate), or
   something its own tile had no business reporting (an orphan); so is a group of such strays.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances, concat
from seggeo.merge.match import Pairs
from seggeo.merge.readings import FAR, IntArray, Lattice, Readings
from seggeo.rle import Spans, normalise, ragged_ranges

MOSTLY = 0.5
"""Share of a reading that another has to cover to explain it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of the readings; `inputs` is the sum of the others."""

    kept: int = 0
    """Readings that stand as objects."""
    merged: int = 0
    """Cut pieces joined into objects."""
    duplicates: int = 0
    """Further readings of an object that stands, slivers included."""
    orphans: int = 0
    """Lone readings outside their own tile's core that another tile's object explains."""
    hidden: int = 0
    """Readings all of whose pixels belong to better objects of an exclusive model."""

    @property
    def inputs(self) -> int:
        """All readings."""
        return self.kept + self.merged + self.duplicates + self.orphans + self.hidden

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """One object per group that stands, parallel arrays."""

    instances: Instances
    key: IntArray
    """Key of the leading reading."""
    n_tiles: NDArray[np.int32]
    cut: NDArray[np.bool_]
    n_readings: IntArray

    def __len__(self) -> int:
        return len(self.key)

    def take(self, which: NDArray[np.bool_] | IntArray) -> Resolved:
        """The picked objects, in that order."""
        values = {f.name: getattr(self, f.name)[which] for f in fields(self) if f.name != "instances"}
        return Resolved(instances=self.instances.take(which), **values)


def join_resolved(batches: list[Resolved]) -> Resolved:
    """All objects of several batches, in order."""
    values = {f.name: np.concatenate([getattr(b, f.name) for b in batches]) for f in fields(Resolved) if f.name != "instances"}
    return Resolved(instances=concat([b.instances for b in batches]), **values)


def standing(pool: Readings) -> Resolved:
    """Every reading as an object of its own."""
    count = len(pool)
    return Resolved(
        instances=pool.instances, key=pool.key, n_tiles=np.ones(count, np.int32), cut=pool.depth == 0,
        n_readings=np.ones(count, np.int64),
    )  # fmt: skip


def explained(
    pool: Readings, groups: IntArray, pairs: Pairs, lattice: Lattice, *, exclusive: bool
) -> tuple[IntArray, IntArray]:
    """Readings that a better reading of another group explains: slivers, orphans (positions in `pool`).

    Only lone readings can be explained away, and groups of visitors as a whole: pieces that no reporting tile's core
    holds, which two tiles may well link to each other but not to the bend that makes them one with the object.

    Args:
        pool: Readings in flight.
        groups: Group of each reading; -1 where it is not decided yet.
        pairs: All pairs among them.
        lattice: The job's grid.
        exclusive: True when masks of one tile never overlap. Nested masks overlap by nature, so without it a reading
            must also agree with the other where both are trusted.
    """
    known = groups >= 0
    count = int(groups.max(initial=-1)) + 1
    size = np.bincount(groups[known], minlength=count)
    weak = (size == 1) | (size == np.bincount(groups[known & pool.visitor], minlength=count))
    is_weak = np.zeros(len(pool), bool)
    is_weak[known] = weak[groups[known]]
    suspect = pool.depth <= lattice.margin
    rank = ((~pool.visitor).astype(np.int64) * 4 + (~suspect) * 2 + pool.home) * FAR * 2 + pool.depth
    same_class = pool.instances.label[pairs.a] == pool.instances.label[pairs.b]
    is_sliver, is_orphan = np.zeros(len(pool), bool), np.zeros(len(pool), bool)
    for mine, other, seen in ((pairs.a, pairs.b, pairs.seen_a), (pairs.b, pairs.a, pairs.seen_b)):
        better = (rank[other] > rank[mine]) | ((rank[other] == rank[mine]) & (pool.key[other] < pool.key[mine]))
        rival = is_weak[mine] & same_class & (groups[mine] != groups[other]) & better
        sliver = rival & suspect[mine] & (pairs.shared >= MOSTLY * pool.area[mine]) & (exclusive | (seen == 0))
        orphan = rival & ~pool.home[mine] & (exclusive | (pairs.iou >= MOSTLY))
        orphan &= pairs.shared >= MOSTLY * np.minimum(pool.area[mine], pool.area[other])
        orphan |= rival & pool.visitor[mine] & (pairs.shared >= MOSTLY * pool.area[mine])
        is_sliver[mine[sliver]] = True
        is_orphan[mine[orphan]] = True
    spared = np.unique(groups[is_weak & ~is_sliver & ~is_orphan])
    gone = is_weak & ~np.isin(groups, spared)
    return np.flatnonzero(gone & is_sliver), np.flatnonzero(gone & is_orphan & ~is_sliver)


def resolve(pool: Readings, groups: IntArray, lattice: Lattice) -> Resolved:
    """One object for every group.

    Args:
        pool: Readings of closed groups.
        groups: Group of each, `(n,)`, any numbers.
        lattice: The job's grid.
    """
    numbers, group = np.unique(groups, return_inverse=True)
    count = len(numbers)
    largest = np.zeros(count, np.int64)
    np.maximum.at(largest, group, pool.area)
    # A model that stops short of a window's side can make a cut piece look whole; its size beside the others tells.
    suspect = (pool.depth <= lattice.margin) | (pool.area < MOSTLY * largest[group])
    order = np.lexsort((pool.key, -pool.depth, suspect, group))
    lead = order[np.searchsorted(group[order], np.arange(count))]
    n_readings = np.bincount(group, minlength=count)
    tiles = np.unique(group * len(lattice.grid) + pool.tile)
    n_tiles = np.bincount(tiles // len(lattice.grid), minlength=count)
    stands = ~suspect[lead] | (n_readings == 1)
    masks = pool.instances.take(lead)
    if not stands.all():
        joined = _join_pieces(pool, group, np.flatnonzero(~stands), lattice)
        place = np.empty(count, np.int64)
        place[stands], place[~stands] = np.arange(stands.sum()), stands.sum() + np.arange((~stands).sum())
        masks = concat([masks.take(np.flatnonzero(stands)), joined]).take(place)
    cut = np.where(stands, pool.depth[lead] == 0, True)
    return Resolved(
        instances=masks, key=pool.key[lead], n_tiles=n_tiles.astype(np.int32), cut=cut, n_readings=n_readings.astype(np.int64)
    )


def _join_pieces(pool: Readings, group: IntArray, wanted: IntArray, lattice: Lattice) -> Instances:
    """The union of each wanted group's pieces, each without the cores of the group's other tiles."""
    member = np.flatnonzero(np.isin(group, wanted))
    pieces = pool.instances.take(member)
    owner_group = np.searchsorted(wanted, group[member])
    spans = _by_core(pieces.spans(), lattice)
    z = pieces.z.astype(np.int64)[spans.owner]
    row = np.searchsorted(lattice.row_core[:, 0], spans.row, side="right") - 1
    col = np.searchsorted(lattice.col_core[:, 0], spans.start, side="right") - 1
    tile = lattice.index(z, row, col)
    of = owner_group[spans.owner]
    reported = np.unique(owner_group * len(lattice.grid) + pool.tile[member])
    mine = tile == pool.tile[member][spans.owner]
    keep = mine | ~np.isin(of * len(lattice.grid) + tile, reported)
    # Two tiles that each draw a thin object on the other's side of the border would leave nothing: keep it all then.
    keep |= np.bincount(of, weights=keep, minlength=len(wanted))[of] == 0
    united = normalise(Spans(owner=of, row=spans.row, start=spans.start, stop=spans.stop).take(keep))
    weight = pool.area[member].astype(float)
    score = np.bincount(owner_group, weights=weight * pieces.score) / np.bincount(owner_group, weights=weight)
    first = np.unique(owner_group, return_index=True)[1]
    return Instances.from_spans(united, score=score, label=pieces.label[first], z=pieces.z[first])


def _by_core(spans: Spans, lattice: Lattice) -> Spans:
    """The same pixels with row intervals cut where a core ends."""
    starts = lattice.col_core[:, 0]
    first = np.searchsorted(starts, spans.start, side="right") - 1
    last = np.searchsorted(starts, spans.stop - 1, side="right") - 1
    col, k = ragged_ranges(first, last - first + 1)
    return Spans(
        owner=spans.owner[k], row=spans.row[k],
        start=np.maximum(spans.start[k], lattice.col_core[col, 0]), stop=np.minimum(spans.stop[k], lattice.col_core[col, 1]),
    )  # fmt: skip

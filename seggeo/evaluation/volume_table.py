"""Which true and predicted ids share voxels, counted slice by slice: the sparse contingency table of two label volumes.

1. `slice_counts` cuts one slice into runs along its rows within which both ids are constant, and adds up equal pairs of ids.
2. `PairTable` sums the counts of all slices and keeps one row for each pair: memory follows the objects, never the voxels.
3. `pairs_of` turns rows into the `Pairs` that images are compared by, so that 2-D and 3-D scores are one code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.pairs import Pairs
from seggeo.rle import IntArray

_PENDING = 500_000
"""Rows that wait before they are summed into the table: 16 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Voxels by pair of ids, sorted by (truth, pred), each pair once; 0 is background, (0, 0) is left out. Arrays `(k,)`."""

    truth: IntArray
    pred: IntArray
    voxels: IntArray
    matched: IntArray
    """Slices in which the two cross-sections have an IoU above one half."""

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, which: NDArray[np.bool_] | IntArray) -> Counts:
        """Some of the rows."""
        return Counts(truth=self.truth[which], pred=self.pred[which], voxels=self.voxels[which], matched=self.matched[which])


def slice_counts(truth: NDArray[np.integer], pred: NDArray[np.integer]) -> Counts:
    """Counts of one slice, nothing matched yet.

    Args:
        truth, pred: Ids `(h, w)`, 0 is background and none is negative.
    """
    t, p = truth.ravel(), pred.ravel()
    begins = np.ones(t.size, bool)
    np.not_equal(t[1:], t[:-1], out=begins[1:])
    begins[1:] |= p[1:] != p[:-1]
    starts = np.flatnonzero(begins)
    length = np.diff(np.append(starts, t.size))
    a, b = t[starts].astype(np.int64), p[starts].astype(np.int64)
    there = (a > 0) | (b > 0)
    none = np.zeros(int(np.count_nonzero(there)), np.int64)
    return _summed(Counts(truth=a[there], pred=b[there], voxels=length[there], matched=none))


@dataclass(slots=True)
class PairTable:
    """Sums of counts over slices."""

    _parts: list[Counts] = field(default_factory=list)
    _waiting: int = 0

    def add(self, counts: Counts) -> None:
        """Take in one slice."""
        self._parts.append(counts)
        self._waiting += len(counts)
        if self._waiting > max(_PENDING, 2 * len(self._parts[0])):
            self._parts = [self.total()]
            self._waiting = 0

    def total(self) -> Counts:
        """All slices so far."""
        none = np.zeros(0, np.int64)
        parts = [Counts(truth=none, pred=none, voxels=none, matched=none), *self._parts]
        names = ("truth", "pred", "voxels", "matched")
        return _summed(Counts(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names}))


def pairs_of(counts: Counts) -> tuple[Pairs, IntArray, IntArray]:
    """The pairs of objects, and the ids `(n,)`, `(m,)` of true and predicted ones, ascending; positions are into these.

    Shared "pixels" and areas are voxels where the counts are of a volume.
    """
    (ids_t, t, area_t), (ids_p, p, area_p) = (_side(ids, counts.voxels) for ids in (counts.truth, counts.pred))
    both = (counts.truth > 0) & (counts.pred > 0)
    pairs = Pairs(truth=t[both], pred=p[both], shared=counts.voxels[both], truth_area=area_t, pred_area=area_p)
    return pairs, ids_t, ids_p


def _side(ids: IntArray, voxels: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Ids above 0, the position of each row's id among them (-1 for background), and the voxels of each."""
    names = np.unique(ids[ids > 0])
    position = np.where(ids > 0, np.searchsorted(names, ids), -1)
    # Sums of 64-bit integers: bincount's weights are floats, which lose voxels above 2**53.
    area = np.zeros(len(names), np.int64)
    np.add.at(area, position[ids > 0], voxels[ids > 0])
    return names, position, area


def _summed(rows: Counts) -> Counts:
    """Each pair of ids once, in order."""
    if not len(rows):
        return rows
    rows = rows.take(np.lexsort((rows.pred, rows.truth)))
    new = (rows.truth[1:] != rows.truth[:-1]) | (rows.pred[1:] != rows.pred[:-1])
    first = np.flatnonzero(np.concatenate([[True], new]))
    voxels, matched = np.add.reduceat(rows.voxels, first), np.add.reduceat(rows.matched, first)
    return Counts(truth=rows.truth[first], pred=rows.pred[first], voxels=voxels, matched=matched)

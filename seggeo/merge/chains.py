"""Chains of linked cross-sections until nothing can be linked to them any more; then they are parted at necks, and weighed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seggeo.merge.necks import necks
from seggeo.merge.overlap import Sections

IntArray = NDArray[np.int64]
_AT_ONCE = 1 << 16
"""Cross-sections that are worth looking through for chains that have ended."""


@dataclass(slots=True, kw_only=True)
class Breaks:
    """Where chains part into objects: for a slice the positions of cross-sections that begin an object, and what is dropped."""

    starts: dict[int, list[int]] = field(default_factory=dict)
    """Positions where a chain goes on as another object."""
    dropped: dict[int, list[int]] = field(default_factory=dict)
    """Positions of first cross-sections of objects that are too small or too poor."""
    parted: int = 0
    objects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is remembered of cross-sections; columns of one length."""

    chain: IntArray
    z: IntArray
    index: IntArray
    area: IntArray
    score: NDArray[np.float32]
    centre: NDArray[np.float64]

    @classmethod
    def of(cls, sections: Sections, chain: IntArray, score: NDArray[np.float32]) -> Rows:
        """Of a whole slice."""
        return cls(
            chain=chain, z=np.full(len(chain), sections.z), index=sections.index, area=sections.area, score=score,
            centre=sections.centre,
        )  # fmt: skip

    def take(self, which: NDArray[np.bool_] | IntArray) -> Rows:
        """The picked rows."""
        return Rows(**{name: getattr(self, name)[which] for name in _COLUMNS})


_COLUMNS = ("chain", "z", "index", "area", "score", "centre")


class Chains:
    """Collects rows of slices in ascending order; `breaks` grows as chains are closed."""

    def __init__(self, *, neck: float, min_voxels: int, min_score: float) -> None:
        self.breaks = Breaks()
        self._neck, self._min_voxels, self._min_score = neck, min_voxels, min_score
        self._rows: list[Rows] = []
        self._closed: list[IntArray] = []
        self._held = 0
        self._enough = _AT_ONCE

    def add(self, rows: Rows) -> None:
        """Remember a slice."""
        self._rows.append(rows)
        self._held += len(rows.chain)

    def close(self, chain: IntArray) -> None:
        """These do not grow any more."""
        self._closed.append(chain)
        if self._held >= self._enough:
            self._look_through()
            self._enough = max(_AT_ONCE, 2 * self._held)

    def finish(self) -> None:
        """All are closed."""
        self._look_through()

    def _look_through(self) -> None:
        if not self._rows:
            return
        rows = Rows(**{name: np.concatenate([getattr(one, name) for one in self._rows]) for name in _COLUMNS})
        done = np.isin(rows.chain, np.concatenate(self._closed))
        self._part(rows.take(np.flatnonzero(done)[np.argsort(rows.chain[done], kind="stable")]))
        self._rows, self._closed = [rows.take(~done)], []
        self._held = len(rows.chain) - int(done.sum())

    def _part(self, rows: Rows) -> None:
        """Part and weigh whole chains, rows sorted by chain and slice."""
        if not len(rows.chain):
            return
        begins = np.concatenate([[True], rows.chain[1:] != rows.chain[:-1]])
        cuts = necks(rows.area, rows.centre, begins, self._neck)
        first = np.flatnonzero(begins | cuts)
        voxels = np.add.reduceat(rows.area, first)
        score = np.add.reduceat(rows.area * rows.score.astype(np.float64), first) / voxels
        poor = (voxels < self._min_voxels) | (score < self._min_score)
        self.breaks.parted += int(cuts.sum())
        self.breaks.objects += int((~poor).sum())
        _file(self.breaks.starts, rows.take(cuts))
        _file(self.breaks.dropped, rows.take(first[poor]))


def _file(by_slice: dict[int, list[int]], rows: Rows) -> None:
    order = np.argsort(rows.z, kind="stable")
    slices, first = np.unique(rows.z[order], return_index=True)
    for z, index in zip(slices.tolist(), np.split(rows.index[order], first[1:]), strict=False):
        by_slice.setdefault(z, []).extend(index.tolist())

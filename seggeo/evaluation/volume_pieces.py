"""Where each id of a label volume lies: its box, its slices, and the 26-connected pieces that it falls into.

1. `PieceFinder.add` takes the slices in order: `_runs` cuts one into runs of one id, `_contacts` finds runs of one id that
   touch by a face, an edge or a corner, in the slice and in the one before; a graph of runs and open pieces is then solved.
2. Pieces that the slice does not reach are closed and become rows; only open ones are kept as a graph.
3. `Extents.reused` joins the pieces of an id that a gap in the masks may explain, and says which ids lie in several places.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from seggeo.evaluation.volume_table import Counts, PairTable
from seggeo.rle import IntArray, ragged_ranges

_PLACE = 0.1
"""Least share of an id's voxels that make a place of its own: specks are poor outlines, not a second object."""
_MANY = 2000
"""Pieces of one id from which only those that are a tenth of it are looked at: the search is quadratic."""
_ID, _VOXELS = 0, 1
_LOW, _HIGH = slice(2, 5), slice(5, 8)
"""Columns of a piece: id, voxels, first z, row, col, and one past the last z, row, col."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extents:
    """The ids of one volume, ascending, and their pieces."""

    id: IntArray
    """`(n,)`."""
    voxels: IntArray
    """`(n,)`."""
    box: IntArray
    """First z, row, col and one past the last, `(n, 6)`."""
    slices: IntArray
    """Slices in which the id occurs, `(n,)`."""
    pieces: IntArray
    """Its 26-connected pieces, `(n,)`."""
    piece: IntArray
    """Every piece: id, voxels and box, `(k, 8)`, sorted by id."""

    def reused(self, gap: int) -> NDArray[np.bool_]:
        """True for ids that lie in several places, `(n,)`.

        Pieces of an id belong together where their boxes are at most one pixel apart in the plane and at most `gap` slices
        along z: slices that the model missed. A place counts from a tenth of the id's voxels.

        Args:
            gap: Slices without the object that are no break.
        """
        found = np.zeros(len(self.id), bool)
        first = np.searchsorted(self.piece[:, _ID], self.id)
        for i in np.flatnonzero(self.pieces > 1):
            mine = self.piece[first[i] : first[i] + self.pieces[i]]
            mine = mine[10 * mine[:, _VOXELS] >= self.voxels[i]] if len(mine) > _MANY else mine
            place = np.bincount(_places(mine, gap), weights=mine[:, _VOXELS])
            found[i] = np.count_nonzero(place >= _PLACE * self.voxels[i]) > 1
        return found


def _places(pieces: IntArray, gap: int) -> IntArray:
    """Group of each piece; pieces that a gap may explain are in one, `(k,)`."""
    reach = np.array([gap + 1, 2, 2])
    low, high = pieces[:, None, _LOW], pieces[:, None, _HIGH]
    # From one past the end of a half-open box to the start of the next: what lies between the two.
    near = ((low - high.swapaxes(0, 1) < reach) & (low.swapaxes(0, 1) - high < reach)).all(axis=2)
    group: IntArray = connected_components(near, directed=False)[1].astype(np.int64)
    return group


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runs:
    """Runs of one id along the rows of a slice, in order; arrays `(k,)`."""

    id: IntArray
    row: IntArray
    start: IntArray
    stop: IntArray


@dataclass(slots=True)
class PieceFinder:
    """Pieces of a volume whose slices come one after the other."""

    _z: int = 0
    _closed: list[IntArray] = field(default_factory=list)
    _open: IntArray = field(default_factory=lambda: np.zeros((0, 8), np.int64))
    _last: _Runs | None = None
    _owner: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Open piece of each run of the last slice."""
    _slices: PairTable = field(default_factory=PairTable)
    """Slices by id."""

    def add(self, labels: NDArray[np.integer]) -> None:
        """Take in the next slice, ids `(h, w)`; 0 is background and none is negative."""
        runs = _runs(labels)
        old, new = len(self._open), len(runs.id)
        here, there = _contacts(runs, runs, labels.shape[1], (1,))
        edges = [(old + here, old + there)]
        if self._last is not None:
            before, now = _contacts(self._last, runs, labels.shape[1], (-1, 0, 1))
            edges.append((self._owner[before], old + now))
        a, b = (np.concatenate(ends) for ends in zip(*edges, strict=True))
        graph = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(old + new, old + new))
        count, group = connected_components(graph, directed=False)
        pieces = _fused(np.concatenate([self._open, _as_pieces(runs, self._z)]), group, count)
        reached = np.zeros(count, bool)
        reached[group[old:]] = True
        self._closed.append(pieces[~reached])
        self._open = pieces[reached]
        self._owner = (np.cumsum(reached) - 1)[group[old:]]
        self._last = runs
        names = np.unique(runs.id)
        self._slices.add(Counts(truth=names, pred=names, voxels=np.ones_like(names), matched=np.zeros_like(names)))
        self._z += 1

    def finish(self) -> Extents:
        """The ids of all slices."""
        piece = np.concatenate([*self._closed, self._open])
        piece = piece[np.lexsort((*piece.T[::-1][:-1], piece[:, _ID]))]
        ids, group = np.unique(piece[:, _ID], return_inverse=True)
        whole = _fused(piece, group, len(ids))
        return Extents(
            id=ids, voxels=whole[:, _VOXELS], box=whole[:, 2:], pieces=np.bincount(group, minlength=len(ids)), piece=piece,
            slices=self._slices.total().voxels,
        )  # fmt: skip


def _runs(labels: NDArray[np.integer]) -> _Runs:
    width = labels.shape[1]
    flat = labels.ravel()
    begins = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[::width] = True
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], flat.size)
    there = flat[starts] > 0
    starts, stops = starts[there], stops[there]
    row = starts // width
    return _Runs(id=flat[starts].astype(np.int64), row=row, start=starts - row * width, stop=stops - row * width)


def _contacts(a: _Runs, b: _Runs, width: int, steps: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Positions of runs of one id, one of `a` and one of `b` so many rows further down, that touch or lie over each other."""
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    # Two columns of nothing between rows: a run that is grown by a corner's reach never meets the next row's.
    b_start, b_stop = b.row * (width + 2) + b.start, b.row * (width + 2) + b.stop
    for step in steps:
        line = (a.row + step) * (width + 2)
        first = np.searchsorted(b_stop, line + a.start, side="left")
        last = np.searchsorted(b_start, line + a.stop, side="right")
        j, i = ragged_ranges(first, np.maximum(last - first, 0))
        same = a.id[i] == b.id[j]
        found.append((i[same], j[same]))
    i, j = (np.concatenate(ends) for ends in zip(*found, strict=True))
    return i, j


def _as_pieces(runs: _Runs, z: int) -> IntArray:
    flat = np.full(len(runs.id), z)
    columns = (runs.id, runs.stop - runs.start, flat, runs.row, runs.start, flat + 1, runs.row + 1, runs.stop)
    return np.stack(columns, axis=1).astype(np.int64)


def _fused(pieces: IntArray, group: IntArray, count: int) -> IntArray:
    """One piece of every group."""
    if not len(pieces):
        return pieces
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], np.arange(count))
    ranked = pieces[order]
    fused = np.minimum.reduceat(ranked, first, axis=0)
    fused[:, _VOXELS] = np.add.reduceat(ranked[:, _VOXELS], first)
    fused[:, _HIGH] = np.maximum.reduceat(ranked[:, _HIGH], first, axis=0)
    return fused

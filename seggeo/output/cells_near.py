"""Distance from every cell to its nearest neighbour, exact, in memory that does not grow with the number of cells.

1. `NearestNeighbours.add` appends centres to a file and keeps the bounding box of every few thousand of them. Cells come from
   top to bottom, so these chunks are bands of the slide.
2. `finish` asks, chunk by chunk, first the chunk's own tree, then those of other chunks, nearest box first, until no box is
   nearer than the farthest answer so far: mostly the band above and the band below.
3. `of` reads distances back.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_CHUNK = 1 << 14
_TREES = 6  # of chunks kept at once, about 1 MB each


class NearestNeighbours:
    """Distances between cells; a context manager around two temporary files without names."""

    def __init__(self, folder: Path | None = None) -> None:
        """Start without cells; temporaries lie in `folder`."""
        self._open = ExitStack()
        self._centres: IO[bytes] = self._open.enter_context(_temporary(folder))
        self._distances: IO[bytes] = self._open.enter_context(_temporary(folder))
        self._waiting: list[FloatArray] = []
        self._low: list[FloatArray] = []
        self._high: list[FloatArray] = []

    def __enter__(self) -> NearestNeighbours:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, xy: FloatArray) -> None:
        """Append cells.

        Args:
            xy: Centres in one unit, `(n, 2)`.
        """
        self._waiting.append(xy)
        while sum(map(len, self._waiting)) >= _CHUNK:
            ready = np.concatenate(self._waiting)
            self._waiting = [ready[_CHUNK:]]
            self._store(ready[:_CHUNK])

    def finish(self) -> None:
        """Find the distances of all cells; `of` may be asked afterwards."""
        rest = np.concatenate([np.zeros((0, 2)), *self._waiting])
        self._waiting = []
        if len(rest):
            self._store(rest)
        from scipy.spatial import cKDTree  # slow to import, and most results are not of cells

        tree_of = lru_cache(maxsize=_TREES)(lambda chunk: cKDTree(self._read(chunk)))
        low, high = np.array(self._low).reshape(-1, 2), np.array(self._high).reshape(-1, 2)
        for chunk in range(len(low)):
            xy = self._read(chunk)
            best = tree_of(chunk).query(xy, k=2)[0][:, 1]  # the first is the cell itself
            gap = np.hypot(*_outside((low[chunk], high[chunk]), low, high).T)
            gap[chunk] = np.inf
            for other in np.argsort(gap, kind="stable"):
                if gap[other] >= best.max():
                    break
                near = np.flatnonzero(np.hypot(*_outside((xy, xy), low[other], high[other]).T) < best)
                if len(near):
                    best[near] = np.minimum(best[near], tree_of(int(other)).query(xy[near])[0])
            self._distances.write(best.tobytes())
        self._distances.flush()

    def of(self, first: int, stop: int) -> FloatArray:
        """Distances of the cells from position `first` to `stop - 1`; infinite for a cell alone on its slide."""
        self._distances.seek(8 * first)
        return np.frombuffer(self._distances.read(8 * (stop - first)), np.float64)

    def _store(self, xy: FloatArray) -> None:
        self._centres.write(xy.tobytes())
        self._low.append(xy.min(axis=0))
        self._high.append(xy.max(axis=0))

    def _read(self, chunk: int) -> FloatArray:
        self._centres.seek(16 * _CHUNK * chunk)
        return np.frombuffer(self._centres.read(16 * _CHUNK), np.float64).reshape(-1, 2)


def _temporary(folder: Path | None) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)


def _outside(box: tuple[FloatArray, FloatArray], low: FloatArray, high: FloatArray) -> FloatArray:
    """How far boxes lie apart along x and y."""
    return np.asarray(np.maximum(np.maximum(low - box[1], box[0] - high), 0), np.float64)

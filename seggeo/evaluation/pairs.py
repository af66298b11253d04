"""Which objects share pixels, and how many: the sparse contingency table of two sets of masks.

Nothing of size true x predicted is ever made. The image is swept in bands of rows:

1. `_band_edges` chooses bands so that each holds about `_BAND_SPANS` row intervals of both sets.
2. `_Sweep` gives the intervals of one band: masks of ordinary height are decoded anew in each band that they meet, those
   that reach through many bands are decoded once and kept.
3. `rle.overlaps` finds all pairs of intervals with a shared pixel; pairs of masks are added up over the bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances, replace_owner
from seggeo.rle import IntArray, Spans, concat_spans, overlaps

_BAND_SPANS = 1_000_000
"""Row intervals of both sets in one band: about 200 MB at the peak of the search."""
_PORTION = 100_000
_TALL = 4
"""A mask that meets more bands than this is decoded once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Every pair of a true and a predicted object with a shared pixel, once, sorted by (truth, pred)."""

    truth: IntArray
    """Position of the true object, `(k,)`."""
    pred: IntArray
    """Position of the predicted object, `(k,)`."""
    shared: IntArray
    """Pixels in both, at least 1, `(k,)`."""
    truth_area: IntArray
    """Pixels of every true object, `(n,)`."""
    pred_area: IntArray
    """Pixels of every predicted object, `(m,)`."""

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def union(self) -> IntArray:
        """Pixels in either of the two, `(k,)`."""
        return self.truth_area[self.truth] + self.pred_area[self.pred] - self.shared

    @property
    def iou(self) -> NDArray[np.float64]:
        """Shared over united pixels, `(k,)`; a ratio of integers rounded once."""
        return self.shared / self.union

    @property
    def share_of_truth(self) -> NDArray[np.float64]:
        """Share of the true object that the predicted one covers, `(k,)`."""
        return self.shared / self.truth_area[self.truth]

    @property
    def share_of_pred(self) -> NDArray[np.float64]:
        """Share of the predicted object that lies in the true one, `(k,)`."""
        return self.shared / self.pred_area[self.pred]

    def take(self, which: NDArray[np.bool_] | IntArray) -> Pairs:
        """Some of the pairs; positions and areas stay those of the whole sets."""
        return Pairs(
            truth=self.truth[which], pred=self.pred[which], shared=self.shared[which],
            truth_area=self.truth_area, pred_area=self.pred_area,
        )  # fmt: skip


def find_pairs(truth: Instances, pred: Instances) -> Pairs:
    """All pairs of masks that share pixels; masks of one side may overlap each other.

    Args:
        truth, pred: Instances of one slice on one grid.
    """
    edges = _band_edges(truth, pred)
    sides = (_Sweep(truth, edges), _Sweep(pred, edges))
    base = max(len(pred), 1)
    keys, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for band in range(len(edges) - 1):
        a, b, shared = overlaps(sides[0].spans(band), sides[1].spans(band))
        keys.append(a * base + b)
        counts.append(shared)
    key, total = _summed(np.concatenate(keys), np.concatenate(counts))
    return Pairs(truth=key // base, pred=key % base, shared=total, truth_area=_areas(truth), pred_area=_areas(pred))


def _areas(instances: Instances) -> IntArray:
    # In portions: the areas of a million masks at once would need eight times the memory of their runs.
    portions = (instances.take(slice(i, i + _PORTION)) for i in range(0, len(instances), _PORTION))
    return np.concatenate([np.zeros(0, np.int64), *(portion.area for portion in portions)])


def _summed(key: IntArray, count: IntArray) -> tuple[IntArray, IntArray]:
    """Distinct keys in ascending order, and the sum of their counts."""
    order = np.argsort(key, kind="stable")
    key, count = key[order], count[order]
    first = np.flatnonzero(np.concatenate([np.ones(min(len(key), 1), bool), key[1:] != key[:-1]]))
    return key[first], np.add.reduceat(count, first) if len(first) else count


def _band_edges(truth: Instances, pred: Instances) -> IntArray:
    """First rows of the bands and one past the last row, ascending; fewer than two where there is nothing to compare."""
    if not len(truth) or not len(pred):
        return np.zeros(0, np.int64)
    # A run of the mask is an interval, and half of all runs are background: runs are spread evenly over the rows of a box.
    box = np.concatenate([truth.box, pred.box]).astype(np.int64)
    spans = np.concatenate([np.diff(truth.start), np.diff(pred.start)]) / 2 + 1
    top, bottom = int(box[:, 0].min()), int(box[:, 2].max())
    density = spans / (box[:, 2] - box[:, 0])
    change = np.bincount(box[:, 0] - top, weights=density, minlength=bottom - top + 1)
    change -= np.bincount(box[:, 2] - top, weights=density, minlength=bottom - top + 1)
    load = np.cumsum(np.cumsum(change)[:-1])
    number = int(load[-1] // _BAND_SPANS) + 1
    inner = top + 1 + np.searchsorted(load, load[-1] * np.arange(1, number) / number)
    return np.unique(np.concatenate([[top], inner, [bottom]])).astype(np.int64)


class _Sweep:
    """Row intervals of one set, band by band."""

    def __init__(self, instances: Instances, edges: IntArray) -> None:
        self._all, self._edges = instances, edges
        top, bottom = instances.box[:, 0].astype(np.int64), instances.box[:, 2].astype(np.int64)
        first = np.searchsorted(edges, top, side="right") - 1
        last = np.searchsorted(edges, bottom - 1, side="right") - 1
        tall = np.flatnonzero(last - first >= _TALL)
        low = np.flatnonzero(last - first < _TALL)
        # Each ordinary mask once for each of the few bands that it meets, in order of the bands.
        meets = [(first[low] + step, low) for step in range(_TALL)]
        band = np.concatenate([np.where(at <= last[low], at, len(edges)) for at, _ in meets])
        order = np.argsort(band, kind="stable")
        self._low = np.concatenate([which for _, which in meets])[order]
        self._first = np.searchsorted(band[order], np.arange(len(edges) + 1))
        self._tall = _by_row(instances, tall)

    def spans(self, band: int) -> Spans:
        """Intervals of the band, `owner` being the position in the whole set."""
        row, stop = int(self._edges[band]), int(self._edges[band + 1])
        which = np.sort(self._low[self._first[band] : self._first[band + 1]])
        mine = self._all.take(which).spans()
        mine = mine.take((mine.row >= row) & (mine.row < stop))
        low, high = np.searchsorted(self._tall.row, [row, stop])
        return concat_spans([replace_owner(mine, which[mine.owner]), self._tall.take(np.arange(low, high))])


def _by_row(instances: Instances, which: IntArray) -> Spans:
    spans = instances.take(which).spans()
    return replace_owner(spans, which[spans.owner]).take(np.argsort(spans.row, kind="stable"))

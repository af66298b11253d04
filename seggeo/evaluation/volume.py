"""One label volume against its truth: both are read once, slice by slice, and never kept.

1. Each slice adds its counts to the sparse table of pairs of ids, its runs to the pieces of each id, and its cross-sections to
   the scores by slice.
2. The table's pairs go through the matching, tallies and rows of images: a voxel counts as a pixel does.
3. The slice with the most errors is kept for the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.compare import Comparison, compare
from seggeo.evaluation.matching import match
from seggeo.evaluation.objects import ONE_CLASS, ObjectSet, objects_of
from seggeo.evaluation.pairs import Pairs
from seggeo.evaluation.rows import Listing, Rows, rows_of
from seggeo.evaluation.tally import PQ_IOU, make_scope, tallies
from seggeo.evaluation.volume_labels import LabelVolume
from seggeo.evaluation.volume_pieces import Extents, PieceFinder
from seggeo.evaluation.volume_scores import Sections, VolumeTally, match_sections, volume_tally
from seggeo.evaluation.volume_table import Counts, PairTable, pairs_of, slice_counts

Plane = NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSlice:
    """The slice with the most cross-sections that match nothing."""

    z: int
    pred: ObjectSet
    truth: ObjectSet
    rows: tuple[Rows, Rows]
    """Of truth and prediction, in this slice alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeComparison:
    """What one volume adds to a report."""

    objects: Comparison
    """As of an image, in voxels."""
    tally: VolumeTally
    sections: tuple[Sections, ...]
    """Of every slice."""
    worst: WorstSlice


def compare_volumes(
    pred: LabelVolume, truth: LabelVolume, thresholds: Sequence[float], *, gap: int, name: str = "", group: str | None = None
) -> VolumeComparison:
    """Compare the objects of one volume; `check_volumes` has said that the two are of one grid.

    Args:
        pred, truth: Labels of one grid.
        thresholds: Least IoUs of a match, ascending.
        gap: Slices without the object that are no break of an id.
        name: What the volume is called in the report.
        group: Its group.

    Raises:
        SourceError: A slice cannot be read, or holds no ids.
    """
    scan = _Scan()
    for planes in zip(truth.slices(), pred.slices(), strict=True):
        scan.add(*planes)
    counts = scan.table.total()
    pairs, _, _ = pairs_of(counts)
    extents = scan.finders[0].finish(), scan.finders[1].finish()
    return VolumeComparison(
        objects=_objects(pairs, extents, thresholds, name, group),
        tally=volume_tally(counts, pairs, extents, scan.sections, gap), sections=tuple(scan.sections),
        worst=scan.worst(thresholds),
    )  # fmt: skip


class _Scan:
    """What is summed while the slices pass."""

    def __init__(self) -> None:
        self.table = PairTable()
        self.finders = PieceFinder(), PieceFinder()
        self.sections: list[Sections] = []
        self._worst: tuple[int, Plane, Plane] | None = None
        self._errors = -1

    def add(self, truth: Plane, pred: Plane) -> None:
        """Take in the next slice of both sides."""
        counts = slice_counts(truth, pred)
        pairs, _, _ = pairs_of(counts)
        sections, found = match_sections(pairs)
        self.table.add(_with_matches(counts, found))
        for finder, plane in zip(self.finders, (truth, pred), strict=True):
            finder.add(plane)
        if sections.errors > self._errors:
            # A copy: the plane may be a view of a slab, and would keep all of it.
            self._worst, self._errors = (len(self.sections), truth.copy(), pred.copy()), sections.errors
        self.sections.append(sections)

    def worst(self, thresholds: Sequence[float]) -> WorstSlice:
        """The slice with the most errors, compared as an image."""
        assert self._worst is not None, "a volume has a slice"
        z, t, p = self._worst
        pred, truth = objects_of(p), objects_of(t)
        return WorstSlice(z=z, pred=pred, truth=truth, rows=compare(pred, truth, thresholds).rows)


def _with_matches(counts: Counts, found: NDArray[np.int64]) -> Counts:
    """The counts of a slice with its matched pairs marked; `found` are positions among the pairs of two objects."""
    both = np.flatnonzero((counts.truth > 0) & (counts.pred > 0))
    matched = np.zeros(len(counts), np.int64)
    matched[both[found]] = 1
    return replace(counts, matched=matched)


def _objects(
    pairs: Pairs, extents: tuple[Extents, Extents], thresholds: Sequence[float], name: str, group: str | None
) -> Comparison:
    """The volume as an image of voxels: tallies, and a row for every object."""
    truth, pred = (_listing(side) for side in extents)
    scope = make_scope(pairs, truth.ignored, ~truth.ignored, ~pred.ignored)
    rows = rows_of(truth, pred, scope, match(scope.pairs, PQ_IOU, strict=True))
    whole = tallies(scope, thresholds)
    return Comparison(
        name=name, group=group, strata=tuple(whole), classes={ONE_CLASS[0]: whole[0]}, detections={}, rows=rows
    )  # fmt: skip


def _listing(side: Extents) -> Listing:
    n = len(side.id)
    return Listing(
        classes=ONE_CLASS, scored=False, id=side.id, label=np.zeros(n, np.int32), score=np.ones(n, np.float32),
        box=side.box[:, [1, 2, 4, 5]].astype(np.int32), ignored=np.zeros(n, bool), slices=side.box[:, [0, 3]],
    )  # fmt: skip

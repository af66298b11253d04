"""Scores of label volumes that images do not have: what linking the slices did, and the partitions as a whole.

A *cross-section* is one object in one slice. The sums are kept apart from the ratios, so that volumes add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.matching import match
from seggeo.evaluation.pairs import Pairs
from seggeo.evaluation.tally import PQ_IOU
from seggeo.evaluation.volume_pieces import Extents
from seggeo.evaluation.volume_table import Counts
from seggeo.rle import IntArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sections:
    """Cross-sections of one slice or of several, matched slice by slice."""

    n_true: int = 0
    n_pred: int = 0
    tp: int = 0
    """Pairs of cross-sections with IoU above one half."""
    iou: float = 0.0
    """Sum of their IoU."""

    def __add__(self, other: Sections) -> Sections:
        return Sections(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Sections)})

    @property
    def pq(self) -> float:
        """Panoptic quality."""
        return _ratio(2 * self.iou, self.n_true + self.n_pred)

    @property
    def sq(self) -> float:
        """Mean IoU of the pairs."""
        return _ratio(self.iou, self.tp)

    @property
    def rq(self) -> float:
        """F1 of the pairs."""
        return _ratio(2 * self.tp, self.n_true + self.n_pred)

    @property
    def errors(self) -> int:
        """Cross-sections of both sides without a partner."""
        return self.n_true + self.n_pred - 2 * self.tp


def match_sections(pairs: Pairs) -> tuple[Sections, IntArray]:
    """The cross-sections of one slice, and the positions of the matched pairs."""
    found = match(pairs, PQ_IOU, strict=True)
    n, m = len(pairs.truth_area), len(pairs.pred_area)
    return Sections(n_true=n, n_pred=m, tp=len(found), iou=float(pairs.iou[found].sum())), found


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Sums over the voxels of true objects, where the prediction's background is one more object."""

    voxels: float
    split_bits: float
    """Conditional entropy of the prediction given the truth, times the voxels."""
    merge_bits: float
    """The other way round."""
    true_pairs: float
    """Pairs of voxels, in order, that are in one object of the truth."""
    pred_pairs: float
    """In one object of the prediction."""
    both_pairs: float
    """In one object of both."""

    def __add__(self, other: Partition) -> Partition:
        return Partition(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Partition)})


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeTally:
    """Sums that any number of volumes add up to."""

    slices: int
    n_true: int
    n_pred: int
    true_slices: int
    """Cross-sections of true objects."""
    pred_slices: int
    splits: int
    merges: int
    reused_true: int
    reused_pred: int
    loose_true: int
    """Ids of the truth with several 26-connected pieces."""
    loose_pred: int
    seg: float
    """Sum of the Jaccard index over true objects."""
    partition: Partition
    sections: Sections

    def __add__(self, other: VolumeTally) -> VolumeTally:
        return VolumeTally(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(VolumeTally)})


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeScores:
    """What images do not have. Ratios of nothing to nothing are NaN."""

    slices: int
    """Slices compared."""
    slices_true: float
    """Mean slices of a true object."""
    slices_pred: float
    """Mean slices of a predicted object."""
    splits: int
    """True objects whose slices follow two predictions or more."""
    merges: int
    """Predictions that follow two true objects or more."""
    slice_pq: float
    """Panoptic quality of the cross-sections of all slices: what the volume's would be if slices did not need linking."""
    slice_sq: float
    slice_rq: float
    reused_ids: int
    """Predicted ids in several places."""
    reused_ids_true: int
    loose_ids: int
    """Predicted ids in several 26-connected pieces."""
    loose_ids_true: int
    seg: float
    """SEG of the Cell Tracking Challenge, on voxels."""
    vi_split: float
    """Variation of information, bits: what the prediction cuts that is one in the truth."""
    vi_merge: float
    """Bits: what the prediction joins that is apart in the truth."""
    rand_error: float
    """Adapted Rand error."""
    rand_precision: float
    """Falls with merges."""
    rand_recall: float
    """Falls with splits."""


def volume_tally(
    counts: Counts, pairs: Pairs, extents: tuple[Extents, Extents], sections: Sequence[Sections], gap: int
) -> VolumeTally:
    """The sums of one volume.

    Args:
        counts: The whole table, background too.
        pairs: Its objects.
        extents: Of truth and prediction.
        sections: Of every slice.
        gap: Slices without the object that are no break of an id.
    """
    truth, pred = extents
    splits, merges = along_z(counts, pairs)
    return VolumeTally(
        slices=len(sections), n_true=len(truth.id), n_pred=len(pred.id), true_slices=int(truth.slices.sum()),
        pred_slices=int(pred.slices.sum()), splits=int(np.count_nonzero(splits > 1)), merges=int(np.count_nonzero(merges > 1)),
        reused_true=int(np.count_nonzero(truth.reused(gap))), reused_pred=int(np.count_nonzero(pred.reused(gap))),
        loose_true=int(np.count_nonzero(truth.pieces > 1)), loose_pred=int(np.count_nonzero(pred.pieces > 1)),
        seg=float(seg_of(pairs).sum()), sections=sum(sections, start=Sections()), partition=_partition(counts),
    )  # fmt: skip


def along_z(counts: Counts, pairs: Pairs) -> tuple[IntArray, IntArray]:
    """How many predictions follow each true object, `(n,)`, and how many true objects each prediction, `(m,)`, along z.

    A prediction follows a true object where the two have matching cross-sections (IoU above one half) in a slice or more, and
    more than half of the prediction's voxels lie in the object; a true object follows a prediction likewise. In a slice one
    prediction at most matches an object, so that several of them always lie in different slices. The tenth of
    `aggregate.pieces_of_truth` is not asked for: an object of thirty slices that were never linked is in thirty pieces.
    """
    matched = counts.matched[(counts.truth > 0) & (counts.pred > 0)] > 0
    of_truth = matched & (2 * pairs.shared > pairs.pred_area[pairs.pred])
    of_pred = matched & (2 * pairs.shared > pairs.truth_area[pairs.truth])
    return (
        np.bincount(pairs.truth[of_truth], minlength=len(pairs.truth_area)),
        np.bincount(pairs.pred[of_pred], minlength=len(pairs.pred_area)),
    )


def seg_of(pairs: Pairs) -> Floats:
    """Jaccard index of every true object with the prediction that holds more than half of it, 0 without one, `(n,)`.

    Their mean is SEG of the Cell Tracking Challenge. Source: Maška et al. 2014, 10.1093/bioinformatics/btu080.
    """
    found = np.zeros(len(pairs.truth_area))
    most = 2 * pairs.shared > pairs.truth_area[pairs.truth]
    found[pairs.truth[most]] = pairs.iou[most]
    return found


def _partition(counts: Counts) -> Partition:
    """Sums for variation of information and adapted Rand error, as scikit-image counts with `ignore_labels=(0,)`.

    Sources: Meilă 2007, 10.1016/j.jmva.2006.11.013, in two parts as Nunez-Iglesias et al. 2013, 10.1371/journal.pone.0071715;
    Arganda-Carreras et al. 2015, 10.3389/fnana.2015.00142.
    """
    inside = counts.take(counts.truth > 0)
    voxels = inside.voxels.astype(np.float64)
    (true, of_true), (pred, of_pred) = (_sums(ids, voxels) for ids in (inside.truth, inside.pred))
    total = voxels.sum()
    return Partition(
        voxels=float(total), split_bits=float((voxels * np.log2(true[of_true] / voxels)).sum()),
        merge_bits=float((voxels * np.log2(pred[of_pred] / voxels)).sum()), true_pairs=float((true**2).sum() - total),
        pred_pairs=float((pred**2).sum() - total), both_pairs=float((voxels**2).sum() - total),
    )  # fmt: skip


def _sums(ids: IntArray, voxels: Floats) -> tuple[Floats, IntArray]:
    """Voxels of each id, and the position of each row's id among them."""
    names, position = np.unique(ids, return_inverse=True)
    return np.bincount(position, weights=voxels, minlength=len(names)).astype(np.float64), position.astype(np.int64)


def volume_scores(tally: VolumeTally) -> VolumeScores:
    """The scores of sums."""
    p = tally.partition
    return VolumeScores(
        slices=tally.slices, slices_true=_ratio(tally.true_slices, tally.n_true),
        slices_pred=_ratio(tally.pred_slices, tally.n_pred), splits=tally.splits, merges=tally.merges,
        slice_pq=tally.sections.pq, slice_sq=tally.sections.sq, slice_rq=tally.sections.rq, reused_ids=tally.reused_pred,
        reused_ids_true=tally.reused_true, loose_ids=tally.loose_pred, loose_ids_true=tally.loose_true,
        seg=_ratio(tally.seg, tally.n_true), vi_split=_ratio(p.split_bits, p.voxels),
        vi_merge=_ratio(p.merge_bits, p.voxels),
        rand_error=1 - _ratio(2 * p.both_pairs, p.pred_pairs + p.true_pairs),
        rand_precision=_ratio(p.both_pairs, p.pred_pairs), rand_recall=_ratio(p.both_pairs, p.true_pairs),
    )  # fmt: skip


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")

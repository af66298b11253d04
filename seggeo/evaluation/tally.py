"""What is counted, so that images add up: a record of sums for each scope (all objects, one class) and stratum.

1. `Scope` says which objects take part and which stratum (interior, near a seam) each belongs to.
2. `tallies` matches once and sums by stratum; a match belongs to the stratum of its true object, so that the strata
   together are the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.aggregate import Paired, paired_by_best, paired_one_to_one, pieces_of_pred, pieces_of_truth
from seggeo.evaluation.matching import match
from seggeo.evaluation.pairs import Pairs
from seggeo.rle import IntArray

Counts = NDArray[np.int64]
Sums = NDArray[np.float64]
PQ_IOU = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums that any number of images add up to. Arrays have one entry for panoptic quality, then one per threshold."""

    n_true: int
    n_pred: int
    """Predictions that count: not those that lie in ignored regions and match nothing."""
    tp: Counts
    fp: Counts
    fn: Counts
    iou: Sums
    """Sum of the IoU of the matches."""
    aji_shared: int
    aji_union: int
    aji_plus_shared: int
    aji_plus_union: int
    splits: int
    """True objects told in two pieces or more."""
    merges: int
    """Predictions that hold two true objects or more."""

    def __add__(self, other: Tally) -> Tally:
        return Tally(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally)})


def nothing(thresholds: int) -> Tally:
    """The tally of no image."""
    zero = np.zeros(thresholds + 1, np.int64)
    return Tally(
        n_true=0, n_pred=0, tp=zero, fp=zero, fn=zero, iou=zero.astype(np.float64), aji_shared=0, aji_union=0,
        aji_plus_shared=0, aji_plus_union=0, splits=0, merges=0,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which objects of an image take part in a tally."""

    pairs: Pairs
    """Pairs of taking-part objects only; positions in the whole sets."""
    truth_in: NDArray[np.bool_]
    """True objects that take part, `(n,)`."""
    pred_in: NDArray[np.bool_]
    """Predictions that take part, `(m,)`."""
    excused: NDArray[np.bool_]
    """Predictions that are no false alarm when nothing matches them, `(m,)`."""
    truth_stratum: IntArray
    """`(n,)`, from 0."""
    pred_stratum: IntArray
    strata: int
    """How many strata there are."""


def make_scope(
    pairs: Pairs, ignored: NDArray[np.bool_], truth_in: NDArray[np.bool_], pred_in: NDArray[np.bool_],
    strata: tuple[IntArray, IntArray] | None = None,
) -> Scope:  # fmt: skip
    """The scope of some objects; ignored ones excuse predictions that lie in them by more than half.

    Args:
        pairs: All pairs of the image.
        ignored: True objects that are never counted, `(n,)`.
        truth_in: True objects of the class asked for, ignored or not, `(n,)`.
        pred_in: Predictions of the class asked for, `(m,)`.
        strata: Stratum of every true object and of every prediction, 0 or 1; default: one stratum.
    """
    mine = pairs.take(truth_in[pairs.truth] & pred_in[pairs.pred])
    in_ignored = ignored[mine.truth]
    hidden = np.bincount(mine.pred[in_ignored], weights=mine.shared[in_ignored], minlength=len(pred_in))
    zeros = np.zeros(len(truth_in), np.int64), np.zeros(len(pred_in), np.int64)
    of_truth, of_pred = zeros if strata is None else strata
    return Scope(
        pairs=mine.take(~in_ignored), truth_in=truth_in & ~ignored, pred_in=pred_in,
        excused=2 * hidden > pairs.pred_area, truth_stratum=of_truth, pred_stratum=of_pred, strata=1 if strata is None else 2,
    )  # fmt: skip


def tallies(scope: Scope, thresholds: Sequence[float]) -> list[Tally]:
    """The sums of one scope, one tally for each stratum."""
    pairs, iou = scope.pairs, scope.pairs.iou
    matches = [match(pairs, PQ_IOU, strict=True), *(match(pairs, t) for t in thresholds)]
    n_true = _by_stratum(scope.truth_stratum, scope.truth_in, scope.strata)
    tp = np.stack([np.bincount(scope.truth_stratum[pairs.truth[m]], minlength=scope.strata) for m in matches], axis=1)
    sums = [_sums(scope.truth_stratum[pairs.truth[m]], iou[m], scope.strata) for m in matches]
    fp = np.stack([_by_stratum(scope.pred_stratum, false_alarms(scope, m), scope.strata) for m in matches], axis=1)
    best, plus = (_aggregated(scope, paired) for paired in (paired_by_best(pairs), paired_one_to_one(pairs)))
    split = _by_stratum(scope.truth_stratum, pieces_of_truth(pairs) > 1, scope.strata)
    merged = _by_stratum(scope.pred_stratum, pieces_of_pred(pairs) > 1, scope.strata)
    return [
        Tally(
            n_true=int(n_true[s]), n_pred=int(tp[s, 0] + fp[s, 0]), tp=tp[s], fp=fp[s], fn=n_true[s] - tp[s],
            iou=np.stack(sums, axis=1)[s], aji_shared=int(best[0][s]), aji_union=int(best[1][s]),
            aji_plus_shared=int(plus[0][s]), aji_plus_union=int(plus[1][s]), splits=int(split[s]), merges=int(merged[s]),
        )
        for s in range(scope.strata)
    ]  # fmt: skip


def false_alarms(scope: Scope, matched: IntArray) -> NDArray[np.bool_]:
    """Predictions that count and match nothing, `(m,)`."""
    alone = scope.pred_in & ~scope.excused
    alone[scope.pairs.pred[matched]] = False
    return alone


def _by_stratum(stratum: IntArray, which: NDArray[np.bool_], strata: int) -> Counts:
    return np.bincount(stratum[which], minlength=strata).astype(np.int64)


def _aggregated(scope: Scope, paired: Paired) -> tuple[Sums, Sums]:
    """Pixels shared and united by each stratum."""
    pairs, which = scope.pairs, paired.pairs
    stratum = scope.truth_stratum[pairs.truth[which]]
    missed = scope.truth_in.copy()
    missed[pairs.truth[which]] = False
    extra = scope.pred_in & ~scope.excused & paired.lone_pred
    union = _sums(stratum, pairs.union[which], scope.strata)
    union = union + _sums(scope.truth_stratum[missed], pairs.truth_area[missed], scope.strata)
    union = union + _sums(scope.pred_stratum[extra], pairs.pred_area[extra], scope.strata)
    return _sums(stratum, pairs.shared[which], scope.strata), union


def _sums(stratum: IntArray, values: NDArray[Any], strata: int) -> Sums:
    return np.bincount(stratum, weights=values, minlength=strata).astype(np.float64)

"""Scores from sums: panoptic quality, average precision by threshold, F1, AJI, counts. Nothing here divides by zero.

A ratio of nothing to nothing is NaN (null in JSON, a dash in the table): an image without objects in truth and prediction
says nothing about a model, and means over images leave it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seggeo.evaluation.tally import Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class AtThreshold:
    """Scores of one-to-one matches of at least a threshold of IoU."""

    iou: float
    """The threshold."""
    tp: int
    fp: int
    fn: int
    precision: float
    """tp / (tp + fp)."""
    recall: float
    """tp / (tp + fn)."""
    f1: float
    """2 tp / (2 tp + fp + fn)."""
    ap: float
    """tp / (tp + fp + fn), as StarDist, Cellpose and the Data Science Bowl count; not COCO's."""
    mean_iou: float
    """Mean IoU of the matches."""
    pq: float
    """Sum of the IoU of the matches over tp + fp / 2 + fn / 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Everything that sums give, for one image, one class, one stratum or all images together."""

    n_true: int
    n_pred: int
    tp: int
    """Pairs with IoU above one half."""
    fp: int
    fn: int
    pq: float
    """Panoptic quality: sq * rq."""
    sq: float
    """Segmentation quality: mean IoU of the pairs above one half."""
    rq: float
    """Recognition quality: F1 of these pairs."""
    mean_ap: float
    """Mean of `ap` over the thresholds."""
    aji: float
    """Aggregated Jaccard index."""
    aji_plus: float
    """The same with one-to-one pairs."""
    count_error: float
    """(n_pred - n_true) / n_true; above 0 is too many."""
    splits: int
    """True objects told in two pieces or more."""
    merges: int
    """Predictions that hold two true objects or more."""
    at: tuple[AtThreshold, ...]
    """One for each threshold, ascending."""

    def near(self, iou: float) -> AtThreshold | None:
        """The scores at a threshold, or None where it was not asked for."""
        return next((a for a in self.at if abs(a.iou - iou) < 1e-9), None)


def scores_of(tally: Tally, thresholds: Sequence[float]) -> Scores:
    """The scores of a tally made with these thresholds."""
    at = tuple(_at(tally, i + 1, t) for i, t in enumerate(thresholds))
    quality = _at(tally, 0, 0.5)
    return Scores(
        n_true=tally.n_true, n_pred=tally.n_pred, tp=quality.tp, fp=quality.fp, fn=quality.fn, pq=quality.pq,
        sq=quality.mean_iou, rq=quality.f1, mean_ap=mean_of([a.ap for a in at]),
        aji=_ratio(tally.aji_shared, tally.aji_union), aji_plus=_ratio(tally.aji_plus_shared, tally.aji_plus_union),
        count_error=_ratio(tally.n_pred - tally.n_true, tally.n_true), splits=tally.splits, merges=tally.merges, at=at,
    )  # fmt: skip


def _at(tally: Tally, i: int, threshold: float) -> AtThreshold:
    tp, fp, fn, iou = int(tally.tp[i]), int(tally.fp[i]), int(tally.fn[i]), float(tally.iou[i])
    return AtThreshold(
        iou=threshold, tp=tp, fp=fp, fn=fn, precision=_ratio(tp, tp + fp), recall=_ratio(tp, tp + fn),
        f1=_ratio(2 * tp, 2 * tp + fp + fn), ap=_ratio(tp, tp + fp + fn), mean_iou=_ratio(iou, tp),
        pq=_ratio(2 * iou, 2 * tp + fp + fn),
    )  # fmt: skip


MEANS = ("pq", "sq", "rq", "mean_ap", "aji", "aji_plus")


def means_of(images: Sequence[Scores]) -> dict[str, float]:
    """Means over images of what is a ratio, images without a value left out.

    `abs_count_error` is the mean of the absolute relative count error (MAPE), over images with true objects; `count_r2`
    the share of the variance of true counts that predicted counts explain.
    """
    values = {name: mean_of([getattr(s, name) for s in images]) for name in MEANS}
    for i, at in enumerate(images[0].at if images else ()):
        values[f"ap@{at.iou:g}"] = mean_of([s.at[i].ap for s in images])
        values[f"f1@{at.iou:g}"] = mean_of([s.at[i].f1 for s in images])
    values["abs_count_error"] = mean_of([abs(s.count_error) for s in images])
    values["count_r2"] = _r2(images)
    return values


def _r2(images: Sequence[Scores]) -> float:
    true, pred = (np.array([getattr(s, name) for s in images], np.float64) for name in ("n_true", "n_pred"))
    spread = ((true - true.mean()) ** 2).sum() if len(true) else 0.0
    return 1 - float(((true - pred) ** 2).sum() / spread) if spread else float("nan")


def mean_of(values: Sequence[float]) -> float:
    """Mean of the values that are numbers; NaN where there is none."""
    there = [v for v in values if not np.isnan(v)]
    return float(np.mean(there)) if there else float("nan")


def mean_over_classes(classes: Mapping[str, Scores]) -> dict[str, float]:
    """Means over classes that have an object on either side, each class pooled over images (mPQ+ of CoNIC)."""
    return {name: mean_of([getattr(s, name) for s in classes.values()]) for name in MEANS}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")

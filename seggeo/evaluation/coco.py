"""COCO-style average precision from scores: equal to pycocotools' COCOeval with `iouType="segm"` and no limit of detections.

1. `detections` matches one image and one class: in order of falling score each prediction takes the best true object that
   is free and reaches the threshold; crowd regions take any number, and swallow what lies in them.
2. `average_precision` joins the images, and integrates precision over 101 levels of recall.

The table of IoU is sparse, and predictions that have no rival are matched all at once; only the rest go one by one.
Source: Lin et al. 2014, Microsoft COCO, and the reference implementation, whose rules of order and ties are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.pairs import Pairs
from seggeo.rle import IntArray

# The same expressions as the reference: IoU is a ratio, and ties at a threshold depend on its last bit.
THRESHOLDS: NDArray[np.float64] = np.linspace(0.5, 0.95, 10)
_RECALLS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
SIZES: Mapping[str, tuple[float, float]] = {
    "all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10),
}  # fmt: skip
"""Areas in px, both ends included."""
_NONE, _TRUE, _IGNORED = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """One image's predictions of one class after matching, in order of falling score."""

    score: NDArray[np.float32]
    """`(d,)`."""
    outcome: NDArray[np.uint8]
    """0 unmatched, 1 matched, 2 out of the count; `(sizes, thresholds, d)`."""
    truths: IntArray
    """True objects that count, for each size, `(sizes,)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoScores:
    """Average precision, as COCO reports it; NaN where no true object is of the size."""

    ap: float
    """Mean over IoU 0.50 to 0.95 in steps of 0.05."""
    ap50: float
    ap75: float
    ap_small: float
    """Objects up to 32 x 32 px."""
    ap_medium: float
    """From there to 96 x 96 px."""
    ap_large: float
    """From there on."""


def detections(
    pairs: Pairs, truth: IntArray, pred: IntArray, score: NDArray[np.float32], crowd: NDArray[np.bool_]
) -> Detections:
    """Matches of one image and class.

    Args:
        pairs: Pairs within the class, positions in the whole sets.
        truth: Positions of the true objects of the class, crowds too, ascending.
        pred: Positions of the predictions of the class, ascending.
        score: Of all predictions of the image, `(m,)`.
        crowd: Of all true objects of the image, `(n,)`.
    """
    order = pred[np.argsort(-score[pred], kind="stable")]
    rank = np.full(len(pairs.pred_area), -1)
    rank[order] = np.arange(len(order))
    # A crowd is as large as one likes: only the share of the prediction inside it counts.
    iou = np.where(crowd[pairs.truth], pairs.share_of_pred, pairs.iou)
    shown = np.zeros((len(SIZES), len(THRESHOLDS), len(order)), np.uint8)
    counted = []
    for s, (low, high) in enumerate(SIZES.values()):
        off = crowd | (pairs.truth_area < low) | (pairs.truth_area > high)
        counted.append(int(np.count_nonzero(~off[truth])))
        outside = (pairs.pred_area[order] < low) | (pairs.pred_area[order] > high)
        for t, threshold in enumerate(THRESHOLDS):
            keep = iou >= threshold
            found = _greedy(rank[pairs.pred[keep]], pairs.truth[keep], iou[keep], crowd, off)
            outcome = np.zeros(len(order), np.uint8)
            outcome[found[0]] = np.where(off[found[1]], _IGNORED, _TRUE)
            outcome[(outcome == _NONE) & outside] = _IGNORED
            shown[s, t] = outcome
    return Detections(score=score[order], outcome=shown, truths=np.array(counted, np.int64))


def _greedy(
    rank: IntArray, truth: IntArray, iou: NDArray[np.float64], crowd: NDArray[np.bool_], off: NDArray[np.bool_]
) -> tuple[IntArray, IntArray]:
    """Matched `(ranks, truths)` of the candidate pairs: falling score, best free object, counted ones first."""
    if not len(rank):
        return rank, truth
    lonely = (np.bincount(rank)[rank] == 1) & ((np.bincount(truth)[truth] == 1) | crowd[truth])
    ranks, truths = rank[~lonely], truth[~lonely]
    # For each prediction: objects that count before those that do not, then the larger IoU, then the later object.
    order = np.lexsort((-truths, -iou[~lonely], off[truths], ranks))
    taken: set[int] = set()
    done = -1
    pairs: list[tuple[int, int]] = []
    for r, g, is_crowd in zip(ranks[order].tolist(), truths[order].tolist(), crowd[truths[order]].tolist(), strict=True):
        if r != done and (is_crowd or g not in taken):
            taken.add(g)
            pairs.append((r, g))
            done = r
    solved = np.array(pairs, np.int64).reshape(-1, 2)
    return np.concatenate([rank[lonely], solved[:, 0]]), np.concatenate([truth[lonely], solved[:, 1]])


def average_precision(classes: Sequence[Sequence[Detections]]) -> CocoScores:
    """Scores over all images, the mean over classes that have a true object.

    Args:
        classes: For each class the detections of its images, in order of the images.
    """
    table = np.full((len(classes), len(SIZES), len(THRESHOLDS)), np.nan)
    for c, images in enumerate(classes):
        if images:
            table[c] = _class_precision(images)
    sizes = [_mean(table[:, s]) for s in range(len(SIZES))]
    return CocoScores(
        ap=sizes[0], ap50=_mean(table[:, 0, 0]), ap75=_mean(table[:, 0, 5]), ap_small=sizes[1], ap_medium=sizes[2],
        ap_large=sizes[3],
    )  # fmt: skip


def _class_precision(images: Sequence[Detections]) -> NDArray[np.float64]:
    """Average precision of one class, `(sizes, thresholds)`."""
    score = np.concatenate([d.score for d in images])
    order = np.argsort(-score, kind="stable")
    outcome = np.concatenate([d.outcome for d in images], axis=2)
    truths = np.sum([d.truths for d in images], axis=0)
    found = np.full(outcome.shape[:2], np.nan)
    for s in np.flatnonzero(truths):
        for t in range(len(THRESHOLDS)):
            found[s, t] = _interpolated(outcome[s, t, order], int(truths[s]))
    return found


def _interpolated(outcome: NDArray[np.uint8], truths: int) -> float:
    """Mean over 101 levels of recall of the best precision at that recall or a higher one."""
    hits, wrong = np.cumsum(outcome == _TRUE), np.cumsum(outcome == _NONE)
    precision = hits / (hits + wrong + np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / truths, _RECALLS, side="left")
    return float(np.where(at < len(best), best[np.minimum(at, len(best) - 1)], 0.0).mean()) if len(best) else 0.0


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

"""Scores are those of the published implementations and of dense tables written from the papers."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from support_evaluate import (
    boxes_image,
    dense_aji,
    dense_aji_plus,
    dense_matches,
    dense_pq,
    label_pairs,
    poor_copy,
    pycocotools_ap,
    scored_images,
)

import seggeo
from seggeo.evaluation.options import THRESHOLDS

LOW = (0.1, 0.25, 0.4)


def close(ours: float, theirs: float) -> bool:
    return (isnan(ours) and isnan(theirs)) or abs(ours - theirs) < 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_quality_is_that_of_the_paper(seed: int):
    for truth, pred in label_pairs(25, seed):
        ours = seggeo.evaluate(pred, truth).pooled
        pq, sq, rq, tp = dense_pq(truth, pred)

        assert ours.tp == tp
        assert close(ours.pq, pq)
        assert close(ours.sq, sq)
        assert close(ours.rq, rq)


@pytest.mark.parametrize("seed", range(4))
def test_aji_and_aji_plus_are_those_of_the_papers(seed: int):
    for truth, pred in label_pairs(25, 100 + seed):
        ours = seggeo.evaluate(pred, truth).pooled

        assert close(ours.aji, dense_aji(truth, pred))
        assert close(ours.aji_plus, dense_aji_plus(truth, pred))


@pytest.mark.parametrize("seed", range(3))
def test_matches_at_every_threshold_are_one_assignment_over_everything(seed: int):
    for truth, pred in label_pairs(20, 200 + seed):
        ours = seggeo.evaluate(pred, truth, thresholds=(*LOW, *THRESHOLDS)).pooled
        for at in ours.at:
            tp, iou = dense_matches(truth, pred, at.iou)

            assert at.tp == tp
            assert abs(at.tp * (at.mean_iou if at.tp else 0) - iou) < 1e-9
            assert (at.tp + at.fp, at.tp + at.fn) == (len(np.unique(pred[pred > 0])), len(np.unique(truth[truth > 0])))


def test_scores_are_stardists():
    matching = pytest.importorskip("stardist.matching", reason="StarDist is not installed").matching
    for truth, pred in label_pairs(60, 300):
        ours = seggeo.evaluate(pred, truth, thresholds=(*LOW, *THRESHOLDS)).pooled
        for at in ours.at:
            theirs = matching(truth, pred, thresh=at.iou)

            assert (at.tp, at.fp, at.fn) == (theirs.tp, theirs.fp, theirs.fn)
            for name, value in (("precision", at.precision), ("recall", at.recall), ("f1", at.f1), ("accuracy", at.ap)):
                assert abs(np.nan_to_num(value) - getattr(theirs, name)) < 1e-6
            if at.iou >= 0.5:  # below, StarDist breaks ties by pairs under the threshold too, and may keep less IoU
                assert abs(np.nan_to_num(at.pq) - theirs.panoptic_quality) < 1e-6
                assert abs(np.nan_to_num(at.mean_iou) - theirs.mean_matched_score) < 1e-6


def test_the_example_of_stardists_documentation():
    truth = np.zeros((100, 100), np.uint16)
    truth[10:20, 10:20] = 1
    at = seggeo.evaluate(np.roll(truth, 5, axis=0), truth).pooled.at[0]

    assert (at.tp, at.fp, at.fn, at.precision, at.recall, at.ap, at.f1, at.pq) == (0, 1, 1, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_is_pycocotools(seed: int):
    preds, truths = scored_images(seed)
    coco = seggeo.evaluate(preds, truths).coco
    assert coco is not None
    ours = [coco.ap, coco.ap50, coco.ap75, coco.ap_small, coco.ap_medium, coco.ap_large]

    np.testing.assert_allclose(ours, pycocotools_ap(preds, truths), atol=1e-9)


def test_pooling_sums_images_and_the_mean_is_of_images():
    rng = np.random.default_rng(5)
    truths = [boxes_image(rng, most=12) for _ in range(6)]
    preds = [poor_copy(rng, t) for t in truths]
    both = seggeo.evaluate(preds, truths)
    alone = [seggeo.evaluate(p, t).pooled for p, t in zip(preds, truths, strict=True)]
    wide = seggeo.evaluate(*(np.concatenate([np.pad(i, 1) + 100 * k * (np.pad(i, 1) > 0) for k, i in enumerate(side)], axis=1)
                             for side in (preds, truths)))  # fmt: skip

    assert [(a.tp, a.fp, a.fn) for a in both.pooled.at] == [(a.tp, a.fp, a.fn) for a in wide.pooled.at]
    for name in ("pq", "sq", "rq", "mean_ap", "aji", "aji_plus", "count_error", "splits", "merges"):
        assert getattr(both.pooled, name) == pytest.approx(getattr(wide.pooled, name))
    assert both.mean["pq"] == pytest.approx(np.nanmean([s.pq for s in alone]))
    assert both.mean["abs_count_error"] == pytest.approx(np.nanmean([abs(s.count_error) for s in alone]))

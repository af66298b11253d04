"""The sparse table of shared pixels is the dense one, however the image is swept; matching is the best there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment
from support_evaluate import boxes_image, contingency

from seggeo.errors import GeometryError
from seggeo.evaluation import matching, pairs
from seggeo.evaluation.objects import objects_of
from seggeo.evaluation.pairs import Pairs, find_pairs
from seggeo.instances import Instances

small = arrays(np.int64, st.tuples(st.integers(1, 9), st.just(7)), elements=st.integers(0, 4))


def table(found: Pairs) -> np.ndarray:
    full = np.zeros((len(found.truth_area), len(found.pred_area)), np.int64)
    full[found.truth, found.pred] = found.shared
    return full


@settings(max_examples=60, deadline=None)
@given(small, st.randoms(use_true_random=False))
def test_shared_pixels_of_tiny_label_images(truth: np.ndarray, random):
    pred = truth.copy().ravel()
    random.shuffle(pred)
    pred = pred.reshape(truth.shape)
    found = find_pairs(Instances.from_labels(truth), Instances.from_labels(pred))
    shared, union = contingency(truth, pred)

    assert (table(found) == shared).all()
    assert (found.union == union[found.truth, found.pred]).all()
    assert (np.diff(found.truth * 100 + found.pred) > 0).all()


@pytest.mark.parametrize("budget", [1, 7, 60, 10**6])
def test_bands_do_not_change_the_pairs(budget: int, monkeypatch: pytest.MonkeyPatch):
    """Bands down to single rows, with objects that reach through all of them."""
    rng = np.random.default_rng(budget)
    truth, pred = boxes_image(rng, 90), boxes_image(rng, 90)
    truth[:, 40:43], pred[:, 41:45], pred[60, :] = 99, 98, 97
    monkeypatch.setattr(pairs, "_BAND_SPANS", budget)
    found = find_pairs(Instances.from_labels(truth), Instances.from_labels(pred))

    assert (table(found) == contingency(truth, pred)[0]).all()


def test_masks_of_one_side_may_overlap():
    rng = np.random.default_rng(3)
    masks = [[rng.random((20, 30)) < 0.4 for _ in range(n)] for n in (5, 7)]
    found = find_pairs(*(Instances.from_masks(side) for side in masks))

    assert (table(found) == [[np.count_nonzero(a & b) for b in masks[1]] for a in masks[0]]).all()


def random_pairs(seed: int, n: int, m: int, share: float) -> Pairs:
    rng = np.random.default_rng(seed)
    truth, pred = np.nonzero(rng.random((n, m)) < share)
    return Pairs(
        truth=truth, pred=pred, shared=rng.integers(1, 50, len(truth)), truth_area=rng.integers(50, 90, n),
        pred_area=rng.integers(50, 90, m),
    )  # fmt: skip


@pytest.mark.parametrize("dense", [0, 10**9])
@pytest.mark.parametrize("seed", range(6))
def test_matching_is_optimal_for_any_graph(seed: int, dense: int, monkeypatch: pytest.MonkeyPatch):
    """The dense and the sparse solver of a component, against one assignment over everything."""
    monkeypatch.setattr(matching, "_DENSE", dense)
    found = random_pairs(seed, 30, 25, (0.02, 0.1, 0.4)[seed % 3])
    iou = np.zeros((30, 25))
    iou[found.truth, found.pred] = found.iou
    best = iou[linear_sum_assignment(iou, maximize=True)].sum()
    chosen = matching.match_all(found)

    assert found.iou[chosen].sum() == pytest.approx(best, abs=1e-9)
    for threshold in (0.1, 0.3):
        picked = matching.match(found, threshold)
        weight = np.where(iou >= threshold, 100 + iou, 0)
        assert (100 + found.iou[picked]).sum() == pytest.approx(weight[linear_sum_assignment(weight, maximize=True)].sum())
        for side in (found.truth, found.pred):
            assert len(np.unique(side[picked])) == len(picked)


def test_exactly_one_half_is_a_match_at_the_threshold_and_none_for_panoptic_quality():
    truth, half = np.ones((4, 4), int), np.ones((4, 4), int)
    half[2:] = 2
    found = find_pairs(Instances.from_labels(truth), Instances.from_labels(half))

    assert len(matching.match(found, 0.5)) == 1
    assert len(matching.match(found, 0.5, strict=True)) == 0


@pytest.mark.parametrize("given", [np.zeros((2, 3, 4), int), np.zeros((3, 4)), np.zeros(3, int)])
def test_what_is_no_label_image_is_refused(given: np.ndarray):
    with pytest.raises(GeometryError, match="label image"):
        objects_of(given)


def test_volumes_and_nameless_classes_are_refused():
    spans = Instances.from_labels(np.array([[1, 1]])).spans()
    with pytest.raises(GeometryError, match="slices"):
        objects_of(Instances.from_spans(spans, score=[1], label=0, z=3))
    with pytest.raises(GeometryError, match="class"):
        objects_of(Instances.from_spans(spans, score=[1], label=2))

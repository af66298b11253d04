"""The helpers that judge merging must themselves be right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from support_scenes import (
    KINDS,
    nested,
    oracle,
    oracle_masks,
    oracle_with_ids,
    paint,
    panoptic_quality,
    random_scene,
    same_partition,
    seam_scene,
)

from seggeo.geometry import Window
from seggeo.tiling import TileGrid

SIZE = 1024


@pytest.fixture(scope="module")
def scene():
    return seam_scene(0, SIZE)


def test_seam_scene_holds_every_kind_and_each_object_is_connected(scene):
    assert set(scene.kinds[1:]) == {"larger_than_tile", "road", "row_house", "l_shape", "in_notch", "disc"}
    assert scene.labels.max() == len(scene.kinds) - 1
    for i, box in enumerate(ndi.find_objects(scene.labels), 1):
        assert ndi.label(scene.labels[box] == i)[1] == 1


def test_large_objects_are_wider_than_a_quarter_and_roads_cross_the_scene(scene):
    for i, (rows, cols) in enumerate(ndi.find_objects(scene.labels), 1):
        if scene.kinds[i] == "larger_than_tile":
            assert cols.stop - cols.start > SIZE / 4
            assert rows.stop - rows.start > SIZE / 5
        if scene.kinds[i] == "road":
            assert cols.stop - cols.start > 0.97 * SIZE


def test_same_seed_same_scene():
    assert np.array_equal(seam_scene(3, 768).labels, seam_scene(3, 768).labels)
    assert not np.array_equal(seam_scene(3, 768).labels, seam_scene(4, 768).labels)


def test_a_perfect_oracle_reports_every_pixel_of_its_window_once(scene):
    for tile in TileGrid(height=SIZE, width=SIZE, tile=256, halo=16):
        truth = scene.labels[tile.window.slices()]
        found, ids = oracle_with_ids(scene.labels, tile.window)
        back = paint(found, tile.window.shape)

        assert np.array_equal(np.concatenate([[0], ids])[back], truth)
        assert found.area.sum() == (truth > 0).sum()


def test_pieces_of_an_object_that_a_window_cuts_in_two_are_two_instances():
    labels = np.zeros((20, 20), np.int32)
    labels[2:18, 2:18] = 7
    labels[:14, 6:14] = 0

    found, ids = oracle_with_ids(labels, Window(row=0, col=0, height=10, width=20))

    assert ids.tolist() == [7, 7]
    assert found.box.tolist() == [[2, 2, 10, 6], [2, 14, 10, 18]]


def test_noise_stays_within_two_pixels_and_inside_the_tile(scene):
    window = Window(row=600, col=100, height=256, width=256)
    clean, clean_ids = oracle_with_ids(scene.labels, window)
    noisy, ids = oracle_with_ids(scene.labels, window, np.random.default_rng(1))

    truth = scene.labels[window.slices()]
    assert (noisy.area >= 16).all()
    assert noisy.box.min() >= 0
    assert noisy.box.max() <= 256
    assert set(ids) <= set(clean_ids)
    assert len(noisy) >= 0.9 * (clean.area >= 16).sum()
    assert not np.array_equal(noisy.area, clean.area[: len(noisy)])
    for i, (box, mask) in enumerate(noisy):
        allowed = ndi.binary_dilation(truth == ids[i], iterations=2)
        assert allowed[box[0] : box[2], box[1] : box[3]][mask].all()


def test_cut_pieces_score_less(scene):
    window = Window(row=600, col=100, height=256, width=256)
    score = oracle(scene.labels, window, np.random.default_rng(1)).score
    assert ((score > 0.7) & (score < 0.9)).any()
    assert (score >= 0.9).any()


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(40, 120), st.integers(40, 120))
def test_random_scenes_hold_connected_objects_with_dense_ids(kind, seed, height, width):
    labels = random_scene(kind, seed, (height, width))

    ids = np.unique(labels[labels > 0])
    assert labels.shape == (height, width)
    assert len(ids) >= 1
    assert ids.tolist() == list(range(1, len(ids) + 1))
    for i, box in enumerate(ndi.find_objects(labels), 1):
        assert ndi.label(labels[box] == i)[1] == 1


@pytest.mark.parametrize("seed", range(5))
def test_nested_masks_lie_inside_one_another(seed):
    chain = nested(seed)
    masks = [np.zeros((256, 256), bool) for _ in range(len(chain))]
    for whole, (box, mask) in zip(masks, chain, strict=True):
        whole[box[0] : box[2], box[1] : box[3]] = mask
    for i in range(1, len(chain)):
        if chain.label[i] > 0:
            assert (masks[i] <= masks[i - 1]).all()
            assert masks[i].sum() < masks[i - 1].sum()
    assert chain.label.max() >= 2


def test_the_oracle_of_overlapping_masks_keeps_all_their_pixels():
    chain = nested(1)
    total = sum(oracle_masks(chain, t.core).area.sum() for t in TileGrid(height=256, width=256, tile=64, halo=8))
    assert total == chain.area.sum()


def test_quality_of_the_truth_itself_is_one(scene):
    quality = panoptic_quality(scene.labels, scene.labels * 3)
    assert (quality.pq, quality.sq, quality.missed) == (1.0, 1.0, ())
    assert quality.matched == quality.n_pred == quality.n_truth == scene.labels.max()


def test_quality_counts_misses_splits_and_overlap_by_hand():
    truth = np.zeros((10, 20), np.int32)
    truth[0:4, 0:4], truth[6:10, 0:4], truth[0:4, 8:12] = 1, 2, 5
    pred = np.zeros_like(truth)
    pred[0:4, 0:3], pred[0:2, 8:12], pred[2:4, 8:12], pred[8:, 15:] = 9, 2, 3, 4

    quality = panoptic_quality(truth, pred)

    assert (quality.n_truth, quality.n_pred, quality.matched, quality.missed) == (3, 4, 1, (2, 5))
    assert quality.pq == pytest.approx(0.75 / (1 + 0.5 * 3 + 0.5 * 2))


def test_same_partition_ignores_ids_only():
    a = np.array([[0, 1, 1], [2, 2, 0]])
    assert same_partition(a, np.array([[0, 7, 7], [1, 1, 0]]))
    assert not same_partition(a, np.array([[0, 7, 7], [7, 7, 0]]))
    assert not same_partition(a, np.array([[0, 7, 6], [1, 1, 0]]))
    assert not same_partition(a, np.array([[1, 7, 7], [2, 2, 0]]))

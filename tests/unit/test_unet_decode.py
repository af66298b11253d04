"""Perfect fields give the true objects, whatever the window; noisy ones nearly."""

from __future__ import annotations

import numpy as np
import pytest
from support_scenes import panoptic_quality, seam_scene
from support_unet import true_fields

from seggeo.models.unet import coarser
from seggeo.models.unet_decode import Decoding, decode


def discs(seed: int, size: int, low: float, high: float, count: int):
    """Discs that may touch but not overlap."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    yy, xx = np.mgrid[:size, :size]
    number = 0
    for _ in range(count):
        r, y, x = rng.uniform(low, high), *rng.uniform(0, size, 2)
        mask = (yy - y) ** 2 + (xx - x) ** 2 <= r * r
        if mask.sum() > 20 and not labels[mask].any():
            number += 1
            labels[mask] = number
    return labels


def same_partition(a, b) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(pairs[0]) == len(np.unique(a)) == len(np.unique(b)) and not ((pairs[0] == 0) ^ (pairs[1] == 0)).any()


@pytest.mark.parametrize("seed", range(4))
def test_perfect_fields_give_the_true_objects(seed):
    labels = discs(seed, 300, 3.5, 25, 300)

    assert same_partition(decode(*true_fields(labels), Decoding()).labels, labels)


def test_touching_objects_of_every_size_stay_apart():
    labels = np.zeros((60, 120), np.int32)
    labels[10:50, 5:25], labels[10:50, 25:30], labels[10:20, 30:60], labels[20:50, 30:90] = 1, 2, 3, 4

    assert same_partition(decode(*true_fields(labels), Decoding()).labels, labels)


def test_noise_in_the_offsets_costs_little():
    labels = discs(7, 400, 5, 20, 400)
    chance, offset = true_fields(labels)
    noisy = offset + np.random.default_rng(8).normal(0, 1.5, offset.shape).astype(np.float32)
    found = decode(chance, noisy, Decoding()).labels
    quality = panoptic_quality(labels, found)

    assert quality.pq > 0.97
    assert abs(len(np.unique(found)) - len(np.unique(labels))) <= 2


def test_a_moved_window_moves_the_objects():
    """Far enough from the sides nothing depends on where the window begins."""
    labels = discs(3, 320, 4, 14, 500)
    chance, offset = true_fields(labels)
    offset += np.random.default_rng(1).normal(0, 1.0, offset.shape).astype(np.float32)
    whole = decode(chance, offset, Decoding()).labels
    part = decode(chance[:, 37:, 51:], offset[:, 37:, 51:], Decoding()).labels
    inner = np.s_[90:-60, 110:-60]
    moved = np.zeros_like(whole)
    moved[37:, 51:] = part

    assert same_partition(whole[inner], moved[inner])


def test_classes_are_the_likeliest_of_all_pixels():
    labels = np.zeros((40, 80), np.int32)
    labels[10:30, 10:30], labels[10:30, 40:60] = 1, 2
    _, offset = true_fields(labels)
    chances = np.zeros((2, 40, 80), np.float32)
    chances[0][labels == 1], chances[1][labels == 1] = 0.7, 0.2
    chances[0][labels == 2], chances[1][labels == 2] = 0.1, 0.6
    found = decode(chances, offset, Decoding())

    assert found.label[found.labels[20, 20] - 1] == 0
    assert found.label[found.labels[20, 50] - 1] == 1
    np.testing.assert_allclose(sorted(found.score), [0.7, 0.9], atol=1e-6)


def test_holes_are_filled_and_crumbs_left_out():
    labels = np.zeros((50, 50), np.int32)
    labels[10:40, 10:40] = 1
    chance, offset = true_fields(labels)
    chance[0, 22:25, 22:25] = 0.0
    chance[0, 2:4, 2:4] = 1.0
    found = decode(chance, offset, Decoding())

    assert np.array_equal(found.labels, labels)


def test_a_few_votes_spread_wide_are_still_a_pile():
    """Smoothed beyond notice they would be of no pile, and their objects be lost."""
    labels = np.zeros((200, 200), np.int32)
    labels[20:22, 30:33], labels[150:155, 160:164] = 1, 2
    for smooth in (1.2, 13.0, 40.0):
        assert same_partition(decode(*true_fields(labels), Decoding(smooth=smooth, min_area=1)).labels, labels)


def test_nothing_gives_nothing():
    found = decode(np.zeros((1, 20, 30), np.float32), np.zeros((2, 20, 30), np.float32), Decoding())

    assert found.labels.shape == (20, 30)
    assert not found.labels.any()
    assert len(found.score) == len(found.label) == 0


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_coarser_labels_undo_finer_ones(factor):
    labels = seam_scene(0, 768).labels[:256, :256]

    assert np.array_equal(coarser(labels.repeat(factor, 0).repeat(factor, 1), factor), labels)


def test_coarser_takes_what_most_of_four_pixels_are():
    block = np.array([[1, 2], [2, 2]], np.int32)

    assert coarser(block, 2)[0, 0] == 2
    assert coarser(np.array([[1, 2], [3, 3]], np.int32), 2)[0, 0] == 3
    assert coarser(np.array([[1, 2], [3, 4]], np.int32), 2)[0, 0] == 1
    assert coarser(np.array([[1, 1], [3, 4]], np.int32), 2)[0, 0] == 1

"""What a Mask R-CNN learns of labels: anchors of their sizes, and the objects of a crop as they are."""

from __future__ import annotations

import numpy as np
import pytest
from support_detector import discs, scene_of

from seggeo.train.anchors import anchor_levels, seen_sides
from seggeo.train.augment import Augmentation
from seggeo.train.maskrcnn_targets import MOST_OBJECTS, detector_target

STRIDES = (4, 8, 16, 32, 64)


# Anchors


def test_anchors_are_as_large_as_the_labelled_objects():
    rng = np.random.default_rng(0)
    sides = np.exp(rng.normal(np.log(24), 0.35, 3000))
    levels = anchor_levels(sides, STRIDES, 2)
    flat = np.array([side for level in levels for side in level])

    nearest = np.abs(np.log(sides[:, None] / flat)).min(axis=1)
    assert (np.diff(flat) > 0).all()
    assert np.percentile(nearest, 95) < np.log(1.45)  # IoU of squares that share a centre: 1 / 1.45**2 = 0.48
    for level, stride in zip(levels[1:], STRIDES[1:], strict=True):
        assert level[0] >= 2 * stride


def test_levels_without_objects_go_on_and_large_objects_use_every_level():
    small = anchor_levels(np.full(100, 10.0), STRIDES, 1)
    large = anchor_levels(np.geomspace(40, 400, 500), STRIDES, 1)

    assert small == ((10.0,), (16.0,), (32.0,), (64.0,), (128.0,))
    assert large[0][0] < 60
    assert 250 < large[-1][0] < 400


def test_anchors_follow_the_zoom_of_the_samples():
    scenes = [scene_of(discs(radius=(7.9, 8.1)))]
    plain = seen_sides(scenes, Augmentation(scale=(1.0, 1.0)), seed=1)
    zoomed = seen_sides(scenes, Augmentation(scale=(1.0, 1.0), diameter=(32, 32)), seed=1)

    assert np.median(plain) == pytest.approx(16, abs=1)
    assert zoomed.max() == pytest.approx(32, abs=3)
    assert np.mean(zoomed > 28) == pytest.approx(0.8, abs=0.03), "one in five stays about as it is"
    np.testing.assert_array_equal(plain, seen_sides(scenes, Augmentation(scale=(1.0, 1.0)), seed=1))


# Targets


def test_the_targets_of_a_crop_are_its_labels():
    labels = discs(seed=3)
    classes = np.arange(labels.max(), dtype=np.int32) % 3
    target = detector_target(labels, classes, np.ones(labels.shape, bool))

    assert target.ids.tolist() == list(range(1, labels.max() + 1))
    assert target.labels.tolist() == (classes + 1).tolist()
    np.testing.assert_array_equal(target.objects, labels)
    assert not target.ignored.any()
    for (left, top, right, bottom), number in zip(target.boxes.int().tolist(), target.ids.tolist(), strict=True):
        rows, cols = np.nonzero(labels == number)
        assert (left, top, right, bottom) == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)


def test_unknown_objects_and_slivers_are_neither_learnt_nor_background():
    labels = np.zeros((64, 64), np.int32)
    labels[4:14, 4:14], labels[20:30, 20:30], labels[40:60, 0:2], labels[40:60, 62:64] = 1, 2, 3, 4
    valid = np.ones(labels.shape, bool)
    valid[:12, :12] = False
    target = detector_target(labels, np.zeros(4, np.int32), valid)

    assert target.ids.tolist() == [2]
    np.testing.assert_array_equal(target.ignored, ~valid | np.isin(labels, [1, 3, 4]))


def test_of_a_crowd_some_are_drawn_and_the_others_ignored():
    labels = np.kron(np.arange(1, 257).reshape(16, 16), np.ones((6, 6), int)).astype(np.int32)
    target = detector_target(labels, np.zeros(256, np.int32), np.ones(labels.shape, bool))
    again = detector_target(labels, np.zeros(256, np.int32), np.ones(labels.shape, bool))

    assert len(target.ids) == MOST_OBJECTS
    np.testing.assert_array_equal(target.ignored, ~np.isin(labels, target.ids))
    assert target.ids.tolist() == again.ids.tolist()


def test_a_crop_without_objects_is_a_target_without_boxes():
    target = detector_target(np.zeros((32, 32), np.int32), np.zeros(0, np.int32), np.ones((32, 32), bool))

    assert target.boxes.shape == (0, 4)
    assert target.labels.shape == (0,)

"""Targets and loss of the U-Net: true fields decode to the true objects, and nothing is learnt where nothing is known."""

import numpy as np
import pytest
import torch
from support_scenes import random_scene, same_partition
from support_train import discs

from seggeo.models.unet_arch import UNetShape
from seggeo.models.unet_decode import Decoding, decode
from seggeo.models.unet_fields import OFFSET_UNIT
from seggeo.train.sampler import Sample
from seggeo.train.unet_targets import unet_targets
from seggeo.train.unet_task import UNetTask, unet_loss

ALL = np.ones((160, 192), bool)


def targets(labels, classes=None, valid=None):
    count = int(labels.max())
    classes = np.zeros(count, np.int32) if classes is None else classes
    return unet_targets(labels, classes, np.ones(labels.shape, bool) if valid is None else valid)


def batch_of(labels, classes=1, valid=None):
    rng = np.random.default_rng(0)
    sample = Sample(
        image=rng.random((3, *labels.shape)).astype(np.float32), labels=labels,
        classes=rng.integers(0, classes, labels.max()).astype(np.int32),
        valid=np.ones(labels.shape, bool) if valid is None else valid,
    )  # fmt: skip
    return UNetTask(UNetShape(classes=classes, widths=(8, 8))).collate([sample])


def perfect(batch, classes):
    """Fields of a network that knows the targets."""
    hot = torch.nn.functional.one_hot(batch.classes, classes + 1).permute(0, 3, 1, 2).float()
    return torch.cat([hot * 40 - 20, batch.seed[:, None], batch.offset], dim=1)


def total(fields, batch, classes):
    return float(sum(unet_loss(fields, batch, UNetShape(classes=classes)).values()))


def test_offsets_lead_to_the_centroid():
    labels = discs(0)
    found = targets(labels)
    row, col = np.nonzero(labels)
    for number in range(1, labels.max() + 1):
        mine = labels[row, col] == number
        for axis, place in enumerate((row, col)):
            reached = place[mine] + OFFSET_UNIT * found.offset[axis, row[mine], col[mine]]
            np.testing.assert_allclose(reached, place[mine].mean(), atol=1e-4)
    assert not found.offset[:, labels == 0].any()


@pytest.mark.parametrize(("kind", "seed"), [("blobs", 0), ("blobs", 1), ("voronoi", 0), ("voronoi", 3)])
def test_true_fields_decode_to_the_true_objects(kind, seed):
    labels = discs(seed) if kind == "blobs" else random_scene("voronoi", seed, (160, 192))
    labels = np.where(np.bincount(labels.ravel())[labels] >= 20, labels, 0)
    found = targets(labels, np.zeros(labels.max(), np.int32))

    got = decode((found.classes > 0).astype(np.float32)[None], found.offset * OFFSET_UNIT, Decoding(smooth=0.7, min_area=1))

    if kind == "blobs":
        assert same_partition(labels, got.labels)
    else:  # cells with centroids outside or at their rim may be shared out otherwise
        pairs = np.unique(np.stack([labels[labels > 0], got.labels[labels > 0]]), axis=1)
        assert abs(len(np.unique(got.labels)) - len(np.unique(labels))) <= 0.05 * labels.max() + 1
        assert pairs.shape[1] < 1.6 * labels.max()


@pytest.mark.parametrize("radius", [3, 6, 25])
def test_both_sides_of_an_outline_weigh_the_same(radius):
    """Else the network would learn the outline of the heavier side, and objects would come out too large or too small."""
    row, col = np.mgrid[:96, :96]
    distance = np.hypot(row - 48, col - 48)
    weight = targets((distance <= radius).astype(np.int32)).weight

    inside = weight[distance <= radius]
    np.testing.assert_allclose(inside, inside[0])
    np.testing.assert_allclose(weight[(distance > radius) & (distance <= radius + 2)], inside[0])
    np.testing.assert_allclose(weight[distance > radius + 11], 1)


def test_seeds_rise_from_the_boundary_to_one():
    labels = discs(2)
    seed = targets(labels).seed

    assert not seed[labels == 0].any()
    assert seed.min() >= 0
    tops = [seed[labels == n].max() for n in range(1, labels.max() + 1)]
    np.testing.assert_allclose(tops, 1, atol=1e-6)
    inner = np.pad(labels, 1)
    rim = (labels > 0) & ((inner[:-2, 1:-1] != labels) | (inner[2:, 1:-1] != labels))
    assert seed[rim].mean() < 0.3 < seed[(labels > 0) & ~rim].mean()


def test_nothing_counts_where_nothing_is_known():
    labels = discs(1)
    valid = np.random.default_rng(0).random(labels.shape) > 0.3
    found = targets(labels, valid=valid)

    assert not found.weight[~valid].any()
    assert (found.weight[valid] > 0).all()


def test_every_object_counts_about_alike_and_narrow_gaps_count_double():
    labels = np.zeros((80, 80), np.int32)
    labels[5:15, 5:15], labels[20:60, 30:50], labels[20:60, 50:70] = 1, 2, 3
    labels[70:78, 10:20], labels[70:78, 21:31] = 4, 5
    weight = targets(labels).weight

    assert weight[8, 8] > 2 * weight[40, 35]
    assert weight[40, 49] == weight[40, 50] == 2 * weight[40, 40]
    assert weight[74, 20] == 2 * weight[74, 15], "ground between two objects"
    assert weight[0, 70] == 1, "ground far from all"


def test_classes_are_counted_from_one():
    labels = discs(0)
    classes = (np.arange(labels.max()) % 3).astype(np.int32)
    found = targets(labels, classes)

    assert (found.classes[labels == 0] == 0).all()
    for number in range(1, labels.max() + 1):
        assert (found.classes[labels == number] == 1 + (number - 1) % 3).all()


def test_an_image_without_objects_has_targets():
    found = targets(np.zeros((40, 40), np.int32))

    assert not found.classes.any()
    assert not found.seed.any()
    assert (found.weight == 1).all()


@pytest.mark.parametrize("classes", [1, 3])
def test_the_loss_of_what_is_true_is_the_least(classes):
    labels = discs(0)
    batch = batch_of(labels, classes)
    right = perfect(batch, classes)
    generator = torch.Generator().manual_seed(0)
    worse = [total(right + e * torch.randn(right.shape, generator=generator), batch, classes) for e in (0.3, 1.0, 3.0)]

    assert total(right, batch, classes) < 1e-3
    assert worse == sorted(worse)
    assert worse[0] > 0.05


def test_the_loss_does_not_see_what_is_unknown():
    labels = discs(0)
    valid = np.ones(labels.shape, bool)
    valid[:, 80:] = False
    batch = batch_of(labels, 2, valid)
    fields = torch.randn((1, 6, *labels.shape), generator=torch.Generator().manual_seed(1))
    other = fields.clone()
    other[..., 80:] = -fields[..., 80:]

    assert total(fields, batch, 2) == total(other, batch, 2)
    other[..., :80] = -fields[..., :80]
    assert total(fields, batch, 2) != total(other, batch, 2)


@pytest.mark.parametrize("case", ["empty", "unknown"])
def test_the_loss_of_nothing_is_a_number(case):
    labels = np.zeros((64, 64), np.int32) if case == "empty" else discs(0, (64, 64), 5)
    batch = batch_of(labels, 1, np.zeros(labels.shape, bool) if case == "unknown" else None)

    assert np.isfinite(total(torch.zeros((1, 5, 64, 64)), batch, 1))

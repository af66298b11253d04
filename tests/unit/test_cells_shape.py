"""Shapes of many masks at once equal those that scikit-image measures one at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.measure import label, regionprops
from support_scenes import KINDS, random_scene

from seggeo.instances import Instances
from seggeo.output.cells_shape import centres_of, shapes_of

NAMES = {
    "area": "area_px", "solidity": "solidity", "eccentricity": "eccentricity", "axis_major_length": "major_axis",
    "axis_minor_length": "minor_axis", "perimeter_crofton": "perimeter",
}  # fmt: skip


def assert_equal_to_skimage(labels):
    shapes = shapes_of(Instances.from_labels(labels))
    for i, region in enumerate(regionprops(labels)):
        for theirs, ours in NAMES.items():
            assert getattr(shapes, ours)[i] == pytest.approx(getattr(region, theirs), abs=1e-6), (theirs, region.bbox)
        assert (shapes.row[i], shapes.col[i]) == pytest.approx(np.add(region.centroid, 0.5))


@pytest.mark.parametrize("smooth", [0, 1, 2, 4])
def test_speckles_and_blobs_with_holes_and_parts(smooth):
    noise = np.random.default_rng(smooth).random((150, 150))
    field = gaussian_filter(noise, smooth) if smooth else noise - 0.12
    assert_equal_to_skimage(label(field > 0.5, connectivity=2).astype(np.int32))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 120))
def test_any_scene(kind, seed, height, width):
    assert_equal_to_skimage(random_scene(kind, seed, (max(height, 40), max(width, 40)))[:height, :width].copy())


def test_lines_dots_and_far_parts():
    labels = np.zeros((60, 80), np.int32)
    labels[3, 4] = 1
    labels[5, 4:40] = 2
    labels[8:50, 60] = 3
    labels[10:20, 10:20] = 4
    labels[12:18, 12:18] = 0
    labels[np.arange(25, 45), np.arange(5, 25)] = 5
    labels[50, 2] = labels[58, 70] = 6
    assert_equal_to_skimage(labels)


def test_measures_come_in_units_of_the_spacing():
    labels = np.zeros((40, 40), np.int32)
    labels[5:15, 5:25] = 1
    (region,) = regionprops(labels, spacing=(0.5, 0.25))
    shapes = shapes_of(Instances.from_labels(labels), (0.5, 0.25))
    assert shapes.area[0] == pytest.approx(200 * 0.125)
    assert shapes.major_axis[0] == pytest.approx(region.axis_major_length)
    assert shapes.minor_axis[0] == pytest.approx(region.axis_minor_length)
    assert shapes.eccentricity[0] == pytest.approx(region.eccentricity)


@pytest.mark.parametrize("radius", [4.5, 6.3, 12.7, 40.2])
def test_discs_have_the_perimeter_of_discs(radius):
    offsets = np.random.default_rng(0).uniform(49, 51, (40, 2))
    y, x = np.mgrid[:100, :100]
    discs = np.concatenate([np.hypot(y - a, x - b) < radius for a, b in offsets])
    shapes = shapes_of(Instances.from_labels(label(discs).astype(np.int32)))
    assert shapes.perimeter.mean() == pytest.approx(2 * np.pi * radius, rel=0.035)
    assert shapes.circularity.min() > 0.93
    assert shapes.solidity.min() > 0.9


def test_no_masks_have_no_shapes():
    shapes = shapes_of(Instances.empty())
    assert all(len(getattr(shapes, name)) == 0 for name in shapes.__dataclass_fields__)


def test_centres_are_those_of_shapes():
    instances = Instances.from_labels(random_scene(KINDS[0], 5, (200, 300)))
    rows, cols = centres_of(instances)
    shapes = shapes_of(instances)
    assert np.allclose(rows, shapes.row)
    assert np.allclose(cols, shapes.col)


def test_a_mask_alone_measures_as_among_others():
    instances = Instances.from_labels(random_scene(KINDS[1], 9, (200, 300)))
    together = shapes_of(instances)
    for i in range(len(instances)):
        alone = shapes_of(instances.take(np.array([i])))
        for name in together.__dataclass_fields__:
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[i], rel=1e-12), name

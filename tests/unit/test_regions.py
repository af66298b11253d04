"""Regions: a partition of the valid pixels that does not depend on the tile, as far as context reaches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from contracts.segmenters import same, tile_image
from scipy import ndimage
from scipy.spatial import cKDTree

from seggeo.errors import ConfigError
from seggeo.models.regions import RegionSettings, distinctness, fuse, gradient, graph_of, load
from seggeo.protocols import ModelRequest

OVERHEAD = Path(__file__).parents[3] / "shared" / "data" / "overhead"


def segment(image, valid=None, *, inner=False, **settings):
    return load(ModelRequest(name="regions", settings=settings)).predict([tile_image(image, valid, inner=inner)])[0].instances


def paint(found, shape):
    labels = np.zeros(shape, np.int32)
    for i, ((row, col, row_stop, col_stop), mask) in enumerate(found, 1):
        labels[row:row_stop, col:col_stop][mask] = i
    return labels


def patches(size, count, *, seed, noise=0.0):
    """A Voronoi mosaic of flat colours that differ by much, and its labels from 1."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:size, :size]
    owner = cKDTree(rng.uniform(0, size, (count, 2))).query(np.stack([rows, cols], -1).reshape(-1, 2))[1].reshape(size, size)
    grid = np.array([(r, g, b) for r in (30, 110, 190) for g in (30, 110, 190) for b in (30, 110, 190)])
    colour = np.concatenate([rng.permutation(grid) for _ in range(-(-count // len(grid)))])[:count]
    image = colour[owner] + rng.normal(0, noise, (size, size, 1))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), owner + 1


def panoptic_quality(truth, found):
    """PQ of two label images, counted here: sum of IoU above 0.5 over the mean number of objects."""
    pairs, shared = np.unique(np.stack([truth.ravel(), found.ravel()]), axis=1, return_counts=True)
    areas = [dict(zip(*np.unique(labels, return_counts=True), strict=True)) for labels in (truth, found)]
    iou = [s / (areas[0][t] + areas[1][f] - s) for (t, f), s in zip(pairs.T, shared, strict=True) if t and f]
    objects = sum(len([k for k in area if k]) for area in areas) / 2
    return sum(v for v in iou if v > 0.5) / objects


@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_flat_patches_are_found_again(noise):
    image, truth = patches(240, 27, seed=1, noise=noise)
    labels = paint(segment(image), truth.shape)
    assert len(np.unique(labels)) == 27
    assert panoptic_quality(truth, labels) > 0.95


def test_every_valid_pixel_lies_in_one_region_and_regions_hang_together():
    image, truth = patches(150, 20, seed=2, noise=20)
    valid = np.hypot(*np.mgrid[-75:75, -60:90]) < 70
    found = segment(image, valid)
    labels = paint(found, truth.shape)
    assert np.array_equal(labels > 0, valid)
    assert found.area.sum() == valid.sum()
    assert found.area.min() >= RegionSettings().min_area
    for i in range(1, len(found) + 1):
        assert ndimage.label(labels == i)[1] == 1


def test_a_larger_scale_gives_fewer_regions_and_any_scale_nests_colours():
    image, _ = patches(160, 30, seed=3, noise=12)
    counts = [len(segment(image, scale=scale, min_area=0)) for scale in (2, 8, 32, 255)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 100
    assert counts[-1] == 1


def test_small_regions_join_their_most_similar_neighbour():
    image = np.full((60, 60, 3), 60, np.uint8)
    image[:, 30:] = 200
    image[25:31, 25:31] = 90  # 36 px, nearer to the left half
    labels = paint(segment(image, min_area=50), (60, 60))
    assert len(np.unique(labels)) == 2
    assert labels[27, 27] == labels[5, 5] != labels[5, 50]
    assert len(segment(image, min_area=20)) == 3


def test_an_island_under_the_limit_is_left_out_unless_the_window_cuts_it():
    image, valid = np.full((40, 40, 3), 90, np.uint8), np.zeros((40, 40), bool)
    valid[20:24, 20:24] = valid[:3, 10:13] = True
    found = segment(image, valid, min_area=30)
    assert found.box.tolist() == [[0, 10, 3, 13]]


def test_invalid_pixels_raise_no_gradient_beside_them():
    image, valid = np.full((30, 30, 3), 180, np.uint8), np.ones((30, 30), bool)
    image[:, :10], valid[:, :10] = 0, False
    assert gradient(image, valid, 1.5)[valid].max() < 0.01


def test_quiet_sides_of_a_step_meet_at_the_step():
    image = np.full((20, 40, 3), 50, np.uint8)
    image[:, 17:] = 150
    assert segment(image).box.tolist() == [[0, 0, 20, 17], [0, 17, 20, 40]]


def test_fusing_adds_up():
    image, _ = patches(90, 15, seed=4, noise=15)
    rng = np.random.default_rng(0)
    labels = np.arange(1, 82).reshape(9, 9).repeat(10, 0).repeat(10, 1).astype(np.int32)
    start = graph_of(image, labels)
    graph, region = fuse(start, RegionSettings(scale=float(rng.uniform(20, 40)), min_area=150))
    again = graph_of(image, region[labels])
    for name in ("area", "total", "squares", "a", "b", "length"):
        assert np.array_equal(getattr(graph, name), getattr(again, name)), name
    score = distinctness(graph)
    assert ((score > 0) & (score < 1)).all()


def test_a_region_that_stands_out_scores_higher():
    image = np.full((60, 60, 3), 60, np.uint8)
    image[10:30, 10:30] = 100
    image[35:55, 35:55] = 240
    image = (image + np.random.default_rng(1).normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
    found = segment(image)
    labels = paint(found, (60, 60))
    assert len(found) == 3
    faint, strong = (found.score[labels[place] - 1] for place in ((20, 20), (45, 45)))
    assert strong > faint > 0.5
    assert segment(np.full((30, 30, 3), 9, np.uint8)).score.tolist() == [1.0]


def test_the_image_moved_gives_the_regions_moved():
    image, _ = patches(200, 40, seed=5, noise=10)
    moved = segment(image[10:190, 20:180])
    assert not same(moved, segment(image[:180, :160]))
    assert agreement(image, ((0, 0), (23, 31)), side=160, margin=30) > 0.95


def agreement(image, corners, *, side, margin):
    """PQ of two windows' regions in the pixels that both see at `margin` px or more from their sides."""
    top, left = (max(c[axis] for c in corners) + margin for axis in (0, 1))
    bottom, right = (min(c[axis] for c in corners) + side - margin for axis in (0, 1))
    views = []
    for row, col in corners:
        window = np.ascontiguousarray(image[row : row + side, col : col + side])
        labels = paint(segment(window, inner=True), (side, side))
        views.append(labels[top - row : bottom - row, left - col : right - col])
    return panoptic_quality(*views)


@pytest.mark.parametrize(
    ("name", "row", "col", "floor"),
    [("banepa/banepa_north.tif", 800, 700, 0.98), ("kampala/kampala_res_z21.tif", 300, 300, 0.95)],
    ids=["banepa", "kampala"],
)
def test_real_scenes_do_not_depend_on_the_tile(name, row, col, floor):
    """Two windows of the usual size, 157 px apart, compared where both have a usual halo or more around them."""
    if not (OVERHEAD / name).exists():
        pytest.skip("needs ../shared/data/overhead, which is not in the repository")
    import rasterio

    with rasterio.open(OVERHEAD / name) as file:
        image = file.read((1, 2, 3), window=((row, row + 1181), (col, col + 1181))).transpose(1, 2, 0)
    assert agreement(image, ((0, 0), (157, 157)), side=1024, margin=128) > floor


@pytest.mark.parametrize("settings", [{"scale": -1}, {"smooth": 0}, {"compactness": 2}, {"markers": 3}, {"min_area": "big"}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError, match=r"scale=16\.0"):
        load(ModelRequest(name="regions", settings=settings))

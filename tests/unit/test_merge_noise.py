"""Merging under noise: tiling a scene costs no object and no quality beyond what the model's own noise costs."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage as ndi
from support_merge import grid_of, jittered, merge_scene
from support_scenes import oracle, paint, panoptic_quality, seam_scene

from seggeo.geometry import Window
from seggeo.tiling import PartGrid

LEGAL = [(tile, overlap) for tile in (256, 512, 1024) for overlap in (2, 16, 64, 128, 256) if overlap <= tile // 2]


def merged_seams(labels, tile, overlap, *, noise=None, exclusive=True):
    def predict(window):
        return oracle(labels, window, noise=noise)

    return merge_scene(predict, PartGrid(grid=grid_of(labels.shape, tile, overlap)), exclusive=exclusive)


def assert_clean(scene, tile, overlap):
    merged = merged_seams(scene.labels, tile, overlap)
    quality = panoptic_quality(scene.labels, paint(merged.instances, scene.labels.shape))

    assert len(merged.instances) == quality.n_truth
    assert quality.pq == 1.0
    assert merged.tally.inputs == merged.n_readings


@pytest.fixture(scope="module")
def small_scene():
    return seam_scene(0, 2048)


@pytest.mark.parametrize(("tile", "overlap"), LEGAL)
def test_a_clean_scene_is_exact_for_any_tile_and_overlap(small_scene, tile, overlap):
    assert_clean(small_scene, tile, overlap)


@pytest.mark.slow
@pytest.mark.parametrize(("tile", "overlap"), LEGAL)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_clean_large_scene_is_exact_for_any_tile_and_overlap(seed, tile, overlap):
    assert_clean(seam_scene(seed, 4096), tile, overlap)


def noisy_scores(seed, size, draws, *, exclusive):
    """PQ of `draws` tiled and as many untiled noisy readings, all drawn apart; asserts that tiling costs no object."""
    scene = seam_scene(seed, size)
    labels, count = scene.labels, len(scene.kinds) - 1
    whole = Window(row=0, col=0, height=size, width=size)
    tiled, untiled = [], []
    for draw in range(draws):
        merged = merged_seams(labels, 1024, 128, noise=np.random.default_rng([seed, draw, 1]), exclusive=exclusive)
        quality = panoptic_quality(labels, paint(merged.instances, labels.shape))
        alone = oracle(labels, whole, noise=np.random.default_rng([seed, draw, 2]))

        assert abs(len(merged.instances) - count) <= 0.006 * count
        assert quality.missed == ()
        tiled.append(quality.pq)
        untiled.append(panoptic_quality(labels, paint(alone, labels.shape)).pq)
    return tiled, untiled


def test_noise_costs_a_tiled_scene_no_object():
    """Outlines off by 1 or 2 px, cut sides short by up to 10 px."""
    scores = [noisy_scores(seed, 2048, 2, exclusive=True) for seed in (0, 1, 2)]
    tiled, untiled = (np.concatenate(column) for column in zip(*scores, strict=True))

    # One PQ of 200 objects scatters by 0.007, the difference of two means of six by 0.004: this only catches a collapse.
    assert abs(tiled.mean() - untiled.mean()) <= 0.012


@pytest.mark.slow
@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_costs_a_tiled_scene_as_much_quality_as_an_untiled_one(seed, exclusive):
    """One PQ of 900 objects scatters by 0.003, the difference of two means of twelve by 0.0012."""
    tiled, untiled = noisy_scores(seed, 4096, 12, exclusive=exclusive)

    assert abs(np.mean(tiled) - np.mean(untiled)) <= 0.005


def blobs(seed, *, apart, count):
    """`count` x `count` ellipses of radius 8 to 12.5 px on a lattice of `apart` px; below 25 they touch."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((count * apart, count * apart), np.int32)
    rows, cols = np.mgrid[:apart, :apart] + 0.5
    for i in range(count * count):
        row, col = apart * (i // count), apart * (i % count)
        down, right = (apart / 2 + rng.uniform(-1, 1, 2)).tolist()
        tall, wide = rng.uniform(8, 12.5, 2)
        inside = ((rows - down) / tall) ** 2 + ((cols - right) / wide) ** 2 <= 1
        labels[row : row + apart, col : col + apart][inside] = i + 1
    return labels


def reported_at_home(labels, grid, predict):
    """Which objects the tile that holds their centre reported, by id - 1."""
    count = int(labels.max())
    centres = np.array(ndi.center_of_mass(labels > 0, labels, np.arange(1, count + 1)))
    reported = np.zeros(count, bool)
    for tile in grid:
        truth = labels[tile.window.slices()]
        covered = np.bincount(truth[paint(predict(tile.window), truth.shape) > 0], minlength=count + 1)[1:]
        visible = np.bincount(truth.ravel(), minlength=count + 1)[1:]
        top, left, bottom, right = tile.core.bounds
        home = ((centres >= (top, left)) & (centres < (bottom, right))).all(axis=1)
        reported |= home & (covered > 0.4 * visible)
    return reported


@pytest.mark.parametrize(("apart", "exclusive"), [(30, False), (24, True)])
def test_jitter_and_misses_neither_double_nor_lose_nor_fuse_objects(apart, exclusive):
    """Outlines off by up to 2 px and 3 % of readings missing, in every tile anew; a tenth of a percent each at most."""
    objects = doubled = lost = fused = 0
    for seed in range(6):
        labels = blobs(seed, apart=apart, count=30)
        grid = grid_of(labels.shape, 256, 64)
        predict = cache(jittered(labels, seed=seed, missed=0.03, exclusive=exclusive))
        merged = merge_scene(predict, PartGrid(grid=grid), exclusive=exclusive)
        areas, found = np.bincount(labels.ravel()), []
        for box, mask in merged.instances:
            ids, shared = np.unique(labels[box[0] : box[2], box[1] : box[3]][mask], return_counts=True)
            ids, shared = ids[ids > 0], shared[ids > 0]
            found.append(ids[shared.argmax()])
            fused += int((shared > 0.5 * areas[ids]).sum() > 1)
        times = np.bincount(found, minlength=len(areas))[1:]
        objects += len(times)
        doubled += int((times > 1).sum())
        lost += int((reported_at_home(labels, grid, predict) & (times == 0)).sum())

    assert objects >= 5000
    assert max(doubled, lost, fused) <= 0.001 * objects, (doubled, lost, fused)

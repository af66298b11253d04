"""Samples: image and labels move together, sample i is sample i, and what is unknown is said to be."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage import draw
from support_train import discs, lit, one_scene, write_pair

from seggeo.geometry import Window
from seggeo.train.augment import Augmentation
from seggeo.train.examples import find_examples
from seggeo.train.sampler import Sampler, median_diameter
from seggeo.train.scene_opening import open_scenes

SIZE = 96


def sampler(scenes, seed=0, size=SIZE, **augmentation):
    return Sampler(scenes, size=size, augmentation=Augmentation(**augmentation), seed=seed)


def disc(shape, centre, radius):
    labels = np.zeros(shape, np.int32)
    labels[draw.disk(centre, radius, shape=shape)] = 1
    return labels


def equal(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("image", "labels", "classes", "valid"))


@pytest.fixture
def coded(tmp_path):
    """One band whose value says which object a pixel belongs to, and classes that say it, too."""
    labels = discs(3, (200, 230), count=24)
    values = np.where(labels > 0, 60 + labels * (150 // labels.max()), 20).astype("uint8")
    scene = one_scene(tmp_path, labels, values[None])
    count = len(scene.objects)
    named = replace(scene.objects, label=(scene.ids - 1).astype(np.int32))
    return replace(scene, objects=named, classes=tuple(f"c{i}" for i in range(count)))


@pytest.mark.parametrize("size", [64, 96, 256])
def test_image_labels_and_classes_move_together(coded, size):
    draws = sampler([coded], size=size, scale=(0.7, 1.4))
    checked = 0
    for i in range(12):
        sample = draws.draw(i)
        medians, codes = [], []
        ground = ndimage.binary_erosion(sample.labels == 0, iterations=3)
        for number, code in enumerate(sample.classes, 1):
            inner = ndimage.binary_erosion(sample.labels == number, iterations=2)
            if inner.sum() >= 20:
                medians.append(np.median(sample.image[0][inner]))
                codes.append(code)
        apart = np.subtract.outer(codes, codes) >= 5  # noise may exchange neighbours
        assert (np.subtract.outer(medians, medians)[apart] > 0).all(), f"sample {i}: brighter objects have higher classes"
        assert not medians or np.median(sample.image[0][ground]) < min(medians) + 1e-3
        checked += len(medians)
    assert checked > 60


def test_a_sample_is_the_same_in_any_order_and_from_any_thread(coded):
    first = [sampler([coded]).draw(i) for i in range(10)]
    draws = sampler([coded])
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(draws.draw, reversed(range(10))))[::-1]

    assert all(map(equal, first, again))
    assert not any(equal(a, sampler([coded], seed=1).draw(i)) for i, a in enumerate(first))
    assert not any(equal(first[0], other) for other in first[1:])


def test_without_zoom_and_free_turns_a_sample_is_a_turned_or_flipped_window(tmp_path):
    labels = discs(1, (150, 150), 30)
    scene = one_scene(tmp_path, labels)
    draws = sampler([scene], size=64, scale=(1.0, 1.0), free_rotation=0.0)
    padded = np.pad(labels, 64, mode="reflect") > 0
    windows = np.lib.stride_tricks.sliding_window_view(padded, (64, 64))[::1, ::1].reshape(-1, 64 * 64)
    known = {window.tobytes() for window in windows}
    kinds, found = set(), 0
    for i in range(24):
        mask = draws.draw(i).labels > 0
        turned = [np.rot90(m, k) for m in (mask, mask[:, ::-1]) for k in range(4)]
        kinds |= {n for n, m in enumerate(turned) if np.ascontiguousarray(m).tobytes() in known}
        found += any(np.ascontiguousarray(m).tobytes() in known for m in turned)
    assert found >= 12, "the others lack a sliver at their side"
    assert len(kinds) >= 6


def test_most_crops_hold_objects_although_most_of_the_image_does_not(tmp_path):
    scene = one_scene(tmp_path, disc((1200, 1200), (900, 200), 9))
    draws = sampler([scene], size=64)

    assert np.mean([(draws.draw(i).labels > 0).any() for i in range(60)]) > 0.6


def test_zoom_stays_in_its_range(tmp_path):
    labels = disc((240, 240), (120, 120), 12)
    scene = one_scene(tmp_path, labels)
    areas = []
    for i in range(40):
        sample = sampler([scene], size=128, scale=(0.8, 1.25)).draw(i)
        row, col = np.nonzero(sample.labels)
        if len(row) and min(row.min(), col.min()) > 0 and max(row.max(), col.max()) < 127:
            areas.append(len(row) / labels.sum())
    zoom = np.sqrt(areas)

    assert 0.78 < zoom.min() < 0.9
    assert 1.15 < zoom.max() < 1.27


def test_a_range_of_diameters_is_reached_from_an_image_of_one_size(tmp_path):
    scene = one_scene(tmp_path, disc((240, 240), (120, 120), 10))
    draws = sampler([scene], size=128, scale=(1.0, 1.0), diameter=(12.0, 40.0))
    sizes = []
    for i in range(60):
        sample = draws.draw(i)
        sizes += [2 * np.sqrt(n / np.pi) for n in np.bincount(sample.labels.ravel())[1:]]

    assert median_diameter(scene.objects) == pytest.approx(20, abs=0.5)
    assert min(sizes) < 15
    assert 33 < max(sizes) < 42


def test_crops_larger_than_the_image_are_filled_with_mirror_images(tmp_path):
    labels = np.zeros((60, 60), np.int32)
    labels[draw.disk((30, 30), 8, shape=labels.shape)] = 1
    labels[0:12, 20:34] = 2  # touches the edge: with its mirror image it is no object that exists
    draws = sampler([one_scene(tmp_path, labels)], size=160, scale=(1.0, 1.0))
    for i in range(6):
        sample = draws.draw(i)
        area = np.bincount(sample.labels.ravel())
        whole = [n for n in range(1, len(area)) if abs(area[n] - (labels == 1).sum()) < 20]

        assert sample.image.shape == (3, 160, 160)
        assert len(whole) >= 4
        assert all(sample.valid[sample.labels == n].all() for n in whole), "mirror images on their own are objects"
        twice = [n for n in range(1, len(area)) if area[n] > 1.6 * (labels == 2).sum()]
        assert twice
        assert not any(sample.valid[sample.labels == n].any() for n in twice), "fused ones are not"


def test_nothing_is_learnt_outside_a_scenes_areas(tmp_path):
    scene = one_scene(tmp_path, discs(2)).within([Window(row=0, col=0, height=160, width=64)])
    draws = sampler([scene], size=128, scale=(1.0, 1.0))
    shares = [draws.draw(i).valid.mean() for i in range(10)]

    assert max(shares) < 0.75, "64 of 128 columns are known, turned as they may be"


def test_samples_are_drawn_by_weight_and_never_hold_slivers(tmp_path):
    write_pair(tmp_path, "full", discs(0))
    write_pair(tmp_path, "empty", np.zeros((160, 192), np.int32), lit(np.zeros((160, 192), np.int32)))
    scenes = open_scenes(find_examples([tmp_path]))
    scenes = [replace(s, weight=9.0 if len(s.objects) else 1.0) for s in scenes]
    samples = [sampler(scenes, size=64).draw(i) for i in range(80)]

    assert 0.02 < np.mean([len(s.classes) == 0 for s in samples]) < 0.3
    for sample in samples:
        area = np.bincount(sample.labels.ravel(), minlength=len(sample.classes) + 1)[1:]
        assert (area >= 6).all()
        assert len(area) == len(sample.classes)
        assert sample.image.dtype == np.float32
        assert 0 <= sample.image.min() <= sample.image.max() <= 1


def test_one_pixel_wide_images_and_single_pixels_are_no_trouble(tmp_path):
    labels = np.zeros((1, 40), np.int32)
    labels[0, 5:30] = 1
    sample = sampler([one_scene(tmp_path, labels)], size=64).draw(0)

    assert sample.image.shape == (3, 64, 64)
    assert np.isfinite(sample.image).all()

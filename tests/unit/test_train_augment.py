"""Augmentation: what it may change, and what it must leave alone."""

import numpy as np
import pytest

from seggeo.train.augment import Augmentation, matrix, relight, zoom


def rngs(count, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(count)]


def tissue(seed=0):
    """Purple nuclei on pink: `(h, w, 3)`, 0 to 1, and where the nuclei are."""
    rng = np.random.default_rng(seed)
    nuclei = np.zeros((64, 64), bool)
    nuclei[10:26, 8:24] = nuclei[36:56, 34:52] = True
    image = np.where(nuclei[..., None], [0.40, 0.25, 0.55], [0.92, 0.72, 0.84]) + rng.normal(0, 0.01, (64, 64, 3))
    return np.clip(image, 0, 1).astype(np.float32), nuclei


def test_zoom_keeps_to_its_ranges():
    free = [zoom(Augmentation(scale=(0.5, 2.0)), 20.0, rng) for rng in rngs(300)]
    sized = [20 * zoom(Augmentation(scale=(1.0, 1.0), diameter=(10.0, 40.0)), 20.0, rng) for rng in rngs(300)]

    assert 0.5 <= min(free) < 0.6
    assert 1.8 < max(free) <= 2.0
    assert 10 <= min(sized) < 12
    assert 36 < max(sized) <= 40
    assert 0.1 < np.mean(np.isclose(sized, 20)) < 0.3, "one of five stays about as it is"
    near = np.abs(np.log2(np.array(sized) / 20)) < 0.5
    assert 0.7 < near.mean() < 0.9, "three of four of the others lie in the middle half of the range"
    assert all(10 * zoom(Augmentation(scale=(1.0, 1.0), diameter=(10.0, 10.0)), 10.0, rng) == 10 for rng in rngs(9))
    assert zoom(Augmentation(scale=(1.0, 1.0), diameter=(10.0, 40.0)), 0.0, rngs(1)[0]) == 1.0


def test_zoom_is_never_so_far_that_nothing_is_left_to_see():
    factors = [zoom(Augmentation(diameter=(2.0, 500.0)), 30.0, rng) for rng in rngs(200)]

    assert 0.35 <= min(factors) <= max(factors) <= 3.0


def test_a_matrix_turns_flips_and_zooms_and_does_not_shear():
    turns = set()
    for rng in rngs(60):
        found = matrix(2.0, Augmentation(free_rotation=0.0), rng)
        np.testing.assert_allclose(found @ found.T, np.eye(2) / 4, atol=1e-12)
        turns.add(tuple(np.rint(found * 2).astype(int).ravel()))
    assert len(turns) == 8, "four right angles, each with and without a flip"
    free = [matrix(1.0, Augmentation(free_rotation=1.0), rng) for rng in rngs(20)]
    assert sum(bool((np.abs(m) < 0.99).all()) for m in free) > 15


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_light_stays_within_its_range(bands):
    for rng in rngs(40):
        image = rng.random((24, 24, bands)).astype(np.float32)
        lit = relight(image, Augmentation(), rng)

        assert lit.shape == image.shape
        assert lit.dtype == np.float32
        assert 0 <= lit.min() <= lit.max() <= 1


def test_stains_vary_and_nuclei_stay_darker_than_their_ground():
    image, nuclei = tissue()
    darker, hues = [], []
    for rng in rngs(80):
        lit = relight(image, Augmentation(), rng)
        darker.append(lit[nuclei].mean() < lit[~nuclei].mean())
        hues.append(lit[nuclei].mean(axis=0) / lit[nuclei].mean())

    assert np.mean(darker) > 0.97
    assert np.std(hues, axis=0).min() > 0.05


def test_without_colour_the_order_of_values_stays():
    ramp = np.linspace(0.1, 0.9, 64, dtype=np.float32)[None, :, None] * np.ones((64, 1, 3), np.float32)
    for rng in rngs(30):
        lit = relight(ramp, Augmentation(colour=False), rng).mean(axis=(0, 2))
        assert (np.diff(lit[::8]) > -0.02).all()


def test_grey_images_stay_grey_but_for_a_tint():
    grey = np.random.default_rng(0).random((32, 32, 1)).astype(np.float32).repeat(3, axis=2)
    ratios = []
    for rng in rngs(60):
        means = relight(grey, Augmentation(), rng).mean(axis=(0, 1))
        ratios.append(means.max() - means.min())

    assert np.mean(np.array(ratios) < 0.02) > 0.7
    assert max(ratios) > 0.05


def test_light_and_dark_are_exchanged_when_asked_for():
    image, nuclei = tissue()
    lit = [relight(image, Augmentation(invert=1.0, colour=False), rng) for rng in rngs(20)]

    assert all(one[nuclei].mean() > one[~nuclei].mean() for one in lit)

"""Smoothing of noisy volumes: it is SciPy's Gaussian, in any window the same, and asked for where there is noise."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from seggeo.config import Execution, Reading, Settings
from seggeo.errors import ConfigError
from seggeo.geometry import Window
from seggeo.io.volume import open_volume
from seggeo.io.volume_smooth import MOST, Smoothing, smoothing_for
from seggeo.run.plan import make_plan

SHAPE = (12, 60, 70)
STEPS = (0.5, 0.25, 0.25)
WHOLE = Window(row=0, col=0, height=SHAPE[1], width=SHAPE[2])


def stack(path: Path, values: np.ndarray) -> str:
    sizes = dict(zip(("PhysicalSizeZ", "PhysicalSizeY", "PhysicalSizeX"), STEPS, strict=True))
    tifffile.imwrite(path, values, metadata={"axes": "ZYX", **sizes})
    return str(path)


def noise(seed: int = 0, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(dtype)


def balls(contrast: float, sigma: float) -> np.ndarray:
    """Discs of some contrast on gray ground, and noise of a standard deviation."""
    rows, cols = np.mgrid[:96, :96]
    discs = ((rows % 32 - 16) ** 2 + (cols % 32 - 16) ** 2 < 81) * contrast
    return discs + 50 + np.random.default_rng(1).normal(0, sigma, (5, 96, 96))


def shown(path: str, **reading) -> np.ndarray:
    with open_volume(path, Reading(**reading), native=False) as source:
        return np.stack([source.read(source.frame.window, z).data[..., 0] for z in range(source.frame.depth)])


def test_it_is_a_gaussian_in_the_world(tmp_path):
    values = noise()
    made = shown(stack(tmp_path / "a.ome.tif", values), smooth=1.5)

    def blurred(of):
        flat = ndimage.gaussian_filter(of.astype(float), (0, 1.5, 1.5), mode="constant", radius=(0, 5, 5))
        return ndimage.gaussian_filter1d(flat, 0.75, 0, mode="constant", radius=3)  # a slice is two pixels thick

    np.testing.assert_allclose(made, blurred(values) / blurred(np.ones(SHAPE)), rtol=2e-5)


@pytest.mark.parametrize("window", [(0, 0, 20, 70), (13, 9, 30, 31), (40, 50, 60, 70)])
def test_no_window_sees_other_values(tmp_path, window):
    path, window = stack(tmp_path / "a.ome.tif", noise()), Window.from_bounds(*window)
    with open_volume(path, Reading(smooth=2.0), native=False) as source:
        for z in (0, 5, 11):
            whole, part = (source.read(w, z).data for w in (WHOLE, window))
            np.testing.assert_array_equal(part, whole[window.slices()])


def test_what_is_no_data_weighs_nothing(tmp_path):
    values = noise(dtype="float32")
    values[4, 20:30, 20:40] = np.nan
    holes = np.where(np.isnan(values), 0, 1).astype(float)
    path = stack(tmp_path / "a.ome.tif", values)
    with open_volume(path, Reading(smooth=1.0), native=False) as source:
        pixels = source.read(WHOLE, 4)
        other = source.read(WHOLE, 5)

    np.testing.assert_array_equal(pixels.valid, holes[4] == 1)
    assert np.isfinite(pixels.data).all()
    assert np.isfinite(other.data).all()
    assert other.data.min() >= np.nanmin(values)


def test_models_of_native_values_and_measurements_get_the_files_own(tmp_path):
    values = noise()
    with open_volume(stack(tmp_path / "a.ome.tif", values), Reading(smooth=2.0), native=True) as source:
        np.testing.assert_array_equal(source.read(WHOLE, 3).data[..., 0], values[3])


def test_frames_in_time_are_not_mixed():
    assert Smoothing.of(2.0, (1.0, 1.0, 1.0), is_series=True).z == 0
    assert Smoothing.of(2.0, (1.0, 1.0, 1.0), is_series=False).z == 2
    assert Smoothing.of(1.0, (9.0, 1.0, 1.0), is_series=False).z == 0  # the next slice is too far to tell anything


@pytest.mark.parametrize(("sigma", "least", "most"), [(0.0, 0, 0), (1.0, 0, 0), (12.0, 0.5, 1.9), (60.0, MOST, MOST)])
def test_it_is_asked_for_as_far_as_there_is_noise(sigma, least, most):
    slices = [(one, np.ones(one.shape, bool)) for one in balls(100, sigma)]

    assert least <= smoothing_for(slices) <= most


def test_the_brightness_of_a_volume_is_of_no_matter():
    noisy = balls(100, 15)
    told = [smoothing_for([(one * k + b, np.ones(one.shape, bool)) for one in noisy]) for k, b in ((1, 0), (40, 7), (0.01, -3))]

    assert told[0] > 0
    assert told == [told[0]] * 3


def test_flat_and_empty_slices_say_nothing():
    nothing = np.zeros((40, 40), bool)

    assert (
        smoothing_for([(np.zeros((40, 40)), ~nothing), (np.ones((40, 40)), nothing), (np.ones((3, 3)), ~nothing[:3, :3])]) == 0
    )


def test_a_plan_takes_what_the_noise_wants_and_says_so(tmp_path):
    path = stack(tmp_path / "a.ome.tif", balls(100, 25).clip(0, 255).astype("uint8"))
    plan = make_plan(path, Settings(model="threshold"), Execution())
    plain = make_plan(path, Settings(model="threshold", reading=Reading(smooth=0.0)), Execution())
    kept = make_plan(path, Settings(model="threshold", reading=Reading(stretch="none")), Execution())

    assert plan.settings.reading.smooth == plan.job.reading["smooth"] > 0.5
    assert plain.job.tile_key != plan.job.tile_key
    assert plain.overview.data.dtype == kept.overview.data.dtype == np.uint8
    assert plan.overview.data.dtype == np.float32


def test_smoothing_that_a_model_would_not_see_is_refused(tmp_path):
    path = stack(tmp_path / "a.ome.tif", balls(100, 25).clip(0, 255).astype("uint8"))
    (tmp_path / "own.py").write_text("class Own:\n    native = True\n\n    def predict(self, tiles):\n        return []\n")
    model = f"{tmp_path / 'own.py'}:Own"

    assert make_plan(path, Settings(model=model), Execution()).job.reading["smooth"] == 0
    with pytest.raises(ConfigError, match="--smooth 1"):
        make_plan(path, Settings(model=model, reading=Reading(smooth=1.0)), Execution())

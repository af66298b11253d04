"""From the file's values to 8 bits: limits from valid pixels, the same at every place."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from support_io import noise

from seggeo.errors import ConfigError
from seggeo.io import Stretch, apply_stretch, fit_stretch
from seggeo.protocols import Pixels

DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]


def pixels(dtype: str = "uint16", bands: int = 3, seed: int = 1) -> Pixels:
    data = noise((bands, 60, 70), dtype, seed).transpose(1, 2, 0)
    return Pixels(data=data, valid=noise((60, 70), seed=9) > 60)


def reference(stretch: Stretch, sample: Pixels) -> np.ndarray:
    """The formula in double precision, before rounding."""
    low, high = np.array(stretch.low), np.array(stretch.high)
    values = np.clip((sample.data.astype(np.float64) - low) * (255 / (high - low)), 0, 255)
    return np.where(sample.valid[..., None], values, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", ["percent:2,98", "minmax", "percent:0.5,60"])
def test_stretch_is_linear_between_the_percentiles_of_valid_pixels(dtype: str, spec: str):
    sample = pixels(dtype)
    stretch = fit_stretch(sample, spec)
    limits = {"percent:2,98": (2, 98), "minmax": (0, 100), "percent:0.5,60": (0.5, 60)}[spec]
    truth = np.percentile(sample.data[sample.valid].astype(np.float64), limits, axis=0)
    np.testing.assert_allclose([stretch.low, stretch.high], truth)
    got = apply_stretch(stretch, sample)
    assert got.dtype == np.uint8
    assert got.shape == sample.data.shape
    assert np.abs(got - reference(stretch, sample)).max() <= 0.501
    assert not got[~sample.valid].any()


def test_invalid_pixels_do_not_move_the_limits():
    sample = pixels("float32")
    clean = fit_stretch(sample, "percent:2,98")
    sample.data[~sample.valid] = np.nan
    assert fit_stretch(sample, "percent:2,98") == clean
    sample.data[~sample.valid] = np.finfo(np.float32).min
    assert fit_stretch(sample, "percent:2,98") == clean
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply_stretch(clean, sample)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32"])
def test_a_pixel_depends_on_its_value_only(dtype: str):
    sample = pixels(dtype)
    stretch = fit_stretch(sample, "auto")
    full = apply_stretch(stretch, sample)
    part = Pixels(data=np.ascontiguousarray(sample.data[7:31, 5:66]), valid=sample.valid[7:31, 5:66])
    np.testing.assert_array_equal(apply_stretch(stretch, part), full[7:31, 5:66])


def test_auto_leaves_8_bits_alone():
    sample = pixels("uint8")
    stretch = fit_stretch(sample, "auto")
    assert stretch.kind == "none"
    np.testing.assert_array_equal(apply_stretch(stretch, sample), sample.data * sample.valid[..., None])
    assert fit_stretch(pixels("uint16"), "auto") == fit_stretch(pixels("uint16"), "percent:2,98")


def test_given_limits_are_taken_as_they_are():
    stretch = fit_stretch(pixels("int16"), "-100,300.5")
    assert stretch == Stretch(kind="linear", low=(-100.0,) * 3, high=(300.5,) * 3)
    values = np.array([-32768, -100, 100, 300, 301, 32767], np.int16)
    sample = Pixels(data=values[None, :, None].repeat(3, 2), valid=np.ones((1, 6), bool))
    assert apply_stretch(stretch, sample)[0, :, 0].tolist() == [0, 0, 127, 255, 255, 255]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_constant_bands_do_not_divide_by_zero(dtype: str):
    sample = Pixels(data=np.full((4, 4, 3), 7, dtype), valid=np.ones((4, 4), bool))
    stretch = fit_stretch(sample, "minmax")
    assert not apply_stretch(stretch, sample).any()
    brighter = Pixels(data=sample.data + sample.data.dtype.type(1), valid=sample.valid)
    assert (apply_stretch(stretch, brighter) == 255).all()


def test_a_scene_without_data_still_has_a_stretch():
    sample = Pixels(data=np.zeros((4, 4, 3), np.float32), valid=np.zeros((4, 4), bool))
    assert not apply_stretch(fit_stretch(sample, "auto"), sample).any()


def test_json_keeps_every_bit():
    stretch = fit_stretch(pixels("float64"), "percent:1,99")
    assert Stretch.from_json(json.loads(json.dumps(stretch.to_json()))) == stretch


@pytest.mark.parametrize(
    "spec", ["", "best", "percent:98,2", "percent:2", "percent:-1,50", "5,5", "9,1", "1,2,3", "nan,1", "percent:a,b"]
)
def test_specs_that_mean_nothing_are_refused(spec: str):
    with pytest.raises(ConfigError) as refusal:
        fit_stretch(pixels(), spec)
    assert "\n" not in refusal.value.what


def test_none_needs_8_bits():
    with pytest.raises(ConfigError, match="uint16"):
        fit_stretch(pixels("uint16"), "none")


def test_a_stretch_for_other_bands_is_refused():
    with pytest.raises(ConfigError):
        apply_stretch(fit_stretch(pixels(bands=3), "auto"), pixels(bands=1))
    with pytest.raises(ConfigError):
        Stretch(kind="linear", low=(1.0, 2.0), high=(3.0,))

"""The work grid: its place in the world, its GSD, and pixels that do not depend on the window that reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.transform import xy
from support_io import SHARED, UTM, needs_shared, noise, open_native, open_rgb, random_windows, whole, write

from seggeo.errors import ConfigError
from seggeo.geometry import Window
from seggeo.io import overview as overview_module
from seggeo.io.resample import axis_taps

TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
SCALES = [0.37, 0.5, 0.9, 1.3, 2.0, 3.7, 9.1]


def scene(path: Path, **options: Any) -> str:
    data = noise((3, 300, 410))
    return write(path, data, **(TILED | options))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("options", [{}, {"overviews": [2, 4]}, {"nodata": 0}], ids=["plain", "overviews", "nodata"])
def test_pixels_do_not_depend_on_the_window(
    tmp_path: Path, scale: float, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("seggeo.io.resample._CHUNK", 64)
    path = write(tmp_path / "a.tif", noise((3, 300, 410)) % 5 * np.uint8(50), **TILED, **options)
    with open_rgb(path, gsd=0.5 * scale) as source:
        data, valid = whole(source)
    for window in random_windows(*valid.shape, 8):
        with open_rgb(path, gsd=0.5 * scale) as source:
            pixels = source.read(window)
        np.testing.assert_array_equal(pixels.data.transpose(2, 0, 1), data[:, *window.slices()])
        np.testing.assert_array_equal(pixels.valid, valid[window.slices()])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_whole_factors_are_means_of_squares(tmp_path: Path, dtype: str, factor: int):
    data = noise((2, 60, 90), dtype)
    with open_native(write(tmp_path / "a.tif", data), gsd=0.5 * factor) as source:
        got, valid = whole(source)
    means = data.reshape(2, 60 // factor, factor, 90 // factor, factor).astype(np.float64).mean(axis=(2, 4))
    assert valid.all()
    if dtype.startswith("u"):
        np.testing.assert_array_equal(got, np.rint(means))
    else:
        assert np.abs(got - means).max() <= 1e-3


def test_means_of_the_largest_values_do_not_wrap(tmp_path: Path):
    data = np.full((1, 600, 600), 65535, np.uint16)
    with open_native(write(tmp_path / "a.tif", data), gsd=0.5 * 300) as source:
        assert (whole(source)[0] == 65535).all()
    with open_native(write(tmp_path / "b.tif", data[:, :512, :512]), gsd=0.5 * 256) as source:
        assert (whole(source)[0] == 65535).all()


def test_other_factors_are_gdals_average(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 300, 410)))
    with open_rgb(path, gsd=0.5 * 410 / 164) as source, rasterio.open(path) as ds:
        ours = whole(source)[0].astype(int)
        theirs = ds.read(out_shape=(3, 120, 164), resampling=Resampling.average)
    assert np.abs(ours - theirs).max() <= 1


def test_overviews_are_used(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 300, 400)), overviews=[2, 4])
    with rasterio.open(path, overview_level=1) as small:
        quarter = small.read()
    with open_rgb(path, gsd=2.0) as source:
        np.testing.assert_array_equal(whole(source)[0], quarter)
        assert source.frame.level == 2
    with open_rgb(path, gsd=1.9) as source:
        assert source.frame.level == 1


def test_upsampling_interpolates_between_centres(tmp_path: Path):
    ramp = np.add.outer(np.arange(40) * 4, np.arange(50) * 2).astype(np.float32)[None]
    with open_native(write(tmp_path / "a.tif", ramp), gsd=0.125) as source:
        got, valid = whole(source)
    rows, cols = (np.arange(160) + 0.5) / 4 - 0.5, (np.arange(200) + 0.5) / 4 - 0.5
    expected = np.add.outer(rows.clip(0, 39) * 4, cols.clip(0, 49) * 2)
    assert valid.all()
    np.testing.assert_allclose(got[0], expected, atol=1e-4)


@pytest.mark.parametrize("scale", SCALES)
def test_weights_partition_the_source(scale: float):
    size = 97
    count = int(np.ceil(size / scale - 1e-9))
    weights, first, last = axis_taps(0, count, step=scale, size=size)
    dense = weights.toarray()
    np.testing.assert_allclose(dense.sum(axis=1), 1)
    assert (first, last) == (0, size)
    if scale >= 1:
        area = np.minimum((np.arange(count) + 1) * scale, size) - np.arange(count) * scale
        np.testing.assert_allclose((dense * area[:, None]).sum(axis=0), 1)
    for start in (0, count // 3, count - 1):
        part, begin, end = axis_taps(start, min(start + 5, count), step=scale, size=size)
        np.testing.assert_array_equal(part.toarray(), dense[start : start + 5, begin:end])


def test_nodata_does_not_bleed(tmp_path: Path):
    data = np.full((1, 80, 80), 100, np.uint8)
    data[:, :, 41:] = 0
    with open_native(write(tmp_path / "a.tif", data, nodata=0), gsd=2.0) as source:
        got, valid = whole(source)
    assert set(np.unique(got[0][valid])) == {100}
    np.testing.assert_array_equal(valid[0], np.arange(20) < 10)


def test_frame_of_another_gsd(tmp_path: Path):
    with open_rgb(scene(tmp_path / "a.tif"), gsd=1.25) as source:
        frame = source.frame
    assert (frame.height, frame.width) == (120, 164)
    assert tuple(frame.transform)[:6] == (1.25, 0, 500000, 0, -1.25, 5200000)
    assert frame.scale == pytest.approx(2.5)
    assert frame.spacing == pytest.approx((1, 1.25, 1.25))
    assert frame.unit == "m"


def test_the_files_own_gsd_changes_nothing(tmp_path: Path):
    with open_rgb(scene(tmp_path / "a.tif"), gsd=0.5) as source, open_rgb(scene(tmp_path / "b.tif")) as plain:
        assert source.frame == plain.frame
        np.testing.assert_array_equal(whole(source)[0], whole(plain)[0])


COS, SIN = np.cos(np.pi / 6), np.sin(np.pi / 6)
TRANSFORMS = {
    "rotated": Affine(0.5 * COS, 0.5 * SIN, 500000, 0.5 * SIN, -0.5 * COS, 5200000),
    "south-up": Affine(0.5, 0, 500000, 0, 0.5, 5200000),
    "sheared": Affine(0.5, 0.1, 500000, 0.2, -0.4, 5200000),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_any_transform_is_kept_in_full(tmp_path: Path, name: str):
    transform = TRANSFORMS[name]
    path = write(tmp_path / "a.tif", noise((3, 60, 80)), transform=transform)
    with open_rgb(path) as source, rasterio.open(path) as ds:
        x, y = source.frame.pixel_to_world(10.5, 20.5)
        assert (x, y) == pytest.approx(xy(ds.transform, 10, 20), abs=1e-6)
        row, col = source.frame.world_to_pixel(x, y)
        assert (row, col) == pytest.approx((10.5, 20.5), abs=1e-6)
    if name != "sheared":
        with open_rgb(path, gsd=1.0) as source:
            assert source.frame.scale == pytest.approx(2)
            assert source.frame.pixel_to_world(0, 0) == pytest.approx((500000, 5200000))
            assert source.frame.pixel_to_world(5, 10) == pytest.approx(_at(transform, 10, 20))


def _at(t: Affine, row: float, col: float) -> tuple[float, float]:
    return t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f


def test_no_georeference_means_pixels(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 60, 80)), geo=False)
    with open_rgb(path) as source:
        assert source.frame.crs is None
        assert source.frame.unit == "px"
        assert source.frame.transform == Affine.identity()
        assert source.describe()["georeference"] == "none"
    with pytest.raises(ConfigError):
        open_rgb(path, gsd=1.0)


def test_transform_without_crs_is_kept(tmp_path: Path):
    with open_rgb(write(tmp_path / "a.tif", noise((3, 60, 80)), crs=None), gsd=1.0) as source:
        assert (source.frame.crs, source.frame.unit, source.frame.height) == (None, "px", 30)


def test_metres_of_web_mercator_are_metres_on_the_ground(tmp_path: Path):
    """At 60 degrees north a Mercator metre is half a metre."""
    y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(10, 60)[1]
    path = write(tmp_path / "a.tif", noise((3, 100, 100)), crs="EPSG:3857", transform=Affine(1, 0, 1e6, 0, -1, y + 50))
    with open_rgb(path) as source:
        assert source.frame.spacing[1:] == pytest.approx((0.5, 0.5), rel=5e-3)
    with open_rgb(path, gsd=2.0) as source:
        assert source.frame.scale == pytest.approx(4, rel=5e-3)


def test_metres_of_degrees_are_taken_at_the_centre_row(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 200, 200)), crs="EPSG:4326", transform=Affine(1e-5, 0, 10, 0, -1e-5, 60.001))
    with open_rgb(path, gsd=2.228) as source:
        row, col = -source.frame.transform.e / 1e-5, source.frame.transform.a / 1e-5
        assert row == pytest.approx(2.0, rel=2e-3)
        assert col == pytest.approx(4.0, rel=1e-2)
        assert source.frame.spacing[1:] == pytest.approx((2.228, 2.228), rel=1e-6)


def test_feet_are_not_metres(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 100, 100)), crs="EPSG:2263", transform=Affine(0.5, 0, 1e6, 0, -0.5, 2e5))
    with open_rgb(path, gsd=0.3048) as source:
        assert source.frame.scale == pytest.approx(2, rel=1e-4)


@needs_shared
def test_ground_gsd_of_a_real_scene():
    with open_rgb(str(SHARED / "banepa" / "banepa_north.tif")) as source:
        assert source.frame.spacing[1:] == pytest.approx((0.132, 0.132), abs=5e-4)


def test_overview_is_the_mean_of_squares(tmp_path: Path):
    data = noise((3, 300, 400))
    with open_rgb(write(tmp_path / "a.tif", data)) as source:
        small, frame = source.overview(100), source.overview_frame(100)
        assert np.array_equal(source.overview(400).data.transpose(2, 0, 1), data)
    means = data.reshape(3, 75, 4, 100, 4).astype(float).mean(axis=(2, 4))
    assert np.abs(small.data.transpose(2, 0, 1) - means).max() <= 0.501
    assert small.valid.all()
    assert (frame.height, frame.width, frame.scale) == (75, 100, 4)
    assert frame.transform.a == 2.0


@pytest.mark.parametrize("options", [TILED, {"blockysize": 5}])
def test_overview_of_a_file_too_large_to_decode_samples_blocks(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    data = noise((3, 600, 800)) | 1
    data[:, :, :200] = 0
    path = write(tmp_path / "a.tif", data, nodata=0, **options)
    monkeypatch.setattr(overview_module, "MAX_DECODED", 200_000)
    with open_rgb(path) as source:
        first, again = source.overview(200), source.overview(200)
    np.testing.assert_array_equal(first.data, again.data)
    assert first.data.shape == (150, 200, 3)
    assert 0.1 < first.valid.mean() < 0.7
    assert not first.valid[:, :50].any()
    nearest = data[:, 2::4, 2::4].transpose(1, 2, 0)
    np.testing.assert_array_equal(first.data[first.valid], nearest[first.valid])


def test_overview_of_a_nearly_empty_scene_is_cheap(tmp_path: Path):
    path = tmp_path / "a.tif"
    shape = {"height": 40000, "width": 40000, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": UTM}
    with rasterio.open(path, "w", driver="GTiff", SPARSE_OK=True, tiled=True, compress="deflate", **shape) as out:
        out.write(noise((3, 256, 256)), window=rasterio.windows.Window(256, 512, 256, 256))
    with open_rgb(str(path)) as source:
        small = source.overview(500)
        assert 4 <= small.valid.sum() <= 25
        assert source.is_empty(Window(row=1024, col=0, height=1024, width=40000))

"""What counts as data: nodata, alpha, masks, NaN and blocks that were never written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from support_io import SHARED, UTM, needs_shared, noise, open_native, open_rgb, random_windows, rival, whole, write

from seggeo.geometry import Window

TILED = {"tiled": True, "blockxsize": 32, "blockysize": 32}


def assert_valid_equals_rasterio(path: str) -> None:
    with open_native(path) as source:
        for window in random_windows(*source.frame.window.shape, 6):
            np.testing.assert_array_equal(source.read(window).valid, rival(path, window)[1])
        assert not whole(source)[1].all()


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 0), ("int16", -5), ("uint16", 65535), ("float32", np.nan), ("float32", 3.0), ("float64", 3.0), ("int64", 3)],
)
def test_nodata_is_the_dataset_mask(tmp_path: Path, dtype: str, nodata: float):
    data = noise((2, 70, 80), dtype)
    data[:, 10:30, 20:60] = nodata
    data[0, 50:60] = nodata if np.isfinite(nodata) else 1
    assert_valid_equals_rasterio(write(tmp_path / "a.tif", data, nodata=nodata, **TILED))


def test_nodata_of_each_band_leaves_a_pixel_that_any_band_saw(tmp_path: Path):
    data = noise((3, 40, 40)) | 1
    data[0, :20] = 0
    data[1, :10] = 0
    data[2, :10] = 0
    path = write(tmp_path / "a.tif", data, nodata=0)
    with open_rgb(path) as source:
        np.testing.assert_array_equal(whole(source)[1], np.arange(40)[:, None].repeat(40, 1) >= 10)
    with open_rgb(path, bands=(1,)) as source:
        np.testing.assert_array_equal(whole(source)[1], np.arange(40)[:, None].repeat(40, 1) >= 20)


def test_the_nodata_setting_replaces_the_files_own(tmp_path: Path):
    data = noise((1, 40, 40)) % 4
    with open_native(write(tmp_path / "a.tif", data, nodata=0), nodata=2.0) as source:
        np.testing.assert_array_equal(whole(source)[1], data[0] != 2)
    with open_native(write(tmp_path / "b.tif", data), nodata=3.5) as source:
        assert whole(source)[1].all()


def test_the_nodata_setting_narrows_a_mask(tmp_path: Path):
    data, mask = noise((1, 40, 40)) % 4, (noise((40, 40), seed=3) > 99) * np.uint8(255)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "a.tif", data, mask=mask)
    with open_native(path, nodata=2.0) as source:
        np.testing.assert_array_equal(whole(source)[1], (data[0] != 2) & (mask != 0))


@pytest.mark.parametrize("internal", [True, False])
def test_masks_inside_and_beside_the_file(tmp_path: Path, internal: bool):
    mask = (noise((70, 80), seed=3) > 99) * np.uint8(255)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write(tmp_path / "a.tif", noise((3, 70, 80)), mask=mask, **TILED)
    assert (tmp_path / "a.tif.msk").exists() is not internal
    assert_valid_equals_rasterio(path)
    with open_rgb(path) as source:
        assert source.describe()["mask"] == "mask"


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "WEBP"])
def test_alpha_is_the_mask_and_not_data(tmp_path: Path, driver: str):
    data = noise((4, 60, 70))
    data[3] = (data[3] > 80) * np.uint8(200)
    options = {"photometric": "rgb", "alpha": "yes"} if driver == "GTiff" else {"geo": False}
    if driver == "WEBP":
        options["lossless"] = True
    path = write(tmp_path / "a", data, driver=driver, **options)
    for opener in (open_native, open_rgb):
        with opener(path) as source:
            got, valid = whole(source)
            assert got.shape[0] == 3
            np.testing.assert_array_equal(valid, data[3] > 0)
            np.testing.assert_array_equal(got[:, valid], data[:3, valid])


def test_gray_with_alpha(tmp_path: Path):
    data = noise((2, 30, 30))
    path = write(tmp_path / "a.tif", data, photometric="minisblack", colorinterp=[ColorInterp.gray, ColorInterp.alpha])
    with open_rgb(path) as source:
        got, valid = whole(source)
        np.testing.assert_array_equal(got, data[[0, 0, 0]])
        np.testing.assert_array_equal(valid, data[1] != 0)


def test_no_pixel_with_nan_or_infinity_in_a_band_that_is_read(tmp_path: Path):
    data = noise((3, 40, 40), "float32")
    data[0, 3], data[1, 5], data[2, 7, 9] = np.nan, np.inf, -np.inf
    path = write(tmp_path / "a.tif", data)
    with open_rgb(path) as source:
        np.testing.assert_array_equal(whole(source)[1], np.isfinite(data).all(axis=0))
    with open_rgb(path, bands=(2,)) as source:
        np.testing.assert_array_equal(whole(source)[1], np.isfinite(data[1]))


@pytest.mark.parametrize("layout", [{"interleave": "pixel"}, {"interleave": "band"}])
def test_blocks_that_were_never_written_are_not_data(tmp_path: Path, layout: dict[str, str]):
    path = tmp_path / "a.tif"
    patch = noise((3, 32, 64))
    shape = {"height": 150, "width": 200, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": UTM}
    with rasterio.open(path, "w", driver="GTiff", SPARSE_OK=True, **shape, **TILED, **layout) as out:
        out.write(patch, window=rasterio.windows.Window(64, 32, 64, 32))
    written = np.zeros((150, 200), bool)
    written[32:64, 64:128] = True
    with open_rgb(str(path)) as source:
        data, valid = whole(source)
        np.testing.assert_array_equal(valid, written)
        np.testing.assert_array_equal(data[:, 32:64, 64:128], patch)
        assert source.describe()["sparse_blocks"] == 33
        for window in random_windows(150, 200, 30):
            assert not (source.is_empty(window) and written[window.slices()].any())
            np.testing.assert_array_equal(source.read(window).valid, written[window.slices()])
        assert source.is_empty(Window(row=64, col=0, height=86, width=200))
        assert not source.is_empty(Window(row=63, col=100, height=2, width=2))


def test_a_black_block_that_was_written_is_data(tmp_path: Path):
    path = write(tmp_path / "a.tif", np.zeros((3, 64, 64), np.uint8), compress="deflate", **TILED)
    with open_rgb(path) as source:
        assert whole(source)[1].all()
        assert not source.is_empty(source.frame.window)


@needs_shared
def test_nodata_of_a_real_scene():
    path = str(SHARED / "landsat" / "RGB.byte.tif")
    with open_rgb(path) as source:
        np.testing.assert_array_equal(whole(source)[1], rival(path, source.frame.window)[1])
        assert source.describe()["mask"] == "nodata"


@pytest.mark.parametrize("gsd", [0.3, 0.9, 1.0, 2.3])
@pytest.mark.parametrize("overviews", [None, [2, 4]])
def test_unwritten_blocks_at_another_gsd(tmp_path: Path, gsd: float, overviews: list[int] | None):
    path = tmp_path / "a.tif"
    shape = {"height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": UTM}
    with rasterio.open(path, "w", driver="GTiff", SPARSE_OK=True, **shape, **TILED) as out:
        out.write(np.full((3, 96, 96), 77, np.uint8), window=rasterio.windows.Window(64, 32, 96, 96))
        if overviews:
            out.build_overviews(overviews, rasterio.enums.Resampling.nearest)
    with open_rgb(str(path), gsd=gsd) as source:
        frame = source.frame
        rows, cols = (np.arange(frame.height) + 0.5) * gsd / 0.5, (np.arange(frame.width) + 0.5) * gsd / 0.5
        inside = np.outer((rows > 32) & (rows < 128), (cols > 64) & (cols < 160))
        data, valid = whole(source)
        assert (valid != inside).sum() <= 2 * 4 * 96 * 0.5 / gsd
        assert (np.abs(data[:, valid & inside].astype(int) - 77) <= 1).mean() > 0.9
        for window in random_windows(frame.height, frame.width, 25):
            assert not (source.is_empty(window) and valid[window.slices()].any())
        assert source.is_empty(Window(row=frame.height // 2, col=0, height=frame.height // 2, width=frame.width))

"""Rasters for the tests of reading: written by rasterio, read back by it as the rival."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow

from seggeo.config import Reading
from seggeo.geometry import Window
from seggeo.io import RasterSource, open_raster

SHARED = Path(__file__).parents[2] / "shared" / "data" / "overhead"
UTM = Affine(0.5, 0, 500000, 0, -0.5, 5200000)
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")


def noise(shape: tuple[int, ...], dtype: str = "uint8", seed: int = 1) -> NDArray[Any]:
    """Random values over the range of a dtype (of about +-1000 for floats)."""
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return (rng.standard_normal(shape) * 1000).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def write(path: Path, data: NDArray[Any], *, geo: bool = True, driver: str = "GTiff", **options: Any) -> str:
    """Write `(bands, h, w)` and return the path as text; UTM 33N unless told otherwise."""
    profile: dict[str, Any] = {
        "count": data.shape[0],
        "height": data.shape[1],
        "width": data.shape[2],
        "dtype": data.dtype.name,
    }
    position = {"crs": "EPSG:32633", "transform": UTM} if geo else {}
    mask, interp, overviews = options.pop("mask", None), options.pop("colorinterp", None), options.pop("overviews", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, **(profile | position | options)) as out:
            if interp:
                out.colorinterp = interp
            out.write(data)
            if mask is not None:
                out.write_mask(mask)
            if overviews:
                out.build_overviews(overviews, rasterio.enums.Resampling.average)
    return str(path)


def open_native(path: str, **reading: Any) -> RasterSource:
    return open_raster(path, Reading(**reading), native=True)


def open_rgb(path: str, **reading: Any) -> RasterSource:
    return open_raster(path, Reading(**reading), native=False)


def whole(source: RasterSource) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """All pixels, band first, and valid."""
    pixels = source.read(source.frame.window)
    return pixels.data.transpose(2, 0, 1), pixels.valid


def rival(path: str, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What rasterio reads in a window, band first, and its dataset mask."""
    box = RasterWindow(window.col, window.row, window.width, window.height)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as ds:
            return ds.read(window=box), ds.dataset_mask(window=box) != 0


def random_windows(height: int, width: int, count: int, seed: int = 2) -> list[Window]:
    """Windows of any size and place, single rows, columns and pixels included."""
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(count):
        rows, cols = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
        row, col = min(int(rows[0]), height - 1), min(int(cols[0]), width - 1)
        windows.append(Window.from_bounds(row, col, max(int(rows[1]), row + 1), max(int(cols[1]), col + 1)))
    return windows

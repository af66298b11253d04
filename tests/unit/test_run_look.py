"""The first look at an image: what models see of it before any tile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support_flow import UTM
from support_io import write

from seggeo.config import Reading
from seggeo.geometry import Window
from seggeo.io import apply_stretch, fit_stretch, open_raster
from seggeo.run.look import SceneLook, candidates


@contextmanager
def look(folder: Path, image: np.ndarray, *, native: bool = False, **options: Any) -> Iterator[SceneLook]:
    """A look at an array on disk."""
    write(folder / "a.tif", image.transpose(2, 0, 1), transform=UTM, **options)
    with open_raster(str(folder / "a.tif"), Reading(), native=native) as source:
        yield SceneLook(source, None if native else fit_stretch(source.overview(2048), "auto"))


def noise(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(5).integers(1, 200, (height, width, bands)).astype(dtype)


def test_windows_are_the_images_own_pixels_apart_and_always_the_same(tmp_path: Path):
    image = noise(260, 400)
    with look(tmp_path, image) as seen:
        found = seen.windows(64, 6)
        again = seen.windows(64, 6)

    assert [tile.extent for tile in found] == [tile.extent for tile in again]
    assert len({tile.extent for tile in found}) == 6
    for i, tile in enumerate(found):
        assert tile.extent.shape == (64, 64)
        assert np.array_equal(tile.image, image[tile.extent.slices()])
        assert not any(tile.extent.intersect(other.extent) for other in found[:i])


def test_windows_are_spread_from_the_middle_to_the_corners(tmp_path: Path):
    with look(tmp_path, noise(320, 320)) as seen:
        places = [(t.extent.row, t.extent.col) for t in seen.windows(64, 5)]

    assert places[0] == (128, 128)
    assert set(places[1:]) == {(0, 0), (0, 256), (256, 0), (256, 256)}


def test_windows_lie_where_data_is_and_more_than_ground(tmp_path: Path):
    image = noise(300, 600)
    image[:, 200:400] = 120
    image[:, 400:] = 0
    with look(tmp_path, image, nodata=0) as seen:
        found = seen.windows(50, 100)

    assert len(found) == 4 * 6
    assert all(tile.extent.col_stop <= 200 for tile in found)
    assert all(tile.valid.all() for tile in found)


def test_plain_ground_alone_is_looked_at_all_the_same(tmp_path: Path):
    with look(tmp_path, np.full((200, 200, 3), 7, np.uint8)) as seen:
        assert len(seen.windows(50, 100)) == 16


def test_nothing_valid_gives_no_window(tmp_path: Path):
    with look(tmp_path, np.zeros((80, 80, 3), np.uint8), nodata=0) as seen:
        assert seen.windows(32, 4) == []
        assert not seen.overview.valid.any()


def test_a_small_image_is_one_window(tmp_path: Path):
    with look(tmp_path, noise(40, 70)) as seen:
        (only,) = seen.windows(256, 4)

    assert only.extent == Window(row=0, col=0, height=40, width=70)


@pytest.mark.parametrize("native", [False, True])
def test_pixels_are_stretched_or_native_as_the_model_wants(tmp_path: Path, native: bool):
    image = noise(90, 90, bands=3, dtype="uint16") * 40
    with look(tmp_path, image, native=native) as seen:
        (tile,) = seen.windows(90, 1)
        overview = seen.overview
        with open_raster(str(tmp_path / "a.tif"), Reading(), native=native) as source:
            pixels = source.read(source.frame.window)
        wanted = pixels.data if native else apply_stretch(fit_stretch(pixels, "auto"), pixels)

    assert tile.image.dtype == overview.image.dtype == (np.uint16 if native else np.uint8)
    assert np.array_equal(tile.image, wanted)
    assert np.array_equal(overview.image, wanted)
    assert seen.frame.window.shape == (90, 90)
    assert len(seen.bands) == 3


def test_the_lattice_of_a_gigapixel_is_small_and_reaches_its_ends():
    whole = Window(row=0, col=0, height=40_000, width=1_000_000)

    windows = candidates(whole, 512)

    assert len(windows) == 64 * 64
    assert (windows[0].row, windows[0].col) == (0, 0)
    assert (windows[-1].row_stop, windows[-1].col_stop) == (40_000, 1_000_000)

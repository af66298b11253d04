"""Windows that fit the image."""

from __future__ import annotations

import pytest

from seggeo.run.plan import fitted
from seggeo.tiling import TileGrid

TILE, OVERLAP = 2048, 64


@pytest.mark.parametrize("height", [2048, 2100, 2500, 3000, 4096, 5000, 9999, 40000])
@pytest.mark.parametrize("width", [2100, 4096, 20000])
def test_fitted_windows_predict_few_pixels_twice(height, width):
    tile = fitted(TILE, OVERLAP, (height, width))
    grid = TileGrid(height=height, width=width, tile=tile, halo=OVERLAP // 2)
    plain = TileGrid(height=height, width=width, tile=TILE, halo=OVERLAP // 2)

    assert TILE // 2 <= tile <= 1.3 * TILE
    assert len(grid) * tile**2 <= 1.7 * height * width
    assert len(grid) * tile**2 <= 1.05 * len(plain) * TILE**2


def test_a_small_image_is_one_window():
    assert fitted(TILE, OVERLAP, (520, 696)) == 696


@pytest.mark.parametrize("shape", [(50, 50), (127, 20), (10, 300)])
def test_an_image_smaller_than_two_overlaps_still_has_a_grid(shape):
    tile = fitted(TILE, OVERLAP, shape)

    grid = TileGrid(height=shape[0], width=shape[1], tile=tile, halo=OVERLAP // 2)
    assert 1 <= len(grid) <= 2

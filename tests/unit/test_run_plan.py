"""Windows that fit the image."""

from __future__ import annotations

import pytest

from seggeo.config import Tiling
from seggeo.errors import ModelError
from seggeo.protocols import ModelInfo
from seggeo.run.plan import fitted, tile_and_overlap
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


@pytest.mark.parametrize("wish", [{"tile": -5}, {"tile": 8}, {"tile": 0}, {"overlap": -2}, {"overlap": 1}], ids=str)
@pytest.mark.parametrize("tiling", [Tiling(), Tiling(tile=64, overlap=16)], ids=str)
def test_what_a_model_asks_for_obeys_the_limits_of_the_options(wish, tiling):
    with pytest.raises(ModelError, match="Mine asks for") as caught:
        tile_and_overlap(tiling, ModelInfo(name="Mine", **wish))

    assert "attributes tile and overlap of Mine" in caught.value.mend
    assert tile_and_overlap(tiling, ModelInfo(name="Mine", tile=64, overlap=16)) == (64, 16)

"""The bundled U-Nets through the whole command: a tile's size changes no object."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

import seggeo

SAMPLES = Path(__file__).parents[2] / "sample_data"


def labels(image, out, **settings):
    ran = seggeo.segment(image, out, format=("cog",), preview=False, workers=1, device="cpu", **settings)
    with rasterio.open(ran["outputs"]["cog"]) as source:
        return source.read(1), ran["tiles"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Objects of each sample found in one tile."""
    out = tmp_path_factory.mktemp("whole")
    return {name: labels(SAMPLES / f"{name}.tif", out / name, tile=2048)[0] for name in ("nuclei", "town")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "tile", "overlap", "tiles"),
    [
        ("nuclei", 256, 64, 12),
        pytest.param("nuclei", 256, 32, 9, marks=pytest.mark.slow),
        pytest.param("nuclei", 320, 80, 6, marks=pytest.mark.slow),
        ("town", 512, 96, 9),
    ],
)
def test_tiles_change_no_pixel_of_any_object(tmp_path, whole, name, tile, overlap, tiles):
    found, count = labels(SAMPLES / f"{name}.tif", tmp_path, tile=tile, overlap=overlap)

    assert count == tiles
    assert whole[name].max() > 100
    np.testing.assert_array_equal(found, whole[name])


@pytest.mark.filterwarnings("ignore")
def test_objects_larger_than_the_overlap_are_put_together(tmp_path, whole):
    """Where no tile saw an object whole its pieces are joined; votes from beyond a piece's window may differ there."""
    found, _ = labels(SAMPLES / "town.tif", tmp_path, tile=256, overlap=32)
    scores = seggeo.evaluate(found, whole["town"]).pooled

    assert scores.pq > 0.99
    assert scores.count_error == pytest.approx(0, abs=0.01)

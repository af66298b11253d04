"""A real drone scene and its hand-drawn footprints: what seggeo writes lies where the footprints say."""

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

import seggeo

SHARED = Path(__file__).parents[3] / "shared" / "data" / "overhead" / "banepa"
pytestmark = pytest.mark.skipif(not SHARED.exists(), reason="the shared test data is not beside this checkout")

ORACLE = '''
class Oracle:
    """The input's own values as labels."""

    native = True

    def predict(self, tiles):
        return [tile[:, :, 0].astype("int32") for tile in tiles]
'''


@pytest.fixture(scope="module")
def footprints() -> gpd.GeoDataFrame:
    """Footprints that no other overlaps or touches, in the scene's CRS, numbered from 1."""
    with rasterio.open(SHARED / "banepa_north.tif") as scene:
        crs = scene.crs
    drawn = gpd.read_file(SHARED / "banepa_north_buildings.geojson").to_crs(crs)
    near = drawn.sindex.query(drawn.geometry.buffer(0.5), predicate="intersects")
    lone = np.setdiff1d(np.arange(len(drawn)), near[0][near[0] != near[1]])
    kept = drawn.iloc[lone][~drawn.iloc[lone]["cut_by_edge"].astype(bool)]
    return kept.reset_index(drop=True)


def test_footprints_come_back_where_they_were_drawn(tmp_path: Path, footprints: gpd.GeoDataFrame) -> None:
    labels = tmp_path / "footprints.tif"
    with rasterio.open(SHARED / "banepa_north.tif") as scene:
        shapes = ((geometry, i + 1) for i, geometry in enumerate(footprints.geometry))
        drawn = rasterize(shapes, out_shape=scene.shape, transform=scene.transform, dtype="int32")
        profile = {**scene.profile, "count": 1, "dtype": "int32", "compress": "deflate", "photometric": None, "nodata": 0}
        pixel = scene.transform.a
    profile.pop("photometric")
    with rasterio.open(labels, "w", **profile) as out:
        out.write(drawn, 1)
    model = tmp_path / "oracle.py"
    model.write_text(ORACLE)

    summary = seggeo.segment(labels, tmp_path, model=f"{model}:Oracle", tile=512, overlap=64, preview=False, workers=1)

    objects = gpd.read_file(summary["outputs"]["gpkg"], layer="objects")
    assert objects.crs == footprints.crs
    assert len(objects) == len(np.unique(drawn)) - 1
    found = gpd.sjoin_nearest(
        gpd.GeoDataFrame(geometry=objects.geometry.centroid), gpd.GeoDataFrame(geometry=footprints.geometry.centroid),
        distance_col="offset",
    )  # fmt: skip
    assert found["index_right"].is_unique
    assert found["offset"].max() < pixel
    truth_m2 = footprints.to_crs("EPSG:32645").area.to_numpy()[found["index_right"].to_numpy()]
    assert np.abs(objects["area_m2"].to_numpy() / truth_m2 - 1).mean() < 0.02

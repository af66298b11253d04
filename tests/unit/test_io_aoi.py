"""An area of interest in any CRS, as part of what is valid."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from rasterio.features import geometry_mask
from support_io import UTM, noise, open_rgb, random_windows, whole, write

from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Window

SHAPE = (700, 900)


def blob(seed: int = 4) -> shapely.Polygon:
    """A star with a hole, in UTM metres inside the image."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.random.default_rng(seed).uniform(40, 160, 40)
    ring = np.stack([500000 + 220 + radius * np.cos(angle), 5200000 - 170 + radius * np.sin(angle)], axis=1)
    return shapely.Polygon(ring).difference(shapely.box(500200, 5199820, 500230, 5199850))


def save(path: Path, shapes: list[object], crs: str | None = "EPSG:32633", to: str | None = None) -> Path:
    frame = geopandas.GeoDataFrame(geometry=shapes, crs=crs)
    (frame.to_crs(to) if to else frame).to_file(path)
    return path


@pytest.fixture
def image(tmp_path: Path) -> str:
    return write(tmp_path / "a.tif", noise((3, *SHAPE)), tiled=True, blockxsize=128, blockysize=128, compress="deflate")


def expected(shape: shapely.Geometry) -> np.ndarray:
    return ~geometry_mask([shape], SHAPE, UTM, all_touched=False)


@pytest.mark.parametrize("name", ["a.gpkg", "a.fgb", "a.shp"])
def test_valid_is_the_rasterised_area(tmp_path: Path, image: str, name: str):
    with open_rgb(image, aoi=save(tmp_path / name, [blob()])) as source:
        valid = whole(source)[1]
        assert (valid != expected(blob())).sum() == 0
        for window in random_windows(*SHAPE, 20):
            np.testing.assert_array_equal(source.read(window).valid, valid[window.slices()])
            assert source.is_empty(window) is not bool(valid[window.slices()].any())


def test_another_crs_is_reprojected(tmp_path: Path, image: str):
    aoi = save(tmp_path / "a.geojson", [blob()], to="EPSG:4326")
    with open_rgb(image, aoi=aoi) as source:
        assert (whole(source)[1] != expected(blob())).mean() < 1e-3


def test_long_edges_follow_the_curve_of_the_other_crs(tmp_path: Path):
    """A parallel of latitude bends by hundreds of metres across a UTM zone."""
    transform = type(UTM)(200, 0, 200000, 0, -200, 6700000)
    path = write(tmp_path / "a.tif", noise((3, 600, 3000)), transform=transform)
    band = shapely.box(10.0, 60.0, 20.0, 60.2)
    dense = shapely.segmentize(band, 0.01)
    truth = geopandas.GeoSeries([dense], crs="EPSG:4326").to_crs("EPSG:32633").iloc[0]
    with open_rgb(path, aoi=save(tmp_path / "a.gpkg", [band], crs="EPSG:4326")) as source:
        inside = ~geometry_mask([truth], (600, 3000), transform)
        assert (whole(source)[1] != inside).sum() <= 20


def test_area_at_another_gsd(tmp_path: Path, image: str):
    with open_rgb(image, aoi=save(tmp_path / "a.gpkg", [blob()]), gsd=1.0) as source:
        truth = ~geometry_mask([blob()], (350, 450), type(UTM)(1, 0, 500000, 0, -1, 5200000))
        np.testing.assert_array_equal(whole(source)[1], truth)
        assert source.overview(100).valid.mean() == pytest.approx(truth.mean(), abs=0.02)


def test_overlapping_and_broken_polygons_are_one_area(tmp_path: Path, image: str):
    bow_tie = shapely.Polygon([(500010, 5199990), (500050, 5199950), (500050, 5199990), (500010, 5199950)])
    shapes = [blob(), blob(9), bow_tie]
    with open_rgb(image, aoi=save(tmp_path / "a.gpkg", shapes)) as source:
        truth = expected(shapely.union_all(shapely.make_valid(np.array(shapes))))
        np.testing.assert_array_equal(whole(source)[1], truth)


def test_far_windows_are_known_to_be_empty(tmp_path: Path, image: str):
    with open_rgb(image, aoi=save(tmp_path / "a.gpkg", [shapely.box(500000, 5199990, 500010, 5200000)])) as source:
        assert source.is_empty(Window(row=100, col=100, height=600, width=800))
        assert not source.is_empty(Window(row=0, col=0, height=10, width=10))
        assert whole(source)[1].sum() == 400


@pytest.mark.parametrize(
    ("shapes", "crs", "why"),
    [
        ([shapely.box(0, 0, 1, 1)], "EPSG:32633", "no part"),
        ([shapely.LineString([(500000, 5200000), (500010, 5199990)])], "EPSG:32633", "without area"),
        ([shapely.box(500000, 5199990, 500010, 5200000)], None, "no CRS"),
    ],
)
@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_useless_areas_are_refused(tmp_path: Path, image: str, shapes: list[object], crs: str | None, why: str):
    with pytest.raises(ConfigError, match=why):
        open_rgb(image, aoi=save(tmp_path / "a.gpkg", shapes, crs=crs))


def test_empty_and_missing_files_are_refused(tmp_path: Path, image: str):
    with pytest.raises(ConfigError):
        open_rgb(image, aoi=save(tmp_path / "a.gpkg", []))
    with pytest.raises(SourceError, match="does not exist"):
        open_rgb(image, aoi=tmp_path / "b.gpkg")
    (tmp_path / "c.gpkg").write_text("hello")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_rgb(image, aoi=tmp_path / "c.gpkg")
    (tmp_path / "d.gpkg").write_text("<OGRVRTDataSource><OGRVRTLayer name='x'/></OGRVRTDataSource>")
    with pytest.raises(ConfigError, match="VRT"):
        open_rgb(image, aoi=tmp_path / "d.gpkg")

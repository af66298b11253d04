"""What lies in the output folder after a run: every format, the same objects in each, where they belong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from scipy import ndimage
from support_flow import (
    FORMATS,
    ORACLE,
    PLAIN,
    SMALL,
    UTM,
    below,
    call,
    drawn,
    features,
    label_raster,
    scene,
    succeed,
    write_labels,
    write_model,
    write_picture,
)
from support_scenes import same_partition


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture and all five formats of it."""
    folder = tmp_path_factory.mktemp("outputs")
    write_picture(folder / "scene.tif", scene())
    succeed("segment", "scene.tif", "-o", "out", "-f", ",".join(FORMATS), *PLAIN[:-1], cwd=folder)
    return folder / "out"


def test_all_formats_and_their_company(folder: Path):
    assert {name for name in below(folder) if not name.startswith("scene.seggeo")} == {
        "scene_objects.gpkg", "scene_objects.fgb", "scene_objects.parquet", "scene_objects.geojson", "scene_labels.tif",
        "scene_preview.png", "scene_provenance.json",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gpkg", "fgb", "parquet"])
def test_polygons_drawn_again_are_the_label_raster(folder: Path, name: str):
    table = features(folder / f"scene_objects.{name}")

    assert len(table) > 10
    assert (drawn(table, folder / "scene_labels.tif") == label_raster(folder / "scene_labels.tif")).all()


def test_ids_and_numbers_agree_in_every_vector_format(folder: Path):
    tables = [features(folder / f"scene_objects.{name}") for name in ("gpkg", "fgb", "parquet", "geojson")]
    columns = [c for c in tables[0].columns if c not in ("geometry", "bbox", "cx", "cy", "xmin", "ymin", "xmax", "ymax")]

    for other in tables[1:]:
        assert set(columns) <= set(other.columns)
        for column in columns:
            same = tables[0][column].to_numpy() == other[column].to_numpy()
            assert same.all() or np.allclose(tables[0][column], other[column], rtol=1e-6), column
    assert tables[0]["id"].tolist() == list(range(1, len(tables[0]) + 1))


def test_geojson_lies_where_the_geopackage_does(folder: Path):
    moved = features(folder / "scene_objects.gpkg").to_crs(4326).geometry
    written = features(folder / "scene_objects.geojson").geometry

    assert np.abs(moved.bounds.to_numpy() - written.bounds.to_numpy()).max() < 2e-7


def test_provenance_names_all_that_made_it_and_nothing_of_this_machine(folder: Path):
    text = (folder / "scene_provenance.json").read_text()
    values = json.loads(text)

    assert values["job"]["source"]["path"] == "scene.tif"
    assert {"job", "versions", "merge_key", "counts", "readings", "outputs"} <= set(values)
    assert str(folder) not in text


@pytest.mark.parametrize("kind", ["voronoi", "snakes", "combs"])
def test_an_oracle_gives_back_the_truth(tmp_path: Path, kind: str):
    truth = scene(kind, seed=3)
    write_labels(tmp_path / "truth.tif", truth)
    write_model(tmp_path, ORACLE)

    ran = succeed("segment", "truth.tif", "--model", "oracle.py:Oracle", "-f", "gpkg,cog", "--json", *SMALL, cwd=tmp_path)

    (summary,) = ran.results
    assert same_partition(truth, label_raster(tmp_path / summary["outputs"]["cog"]))
    assert summary["objects"] == len(np.unique(truth[truth > 0]))
    r = summary["readings"]
    assert r["inputs"] == r["kept"] + r["merged"] + r["duplicates"] + r["orphans"] + r["hidden"]


def test_zero_objects_are_valid_files(tmp_path: Path):
    write_labels(tmp_path / "empty.tif", np.zeros((200, 260)))
    write_model(tmp_path, ORACLE)

    succeed("segment", "empty.tif", "--model", "oracle.py:Oracle", "-f", ",".join(FORMATS), *SMALL[:-1], cwd=tmp_path)

    for ending in ("gpkg", "fgb", "parquet", "geojson"):
        table = features(tmp_path / f"empty_objects.{ending}")
        assert len(table) == 0
        assert table.crs is not None
        assert "id" in table.columns or ending == "geojson"
    assert not label_raster(tmp_path / "empty_labels.tif").any()


def test_without_a_crs_all_is_in_pixels_and_one_warning_says_so(tmp_path: Path):
    labels = scene()
    write_labels(tmp_path / "plain.tif", labels, geo=False, transform=Affine.identity())
    write_model(tmp_path, ORACLE)

    ran = succeed("segment", "plain.tif", "--model", "oracle.py:Oracle", "-f", "gpkg,cog", *SMALL, cwd=tmp_path)

    assert ran.err.count("warning:") == 1
    assert "no CRS" in ran.err
    table = features(tmp_path / "plain_objects.gpkg")
    assert table["area_m2"].isna().all()
    assert (np.bincount(label_raster(tmp_path / "plain_labels.tif").ravel())[1:] == table["area_px"]).all()
    assert table.total_bounds.min() >= 0
    assert table.total_bounds[2] <= labels.shape[1]


def test_without_a_crs_a_transform_of_its_own_is_followed_and_told(tmp_path: Path):
    write_labels(tmp_path / "local.tif", scene(), geo=False, transform=Affine(0.5, 0, 1000, 0, -0.5, 2000))
    write_model(tmp_path, ORACLE)

    ran = succeed("segment", "local.tif", "--model", "oracle.py:Oracle", "-f", "gpkg", *SMALL, cwd=tmp_path)

    assert "coordinates are those of its transform" in ran.err
    assert features(tmp_path / "local_objects.gpkg").total_bounds[0] >= 1000


def test_nodata_that_is_no_number_is_written_as_json_has_it(tmp_path: Path):
    write_labels(tmp_path / "scene.tif", scene())
    write_model(tmp_path, ORACLE)
    job = ("segment", "scene.tif", "--model", "oracle.py:Oracle", "--nodata", "nan", "-f", "gpkg", *SMALL)
    succeed(*job, cwd=tmp_path)

    for path in [*tmp_path.glob("*.json"), *tmp_path.glob("*.seggeo/*.json")]:
        assert "NaN" not in path.read_text(), path
    assert "done already" in succeed(*job, cwd=tmp_path).err


def test_degrees_beyond_the_poles_are_told(tmp_path: Path):
    """Metres under a CRS of degrees: a common slip, whose areas mean nothing."""
    write_labels(tmp_path / "metres.tif", scene(), crs="EPSG:4326", transform=Affine(0.5, 0, 5e5, 0, -0.5, 5.2e6))
    write_labels(tmp_path / "degrees.tif", scene(), crs="EPSG:4326", transform=Affine(1e-5, 0, 179, 0, -1e-5, 90))
    write_model(tmp_path, ORACLE)
    job = ("--model", "oracle.py:Oracle", "--dry-run")

    assert "latitudes up to 5.2e+06" in succeed("segment", "metres.tif", *job, cwd=tmp_path).err
    assert "latitudes" not in succeed("segment", "degrees.tif", *job, cwd=tmp_path).err


def test_cells_of_a_map_are_told_in_the_pixels_of_its_picture(tmp_path: Path):
    labels = scene("discs")
    write_labels(tmp_path / "map.tif", labels)
    write_model(tmp_path, ORACLE)
    succeed("segment", "map.tif", "--model", "oracle.py:Oracle", "-f", "cells-csv,qupath", *SMALL, cwd=tmp_path)

    cells = pd.read_csv(tmp_path / "map_cells.csv")
    truth = np.array(ndimage.center_of_mass(labels > 0, labels, np.unique(labels)[1:])) + 0.5
    assert len(cells) == len(truth) > 10
    np.testing.assert_allclose(np.sort(cells["y_px"]), np.sort(truth[:, 0]), atol=0.01)
    np.testing.assert_allclose(np.sort(cells["x_px"]), np.sort(truth[:, 1]), atol=0.01)
    np.testing.assert_allclose(cells["x_m"], cells["x_px"] / 2, atol=0.01)
    with gzip.open(tmp_path / "map_cells.geojson.gz") as file:
        drawn = [shapely.geometry.shape(feature["geometry"]) for feature in json.load(file)["features"]]
    bounds = np.array([shape.bounds for shape in drawn])
    assert bounds.min() >= 0
    assert (bounds.max(axis=0)[2:] <= labels.shape[::-1]).all()


def test_a_wedge_without_data_holds_no_object(tmp_path: Path):
    labels = scene("discs", seed=2)
    labels[labels == 0] = labels.max() + 1
    wedge = np.add.outer(np.arange(300), np.arange(340)) < 200
    write_labels(tmp_path / "wedge.tif", np.where(wedge, 65535, labels), nodata=65535)
    write_model(tmp_path, ORACLE)

    succeed("segment", "wedge.tif", "--model", "oracle.py:Oracle", "-f", "cog", *SMALL, cwd=tmp_path)

    found = label_raster(tmp_path / "wedge_labels.tif")
    assert not found[wedge].any()
    assert found[~wedge].all()


def test_tiles_without_data_never_reach_the_model(tmp_path: Path):
    labels = np.full((512, 512), 7)
    labels[:, 256:] = 65535
    write_labels(tmp_path / "half.tif", labels, nodata=65535)
    write_model(tmp_path, ORACLE)

    (summary,) = succeed("segment", "half.tif", "--model", "oracle.py:Oracle", "--json", *SMALL, cwd=tmp_path).results

    assert summary["objects"] == 1
    assert 0 < summary["empty_tiles"] < summary["tiles"]


@pytest.mark.parametrize("crs", [None, "EPSG:4326"])
def test_an_aoi_bounds_the_objects_whatever_its_crs(tmp_path: Path, crs: str | None):
    write_labels(tmp_path / "scene.tif", np.full((300, 340), 5))
    write_model(tmp_path, ORACLE)
    diamond = shapely.Polygon(
        [(500000 + 0.5 * x, 5200000 - 0.5 * y) for x, y in ((170, 40), (300, 150), (170, 260), (40, 150))]
    )
    area = gpd.GeoDataFrame(geometry=[diamond], crs="EPSG:32633")
    (area.to_crs(crs) if crs else area).to_file(tmp_path / "area.gpkg")

    succeed("segment", "scene.tif", "--model", "oracle.py:Oracle", "--aoi", "area.gpkg", *SMALL, cwd=tmp_path)

    table = features(tmp_path / "scene_objects.gpkg")
    assert len(table) == 1
    assert table.geometry[0].symmetric_difference(diamond).area < 0.02 * diamond.area


def test_bands_choose_what_the_model_sees(tmp_path: Path):
    from support_io import write

    a, b = scene("voronoi", 1), scene("discs", 5)
    write(tmp_path / "two.tif", np.stack([a, b]).astype("uint16"), transform=UTM)
    write_model(tmp_path, ORACLE)

    for band, truth in ((1, a), (2, b)):
        out = f"band{band}.tif"
        succeed("segment", "two.tif", "--model", "oracle.py:Oracle", "--bands", str(band), "-o", out, *SMALL, cwd=tmp_path)
        assert same_partition(truth, label_raster(tmp_path / out))


def test_gsd_coarsens_the_work_grid_and_keeps_the_place(tmp_path: Path):
    labels = np.kron(scene("voronoi", 4, (150, 170)), np.ones((2, 2), int))
    write_picture(tmp_path / "scene.tif", labels)

    succeed("segment", "scene.tif", "--gsd", "1.0", "-f", "gpkg,cog", *PLAIN, cwd=tmp_path)

    with rasterio.open(tmp_path / "scene_labels.tif") as ds:
        assert ds.shape == (150, 170)
        assert ds.transform.almost_equals(Affine(1, 0, 500000, 0, -1, 5200000), 1e-9)
    table = features(tmp_path / "scene_objects.gpkg")
    assert np.allclose(table["area_m2"], table["area_px"], rtol=2e-3)


@pytest.mark.parametrize(
    ("extra", "made"),
    [
        (["-o", "roofs.gpkg"], {"roofs.gpkg", "roofs_provenance.json"}),
        (["-o", "roofs.tif"], {"roofs.tif", "roofs_provenance.json"}),
        (["-o", "roofs.tif", "-f", "cog"], {"roofs.tif", "roofs_provenance.json"}),
        (["-o", "roofs.gpkg", "-f", "gpkg,cog"], {"roofs.gpkg", "roofs_labels.tif", "roofs_provenance.json"}),
        (["-o", "roofs.geojson.gz"], {"roofs.geojson.gz", "roofs_provenance.json"}),
        (["-o", "deep/er"], {"deep/er/scene_objects.gpkg", "deep/er/scene_provenance.json"}),
        (["-o", "run_0.5"], {"run_0.5/scene_objects.gpkg", "run_0.5/scene_provenance.json"}),
        ([], {"scene_objects.gpkg", "scene_provenance.json"}),
        (["--work", "w"], {"scene_objects.gpkg", "scene_provenance.json"}),
    ],
)
def test_where_files_go(tmp_path: Path, extra: list[str], made: set[str]):
    write_picture(tmp_path / "scene.tif", scene("discs", 5, (140, 150)))

    ran = succeed("segment", "scene.tif", *extra, "--json", *PLAIN, cwd=tmp_path)

    work = ran.results[0]["work"]
    files = {p for p in below(tmp_path) if (tmp_path / p).is_file() and not p.startswith(work)}
    assert files - {"scene.tif"} == made
    assert (tmp_path / work / "job.json").exists()


@pytest.mark.parametrize(
    ("extra", "says"),
    [(["-o", "x.shp"], ".shp"), (["-o", "x.tif", "-f", "gpkg"], "gpkg"), (["-f", "xyz"], "xyz"), (["-f", ""], "''")],
)
def test_formats_that_do_not_fit_are_refused_before_any_work(tmp_path: Path, extra: list[str], says: str):
    write_picture(tmp_path / "scene.tif", scene("discs", 5, (140, 150)))

    ran = call("segment", "scene.tif", *extra, *PLAIN, cwd=tmp_path)

    assert ran.code == 2
    assert says in ran.refusal()[0]
    assert below(tmp_path) == {"scene.tif"}

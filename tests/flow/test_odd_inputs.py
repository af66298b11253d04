"""Rasters that are odd but right: what becomes of them, through the command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from support_flow import ORACLE, PLAIN, SMALL, below, call, features, label_raster, scene, succeed, write_labels, write_model
from support_flow import write_picture as picture
from support_io import noise, write
from support_scenes import same_partition

ORACLE_JOB = ("--model", "oracle.py:Oracle", "-f", "gpkg,cog", "--json")


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (1, 1), (50, 60), (127, 129)])
def test_slim_and_small_images(tmp_path: Path, shape: tuple[int, int]):
    truth = np.arange(np.prod(shape)).reshape(shape) // 7 % 40
    truth = truth if min(shape) == 1 else scene("discs", 2, shape)
    write_labels(tmp_path / "a.tif", truth)
    write_model(tmp_path, ORACLE)

    succeed("segment", "a.tif", *ORACLE_JOB, *SMALL, cwd=tmp_path)

    found = label_raster(tmp_path / "a_labels.tif")
    assert found.shape == shape
    assert ((found > 0) == (truth > 0)).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("bands", [1, 3])
def test_any_number_type_and_one_band_or_three_give_the_same_objects(tmp_path: Path, dtype: str, bands: int):
    gray = np.where(scene("discs", 5, (160, 170)) > 0, 100, 10)
    write(tmp_path / "a.tif", np.stack([gray] * bands).astype(dtype))

    (summary,) = succeed(
        "segment", "a.tif", "--json", "-f", "cog", *PLAIN, "--set", "split=false", "--set", "polarity=bright", cwd=tmp_path
    ).results

    assert ((label_raster(tmp_path / "a_labels.tif") > 0) == (gray > 50)).mean() > 0.99
    assert summary["objects"] > 2


def test_nan_and_infinity_are_no_data(tmp_path: Path):
    data = np.where(scene("discs", 5, (160, 170)) > 0, 100, 10).astype("float32")
    data[:20], data[20:40], data[40:50] = np.nan, np.inf, -np.inf
    write(tmp_path / "a.tif", data[None])

    succeed("segment", "a.tif", "-f", "cog", *PLAIN, "--set", "polarity=bright", cwd=tmp_path)

    found = label_raster(tmp_path / "a_labels.tif")
    assert not found[:50].any()
    assert ((found[50:] > 0) == (data[50:] > 50)).mean() > 0.99


def test_transparency_is_a_mask_and_not_a_band(tmp_path: Path):
    gray = np.where(scene("discs", 5, (160, 170)) > 0, 100, 10).astype("uint8")
    alpha = np.full(gray.shape, 255, "uint8")
    alpha[:, :60] = 0
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    write(tmp_path / "a.tif", np.stack([gray, gray, gray, alpha]), colorinterp=colours)

    succeed("segment", "a.tif", "-f", "cog", *PLAIN, cwd=tmp_path)

    found = label_raster(tmp_path / "a_labels.tif")
    assert not found[:, :60].any()
    assert found[:, 60:].any()


def test_a_palette_is_colours_and_not_numbers(tmp_path: Path):
    labels = scene("discs", 5, (160, 170)) > 0
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=1, height=160, width=170, dtype="uint8", crs="EPSG:32633",
        transform=Affine(1, 0, 500000, 0, -1, 5200000), photometric="palette",
    ) as out:  # fmt: skip
        out.write(np.where(labels, 3, 200).astype("uint8"), 1)
        out.write_colormap(1, {3: (250, 250, 250, 255), 200: (5, 5, 5, 255)})

    succeed("segment", "a.tif", "-f", "cog", *PLAIN, "--set", "polarity=bright", cwd=tmp_path)

    assert ((label_raster(tmp_path / "a_labels.tif") > 0) == labels).mean() > 0.98


def test_sparse_blocks_are_empty(tmp_path: Path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=1, height=60000, width=60000, dtype="uint16", crs="EPSG:32633",
        transform=Affine(1, 0, 400000, 0, -1, 5200000), tiled=True, blockxsize=512, blockysize=512, sparse_ok=True,
    ) as out:  # fmt: skip
        out.write(np.full((1, 512, 512), 9, "uint16"), window=rasterio.windows.Window(5120, 5120, 512, 512))
    write_model(tmp_path, ORACLE)

    (summary,) = succeed(
        "segment", "a.tif", *ORACLE_JOB, "--tile", "2048", "--workers", "1", "--no-preview", cwd=tmp_path
    ).results

    assert summary["objects"] == 1
    assert summary["tiles"] - summary["empty_tiles"] <= 4
    assert (tmp_path / "a_labels.tif").stat().st_size < 5e6


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", Affine.translation(500000, 5200000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)),
        ("EPSG:32633", Affine(0.5, 0, 500000, 0, 0.5, 5200000)),
        ("EPSG:3857", Affine(2.0, 0, 1500000, 0, -2.0, 6900000)),
        ("EPSG:4326", Affine(1e-5, 0, 13.4, 0, -1e-5, 52.5)),
    ],
    ids=["rotated", "south-up", "web mercator", "degrees"],
)
def test_areas_are_square_metres_of_the_ellipsoid_everywhere(tmp_path: Path, crs: str, transform: Affine):
    write_labels(tmp_path / "a.tif", scene("voronoi", 4, (160, 170)), crs=crs, transform=transform)
    write_model(tmp_path, ORACLE)

    succeed("segment", "a.tif", *ORACLE_JOB, *SMALL, cwd=tmp_path)

    table = features(tmp_path / "a_objects.gpkg")
    geod = pyproj.Geod(ellps="WGS84")
    truth = [abs(geod.geometry_area_perimeter(shape)[0]) for shape in table.geometry.segmentize(1e9).to_crs(4326)]
    assert np.allclose(table["area_m2"], truth, rtol=1e-3)
    assert same_partition(scene("voronoi", 4, (160, 170)), label_raster(tmp_path / "a_labels.tif"))


def test_an_object_across_the_dateline_is_cut_there_in_geojson(tmp_path: Path):
    labels = np.zeros((60, 200), int)
    labels[20:40, 20:180] = 1
    write_labels(tmp_path / "a.tif", labels, crs="EPSG:32601", transform=Affine(100, 0, 166021 - 10000, 0, -100, 3000))
    write_model(tmp_path, ORACLE)

    succeed("segment", "a.tif", *ORACLE_JOB, "-f", "geojson", *SMALL, cwd=tmp_path)

    (shape,) = features(tmp_path / "a_objects.geojson").geometry
    west, _, east, _ = shape.bounds
    assert (west, east) == (-180, 180)
    assert len(shape.geoms) == 2
    assert max(part.bounds[2] - part.bounds[0] for part in shape.geoms) < 1


@pytest.mark.parametrize("when", [0, 4102444800])
def test_odd_times_of_files_do_not_matter(tmp_path: Path, when: int):
    picture(tmp_path / "a.tif", scene("discs", 5, (160, 170)))
    os.utime(tmp_path / "a.tif", (when, when))

    succeed("segment", "a.tif", *PLAIN, cwd=tmp_path)
    again = succeed("segment", "a.tif", *PLAIN, cwd=tmp_path)

    assert "done already" in again.err


def test_a_block_that_cannot_be_decoded_costs_its_tiles(tmp_path: Path):
    truth = scene("voronoi", 4, (512, 512))
    write_labels(tmp_path / "a.tif", truth, tiled=True, blockxsize=128, blockysize=128)
    with open(tmp_path / "a.tif", "r+b") as file:
        import tifffile

        with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
            offset = tiff.pages[0].dataoffsets[5]
        file.seek(offset)
        file.write(b"\xff" * 40)
    write_model(tmp_path, ORACLE)

    ran = call("segment", "a.tif", *ORACLE_JOB, *SMALL, cwd=tmp_path)

    assert ran.code == 4
    assert "cannot be read" in ran.refusal()[1]
    (summary,) = ran.results
    assert 0 < summary["failed_tiles"] <= 9
    found = label_raster(tmp_path / "a_labels.tif")
    assert (found[300:] > 0).mean() == (truth[300:] > 0).mean()


def test_a_vrt_of_its_own_folder_on_request(tmp_path: Path):
    truth = scene("voronoi", 4, (160, 170))
    write_labels(tmp_path / "a.tif", truth)
    (tmp_path / "b.vrt").write_text(
        '<VRTDataset rasterXSize="170" rasterYSize="160"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    write_model(tmp_path, ORACLE)

    succeed("segment", "b.vrt", "--allow-vrt", *ORACLE_JOB, *SMALL, cwd=tmp_path)

    assert same_partition(truth, label_raster(tmp_path / "b_labels.tif"))


def test_two_merges_of_one_job_do_not_meet(tmp_path: Path):
    picture(tmp_path / "a.tif", scene("discs", 5, (160, 170)))
    (tmp_path / "a.seggeo").mkdir()
    succeed("segment", "a.tif", *PLAIN, cwd=tmp_path)
    made = (tmp_path / "a_objects.gpkg").read_bytes()
    with open(tmp_path / "a.seggeo" / "merge.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        ran = call("segment", "a.tif", *PLAIN, "--overwrite", cwd=tmp_path)

    assert ran.code == 8
    ran.refusal()
    assert (tmp_path / "a_objects.gpkg").read_bytes() == made


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server of a folder on this machine."""
    handler = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_secrets_of_an_address_are_written_nowhere(tmp_path: Path):
    (tmp_path / "web").mkdir()
    picture(tmp_path / "web" / "a.tif", scene("discs", 5, (160, 170)))
    (tmp_path / "here").mkdir()
    with served(tmp_path / "web") as host:
        address = f"http://user:hunter2@{host}/a.tif?token=abc123"

        ran = succeed("segment", address, "--json", *PLAIN, cwd=tmp_path / "here")
        gone = call("segment", f"http://user:hunter2@{host}/none.tif?token=abc123", *PLAIN, cwd=tmp_path / "here")

    assert ran.results[0]["objects"] > 2
    assert gone.code == 3
    gone.refusal()
    texts = [ran.out, ran.err, gone.err]
    texts += [p.read_bytes().decode(errors="replace") for p in (tmp_path / "here").rglob("*") if p.is_file()]
    assert not [text for text in texts if "hunter2" in text or "abc123" in text]
    assert "a_objects.gpkg" in below(tmp_path / "here")


def test_a_file_name_that_looks_like_sql_or_html(tmp_path: Path):
    name = "x');DROP TABLE objects;--<script>.tif"
    picture(tmp_path / name, scene("discs", 5, (160, 170)))

    (summary,) = succeed("segment", "--json", *PLAIN, "--", name, cwd=tmp_path).results

    import sqlite3

    with contextlib.closing(sqlite3.connect(tmp_path / summary["outputs"]["gpkg"])) as base:
        tables = [row[0] for row in base.execute("SELECT table_name FROM gpkg_contents")]
        assert base.execute("SELECT count(*) FROM objects").fetchone()[0] == summary["objects"]
    assert "objects" in tables


def test_a_huge_description_that_is_not_utf8(tmp_path: Path):
    data = noise((100, 100), "uint8")
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", data, description=b"\xff\xfe" * 200_000, metadata=None)

    succeed("segment", "a.tif", *PLAIN, cwd=tmp_path)

"""A GeoPackage that lacks something its driver went on without is found out."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pyproj
import pytest
from affine import Affine
from support_results import empty_result, result_of

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.output import vector
from seggeo.output.gpkg_check import check_gpkg
from seggeo.protocols import SinkOptions

FRAME = Frame(height=90, width=90, transform=Affine(1, 0, 5e5, 0, -1, 5e6), crs=pyproj.CRS(32633).to_wkt())


def dots():
    labels = np.zeros((90, 90), np.int32)
    labels[::2, ::2] = np.arange(1, 45 * 45 + 1).reshape(45, 45)
    return labels


def gpkg(folder: Path) -> tuple[Path, Path]:
    """A GeoPackage of many objects, and one of none."""
    whole = vector.write_gpkg(result_of(dots(), FRAME), folder / "whole.gpkg", SinkOptions())
    return whole, vector.write_gpkg(empty_result(FRAME), folder / "empty.gpkg", SinkOptions())


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM gpkg_spatial_ref_sys WHERE srs_id = 32633",
        "DELETE FROM gpkg_extensions",
        "DELETE FROM gpkg_metadata",
        "DELETE FROM gpkg_contents WHERE table_name = 'objects'",
        "DROP TRIGGER trigger_insert_feature_count_objects",
        "DELETE FROM rtree_objects_geom WHERE id = 7",
        "UPDATE gpkg_ogr_contents SET feature_count = 7",
        "UPDATE gpkg_contents SET max_y = NULL WHERE table_name = 'objects'",
        "PRAGMA user_version = 1",
    ],
)
def test_what_is_missing_is_found_out(tmp_path: Path, damage: str):
    whole, empty = gpkg(tmp_path)
    check_gpkg(whole, empty, layer="objects", geometry="geom", count=45 * 45)
    with closing(sqlite3.connect(whole)) as base, base:
        base.execute(damage)

    with pytest.raises(OutputError, match="was not written as a whole"):
        check_gpkg(whole, empty, layer="objects", geometry="geom", count=45 * 45)


def test_an_index_too_large_for_memory_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vector, "INDEX_BYTES", 20_000)

    vector.write_gpkg(result_of(dots(), FRAME), tmp_path / "whole.gpkg", SinkOptions())

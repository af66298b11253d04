"""What the name after `-o` asks for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seggeo.errors import ConfigError
from seggeo.run.naming import SUFFIXES, format_of, places, target_of, target_text, with_format


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.gpkg", "gpkg"), ("x.GPKG", "gpkg"), ("d/x.fgb", "fgb"), ("x.parquet", "parquet"), ("x.geojson", "geojson"),
        ("x.geojson.gz", "geojson"), ("x.tif", "cog"), ("x.tiff", "cog"), ("x.ome.tif", "ome-tiff"), ("x.csv", "cells-csv"),
        ("x.ome.zarr", "ome-zarr"), ("x.zarr", "ome-zarr"), ("x.nii.gz", "nifti"), ("x.NII", "nifti"),
        ("folder", None), ("run_0.5", None), (".", None), ("../a.b/c", None),
    ],
)  # fmt: skip
def test_endings(name: str, kind: str | None):
    assert format_of(Path(name)) == kind


def test_no_name_and_a_folder_that_is_there(tmp_path: Path):
    (tmp_path / "x.gpkg").mkdir()

    assert format_of(None) is None
    (tmp_path / "x.zarr").mkdir()
    assert format_of(tmp_path / "x.gpkg") is None
    assert format_of(tmp_path / "x.zarr") == "ome-zarr", "a Zarr that is there is an output, not a folder for outputs"
    assert with_format({"tile": 64}, None) == {"tile": 64}


@pytest.mark.parametrize("name", ["run.tif", "run.v2", "x.gpkg", "d/y.nii.gz", "plain"])
def test_a_separator_at_the_end_makes_a_folder_of_any_name(name: str):
    out = target_of(f"{name}{os.sep}")

    where = places(out, "s", ("cog", "gpkg"), None)
    again = target_of(target_text(out))

    assert format_of(out) is None
    assert where.outputs == {"cog": Path(name, "s_labels.tif"), "gpkg": Path(name, "s_objects.gpkg")}
    assert places(again, "s", ("cog",), None).outputs["cog"] == Path(name, "s_labels.tif").absolute()
    assert format_of(target_of("x.zarr/")) == "ome-zarr", "a folder by itself"
    assert target_of(target_text(target_of("x.tif"))) == Path("x.tif").absolute()
    assert format_of(target_of(target_text(target_of("x.tif")))) == "cog"


def test_control_characters_do_not_come_into_names_of_files():
    first, second = (places(None, stem, ("gpkg",), None).outputs["gpkg"].name for stem in ("new\nline", "new\tline"))

    assert first.isprintable()
    assert first.startswith("new_line_")
    assert first != second
    assert places(None, "ünï\u3000co", ("gpkg",), None).outputs["gpkg"] == Path("ünï\u3000co_objects.gpkg")
    with pytest.raises(ConfigError, match="control"):
        places(Path("new\nline.gpkg"), "s", ("gpkg",), None)


@pytest.mark.parametrize("name", ["x.shp", "x.xlsx", "results.d"])
def test_unknown_endings_are_refused_with_the_known_ones(name: str):
    with pytest.raises(ConfigError, match=r"\.gpkg"):
        format_of(Path(name))


def test_the_ending_chooses_where_nothing_was_chosen():
    assert with_format({}, Path("x.tif")) == {"format": ("cog",)}
    assert with_format({"format": ("gpkg", "cog")}, Path("x.tif"))["format"] == ("gpkg", "cog")
    with pytest.raises(ConfigError, match="cog"):
        with_format({"format": ("gpkg",)}, Path("x.tif"))
    assert with_format({"format": ("cells",)}, Path("x.parquet"))["format"] == ("cells",), "an ending may stand for several"
    assert with_format({}, Path("x.parquet"))["format"] == ("parquet",)


def test_a_format_that_is_a_folder_lies_in_the_folder_named_and_packed_nifti_is_no_geojson():
    assert places(Path("some"), "ct", ("masks", "nifti"), None).outputs == {
        "masks": Path("some/ct_masks"), "nifti": Path("some/ct_labels.nii.gz")
    }  # fmt: skip
    with pytest.raises(ConfigError, match="geojson"):
        with_format({"format": ("nifti",)}, Path("x.geojson.gz"))
    with pytest.raises(ConfigError, match="nifti"):
        with_format({"format": ("geojson",)}, Path("x.nii.gz"))


@pytest.mark.parametrize("kind", [kind for kind in SUFFIXES if "." in SUFFIXES[kind]])
def test_the_file_named_is_the_file_written(kind: str):
    out = Path("some") / f"x{'.nii.gz' if kind == 'nifti' else Path(SUFFIXES[kind]).suffix}"

    where = places(out, "input", (kind, "fgb"), None)

    assert where.outputs[kind] == out
    assert where.work == Path("some/x.seggeo")
    assert len(set(where.outputs.values())) == len(where.outputs)

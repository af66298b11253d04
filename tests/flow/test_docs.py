"""What the documentation says holds: tables are the code's, code blocks run."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import pyarrow.parquet as pq
import pytest
from support_docs import DOCS, ROOT, code_blocks, settings_table, tables
from support_flow import ORACLE, PLAIN, SMALL, features, label_raster, scene, succeed, write_labels, write_model, write_picture
from support_scenes import same_partition

from seggeo import errors
from seggeo.models.maskrcnn_settings import DetectorSettings
from seggeo.models.regions import RegionSettings
from seggeo.models.sam import SamSettings
from seggeo.models.threshold import ThresholdSettings
from seggeo.models.unet_settings import UNetSettings


@pytest.mark.parametrize(
    ("heading", "record"),
    [
        ("unet", UNetSettings),
        ("threshold", ThresholdSettings),
        ("regions", RegionSettings),
        ("maskrcnn", DetectorSettings),
        ("sam", SamSettings),
    ],
)
def test_tables_of_settings_are_the_codes(heading: str, record: type):
    written = tables("models.md", heading)[1:]

    for row, (name, default, meaning) in zip(written, settings_table(record), strict=True):
        assert row == (name, default or row[1], meaning or row[2])
        assert default or row[1] in {"of the network", "found in the image"}


def test_every_exit_code_is_explained():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SeggeoError)]
    written = {int(row[0]) for row in tables("exit-codes.md", "Exit codes") if row[0].isdigit()}

    assert written == {kind.exit_code for kind in kinds} | {0, 141}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    write_picture(folder / "scene.tif", scene("discs", 5, (300, 340)))
    write_labels(folder / "labels.tif", scene("discs", 5, (300, 340)) > 0)
    return folder


def test_every_file_column_and_key_is_listed(folder: Path):
    write_model(folder, ORACLE)
    formats = "gpkg,cog,fgb,parquet,geojson"

    (summary,) = succeed("segment", "scene.tif", "-f", formats, "-o", "out", "--json", *PLAIN[:-1], cwd=folder).results

    listed = {row[0].rstrip("/") for row in tables("outputs.md", "Outputs")}
    assert {path.name for path in (folder / "out").iterdir()} <= listed
    columns = [row[0] for row in tables("outputs.md", "Columns")[1:]]
    assert columns == [c for c in features(folder / "out" / "scene_objects.gpkg").columns if c != "geometry"]
    rows = tables("outputs.md", "The summary")
    keys = [row[0] for row in rows if row[0] != "key"]
    assert sorted(keys) == sorted([*summary, *summary["readings"]])


def test_the_code_that_opens_outputs_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    succeed("segment", "scene.tif", "-f", "gpkg,parquet,cog", "-o", "open", *PLAIN, cwd=folder)
    monkeypatch.chdir(folder / "open")
    (block,) = code_blocks("outputs.md", "python")
    names: dict[str, object] = {}

    exec(block, names)

    assert isinstance(names["objects"], gpd.GeoDataFrame)
    assert 0 < len(names["some"]) < len(names["objects"])  # type: ignore[arg-type]
    assert names["ids"].max() == len(names["objects"])  # type: ignore[attr-defined, arg-type]
    assert "bbox" in pq.read_schema("scene_objects.parquet").names


def test_the_model_of_the_page_runs(folder: Path):
    write_model(folder, code_blocks("custom-model.md", "python")[0], "my_model.py")

    (summary,) = succeed(
        "segment",
        "scene.tif",
        "--model",
        "my_model.py:MyModel",
        "--set",
        "level=90",
        "--json",
        "-o",
        "mine",
        *SMALL,
        cwd=folder,
    ).results

    assert summary["objects"] > 0
    assert summary["model"] == "MyModel"


def test_the_three_kinds_of_result_are_one_result(folder: Path):
    write_model(folder, code_blocks("custom-model.md", "python")[1], "three_kinds.py")
    found = []
    for name in ("Labels", "Masks", "Encoded"):
        succeed("segment", "labels.tif", "--model", f"three_kinds.py:{name}", "-f", "gpkg,cog", "-o", name, *SMALL, cwd=folder)
        found.append(label_raster(folder / name / "labels_labels.tif"))

    assert same_partition(found[0], found[1])
    assert (found[0] == found[2]).all()
    assert set(features(folder / "Masks" / "labels_objects.gpkg")["class"]) == {"house", "shed"}


def test_links_lead_to_pages():
    import re

    for page in [*DOCS.glob("*.md"), ROOT / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"

"""The page about volumes and the sample stack: the first commands find the sample's nuclei, and write what the page says."""

from __future__ import annotations

import csv
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from support_dicom import phantom, write_series
from support_docs import DOCS, ROOT, code_blocks, tables
from support_flow import call, succeed

from seggeo.config import CT_WINDOWS, Merge
from seggeo.run.formats import OF_VOLUMES, VOLUME_OF
from seggeo.run.naming import SUFFIXES

SAMPLE = ROOT / "sample_data" / "nuclei3d.ome.tif"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's first command was given."""
    folder = tmp_path_factory.mktemp("volumes")
    (folder / "sample_data").symlink_to(ROOT / "sample_data")
    segment = commands()[0]
    assert " ".join(["seggeo", *segment]) in (ROOT / "README.md").read_text(encoding="utf-8")
    ran = succeed(*segment, "--workers", "1", cwd=folder)
    assert "auto took nuclei" in ran.err
    return folder


def commands() -> list[list[str]]:
    """The first block of the page, without `seggeo`."""
    return [shlex.split(line)[1:] for line in code_blocks("volumes.md", "sh")[0].splitlines()]


def test_the_sample_is_what_its_script_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["make", str(tmp_path)])

    runpy.run_path(str(ROOT / "sample_data" / "make_nuclei3d.py"), run_name="__main__")

    for name in ("nuclei3d.ome.tif", "nuclei3d_truth.ome.tif"):
        stored, drawn = (tifffile.imread(where / name) for where in (SAMPLE.parent, tmp_path))
        assert stored.shape == drawn.shape
        assert (stored != drawn).mean() < 0.001, "other versions of scipy may round otherwise"


def test_nearly_all_nuclei_of_the_sample_are_found(folder: Path):
    evaluated = succeed(*commands()[1], "--json", cwd=folder)

    (scores,) = evaluated.results
    assert abs(scores["pooled"]["count_error"]) <= 0.05
    assert scores["pooled"]["pq"] > 0.8


def test_every_file_of_the_page_is_written_and_listed(folder: Path):
    text = (DOCS / "volumes.md").read_text(encoding="utf-8")

    for path in (folder / "out").iterdir():
        assert path.name in text or path.name.replace("nuclei3d", "NAME") in text or path.suffix == ".seggeo", path.name


def test_columns_of_objects_are_those_of_the_page(folder: Path):
    listed = [name.strip(" `") for row in tables("volumes.md", "Columns of `objects.csv`")[1:] for name in row[0].split(",")]
    with (folder / "out" / "nuclei3d_objects.csv").open(newline="") as file:
        columns = next(csv.reader(file))

    assert columns == [name.replace("_mm", "_um") for name in listed]


def test_the_code_that_opens_results_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    (block,) = code_blocks("volumes.md", "python")
    names: dict[str, Any] = {}

    exec(block, names)

    assert names["image"].shape == names["labels"].shape
    assert names["labels"].max() >= 20
    assert names["image"][names["labels"] > 0].mean() > 4 * names["image"][names["labels"] == 0].mean()


def test_formats_and_defaults_of_the_page_are_the_codes():
    rows = tables("volumes.md", "What is written")[1:]
    listed = {name.strip(" `") for row in rows for name in row[0].split(",")}
    linking = {row[0].lstrip("-").replace("-", "_"): row[1] for row in tables("volumes.md", "Linking")[1:]}

    assert listed == {"volume", *OF_VOLUMES, *VOLUME_OF.values()}
    for name in listed - {"volume"}:
        assert any(SUFFIXES[name] in row[1] or SUFFIXES[name].removeprefix("_labels") in row[1] for row in rows), name
    assert linking.items() >= {n: str(getattr(Merge(), n)) for n in ("link", "link_iou", "link_gap", "link_neck")}.items()
    text = (DOCS / "volumes.md").read_text(encoding="utf-8")
    for name, (centre, width) in CT_WINDOWS.items():
        assert f"{name} {centre:g},{width:g}" in text


def test_level_of_the_bones_is_that_of_their_hounsfield_units():
    centre, width = CT_WINDOWS["bone"]

    assert np.rint((150 - (centre - width / 2)) / width * 255) == 92


def test_a_plan_tells_slices_and_what_has_no_meaning_is_refused(folder: Path):
    planned = succeed("segment", "sample_data/nuclei3d.ome.tif", "--model", "threshold", "--dry-run", cwd=folder)
    refused = call("segment", "sample_data/nuclei3d.ome.tif", "--work-mpp", "1", "--model", "threshold", cwd=folder)

    assert "20 slices of 120 x 112 px\n" in planned.out
    assert "--work-mpp" in refused.err
    assert refused.code == 2


def test_what_is_taken_for_granted_of_a_file_is_told_once(tmp_path: Path):
    tifffile.imwrite(tmp_path / "plain.tif", tifffile.imread(SAMPLE)[:5], metadata=None, photometric="minisblack")

    ran = succeed("segment", "plain.tif", "--model", "threshold", "--workers", "1", "-f", "masks", "-o", "out", cwd=tmp_path)

    assert ran.err.count("nothing says what its 5 pages are; they are taken as slices") == 1


def test_series_of_one_number_are_told_apart_by_their_uids(tmp_path: Path):
    write_series(tmp_path / "scans" / "a", phantom())
    write_series(tmp_path / "scans" / "b", phantom(1), SeriesInstanceUID="1.2.3.4.99")

    refused = call("segment", "scans", "--model", "threshold", "-o", "out", cwd=tmp_path)
    choice = refused.refusal()[-1].split("--series ")[1]

    assert refused.code == 2
    succeed("segment", "scans", "--series", choice, "--model", "threshold", "--dry-run", cwd=tmp_path)

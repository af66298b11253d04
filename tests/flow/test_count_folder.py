"""A folder of counts over several commands: rows that stay, tables that are nobody's to lose, ids that name files."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support_flow import call, digests, succeed
from support_slides import write_ome

from seggeo.config import Execution, settings_from
from seggeo.run.count import COUNT_DEFAULTS, Counted, Counting, count_slide
from seggeo.run.slides import Slide

JOB = (
    "--model", "threshold", "--set", "split=false", "--tissue", "none", "--workers", "1", "--device", "cpu", "--no-preview",
    "-f", "cells",
)  # fmt: skip
TABLES = ("counts.csv", "regions.csv", "errors.csv", "report.html")


def slide(path: Path, cells: int) -> None:
    """So many square cells of 8 px on a dark field at 0.5 um a pixel."""
    image = np.random.default_rng(cells).integers(90, 110, (160, 200)).astype(np.uint16)
    for number in range(cells):
        row, col = 10 + 20 * (number // 9), 10 + 20 * (number % 9)
        image[row : row + 8, col : col + 8] = 900
    write_ome(path, image[None], names=("DAPI",))


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    slide(tmp_path / "a.ome.tif", 12)
    slide(tmp_path / "b.ome.tif", 20)
    return tmp_path


def test_lines_of_one_file_are_slides_of_their_own_and_rows_stay_with_their_files(folder: Path):
    (folder / "m.csv").write_text("path,id,mpp,core\na.ome.tif,x1,0.5,A\na.ome.tif,x2,0.25,B\n")
    out = folder / "out"
    succeed("count-cells", "m.csv", "-o", "out", *JOB, cwd=folder)
    first = rows(out / "counts.csv")
    assert {name: (row["cells"], row["mpp"], row["core"]) for name, row in first.items()} == {
        "x1": ("12", "0.5", "A"),
        "x2": ("12", "0.25", "B"),
    }
    assert {path.name for path in out.glob("*.parquet")} == {"x1_cells.parquet", "x2_cells.parquet"}

    succeed("count-cells", "b.ome.tif", "-o", "out", *JOB, cwd=folder)
    both = rows(out / "counts.csv")
    assert {name: row["cells"] for name, row in both.items()} == {"b": "20", "x1": "12", "x2": "12"}
    assert {name: both[name] for name in first} == first
    assert "x1, x2 (in counts.csv" in (out / "report.html").read_text(encoding="utf-8")

    before = digests(out)
    refused = call("count-cells", "b.ome.tif", "--mpp", "0.9", "-o", "out", *JOB, cwd=folder)
    assert refused.code == 5
    after = digests(out)
    assert rows(out / "errors.csv")["b"]["exit"] == "5"
    assert {name for name in after if after[name] != before.get(name)} == {"errors.csv", "tables.seggeo.json"}

    (out / "x2_provenance.json").unlink()
    succeed("count-cells", "b.ome.tif", "-o", "out", *JOB, cwd=folder)
    assert list(rows(out / "counts.csv")) == ["b", "x1"]
    assert not (out / "errors.csv").exists()


def test_tables_of_somebody_else_are_not_touched_unless_told(folder: Path):
    out = folder / "out"
    out.mkdir()
    for name in TABLES:
        (out / name).write_text("mine")
        refused = call("count-cells", "a.ome.tif", "-o", "out", *JOB, cwd=folder)
        assert (refused.code, name in refused.refusal()[0]) == (5, True)
        assert [path.name for path in out.iterdir()] == [name], "nothing was done"
        (out / name).unlink()

    (out / "counts.csv").write_text("id,cells\nmine,1\n")
    succeed("count-cells", "a.ome.tif", "-o", "out", *JOB, "--overwrite", cwd=folder)
    assert list(rows(out / "counts.csv")) == ["a"]
    again = (out / "counts.csv").read_bytes()
    for name in ("counts.csv", "report.html"):
        whole = (out / name).read_bytes()
        (out / name).write_bytes(whole + b"note")
        assert call("count-cells", "a.ome.tif", "-o", "out", *JOB, cwd=folder).code == 5
        (out / name).write_bytes(whole)
    succeed("count-cells", "a.ome.tif", "-o", "out", *JOB, cwd=folder)
    assert (out / "counts.csv").read_bytes() == again


def test_what_was_measured_gives_way_to_nothing(folder: Path):
    settings, execution = settings_from(
        {**COUNT_DEFAULTS, "model": "threshold", "format": ("cells",), "tissue": "none", "preview": False, "workers": 1}
    )
    how = Counting(settings=settings, execution=replace(execution, device="cpu"), out=folder)
    assert isinstance(execution, Execution)
    told = Slide(path=str(folder / "a.ome.tif"), id="a", facts={"cells": "many", "per_mm2": "5", "ward": "7"})
    for _ in range(2):  # measured, and as it was kept
        (done,) = (event for event in count_slide(told, how) if isinstance(event, Counted))
        assert done.row["cells"] == 12
        assert done.row["per_mm2"] == pytest.approx(12 / (160 * 200 * 0.25e-6))
        assert done.row["ward"] == "7"


def test_names_that_no_table_can_hold_cost_no_count(folder: Path):
    slides = folder / "odd"
    slides.mkdir()
    (folder / "a.ome.tif").rename(slides / "a\nb.ome.tif")
    (slides / "c\udcff.tif").write_bytes(b"")

    ran = call("count-cells", "odd", "-o", "out", *JOB, cwd=folder)

    assert ran.code == 4, ran.err
    (name,) = rows(folder / "out" / "counts.csv")
    assert name.startswith("a_b_")
    assert (folder / "out" / f"{name}_cells.parquet").exists()
    (failed,) = rows(folder / "out" / "errors.csv").values()
    assert "not UTF-8" in failed["what"]

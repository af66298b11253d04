"""The output `ome-zarr` by way of the commands, and the code of the page about viewers."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import zarr
from support_docs import ROOT, code_blocks
from support_flow import ORACLE, SMALL, below, call, label_raster, scene, succeed, write_labels, write_model

JOB = ("segment", "scene.tif", "--model", "oracle.py:Oracle", "-f", "cog,ome-zarr", *SMALL)
QUICK = ("--model", "threshold", "--workers", "1", "--device", "cpu", "-q")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_labels(tmp_path / "scene.tif", scene("snakes", 6, (416, 700)))
    write_model(tmp_path, ORACLE)
    return tmp_path


def ids_of(path: Path, level: int = 0) -> Any:
    return zarr.open_array(path / "labels" / "objects" / str(level), mode="r")[:]


def test_the_folder_is_the_label_raster_and_is_made_again_in_place(folder: Path):
    (summary,) = succeed(*JOB, "-o", "out", "--json", cwd=folder).results
    path = folder / summary["outputs"]["ome-zarr"]
    raster = label_raster(folder / "out" / "scene_labels.tif")
    assert path.name == "scene_labels.ome.zarr"
    assert np.array_equal(ids_of(path), raster)
    assert set(np.unique(ids_of(path, 1))) <= set(np.unique(raster))

    (path / "mark").touch()
    assert succeed(*JOB, "-o", "out", "--json", cwd=folder).results == [summary]
    assert (path / "mark").exists(), "it was done already"

    succeed(*JOB, "-o", "out", "--min-area", "400", "--overwrite", cwd=folder)

    assert not (path / "mark").exists(), "no file of the old one stays"
    assert 0 < ids_of(path).max() < raster.max()
    assert np.array_equal(ids_of(path), label_raster(folder / "out" / "scene_labels.tif"))
    assert not [name for name in below(folder) if Path(name).name.startswith(".scene")]


def test_a_zarr_named_is_written_and_an_old_one_needs_a_word(folder: Path):
    job = (*JOB[:4], *SMALL, "-o", "roofs.ome.zarr")
    succeed(*job, cwd=folder)
    before = ids_of(folder / "roofs.ome.zarr")

    refused = call(*job, "--min-area", "400", cwd=folder)

    assert refused.code == 5
    assert "--overwrite" in refused.err
    assert np.array_equal(ids_of(folder / "roofs.ome.zarr"), before)
    succeed(*job, "--min-area", "400", "--overwrite", cwd=folder)
    assert ids_of(folder / "roofs.ome.zarr").max() < before.max()


def test_a_folder_of_someone_else_is_never_replaced(folder: Path):
    for name, text in (("mine.zarr", "{}"), ("notes.zarr", "no JSON")):
        (folder / name).mkdir()
        (folder / name / ".zattrs").write_text(text)
        refused = call(*JOB[:4], *SMALL, "-o", name, "--overwrite", cwd=folder)
        assert refused.code == 5
        assert "is a folder" in refused.err
        assert [p.name for p in (folder / name).iterdir()] == [".zattrs"]


def test_the_input_may_not_lie_in_what_is_replaced(folder: Path):
    succeed(*JOB[:4], *SMALL, "-o", "a.ome.zarr", cwd=folder)
    shutil.copy(folder / "scene.tif", folder / "a.ome.zarr" / "scene.tif")

    inside = ("segment", "a.ome.zarr/scene.tif", "--model", "oracle.py:Oracle", *SMALL, "-o", "a.ome.zarr", "--overwrite")
    refused = call(*inside, cwd=folder)

    assert refused.code == 5
    assert "the input of this very job" in refused.err
    assert (folder / "a.ome.zarr" / "scene.tif").exists()


def test_the_code_of_the_page_about_viewers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sample_data").symlink_to(ROOT / "sample_data")
    command = shlex.split(code_blocks("viewers.md", "sh")[0])
    assert command[:2] == ["seggeo", "count-cells"]
    succeed(*command[1:], *QUICK, cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    load, draw = code_blocks("viewers.md", "python")
    names: dict[str, Any] = {}

    exec(load, names)

    cells, ids = names["cells"], names["levels"][0][:]
    assert ids.shape == names["image"].shape
    assert ids.max() == len(cells) > 50
    place = (names["centres"].to_numpy() - names["shift"]) / names["scale"]
    row, col = np.round(place).astype(int).T
    assert (ids[row, col] == cells["id"]).mean() > 0.9, "a cell's centre lies in the cell, but for bent ones"

    exec(draw, names)

    assert (tmp_path / "qupath_cells.png").stat().st_size > 50_000
    names["plt"].close("all")

"""`--profile`: all of the wall time has a name, whoever predicts, and no result knows of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support_docs import code_blocks, tables
from support_flow import ORACLE, SMALL, call, digests, scene, succeed, write_labels, write_model

from seggeo.run.profile import PHASES, PROFILE

SAMPLES = Path(__file__).parents[2] / "sample_data"
JOB = ("scene.tif", "--model", "oracle.py:Oracle", "-f", "gpkg,cog", "--tile", "96", "--overlap", "32", "--no-preview")
KEYS = {
    "seconds", "predicting_s", "reading_s", "encoding_s", "phases", "processes", "tiles", "megapixels", "megapixels_per_s",
    "megapixels_per_s_predicting", "km2", "km2_per_h", "km2_per_h_predicting", "memory_bytes", "memory_bytes_together",
    "gpu_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 42 tiles, an oracle, and the result without a profile in `whole`."""
    folder = tmp_path_factory.mktemp("profile")
    write_labels(folder / "scene.tif", scene("snakes", 6, (416, 480)))
    write_model(folder, ORACLE)
    plain = succeed("segment", *JOB, "-o", "whole", "--workers", "1", "--json", cwd=folder)
    assert "profile" not in plain.results[0]
    assert not (folder / "whole" / "scene.seggeo" / PROFILE).exists()
    return folder


def check_whole(profile: dict) -> None:
    """All of the wall time has a name."""
    assert tuple(profile["phases"]) == PHASES
    assert sum(entry["share"] for entry in profile["phases"].values()) == pytest.approx(1, abs=2e-3)
    assert sum(entry["seconds"] for entry in profile["phases"].values()) == pytest.approx(profile["seconds"], abs=0.01)
    assert all(entry["seconds"] >= 0 for entry in profile["phases"].values())


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_the_same_bytes_and_the_shares_the_whole(folder: Path, workers: int):
    out = f"by_{workers}"
    ran = succeed("segment", *JOB, "-o", out, "--workers", str(workers), "--profile", "--json", cwd=folder)
    profile = ran.results[0]["profile"]

    assert digests(folder / out) == digests(folder / "whole")
    check_whole(profile)
    assert set(profile) == KEYS
    assert (profile["processes"], profile["tiles"]) == (workers, 42)
    assert profile["megapixels"] == 416 * 480 / 1e6
    assert profile["km2"] == pytest.approx(416 * 480 * 0.25 / 1e6)
    assert all(profile["phases"][name]["seconds"] > 0 for name in ("plan", "model", "encode", "store", "merge", "write"))
    assert (profile["memory_bytes_together"] > profile["memory_bytes"]) == (workers == 2)
    assert profile["seconds"] == pytest.approx(ran.results[0]["seconds"], abs=0.1)
    assert json.loads((folder / out / "scene.seggeo" / PROFILE).read_text()) == profile
    assert "profile: " in ran.err
    assert "Mpx/s" in ran.err

    again = succeed("segment", *JOB, "-o", out, "--workers", str(workers), "--profile", "--json", cwd=folder)
    assert "done already" in again.err
    assert "profile" not in again.results[0]


def test_shards_and_merge_tell_each_their_own_time(folder: Path):
    succeed("plan", "segment", *JOB, "-o", "parts", "--job", "job", "--shards", "2", cwd=folder)
    first = succeed("run", "job", "--part", "1/2", "--profile", "--workers", "1", "--json", cwd=folder).results[0]["profile"]
    rest = succeed("run", "job", "--profile", "--workers", "1", "--json", cwd=folder).results[0]["profile"]
    merged = succeed("merge", "job", "--profile", "--json", cwd=folder).results[0]["profile"]

    assert digests(folder / "parts") == digests(folder / "whole")
    assert 0 < first["tiles"] < 42
    assert (first["tiles"] + rest["tiles"], merged["tiles"]) == (42, 0), "what an earlier run did is not told again"
    assert first["phases"]["merge"]["seconds"] == 0
    assert merged["phases"]["merge"]["seconds"] > 0
    assert merged["phases"]["model"]["seconds"] == 0
    for profile in (first, rest, merged):
        check_whole(profile)
    done = succeed("run", "job", "--part", "1/2", "--profile", "--workers", "1", "--json", cwd=folder)
    assert "profile" not in done.results[0]
    assert "profile: " not in done.err


def test_no_profile_of_another_run_lies_beside_results(folder: Path):
    job = (*JOB, "-o", "stale", "--workers", "1")
    succeed("segment", *job, "--profile", cwd=folder)
    succeed("segment", *job, "--overwrite", "--tile", "128", cwd=folder)

    assert not (folder / "stale" / "scene.seggeo" / PROFILE).exists()


def test_a_count_shows_it_in_its_page_and_only_of_the_run_that_asked(tmp_path: Path):
    tifffile.imwrite(tmp_path / "cells.tif", tifffile.imread(SAMPLES / "nuclei.tif")[:192, :192])
    job = ("count-cells", "cells.tif", "--mpp", "0.656", "--model", "threshold", "--no-preview", "--workers", "1", "-o")
    plain = succeed(*job, "plain", "--json", cwd=tmp_path)
    ran = succeed(*job, "out", "--profile", "--json", cwd=tmp_path)
    page = (tmp_path / "out" / "report.html").read_text()
    succeed(*job, "out", cwd=tmp_path)

    check_whole(ran.results[0]["profile"])
    assert ran.results[0]["profile"]["mm2_per_h"] > 0
    assert {**ran.results[0], "profile": None} == {**plain.results[0], "profile": None}
    assert "<h3>Where the time went</h3>" in page
    assert "Where the time went" not in (tmp_path / "out" / "report.html").read_text()
    tables = {"report.html": None}  # which tells the command line
    assert {**digests(tmp_path / "plain"), **tables} == {**digests(tmp_path / "out"), **tables}


def test_the_page_lists_every_phase_and_figure_and_its_model_runs(folder: Path):
    phases, figures = tables("profile.md", "The phases"), tables("profile.md", "The figures")
    listed = {name for row in figures[1:] for name in row[0].split(", ")}
    (block,) = code_blocks("profile.md", "python")
    write_model(folder, block, "mine.py")

    ran = succeed("segment", "scene.tif", "--model", "mine.py:MyModel", *SMALL, "-o", "mine", "--profile", "--json", cwd=folder)

    assert tuple(row[0] for row in phases[1:]) == PHASES
    assert listed == KEYS | {name.replace("km2", "mm2") for name in KEYS}
    assert ran.results[0]["profile"]["phases"]["encode"]["seconds"] > 0


def test_a_volume_shows_it_in_its_report(tmp_path: Path):
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 40, 50), np.uint16), photometric="minisblack")
    ran = call(
        "segment",
        "stack.tif",
        "--model",
        "threshold",
        "--set",
        "level=100",
        "--profile",
        "-o",
        "out",
        "--workers",
        "1",
        cwd=tmp_path,
    )

    assert ran.code == 0, ran.err
    assert "Where the time went" in (tmp_path / "out" / "stack_report.html").read_text()

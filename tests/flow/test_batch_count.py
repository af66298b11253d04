"""A folder of slides as one batch: the tables and files of one go, and one bad slide never costs the others."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile
from support_flow import call, digests, succeed


def slide(path: Path, seed: int) -> None:
    """Round cells on a dark field at 0.5 um a pixel."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 12, (420, 500), dtype=np.uint8)
    row, col = np.mgrid[:420, :500]
    for centre in rng.uniform(12, 400, (40, 2)):
        image[np.hypot(row - centre[0], col - centre[1]) < 7] = 200
    tifffile.imwrite(
        path, image, tile=(128, 128), photometric="minisblack", resolution=(20000, 20000), resolutionunit="CENTIMETER"
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch_count")
    (folder / "slides").mkdir()
    for seed in range(3):
        slide(folder / "slides" / f"s{seed}.tif", seed)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


JOB = ("--model", "threshold", "--tile", "128", "--overlap", "32", "--tissue", "none", "--workers", "1", "--no-preview")


def test_a_batch_of_slides_counts_as_one_go_does(folder: Path):
    succeed("count-cells", "slides", "-o", "whole", *JOB, cwd=folder)
    succeed("plan", "count-cells", "slides", "-o", "out", *JOB, "--job", "job", "--shards", "3", cwd=folder)
    for number in (2, 3, 1):
        succeed("run", "job", "--part", f"{number}", "--workers", f"{number}", cwd=folder)
    succeed("merge", "job", cwd=folder)

    ours, theirs = digests(folder / "out"), digests(folder / "whole")
    assert set(ours) == set(theirs)
    assert {name: ours[name] for name in ours if not name.endswith(".html")} == {
        name: theirs[name] for name in theirs if not name.endswith(".html")
    }
    assert (folder / "out" / "report.html").exists()


def test_bad_slides_are_listed_and_mended(folder: Path, tmp_path: Path):
    slides = tmp_path / "slides"
    slides.mkdir()
    for seed in range(2):
        slide(slides / f"s{seed}.tif", seed)
    (slides / "broken.tif").write_bytes(b"II*\0nothing")

    planned = call("plan", "count-cells", "slides", "-o", "out", *JOB, "--job", "job", cwd=tmp_path)
    assert planned.code == 4
    succeed("run", "job", cwd=tmp_path)
    (tmp_path / "out" / "counts.csv").write_text("mine")
    assert call("merge", "job", cwd=tmp_path).code == 5
    assert (tmp_path / "out" / "counts.csv").read_text() == "mine"
    (tmp_path / "out" / "counts.csv").unlink()
    merged = call("merge", "job", cwd=tmp_path)

    assert merged.code == 4
    counts, errors = (rows(tmp_path / "out" / name) for name in ("counts.csv", "errors.csv"))
    assert [row["id"] for row in counts] == ["s0", "s1"]
    assert [(row["id"], row["exit"]) for row in errors] == [("broken", "3")]

    slide(slides / "broken.tif", 5)
    succeed("plan", "count-cells", "slides", "-o", "out", *JOB, "--job", "job", cwd=tmp_path)
    succeed("run", "job", cwd=tmp_path)
    succeed("merge", "job", cwd=tmp_path)
    assert not (tmp_path / "out" / "errors.csv").exists()
    assert len(rows(tmp_path / "out" / "counts.csv")) == 3

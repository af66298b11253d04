"""Slides that end, or keep for ever, whoever opens them: each costs itself alone. The crashes are real ones."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path

import pytest
import support_apart
from support_flow import call
from support_openslide import damage, write_mrxs, write_ndpi
from support_slides import tissue, write_scn

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io import slide_openslide
from seggeo.io.slide import is_slide, open_slide

COUNT = (
    "--model", "threshold", "--tile", "256", "--overlap", "32", "--workers", "1", "--tissue", "none", "-f", "cells",
    "--no-preview",
)  # fmt: skip


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_a_slide_that_crashes_or_hangs_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bad = {"crash-when-opened": "SIGSEGV", "crash-when-read": "SIGSEGV", "hang-when-opened": "no answer"}
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("a", *bad, "z"):
        write_scn(folder / f"{name}.scn", [(tissue(300, 400), (40, 60))], canvas=(600, 600), mpp=0.5)
    row, col = support_apart.BAD_CORNER[::-1]
    write_scn(folder / "crash-in-one-place.scn", [(tissue(520, 1100), (row, col))], canvas=(900, 1400), mpp=0.5)
    monkeypatch.setattr(slide_openslide, "slide_apart", support_apart)
    monkeypatch.setattr(slide_openslide, "SILENCE_S", 3.0)

    ran = call("count-cells", "slides", "-o", "out", *COUNT, cwd=tmp_path)

    assert ran.code == 4, ran.err
    assert set(rows_of(tmp_path / "out/counts.csv")) == {"a", "crash-in-one-place", "z"}
    errors = rows_of(tmp_path / "out/errors.csv")
    assert set(errors) == set(bad)
    for name, says in bad.items():
        assert (errors[name]["exit"], errors[name]["error"]) == ("3", "SourceError"), errors[name]
        assert says in errors[name]["why"], errors[name]
    lines = (tmp_path / "out/crash-in-one-place.seggeo/failures.jsonl").read_text().splitlines()
    failed = [json.loads(line) for line in lines]
    assert failed
    assert all(tile["row"] < 512 and tile["col"] < 512 and "SIGSEGV" in tile["message"] for tile in failed)


@pytest.mark.parametrize("kind", ["scn", "ndpi", "mrxs"])
def test_damaged_slides_give_pixels_or_a_refusal(tmp_path: Path, kind: str):
    """Any other exception, or the end of this process, is the failure of this test; 7 500 more were tried by hand."""
    whole = tmp_path / "whole"
    whole.mkdir()
    if kind == "mrxs":
        write_mrxs(whole / "a.mrxs", tissue(1024, 1024), mpp=0.25)
    elif kind == "ndpi":
        write_ndpi(whole / "a.ndpi", tissue(512, 768), mpp=0.25)
    else:
        write_scn(whole / "a.scn", [(tissue(400, 500), (40, 60))], canvas=(700, 800), mpp=0.5)
    rng = random.Random(5)
    outcomes = {"read": 0, "refused": 0}
    for i in range(35):
        box = tmp_path / f"{i}"
        shutil.copytree(whole, box)
        victims = sorted(box.glob("a/*")) or [box / f"a.{kind}"]
        damage(rng.choice(victims), rng)
        path = str(box / f"a.{kind}")
        is_slide(path)
        try:
            with open_slide(path, Reading(max_pixels=10**7), native=True) as source:
                assert source.overview(100).valid.shape == source.overview_frame(100).window.shape
                assert source.read(source.frame.window).valid.shape == source.frame.window.shape
            outcomes["read"] += 1
        except SourceError:
            outcomes["refused"] += 1
        shutil.rmtree(box)

    assert min(outcomes.values()) > 3

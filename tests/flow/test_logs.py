"""What stands on standard error when it is no terminal: plain lines, or JSON and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support_flow import FRAGILE, PLAIN, SMALL, Ran, has_escapes, scene, seggeo, write_labels, write_model

LOUD = '''
import logging
import sys
import warnings


class Loud:
    """The input's own values, and every way to say something."""

    native = True

    def predict(self, tiles):
        print("printed")
        print("half a line", end="", file=sys.stderr, flush=True)
        warnings.warn("careful")
        logging.getLogger("loud").warning("logged %d", 7)
        return [tile[:, :, 0].astype("int32") for tile in tiles]
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    write_labels(folder / "scene.tif", scene("discs", 3, (200, 300)))
    write_model(folder, LOUD, "loud.py")
    write_model(folder, FRAGILE, "fragile.py")
    return folder


def records(ran: Ran) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in ran.err.splitlines()]
    assert all({"time", "level", "pid", "message"} <= set(record) for record in found)
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_everything_is_json_and_results_stay_results(folder: Path, workers: str):
    ran = seggeo(
        "--log-format", "json", "segment", "scene.tif", "--model", "loud.py:Loud", *SMALL[:4], "--workers", workers, "--json",
        "-o", f"json{workers}", "--no-preview", "--profile", cwd=folder,
    )  # fmt: skip

    assert ran.code == 0, ran.err
    said = {(record["level"], record["message"], record.get("logger")) for record in records(ran)}
    assert {("info", "printed", None), ("info", "half a line", None), ("warning", "warning: careful", None)} <= said
    assert ("warning", "logged 7", "loud") in said
    assert [result["tiles"] for result in ran.results] == [6]
    assert [r["profile"] for r in records(ran) if r["message"] == "profile"] == [ran.results[0]["profile"]]


def test_a_refusal_is_one_record(folder: Path):
    ran = seggeo("segment", "nothing.tif", cwd=folder, SEGGEO_LOG_FORMAT="json")

    (refused,) = [record for record in records(ran) if record["level"] == "error"]
    assert ran.code == refused["exit"] == 3
    assert refused["message"].endswith("nothing.tif does not exist")
    assert refused["why"]
    assert refused["fix"]


def test_progress_and_a_traceback_are_records(folder: Path):
    job = ("--model", "fragile.py:Fragile", *SMALL, "-o", "broken")
    (folder / "broken_now").touch()

    ran = seggeo("--debug", "--log-format", "json", "segment", "scene.tif", *job, cwd=folder, BROKEN="broken_now")

    found = records(ran)
    assert ran.code == 4
    assert any("too much for me" in record["message"] for record in found)
    assert [record["exit"] for record in found if "exit" in record] == [4]


def test_a_shard_tells_its_progress_without_escapes(folder: Path):
    planned = seggeo("plan", "segment", "scene.tif", *PLAIN, "--job", "job", cwd=folder)
    ran = seggeo("run", "job", cwd=folder)

    assert (planned.code, ran.code) == (0, 0), planned.err + ran.err
    assert not has_escapes(planned.err + ran.err)
    assert "shard 1/1 is done" in ran.err


def test_a_long_shard_says_a_line_now_and_then():
    from io import StringIO

    from seggeo.cli import progress
    from seggeo.run.logs import JsonLines
    from seggeo.run.part import PartReport

    def told(stream: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(progress, "EVERY_S", 0.0)
            patch.setattr("sys.stderr", stream)
            shown = progress.Progress(tiles=8, megapixels_per_tile=1)
            shown.add(PartReport(part=0, instances=5, notes={"tiles": 2, "failures": []}), resumed=False)
            shown.close()

    plain, below = StringIO(), StringIO()
    told(plain)
    told(JsonLines(below))

    assert plain.getvalue().startswith("2/8 tiles, ")
    record = json.loads(below.getvalue())
    assert (record["message"], record["tiles_done"], record["tiles"], record["readings"]) == ("progress", 2, 8, 5)

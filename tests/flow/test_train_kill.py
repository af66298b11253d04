"""A training of a Mask R-CNN that is killed while it learns ends as one that was left alone."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from support_flow import COMMAND, clean_environment, seggeo
from support_train import data_folder

from seggeo.train import folder

LEARN = (
    "train", "maskrcnn", "data", "--crop", "64", "--batch", "1", "--steps", "12", "--epoch", "4", "--device", "cpu",
)  # fmt: skip


def lines(out: Path) -> list[str]:
    path = out / folder.HISTORY
    return path.read_text().splitlines() if path.exists() else []


def killed_after(epochs: int, place: Path, out: Path, wait_s: float) -> int:
    """Start, kill some time after a validation, and say how many validations there were."""
    begun = subprocess.Popen(
        [str(COMMAND), *LEARN, "-o", str(out)], cwd=place, env=clean_environment(), stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and begun.poll() is None and len(lines(out)) < epochs:
        time.sleep(0.02)
    time.sleep(wait_s)
    begun.kill()
    begun.wait()
    return len(lines(out))


@pytest.mark.slow
def test_killed_during_an_epoch_and_resumed_is_uninterrupted_to_the_byte(tmp_path: Path):
    data_folder(tmp_path / "data")
    out, whole = tmp_path / "killed", tmp_path / "whole"
    assert seggeo(*LEARN, "-o", whole, cwd=tmp_path).code == 0

    done = [killed_after(1, tmp_path, out, 0.3), killed_after(2, tmp_path, out, 0.0)]
    last = seggeo(*LEARN, "-o", out, cwd=tmp_path)

    assert done[0] < 3, "it was killed before it ended"
    assert "going on from batch" in last.err
    assert (out / folder.WEIGHTS).read_bytes() == (whole / folder.WEIGHTS).read_bytes()
    told = [[{**json.loads(line), "seconds": 0, "judged_in_s": 0} for line in lines(each)] for each in (out, whole)]
    assert told[0] == told[1]
    assert len(told[0]) == 3

"""A volume's run that is killed goes on with the same command: the same bytes, and nothing that is done is done again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import support_kill
from support_flow import SLOW, seggeo, write_model
from support_kill import finished_parts, tiles_logged, until
from support_volume_flow import boxes, files, nifti

JOB = (
    "segment", "scene.nii.gz", "--model", "slow.py:Slow", "-f", "volume,masks,objects,ply", "--tile", "64", "--overlap", "16",
    "--no-preview",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume of several parts, a slow oracle, and the undisturbed result in `whole`."""
    folder = tmp_path_factory.mktemp("kill")
    nifti(folder / "scene.nii.gz", boxes((18, 90, 102), seed=3).T, "oblique")
    write_model(folder, SLOW, "slow.py")
    environment = {"TILE_LOG": str(folder / "log_whole"), "TILE_SECONDS": "0"}
    ran = seggeo(*JOB, "-o", "whole", "--workers", "1", "--json", cwd=folder, **environment)
    assert ran.code == 0, ran.err
    assert ran.results[0]["tiles"] == 18 * 4
    assert len(finished_parts(folder, "whole")) >= 3
    return folder


def start(folder: Path, out: str, *, workers: int = 2, tile_s: float = 0.05) -> subprocess.Popen[bytes]:
    return support_kill.start(folder, JOB, out, workers=workers, tile_s=tile_s)


def check_result(folder: Path, out: str) -> None:
    support_kill.check_goes_on(folder, JOB, out, files)


def test_killed_twice_and_the_same_bytes(folder: Path):
    rng = random.Random(1)

    support_kill.kill_and_go_on(folder, JOB, "twice", [rng.uniform(0.1, 1.0) for _ in range(2)], tile_s=0.1)

    check_result(folder, "twice")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_eight_times_and_the_same_bytes(folder: Path, seed: int):
    rng = random.Random(seed)

    support_kill.kill_and_go_on(folder, JOB, f"eight{seed}", [rng.uniform(0.0, 0.9) for _ in range(8)], tile_s=0.35)

    check_result(folder, f"eight{seed}")


@pytest.mark.slow
def test_killed_while_linking_and_writing(folder: Path):
    """All tiles are done; the kills fall into merge, links and outputs, which take a second here."""
    rng = random.Random(5)
    ran = seggeo(*JOB, "-o", "late", "--workers", "1", cwd=folder, TILE_LOG=str(folder / "log_late"), TILE_SECONDS="0")
    assert ran.code == 0, ran.err
    work = folder / "late" / "scene.seggeo"
    for name in ("scene_labels.nii.gz", "scene_objects.csv", "scene_provenance.json", "scene.seggeo/report.json"):
        (folder / "late" / name).unlink()
    killed = 0
    for _ in range(10):
        process = start(folder, "late", workers=1)
        before = (work / "job.json").stat().st_mtime_ns
        until(lambda p=process, t=before: p.poll() is not None or (work / "job.json").stat().st_mtime_ns != t, 60)
        time.sleep(rng.uniform(0.0, 0.6))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.communicate()

    assert killed
    check_result(folder, "late")
    assert len(tiles_logged(folder, "late")) == 18 * 4, "a tile was predicted again"

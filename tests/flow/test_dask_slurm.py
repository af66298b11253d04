"""Predicted by jobs of a real SLURM that Dask submits: the same bytes, also when jobs are lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_flow import COMMAND, SLOW, digests, scene, succeed, write_labels, write_model
from support_slurm import Slurm, slurm_up, until

pytest.importorskip("dask_jobqueue", reason="dask is not installed: pip install 'seggeo[dask]'")
pytestmark = pytest.mark.slow

JOB = ("segment", "scene.tif", "--model", "slow.py:Slow", "-f", "gpkg,cog", "--tile", "96", "--overlap", "32")


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with slurm_up() as cluster:
        yield cluster


@pytest.mark.parametrize("name", ["plain", "of 100% (mine)"])
def test_jobs_that_are_lost_are_replaced_and_the_bytes_are_the_same(slurm: Slurm, tmp_path: Path, name: str):
    folder = tmp_path / name
    folder.mkdir()
    write_labels(folder / "scene.tif", scene("snakes", 6, (416, 480)))
    write_model(folder, SLOW, "slow.py")
    succeed(*JOB, "-o", "whole", "--workers", "1", cwd=folder, TILE_LOG=str(folder / "log_whole"), TILE_SECONDS="0")
    log = folder / "log"
    environment = slurm.environment(TILE_LOG=str(log), TILE_SECONDS="0.5")
    process = subprocess.Popen(
        [str(COMMAND), *JOB, "-o", "jobs", "--dask", "slurm:2"], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert until(lambda: log.exists() and len(log.read_text().split()) > 4, 240), slurm.logs()
        first = set(slurm.states())
        slurm.run("scancel", "--full", "--signal=KILL", sorted(first)[0])
        slurm.run("scancel", sorted(first)[0])

        assert until(lambda: set(slurm.states()) - first, 60), "nothing took the place of the lost job"
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors.decode()
    assert "Traceback" not in errors.decode()
    assert digests(folder / "jobs") == digests(folder / "whole")
    assert until(lambda: not slurm.states(), 30), "jobs outlive the run"

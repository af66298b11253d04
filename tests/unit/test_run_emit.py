"""Scripts for batch systems, run by bash with a stand-in for seggeo: who is told what, and what the script ends with."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seggeo.config import Execution
from seggeo.errors import ConfigError
from seggeo.run.batch import Batch
from seggeo.run.emit import ranges, resubmission, write_script

STAND_IN = """#!/bin/bash
echo "$@" >> "$LOG"
[ -n "$CODE" ] && exit "$CODE"
trap 'echo told >> "$LOG"; sleep 0.2; exit 75' USR1
echo ready >> "$LOG"
while :; do sleep 0.05; done
"""
SUFFIX = {"slurm": "sbatch", "pbs": "pbs", "lsf": "lsf", "sge": "sge"}
AGAIN = {"slurm": 0, "pbs": 0, "lsf": 75, "sge": 99}
"""What a script ends with that is to be run again; on SLURM and PBS it has asked for that by itself."""


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    folder = tmp_path / "a job's 100%"
    folder.mkdir()
    facts = {"memory_bytes": 10**9, "tiles": 120_000}
    return Batch(
        folder=folder, kind="segment", shards=3, out=None, execution=Execution(), folders=("one",), failures=(), facts=facts,
        item=np.zeros(3, np.int32), part=np.arange(3, dtype=np.int32), work=np.ones(3, np.float32),
    )  # fmt: skip


class Running:
    """An emitted script, running."""

    def __init__(self, batch: Batch, kind: str, name: str = "array", code: str = "") -> None:
        write_script(batch, kind)
        self.folder, self.log = batch.folder, batch.folder / "log"
        self._program("stand-in", STAND_IN)
        for asks in ("scontrol", "qrerun"):
            self._program(asks, f'#!/bin/sh\necho {asks} "$@" >> "$LOG"\n')
        script = batch.folder / f"{name}.{SUFFIX[kind]}"
        text = script.read_text()
        (line,) = [line for line in text.splitlines() if line.startswith("SEGGEO=")]
        script.write_text(text.replace(line, "SEGGEO=stand-in"))
        environment = {
            **os.environ, "PATH": f"{batch.folder}:{os.environ['PATH']}", "LOG": str(self.log), "CODE": code,
            "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "7", "PBS_JOBID": "5[2]",
        }  # fmt: skip
        self.process = subprocess.Popen(["bash", str(script)], env=environment)

    def _program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def send(self, number: signal.Signals) -> int:
        """The script's exit code after a signal, sent to it alone when the program is ready."""
        end = time.monotonic() + 20
        while "ready" not in self.said() and time.monotonic() < end:
            time.sleep(0.02)
        self.process.send_signal(number)
        return self.process.wait(20)

    def said(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.mark.parametrize("kind", SUFFIX)
def test_a_warning_reaches_seggeo_once_and_the_task_runs_again(batch: Batch, kind: str):
    running = Running(batch, kind)

    assert running.send(signal.SIGUSR1) == AGAIN[kind]
    said = running.said()
    assert said.count("told") == 1
    assert said[0].startswith(f"run {batch.folder}")
    asks = {"slurm": ["scontrol requeue 5_2"], "pbs": ["qrerun 5[2]"]}.get(kind, [])
    assert [line for line in said if line.startswith(("scontrol", "qrerun"))] == asks


@pytest.mark.parametrize("kind", SUFFIX)
def test_a_task_that_is_killed_saves_and_does_not_run_again(batch: Batch, kind: str):
    running = Running(batch, kind)

    assert running.send(signal.SIGTERM) in (75, 143)
    assert running.said().count("told") == 1
    assert not [line for line in running.said() if line.startswith(("scontrol", "qrerun"))]


@pytest.mark.parametrize("kind", SUFFIX)
@pytest.mark.parametrize(("code", "ends"), [("0", 0), ("4", 4), ("3", 3)])
def test_other_ends_are_the_tasks_own(batch: Batch, kind: str, code: str, ends: int):
    running = Running(batch, kind, code=code)

    assert running.process.wait(20) == ends
    assert not [line for line in running.said() if line.startswith(("scontrol", "qrerun"))]


@pytest.mark.parametrize("kind", SUFFIX)
def test_its_own_clock_has_it_run_again(batch: Batch, kind: str):
    assert Running(batch, kind, code="75").process.wait(20) == AGAIN[kind]


@pytest.mark.parametrize("kind", SUFFIX)
def test_the_merge_ends_with_what_is_missing(batch: Batch, kind: str):
    running = Running(batch, kind, "merge", code="4")

    assert running.process.wait(20) == 4
    assert running.said() == [f"merge {batch.folder}"]


def test_a_merge_that_is_warned_goes_back_into_the_queue(batch: Batch):
    running = Running(batch, "slurm", "merge")

    assert running.send(signal.SIGUSR1) == 0
    assert "scontrol requeue 7" in running.said()


def test_the_lines_that_submit_what_is_missing(batch: Batch):
    job = f"'{batch.folder}'".replace("'s", "'\"'\"'s")
    assert resubmission(batch, [2]) == f"seggeo run {job} --part 2/3"
    assert resubmission(batch, [1, 3]) == f"seggeo run {job} --part N/3 for N in 1,3"
    write_script(batch, "slurm")

    again = resubmission(batch, [1, 3])

    assert again == f"sh {job[:-1]}/submit.sh' --array=1,3"


def test_what_a_gpu_plan_asks_for(batch: Batch):
    write_script(replace(batch, execution=Execution(devices="0,1")), "slurm")

    text = (batch.folder / "array.sbatch").read_text()
    assert "\n#SBATCH --gres=gpu:2\n" in text
    assert "\n#SBATCH --time=3:00:00\n" in (batch.folder / "merge.sbatch").read_text()


def test_arrays_have_a_limit(batch: Batch):
    with pytest.raises(ConfigError, match="--shards 1000"):
        write_script(replace(batch, shards=1001), "slurm")


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([1, 2, 3], "1-3"), ([1, 2, 3, 7, 9, 10], "1-3,7,9-10")])
def test_ranges(numbers: list[int], text: str):
    assert ranges(numbers) == text

"""Runs that are killed: started apart in a group of their own, watched by the tiles that their slow model notes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from support_flow import COMMAND, below, clean_environment

from seggeo.job import Job
from seggeo.store import RunStore


def start(
    folder: Path, job: Sequence[str], out: str, *, workers: int = 2, tile_s: float = 0.05
) -> subprocess.Popen[bytes]:  # fmt: skip
    """A job with the model of `support_flow.SLOW`, in a process group of its own; tiles are noted in `log_OUT`."""
    environment = clean_environment(TILE_LOG=str(folder / f"log_{out}"), TILE_SECONDS=str(tile_s))
    return subprocess.Popen(
        [str(COMMAND), *job, "-o", out, "--workers", str(workers)],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def tiles_logged(folder: Path, out: str) -> list[int]:
    """The tiles that were predicted, in order, repeats and all."""
    path = folder / f"log_{out}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def finished_parts(folder: Path, out: str) -> dict[int, set[int]]:
    """The tiles of every part that is done."""
    store = RunStore(folder / out / "scene.seggeo")
    if not (store.folder / "job.json").exists():
        return {}
    parts = Job.from_json(store.load_job_values()).parts
    return {part: {tile.index for tile in parts.tiles(part)} for part in range(len(parts)) if store.is_done(part)}


def tiles_of_finished_parts(folder: Path, out: str) -> set[int]:
    """The tiles of all parts that are done."""
    return set().union(*finished_parts(folder, out).values())


def until(is_so: Callable[[], bool], timeout_s: float) -> bool:
    """Whether a condition came true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.05)
    return False


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that predict for a run."""
    try:
        family = psutil.Process(process.pid).children()
        return [p for p in family if "spawn_main" in " ".join(p.cmdline())]
    except psutil.Error:
        return []


def kill_a_worker(process: subprocess.Popen[bytes], rng: random.Random) -> bool:
    """Kill one of a run's workers; False where it has none."""
    family = workers_of(process)
    if family:
        rng.choice(family).kill()
    return bool(family)


def kill_and_go_on(
    folder: Path, job: Sequence[str], out: str, delays_s: Sequence[float], *, tile_s: float,
    check: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Kill a job's group after each delay, measured from its first tile or from its start in turn; `check` follows each."""
    for turn, delay_s in enumerate(delays_s):
        finished, logged = tiles_of_finished_parts(folder, out), len(tiles_logged(folder, out))
        process = start(folder, job, out, workers=1 + turn % 2, tile_s=tile_s)
        if turn % 3:
            until(lambda p=process, n=logged: p.poll() is not None or len(tiles_logged(folder, out)) > n, 60)
        time.sleep(delay_s)
        assert process.poll() is None, "the job was done before its kill"
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not finished & set(tiles_logged(folder, out)[logged:]), "a finished part was predicted again"
        if check is not None:
            check()


def check_goes_on(folder: Path, job: Sequence[str], out: str, made: Callable[[Path], dict[str, str]]) -> None:
    """The same command again ends well, repeats no finished part, and leaves what the undisturbed one left in `whole`."""
    finished, logged = tiles_of_finished_parts(folder, out), len(tiles_logged(folder, out))
    process = start(folder, job, out, tile_s=0.0)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    assert not finished & set(tiles_logged(folder, out)[logged:]), "a finished part was predicted again"
    assert made(folder / out) == made(folder / "whole")
    assert below(folder / out) == below(folder / "whole"), "temporaries were left behind"

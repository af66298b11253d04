"""Fifty kills at random moments of a run of 400 tiles: the same bytes, no tile lost or doubled, little done twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from itertools import count
from pathlib import Path

import pytest
from support_flow import SLOW, below, digests, scene, seggeo, write_labels, write_model
from support_kill import finished_parts, kill_a_worker, start, tiles_logged, tiles_of_finished_parts, until

from seggeo.store import RunStore

FILES = ("-f", "gpkg,cog,cells-csv", "--no-preview", "--tile", "96", "--overlap", "32")
JOB = ("segment", "scene.tif", "--model", "slow.py:Slow", *FILES)
TILES = 400
MOST_OF_ONE = 4
"""Kills that one run is given before it may end."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 400 tiles, a slow oracle, and the undisturbed result in `whole`."""
    folder = tmp_path_factory.mktemp("kill_many")
    write_labels(folder / "scene.tif", scene("snakes", 6, (1312, 1312)))
    write_model(folder, SLOW, "slow.py")
    environment = {"TILE_LOG": str(folder / "log_whole"), "TILE_SECONDS": "0"}
    ran = seggeo(*JOB, "-o", "whole", "--workers", "1", "--json", cwd=folder, **environment)
    assert ran.code == 0, ran.err
    assert ran.results[0]["tiles"] == TILES
    return folder


def check_whole(folder: Path, out: str) -> None:
    """The result is that of the undisturbed run, and every tile is in exactly one part."""
    store = RunStore(folder / out / "scene.seggeo")
    parts = finished_parts(folder, out)
    assert sorted(tile for tiles in parts.values() for tile in tiles) == list(range(TILES))
    assert [store.load(part).notes["tiles"] for part in sorted(parts)] == [len(parts[part]) for part in sorted(parts)]
    assert digests(folder / out) == digests(folder / "whole")
    assert below(folder / out) == below(folder / "whole"), "temporaries were left behind"


def finish(folder: Path, out: str, process: subprocess.Popen[bytes] | None = None) -> None:
    """Let a run, or the same command again, come to its end."""
    process = process or start(folder, JOB, out, tile_s=0.0)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors.decode()
    check_whole(folder, out)


def most_repeated(folder: Path, out: str, kills: int, parts_a_kill: int) -> None:
    """No more than some parts were predicted again for each kill."""
    again = sum(times - 1 for times in Counter(tiles_logged(folder, out)).values())
    largest = max(len(tiles) for tiles in finished_parts(folder, out).values())
    assert again <= kills * parts_a_kill * largest, (again, kills)


def wait_for(process: subprocess.Popen[bytes], folder: Path, out: str, tiles: int) -> None:
    """Wait until so many tiles are predicted, or the run is over."""
    until(lambda: process.poll() is not None or len(tiles_logged(folder, out)) >= tiles, 120)


def killed_group(folder: Path, out: str, rng: random.Random, workers: int) -> bool:
    """Start the job and kill all of it at some moment; False where it was quicker."""
    finished, logged = tiles_of_finished_parts(folder, out), len(tiles_logged(folder, out))
    process = start(folder, JOB, out, workers=workers, tile_s=0.02)
    if rng.random() < 0.8:
        wait_for(process, folder, out, logged + 1)
    time.sleep(rng.uniform(0.0, 3.0))
    is_killed = process.poll() is None
    if is_killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    again = finished & set(tiles_logged(folder, out)[logged:])
    assert not again, f"finished tiles were predicted again: {sorted(again)}"
    for name, digest in digests(folder / out).items():
        assert digest == digests(folder / "whole")[name], f"{name} is torn"
    return is_killed


@pytest.mark.slow
def test_the_whole_group_is_killed_30_times(folder: Path):
    rng, left = random.Random(30), 30
    for number in count():
        out, kills = f"group{number}", 0
        while left and killed_group(folder, out, rng, workers=1 + kills % 2):
            left, kills = left - 1, kills + 1
        finish(folder, out)
        most_repeated(folder, out, kills, parts_a_kill=2)
        if not left:
            return


@pytest.mark.slow
def test_one_worker_is_killed_20_times(folder: Path):
    rng, left = random.Random(20), 20
    for number in count():
        out, kills = f"worker{number}", 0
        process = start(folder, JOB, out, workers=2, tile_s=0.05)
        while left and kills < MOST_OF_ONE:
            logged = len(tiles_logged(folder, out))
            wait_for(process, folder, out, logged + rng.randrange(1, 60))
            if process.poll() is not None or not kill_a_worker(process, rng):
                break
            left, kills = left - 1, kills + 1
        finish(folder, out, process)
        most_repeated(folder, out, kills, parts_a_kill=1)
        if not left:
            return

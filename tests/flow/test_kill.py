"""Killed, stopped, out of disk: the same command goes on, nothing is half written, and the result is the same bytes."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import support_kill
from support_flow import (
    COMMAND,
    SLOW,
    below,
    clean_environment,
    digests,
    label_raster,
    scene,
    seggeo,
    write_labels,
    write_model,
)
from support_kill import kill_a_worker, tiles_logged, tiles_of_finished_parts, until

JOB = ("segment", "scene.tif", "--model", "slow.py:Slow", "-f", "gpkg,cog,fgb", "--tile", "96", "--overlap", "32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 42 tiles in 11 or more parts, a slow oracle, and the undisturbed result in `whole`."""
    folder = tmp_path_factory.mktemp("kill")
    write_labels(folder / "scene.tif", scene("snakes", 6, (416, 480)))
    write_model(folder, SLOW, "slow.py")
    environment = {"TILE_LOG": str(folder / "log_whole"), "TILE_SECONDS": "0"}
    ran = seggeo(*JOB, "-o", "whole", "--workers", "1", "--json", cwd=folder, **environment)
    assert ran.code == 0, ran.err
    assert ran.results[0]["tiles"] >= 42
    return folder


def start(folder: Path, out: str, *, workers: int = 2, tile_s: float = 0.05) -> subprocess.Popen[bytes]:
    """The job in a process group of its own."""
    return support_kill.start(folder, JOB, out, workers=workers, tile_s=tile_s)


def kill_and_go_on(folder: Path, out: str, delays_s: list[float], tile_s: float) -> None:
    """Kill the job after each delay; no output is ever torn."""

    def check() -> None:
        for name in ("gpkg", "fgb"):
            path = folder / out / f"scene_objects.{name}"
            assert not path.exists() or path.read_bytes() == (folder / "whole" / path.name).read_bytes()

    support_kill.kill_and_go_on(folder, JOB, out, delays_s, tile_s=tile_s, check=check)


def check_result(folder: Path, out: str) -> None:
    support_kill.check_goes_on(folder, JOB, out, digests)


def test_killed_three_times_and_the_same_bytes(folder: Path):
    rng = random.Random(1)

    kill_and_go_on(folder, "three", [rng.uniform(0.1, 1.2) for _ in range(3)], tile_s=0.1)

    check_result(folder, "three")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_killed_ten_times_and_the_same_bytes(folder: Path, seed: int):
    rng = random.Random(seed)

    kill_and_go_on(folder, f"ten{seed}", [rng.uniform(0.0, 0.9) for _ in range(10)], tile_s=0.25)

    check_result(folder, f"ten{seed}")


@pytest.mark.slow
def test_killed_while_merging_and_writing(folder: Path):
    """All tiles are done; the kills fall into merge, outputs and provenance, which take well under a second here."""
    rng = random.Random(5)
    ran = seggeo(*JOB, "-o", "late", "--workers", "1", cwd=folder, TILE_LOG=str(folder / "log_late"), TILE_SECONDS="0")
    assert ran.code == 0, ran.err
    for path in (folder / "late").glob("scene_*"):
        path.unlink()
    (folder / "late" / "scene.seggeo" / "report.json").unlink()
    work = folder / "late" / "scene.seggeo"
    for _ in range(10):
        process = start(folder, "late", workers=1)
        before = (work / "job.json").stat().st_mtime_ns
        until(lambda p=process, t=before: p.poll() is not None or (work / "job.json").stat().st_mtime_ns != t, 60)
        time.sleep(rng.uniform(0.0, 0.4))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    check_result(folder, "late")


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGTERM, 1), (signal.SIGINT, 2), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow)],
)
def test_a_signal_stops_it_cleanly_and_says_how_to_go_on(folder: Path, number: signal.Signals, workers: int):
    out = f"stop_{number.name}_{workers}"
    process = start(folder, out, workers=workers)
    assert until(lambda: len(tiles_logged(folder, out)) > 4, 60)

    os.killpg(process.pid, number)
    printed, errors = process.communicate(timeout=30)

    text = errors.decode()
    assert process.returncode == 75, text
    assert f"error: stopped by {number.name}" in text
    assert f"fix: go on with the same command: seggeo {' '.join(JOB)} -o {out} --workers {workers}" in text
    assert "Traceback" not in text
    assert printed == b""
    assert not list((folder / out).glob("scene_*"))
    check_result(folder, out)
    assert max(Counter(tiles_logged(folder, out)).values()) == 1, "a stop loses no tile"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_does_not_wait_for_a_tile_that_takes_long(folder: Path, workers: int):
    out = f"long_{workers}"
    process = start(folder, out, workers=workers, tile_s=60)
    work = folder / out / "scene.seggeo"
    assert until((work / "job.json").exists, 60)
    time.sleep(3)
    began = time.monotonic()

    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=30)

    assert process.returncode == 75
    assert time.monotonic() - began < 12
    check_result(folder, out)


def test_a_time_limit_stops_it_like_a_signal(folder: Path):
    ran = seggeo(
        *JOB, "-o", "limit", "--workers", "1", "--time-limit", "4s", cwd=folder, TILE_LOG=str(folder / "log_limit"),
        TILE_SECONDS="0.5",
    )  # fmt: skip

    assert ran.code == 75, ran.err
    assert "stopped by the time limit" in ran.err
    check_result(folder, "limit")
    assert max(Counter(tiles_logged(folder, "limit")).values()) == 1


def test_killed_workers_are_replaced(folder: Path):
    rng = random.Random(3)
    process = start(folder, "workers", workers=2, tile_s=0.1)
    for kill in range(3):
        logged = len(tiles_logged(folder, "workers"))
        assert until(lambda n=logged: len(tiles_logged(folder, "workers")) > n + 2, 60)
        assert kill_a_worker(process, rng), kill

    _, errors = process.communicate(timeout=120)

    assert process.returncode == 0, errors.decode()
    assert digests(folder / "workers") == digests(folder / "whole")


def test_a_model_that_catches_everything_does_not_take_a_stop_for_its_own_trouble(folder: Path):
    careless = """
import os
import signal


class Careless:
    native = True
    wants_places = True

    def predict(self, tiles, places):
        try:
            if places[0].index == 20 and not os.path.exists("stopped_once"):
                open("stopped_once", "w").close()
                os.kill(os.getpid(), signal.SIGTERM)
        except Exception:
            return [tile[:, :, 0].astype("int32") * 0 for tile in tiles]
        return [tile[:, :, 0].astype("int32") for tile in tiles]
"""
    write_model(folder, careless, "careless.py")
    job = [word.replace("slow.py:Slow", "careless.py:Careless") for word in JOB]

    first = seggeo(*job, "-o", "careless", "--workers", "1", cwd=folder)
    second = seggeo(*job, "-o", "careless", "--workers", "1", cwd=folder)

    assert (first.code, second.code) == (75, 0)
    labels = "scene_labels.tif"
    assert (label_raster(folder / "careless" / labels) == label_raster(folder / "whole" / labels)).all()


def test_workers_end_with_their_parent(folder: Path):
    process = start(folder, "orphans", workers=2, tile_s=0.3)
    assert until(lambda: len(tiles_logged(folder, "orphans")) > 2, 60)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2

    process.kill()
    process.communicate()

    assert until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 3)


def test_a_full_disk_keeps_what_is_done(folder: Path):
    """A limit on the size of files stands for the full disk: the first large output does not fit."""

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    environment = clean_environment(TILE_LOG=str(folder / "log_full"), TILE_SECONDS="0")
    done = subprocess.run(
        [str(COMMAND), *JOB, "-o", "full", "--workers", "1"],
        cwd=folder, env=environment, capture_output=True, preexec_fn=small_files, check=False,
    )  # fmt: skip

    text = done.stderr.decode()
    assert done.returncode == 7, text
    assert text.count("error: ") == 1
    assert "Traceback" not in text
    assert not [name for name in below(folder / "full") if "writing" in name or "copying" in name]
    assert len(tiles_of_finished_parts(folder, "full")) == len(tiles_logged(folder, "full"))
    check_result(folder, "full")

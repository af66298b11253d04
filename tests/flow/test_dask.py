"""Predicted with Dask: the same bytes, whatever happens to workers, tiles and the scheduler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support_dask import LOOPBACK, POISON, Farm, farm, free_port, parts_in
from support_flow import (
    COMMAND,
    ORACLE,
    SLOW,
    call,
    clean_environment,
    digests,
    scene,
    seggeo,
    succeed,
    write_labels,
    write_model,
)

pytest.importorskip("distributed", reason="dask is not installed: pip install 'seggeo[dask]'")

TILES = ("-f", "gpkg,cog", "--tile", "96", "--overlap", "32", "--no-preview")
JOB = ("scene.tif", "--model", "oracle.py:Oracle", *TILES)
SLOW_JOB = ("scene.tif", "--model", "slow.py:Slow", *TILES)
POISON_JOB = ("scene.tif", "--model", "poison.py:Poison", *TILES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 42 tiles, models, and the results of one process in `whole` and `slow`."""
    folder = tmp_path_factory.mktemp("dask")
    write_labels(folder / "scene.tif", scene("snakes", 6, (416, 480)))
    write_model(folder, ORACLE)
    write_model(folder, SLOW, "slow.py")
    write_model(folder, POISON, "poison.py")
    succeed("segment", *JOB, "-o", "whole", "--workers", "1", cwd=folder)
    succeed(
        "segment", *SLOW_JOB, "-o", "slow", "--workers", "1", cwd=folder, TILE_LOG=str(folder / "log_slow"), TILE_SECONDS="0"
    )
    return folder


@pytest.fixture(scope="module")
def workers(folder: Path) -> Iterator[Farm]:
    """A scheduler with a worker; its slow model is slow indeed."""
    with farm(1, TILE_LOG=str(folder / "log"), TILE_SECONDS="0.2") as made:
        yield made


def start(folder: Path, *args: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [str(COMMAND), *args], cwd=folder, env=clean_environment(**environment), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def until(is_so: object, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)


def tiles_logged(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_workers_of_a_running_scheduler_write_the_same_bytes(folder: Path, workers: Farm):
    ran = succeed("segment", *JOB, "-o", "there", "--dask", workers.address, "--profile", "--json", cwd=folder)

    assert digests(folder / "there") == digests(folder / "whole")
    assert ran.results[0]["objects"] > 100
    profile = ran.results[0]["profile"]
    assert 1 <= profile["processes"] <= 2
    assert profile["tiles"] == ran.results[0]["tiles"] - ran.results[0]["empty_tiles"]
    assert profile["phases"]["model"]["seconds"] > 0
    assert sum(entry["share"] for entry in profile["phases"].values()) == pytest.approx(1, abs=2e-3)
    assert "Traceback" not in ran.err


@pytest.mark.slow
def test_a_shard_is_predicted_by_dask_too(folder: Path, workers: Farm):
    succeed("plan", "segment", *JOB, "-o", "shards", "--job", "job", "--shards", "2", cwd=folder)

    told = succeed("run", "job", "--part", "1/2", "--dask", workers.address, "--json", cwd=folder)
    succeed("run", "job", "--part", "2/2", cwd=folder)
    succeed("merge", "job", cwd=folder)

    assert told.results[0]["parts"] > 10
    assert digests(folder / "shards") == digests(folder / "whole")


def test_a_stop_loses_no_tile_and_any_way_goes_on(folder: Path, workers: Farm):
    process = start(folder, "segment", *SLOW_JOB, "-o", "stop", "--dask", workers.address)
    until(lambda: len(tiles_logged(folder / "log")) > 2)
    began = time.monotonic()

    os.killpg(process.pid, signal.SIGTERM)
    printed, errors = process.communicate(timeout=30)

    assert process.returncode == 75, errors.decode()
    assert time.monotonic() - began < 10
    assert "error: stopped by SIGTERM" in errors.decode()
    assert "Traceback" not in errors.decode()
    assert printed == b""
    assert parts_in(folder / "stop" / "scene.seggeo") >= 2
    succeed(
        "segment", *SLOW_JOB, "-o", "stop", "--workers", "1", cwd=folder, TILE_LOG=str(folder / "log"), TILE_SECONDS="0"
    )  # fmt: skip
    assert digests(folder / "stop") == digests(folder / "slow")
    assert max(Counter(tiles_logged(folder / "log")).values()) == 1, "a stop loses no tile"


def test_workers_of_this_machine_lose_one_tile_to_a_poison_and_nothing_else(folder: Path):
    (folder / "broken").touch()
    broken = {"BROKEN": str(folder / "broken")}

    ran = call("segment", *POISON_JOB, "-o", "poison", "--dask", "local:1", cwd=folder, **broken)

    assert ran.code == 4, ran.err
    failures = [json.loads(line) for line in (folder / "poison" / "scene.seggeo" / "failures.jsonl").read_text().splitlines()]
    assert [(failure["tile"], failure["error"]) for failure in failures] == [(4, "ProcessDied")]
    assert "SIGSEGV" in failures[0]["message"]
    (folder / "broken").unlink()
    succeed("segment", *POISON_JOB, "-o", "poison", "--workers", "1", cwd=folder, **broken)
    succeed("segment", *POISON_JOB, "-o", "clean", "--workers", "1", cwd=folder, **broken)
    assert digests(folder / "poison") == digests(folder / "clean")


def test_a_scheduler_that_dies_costs_no_finished_part(folder: Path):
    log = folder / "log_lost"
    with farm(1, TILE_LOG=str(log), TILE_SECONDS="0.2") as made:
        process = start(folder, "segment", *SLOW_JOB, "-o", "lost", "--dask", made.address)
        until(lambda: parts_in(folder / "lost" / "scene.seggeo") > 3)
        made.kill_scheduler()
        _, errors = process.communicate(timeout=60)
        done = parts_in(folder / "lost" / "scene.seggeo")

        text = errors.decode()
        assert process.returncode == 7, text
        assert f"error: the Dask scheduler of --dask {made.address} is lost" in text
        assert "Traceback" not in text
        made.close()

    again = succeed(
        "segment", *SLOW_JOB, "-o", "lost", "--workers", "1", "--json", cwd=folder, TILE_LOG=str(log), TILE_SECONDS="0"
    )  # fmt: skip
    assert again.code == 0
    assert done >= 4
    assert digests(folder / "lost") == digests(folder / "slow")
    assert sum(n > 1 for n in Counter(tiles_logged(log)).values()) <= 1, "only the part in hand is predicted again"


@pytest.mark.parametrize(
    "where", ["local", "local:0", "local:two", "slurm:", f"{LOOPBACK}:8786", "tcp://nowhere", "inproc://x:1", "http://x:1", ""]
)
def test_what_is_no_dask_is_refused(folder: Path, where: str):
    refused = call("segment", *JOB, "-o", "none", f"--dask={where}", cwd=folder)

    assert refused.code == 2
    assert "--dask" in refused.refusal()[0]
    assert not (folder / "none").exists()


def test_dask_that_is_not_installed_is_told_with_the_command_that_installs_it(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "distributed", None)

    refused = call("segment", *JOB, "-o", "bare", "--dask", "local:2", cwd=folder)

    assert refused.code == 2
    assert "pip install 'seggeo[dask]'" in refused.refusal()[2]


@pytest.mark.slow
def test_a_scheduler_that_is_not_there(folder: Path):
    refused = call("segment", *JOB, "-o", "away", "--dask", f"tcp://{LOOPBACK}:{free_port()}", cwd=folder)

    assert refused.code == 7
    assert "no Dask workers" in refused.refusal()[0]


@pytest.mark.slow
def test_workers_of_this_machine_listen_to_it_alone_and_end_with_their_parent(folder: Path):
    log = folder / "log_orphans"
    process = start(folder, "segment", *SLOW_JOB, "-o", "orphans", "--dask", "local:2", TILE_LOG=str(log), TILE_SECONDS="0.5")
    until(lambda: len(tiles_logged(log)) > 2)
    parent = psutil.Process(process.pid)
    family = [parent, *parent.children(recursive=True)]
    places = [c.laddr.ip for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN]

    process.kill()
    process.communicate()

    assert places
    assert set(places) == {LOOPBACK}
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in family), 10)


@pytest.mark.slow
@pytest.mark.parametrize("tile_s", ["0.5", "60"])
def test_a_stop_with_workers_of_this_machine(folder: Path, tile_s: str):
    out, log = f"stop_{tile_s}", folder / f"log_{tile_s}"
    process = start(folder, "segment", *SLOW_JOB, "-o", out, "--dask", "local:2", TILE_LOG=str(log), TILE_SECONDS=tile_s)
    until(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 3)
    time.sleep(15)
    began = time.monotonic()

    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)

    assert process.returncode == 75, errors.decode()
    assert time.monotonic() - began < 10
    succeed("segment", *SLOW_JOB, "-o", out, "--workers", "1", cwd=folder, TILE_LOG=str(log), TILE_SECONDS="0")
    assert digests(folder / out) == digests(folder / "slow")
    assert max(Counter(tiles_logged(log)).values()) == 1


@pytest.mark.slow
def test_killed_workers_are_replaced(folder: Path):
    log = folder / "log_killed"
    process = start(folder, "segment", *SLOW_JOB, "-o", "killed", "--dask", "local:2", TILE_LOG=str(log), TILE_SECONDS="0.5")
    for kill in range(3):
        until(lambda n=3 * kill: len(tiles_logged(log)) > n + 2)
        family = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        family[kill % len(family)].kill()
    _, errors = process.communicate(timeout=300)

    assert process.returncode == 0, errors.decode()
    assert digests(folder / "killed") == digests(folder / "slow")


@pytest.mark.slow
def test_a_poison_with_foreign_workers_and_their_own_patience(folder: Path):
    """A scheduler as it comes gives a task four workers before it gives it up, and blames those that waited beside it."""
    broken = folder / "broken_there"
    broken.touch()
    with farm(2, BROKEN=str(broken)) as made:
        ran = seggeo(
            "segment", *POISON_JOB, "-o", "foreign", "--dask", made.address, cwd=folder, BROKEN=str(broken), timeout=300
        )  # fmt: skip

    assert ran.code == 4, ran.err
    failures = [json.loads(line) for line in (folder / "foreign" / "scene.seggeo" / "failures.jsonl").read_text().splitlines()]
    assert [(failure["tile"], failure["error"]) for failure in failures] == [(4, "ProcessDied")]
    same = call("segment", *POISON_JOB, "-o", "foreign_pool", "--workers", "2", cwd=folder, BROKEN=str(broken))
    assert same.code == 4, same.err
    assert digests(folder / "foreign") == digests(folder / "foreign_pool")


@pytest.mark.slow
def test_six_ways_one_result(folder: Path, workers: Farm):
    ways = {"1": ("--workers", "1"), "2": ("--workers", "2"), "4": ("--workers", "4"), "local": ("--dask", "local:3"),
            "there": ("--dask", workers.address)}  # fmt: skip
    for name, way in ways.items():
        ran = seggeo("segment", *JOB, "-o", f"way_{name}", *way, cwd=folder, timeout=300)
        assert ran.code == 0, ran.err
    succeed("plan", "segment", *JOB, "-o", "way_array", "--job", "way_job", "--shards", "3", cwd=folder)
    for number in (3, 1, 2):
        assert seggeo("run", "way_job", cwd=folder, SLURM_ARRAY_TASK_ID=str(number)).code == 0
    succeed("merge", "way_job", cwd=folder)

    for name in (*ways, "array"):
        assert digests(folder / f"way_{name}") == digests(folder / "whole"), name

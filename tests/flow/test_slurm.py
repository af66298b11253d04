"""On a real SLURM: the emitted scripts, disturbed in every way, give the bytes of one undisturbed process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support_flow import SLOW, call, digests, scene, seggeo, succeed, write_labels, write_model
from support_slurm import Slurm, slurm_up, until

pytestmark = pytest.mark.slow

JOB = ("scene.tif", "--model", "slow.py:Slow", "-f", "gpkg,cog", "--tile", "96", "--overlap", "32")
TILES = 42


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with slurm_up() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _left_empty(slurm: Slurm) -> Iterator[None]:
    yield
    slurm.cancel_all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 42 tiles, in a folder whose name is not plain, and the undisturbed result in `whole`."""
    folder = tmp_path_factory.mktemp("jobs") / "of 100% (mine)"
    folder.mkdir()
    write_labels(folder / "scene.tif", scene("snakes", 6, (416, 480)))
    write_model(folder, SLOW, "slow.py")
    ran = seggeo("segment", *JOB, "-o", "whole", "--workers", "1", cwd=folder, TILE_LOG="log_whole", TILE_SECONDS="0")
    assert ran.code == 0, ran.err
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Array:
    """A planned and submitted job."""

    slurm: Slurm
    folder: Path
    name: str
    number: str
    merge: str
    shards: int

    def tiles(self) -> list[int]:
        path = self.folder / f"log_{self.name}"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait_for_tiles(self, count: int) -> None:
        assert until(lambda: len(self.tiles()) >= count, 60), self.printed()

    def running(self) -> list[str]:
        return [job for job, state in self.slurm.states().items() if job.startswith(f"{self.number}_") and state == "RUNNING"]

    def restarts(self) -> int:
        return sum(int(self.slurm.job(f"{self.number}_{k}")["Restarts"]) for k in range(1, self.shards + 1))

    def printed(self) -> str:
        return "\n".join(path.read_text() for path in sorted((self.folder / f"{self.name}_job" / "logs").iterdir()))

    def check(self, twice: int = 0) -> None:
        """All has ended well, no tile was predicted more than `twice` times more than once."""
        self.slurm.until_empty()
        assert digests(self.folder / f"{self.name}_out") == digests(self.folder / "whole"), self.printed()
        assert set(self.tiles()) == set(range(TILES))
        assert sum(n - 1 for n in Counter(self.tiles()).values()) <= twice, self.printed()


def submit(slurm: Slurm, folder: Path, name: str, *options: str, tile_s: float = 0.3, shards: int = 4) -> Array:
    succeed(
        "plan", "segment", *JOB, "-o", f"{name}_out", "--job", f"{name}_job", "--shards", str(shards), "--emit", "slurm",
        cwd=folder,
    )  # fmt: skip
    environment = {"TILE_LOG": f"log_{name}", "TILE_SECONDS": str(tile_s)}
    said = slurm.run("sh", folder / f"{name}_job" / "submit.sh", *options, **environment)
    _, number, _, merge = said.replace(",", "").split()
    return Array(slurm=slurm, folder=folder, name=name, number=number, merge=merge, shards=shards)


def test_an_array_over_two_nodes_writes_the_bytes_of_one_process(slurm: Slurm, folder: Path):
    began = time.monotonic()
    array = submit(slurm, folder, "array", tile_s=0.05)
    nodes = {}
    while slurm.states():
        nodes.update({k: slurm.job(f"{array.number}_{k}").get("NodeList") for k in range(1, 5)})

    array.check()
    assert set(nodes.values()) == {"n1", "n2"}
    assert slurm.up_s + time.monotonic() - began < 120
    logs = {path.name for path in (folder / "array_job" / "logs").iterdir()}
    assert logs == {*(f"{array.number}_{k}.log" for k in range(1, 5)), f"merge_{array.merge}.log"}


def test_an_array_of_one(slurm: Slurm, folder: Path):
    submit(slurm, folder, "one", tile_s=0.01, shards=1).check()


def test_a_warning_saves_what_there_is_and_queues_it_again(slurm: Slurm, folder: Path):
    array = submit(slurm, folder, "warned")
    array.wait_for_tiles(8)

    slurm.run("scancel", "--signal=USR1", "--batch", *array.running())

    assert until(array.restarts, 30)
    array.check()
    assert "stopped by SIGUSR1" in array.printed()


def test_the_end_of_its_time_queues_it_again(slurm: Slurm, folder: Path):
    """Told by nobody: each task knows of its one minute, half of which it may use, and needs more."""
    array = submit(slurm, folder, "late", "--time=1", "--signal=B:USR1@1", tile_s=2, shards=2)

    array.check()
    assert "stopped by the time limit" in array.printed()


def test_a_killed_node_costs_only_time(slurm: Slurm, folder: Path):
    array = submit(slurm, folder, "node", tile_s=0.5)
    array.wait_for_tiles(8)
    try:
        slurm.kill_node("n2")
        assert until(array.restarts, 90), slurm.logs()
    finally:
        slurm.start_node("n2")

    array.check(twice=TILES)


def test_a_preempted_array_goes_on(slurm: Slurm, folder: Path):
    array = submit(slurm, folder, "preempted", "--partition=low", tile_s=0.5)
    array.wait_for_tiles(6)

    slurm.run("sbatch", "-p", "high", "-N", "2", "--exclusive", "--output=/dev/null", "--wrap", "true")

    assert until(array.restarts, 60), slurm.logs()
    array.check()


def test_a_cancelled_array_stays_cancelled_and_the_merge_says_how_to_go_on(slurm: Slurm, folder: Path):
    array = submit(slurm, folder, "cancelled", tile_s=0.5)
    array.wait_for_tiles(4)
    slurm.run("scancel", array.number)

    slurm.until_empty()

    told = (folder / "cancelled_job" / "logs" / f"merge_{array.merge}.log").read_text()
    assert slurm.job(array.merge)["ExitCode"] == "4:0"
    assert "submit.sh' --array=1-4" in told
    assert not list((folder / "cancelled_out").glob("*"))
    slurm.run("sh", folder / "cancelled_job" / "submit.sh", "--array=1-4", TILE_LOG="log_cancelled", TILE_SECONDS="0")
    array.check(twice=4)


def test_the_merge_comes_although_a_shard_failed_and_says_what_is_missing(slurm: Slurm, folder: Path):
    array = submit(slurm, folder, "failing", "--array=1,3", tile_s=0.01)

    slurm.until_empty()

    told = (folder / "failing_job" / "logs" / f"merge_{array.merge}.log").read_text()
    assert slurm.job(array.merge)["ExitCode"] == "4:0"
    assert "--array=2,4" in told
    assert "shards 2,4 are not done" in call("status", "failing_job", cwd=folder).out
    slurm.run("sh", folder / "failing_job" / "submit.sh", "--array=2,4", TILE_LOG="log_failing", TILE_SECONDS="0")
    array.check()

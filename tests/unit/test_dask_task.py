"""What a Dask worker does with a part, and what it refuses; Dask itself is not needed for it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from support_flow import ORACLE, scene, write_labels, write_model

from seggeo.config import Execution, settings_from
from seggeo.errors import ConfigError, ResourceError
from seggeo.run import dask_task
from seggeo.run.dask_cluster import Crew, crew_of
from seggeo.run.dask_task import Order, stop_run, work
from seggeo.run.part import Recipe
from seggeo.run.plan import make_plan
from seggeo.store import RunStore


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Order:
    """A run of 9 tiles in as many parts."""
    folder = tmp_path_factory.mktemp("worker")
    image = write_labels(folder / "scene.tif", scene("discs", 4, (200, 200)))
    model = write_model(folder, ORACLE)
    settings, execution = settings_from({"model": f"{model}:Oracle", "tile": 96, "overlap": 32})
    plan = make_plan(str(image), settings, execution)
    RunStore(folder / "run").open(plan.job)
    recipe = Recipe(path=str(image), reading=plan.settings.reading, job=plan.job, request=plan.request, threads=1)
    return Order(run="one", recipe=recipe, folder=str(folder / "run"), version=version("seggeo"))


def test_a_part_is_stored_and_its_checksum_comes_back(order: Order):
    done = work(pickle.loads(pickle.dumps(order)), 0)

    assert done is not None
    store = RunStore(Path(order.folder))
    assert store.part_path(0).read_bytes()[-32:].hex() == done.checksum
    assert done.instances == len(store.load(0).instances)
    assert len(pickle.dumps(done)) < 1000


def test_a_part_that_is_there_is_not_predicted_again(order: Order):
    first = work(order, 1)
    before = RunStore(Path(order.folder)).part_path(1).stat().st_mtime_ns

    again = work(replace(order, run="two"), 1, is_careful=True)

    assert first is not None
    assert again is not None
    assert again.checksum == first.checksum
    assert first.notes.items() <= again.notes.items()
    assert RunStore(Path(order.folder)).part_path(1).stat().st_mtime_ns == before


def test_a_process_of_its_own_writes_the_same_bytes(order: Order):
    plain = work(order, 2)
    path = RunStore(Path(order.folder)).part_path(2)
    path.unlink()

    assert work(order, 2, is_careful=True) == plain


def test_a_run_that_is_stopped_is_left_alone_and_others_are_not(order: Order):
    stop_run("stopped")

    assert work(replace(order, run="stopped"), 3) is None
    assert not RunStore(Path(order.folder)).part_path(3).exists()
    assert work(replace(order, run="other"), 3) is not None


def test_a_worker_of_another_version_refuses(order: Order):
    with pytest.raises(ConfigError, match="0.0.0"):
        work(replace(order, version="0.0.0"), 4)


def test_a_worker_that_does_not_see_the_run_folder_refuses(order: Order, tmp_path: Path):
    with pytest.raises(ResourceError, match="all machines share"):
        work(replace(order, folder=str(tmp_path)), 4)


def test_a_worker_holds_one_input_at_a_time(order: Order):
    work(replace(order, run="a"), 5)
    first = dask_task._worker().bench
    work(replace(order, run="b"), 6)

    assert dask_task._worker().bench is not first
    work(replace(order, run="b"), 7)
    assert dask_task._worker().run == "b"


@pytest.mark.parametrize(
    ("where", "count", "is_started_here"),
    [("local:4", 4, True), ("slurm:12", 12, True), ("slurm", 8, True), ("tcp://[::1]:8786", None, False)],
)
def test_what_dask_says(where: str, count: int | None, is_started_here: bool, tmp_path: Path):
    assert Execution(dask=where).dask == where
    crew = crew_of(where, memory_bytes=1, folder=tmp_path)

    assert isinstance(crew, Crew)
    assert crew.is_started_here is is_started_here
    assert count is None or crew.count == count
    assert crew_of(None, memory_bytes=1, folder=tmp_path) is None


@pytest.mark.parametrize("where", ["", "local", "local:0", "tcp://host", "inproc://a:1", "slurm:", "host:8786"])
def test_what_is_no_dask(where: str):
    with pytest.raises(ConfigError, match="--dask"):
        Execution(dask=where)

"""How many processes are started, and what a machine allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from seggeo.run import execute, pool


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores and 16 GB."""
    monkeypatch.setattr(execute, "available_cores", lambda: 8)
    monkeypatch.setattr(execute, "available_memory", lambda: 16 * 10**9)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("asked", "memory", "parts", "workers"),
    [(0, 10**9, 100, 8), (0, 10**9, 3, 3), (0, 4 * 10**9, 100, 3), (0, 10**12, 100, 1), (5, 10**12, 100, 5), (0, 0, 0, 1)],
)
def test_workers_by_cores_memory_and_parts(asked: int, memory: int, parts: int, workers: int):
    assert execute.choose_workers(asked, device="cpu", memory_bytes=memory, parts=parts) == (workers, 1)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_one_process_on_an_accelerator_that_keeps_its_threads(device: str):
    assert execute.choose_workers(0, device=device, memory_bytes=1, parts=100) == (1, 0)
    assert execute.choose_workers(2, device=device, memory_bytes=1, parts=100) == (2, 0)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("asked", "workers"), [(0, 2), (1, 1), (4, 4)])
def test_a_process_on_each_of_several_devices(asked: int, workers: int):
    assert execute.choose_workers(asked, device="cuda:0", memory_bytes=1, parts=100, devices=2) == (workers, 0)


def test_a_process_ends_when_its_parent_is_another(monkeypatch: pytest.MonkeyPatch):
    ended: list[int] = []
    monkeypatch.setattr(pool.os, "getppid", lambda: 1)
    monkeypatch.setattr(pool.os, "_exit", ended.append)

    pool._end_with(4711)

    assert ended == [1]


def test_parts_already_done_are_not_pending(tmp_path: Path):
    from seggeo.store import RunStore

    todo, done = execute.pending(RunStore(tmp_path), range(3))

    assert todo == [0, 1, 2]
    assert done == []

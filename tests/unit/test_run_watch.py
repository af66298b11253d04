"""A part that is stopped between any two tiles and gone on with is the part that was not; signals are heard in order."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support_flow import scene, write_labels

from seggeo.config import settings_from
from seggeo.errors import StoppedError
from seggeo.run import watch as watching
from seggeo.run.part import Recipe, predict_part, set_up
from seggeo.run.plan import make_plan
from seggeo.run.pool import run_one
from seggeo.run.signals import Stop, asked_to_stop, patient, stopping
from seggeo.run.watch import Care, Watch
from seggeo.store import RunStore


@pytest.fixture
def bench(tmp_path: Path):
    write_labels(tmp_path / "a.tif", scene("snakes", 3, (700, 700)))
    settings, execution = settings_from({"model": "threshold", "tile": 96, "overlap": 32})
    plan = make_plan(str(tmp_path / "a.tif"), settings, execution)
    opened = set_up(Recipe(path=str(tmp_path / "a.tif"), reading=settings.reading, job=plan.job, request=plan.request))
    yield opened
    opened.close()


@pytest.mark.parametrize("after", [1, 3, 4])
def test_a_part_stopped_and_gone_on_with_is_the_whole_part(tmp_path: Path, bench, after: int):
    whole = RunStore(tmp_path / "whole")
    run_one(bench, whole, 0, Watch(whole, stops=lambda: None))
    store = RunStore(tmp_path / "stopped")
    looks = iter(range(100))

    with pytest.raises(Stop):
        run_one(bench, store, 0, Watch(store, stops=lambda: "enough" if next(looks) == after - 1 else None))
    begun = store.load_begun(0)
    assert begun is not None
    assert begun.notes["tiles"] == after
    touched: list[int] = []
    run_one(bench, store, 0, Watch(store, stops=lambda: None, holds=touched.extend))

    assert store.part_path(0).read_bytes() == whole.part_path(0).read_bytes()
    assert not store.begun_path(0).exists()
    tiles = [tile.index for tile in bench.recipe.job.parts.tiles(0)]
    assert set(touched) == set(tiles[after:])


def test_what_another_job_began_is_not_gone_on_with(tmp_path: Path, bench):
    store = RunStore(tmp_path / "store")
    part = predict_part(bench, 0)
    store.save_begun(replace(part, notes={**part.notes, "tile_key": "another"}))
    run_one(bench, store, 0, Watch(store, stops=lambda: None))

    assert store.load(0).notes == {**part.notes, "part": 0}


def test_parts_that_take_long_are_saved_half_done(tmp_path: Path, bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watching, "CHECKPOINT_S", 0.0)
    store, saved = RunStore(tmp_path / "store"), []
    save = store.save_begun
    monkeypatch.setattr(store, "save_begun", lambda part: saved.append(part.notes["tiles"]) or save(part))

    run_one(bench, store, 0, Watch(store, stops=lambda: None))

    assert saved == list(range(1, len(bench.recipe.job.parts.tiles(0)) + 1))


def test_tiles_that_stand_alone_are_touched_alone_and_barred_ones_never(bench):
    tiles = [tile.index for tile in bench.recipe.job.parts.tiles(0)]
    care = Care(alone=frozenset(tiles[1:3]), barred={tiles[2]: "it died"})
    held: list[list[int]] = []
    watch = Watch(RunStore(Path()), stops=lambda: None, holds=held.append)

    part = predict_part(bench, 0, watch=watch, care=care)
    clean = predict_part(bench, 0)

    assert [tiles[1]] in held
    assert all(one == [tiles[1]] for one in held if tiles[1] in one)
    assert not any(tiles[2] in one for one in held)
    assert [(f["tile"], f["error"], f["message"]) for f in part.notes["failures"]] == [(tiles[2], "ProcessDied", "it died")]
    kept = clean.tile != tiles[2]
    np.testing.assert_array_equal(part.instances.box, clean.instances.box[kept])


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
    time.sleep(5)


def until_asked() -> None:
    while not asked_to_stop():
        time.sleep(0.02)
    raise Stop(asked_to_stop())


def test_a_signal_ends_what_is_not_patient_at_once():
    with pytest.raises(StoppedError, match="SIGTERM") as told, stopping(lambda: "the words"):
        send(signal.SIGTERM)
    assert "the words" in told.value.mend


def test_the_patient_are_asked_first_and_made_to_at_the_second_signal():
    began = time.monotonic()
    with pytest.raises(StoppedError, match="SIGINT"), stopping(str), patient():
        send(signal.SIGINT, signal.SIGINT)
    assert time.monotonic() - began < 4
    assert asked_to_stop() is None


def test_a_time_limit_asks_like_a_signal():
    with pytest.raises(StoppedError, match="time limit"), stopping(str, 0.2), patient():
        until_asked()


def test_handlers_are_given_back_and_a_time_limit_in_time_is_forgotten():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]

    with stopping(str, 0.1):
        pass
    time.sleep(0.3)

    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before

"""The weights of a training are those of its best validation, whatever came after and whoever stopped it."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from support_threads import one_thread
from support_train import FAST, data_folder

from seggeo.train import folder
from seggeo.train.best import best_of, is_better, latest_best, row_of, step_of
from seggeo.train.examples import find_examples
from seggeo.train.recipe import Recipe
from seggeo.train.session import Epoch, Running, train

FALLS = {**FAST, "steps": 40, "epoch": 8, "rate": 0.03, "crop": 64, "seed": 1}
"""A rate that is too high: PQ is 0.77 after 8 batches, and 0.02 after 16 and 24."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


def kept_of(values):
    """What a training that has these panoptic qualities keeps."""
    rows = []
    for step, pq in enumerate(values):
        row = {"step": step, "pq": pq, "ap50": pq}
        rows.append({**row, "is_best": is_better(row, latest_best(rows))})
    return best_of(latest_best(rows))


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=12))
def test_the_highest_is_kept_and_of_equals_the_later(values):
    best = kept_of(values)

    assert best.pq == max(values)
    assert best.step == len(values) - 1 - values[::-1].index(max(values))


@given(st.lists(st.sampled_from([None, 0.0]), min_size=1, max_size=8))
def test_without_objects_in_validation_the_latest_is_kept(values):
    """Nothing found is no number there, and false alarms are 0."""
    assert kept_of(values).step == len(values) - 1


def test_without_a_line_there_is_no_best():
    assert latest_best([]) is None
    assert latest_best([{"step": 1, "pq": 0.5, "ap50": 0.5}]) is None
    assert row_of([{"step": 1, "pq": 0.5, "ap50": 0.5}], None) is None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data") / "discs")


def go(data, out, until):
    """Train until the validation at a batch, and stop there."""
    seen = []
    events = train(find_examples([data]), Recipe(**FALLS), out, None, Running(device="cpu"))
    for event in events:
        seen.append(event)
        if isinstance(event, Epoch) and event.progress.step >= until:
            break
    events.close()
    return seen


@pytest.fixture(scope="module")
def fallen(data, tmp_path_factory):
    """A training stopped after it had become worse, and what it told."""
    out = tmp_path_factory.mktemp("fallen") / "out"
    return out, go(data, out, 24)


@pytest.fixture
def young(at_8, tmp_path):
    """The same, stopped when it was best."""
    shutil.copytree(at_8, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture(scope="module")
def at_8(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("young") / "out"
    go(data, out, 8)
    return out


def said(out):
    with safe_open(out / folder.WEIGHTS, "numpy") as file:
        return json.loads(file.metadata()["seggeo"])


def rows_of(out):
    rows = [json.loads(line) for line in (out / folder.HISTORY).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "judged_in_s")} for row in rows]


def test_weights_history_and_events_name_the_best_validation(fallen):
    out, events = fallen
    epochs = [e for e in events if isinstance(e, Epoch)]
    pq = {e.progress.step: e.judgement.metrics["pq"] for e in epochs}
    step = max(pq, key=pq.get)

    assert step < max(pq), "the settings must make a training that falls"
    assert [e.best.step for e in epochs][-1] == step
    assert (epochs[-1].best.pq, epochs[-1].best.ap50) == (pq[step], epochs[0].judgement.metrics["ap50"])
    assert (said(out)["step"], said(out)["metrics"]["pq"]) == (step, pq[step])
    assert step_of(out / folder.WEIGHTS) == step
    assert latest_best(rows_of(out))["step"] == step
    assert {row["step"]: row["pq"] for row in rows_of(out)} == pq


def test_stopped_and_resumed_keeps_the_same(data, fallen, young):
    out = young
    again = go(data, out, 24)

    assert again[0].best.step == 8
    assert rows_of(out) == rows_of(fallen[0])
    assert (out / folder.WEIGHTS).read_bytes() == (fallen[0] / folder.WEIGHTS).read_bytes()


def test_a_training_of_before_the_best_was_kept_goes_on_from_its_last(data, fallen, young):
    """Its history marks nothing, and its weights are of its last line."""
    out = young
    rows = [json.loads(line) for line in (out / folder.HISTORY).read_text().splitlines()]
    folder.write_history(out, [{k: v for k, v in row.items() if k != "is_best"} for row in rows])

    events = go(data, out, 16)

    assert events[0].best.step == 8
    assert events[-1].best.step == 8
    assert (out / folder.WEIGHTS).read_bytes() == (fallen[0] / folder.WEIGHTS).read_bytes()


def test_killed_between_weights_and_history_is_judged_again(data, fallen, young):
    """The history lacks the line of the weights that are there."""
    out = young
    before = (out / folder.WEIGHTS).read_bytes()
    (out / folder.HISTORY).unlink()

    again = go(data, out, 8)

    assert again[0].best is None
    assert [type(e).__name__ for e in again] == ["Started", "Progress", "Epoch"]
    assert (out / folder.WEIGHTS).read_bytes() == before
    assert rows_of(out) == rows_of(fallen[0])[:1]


def test_lost_best_weights_give_way_to_the_next_that_are_judged(data, fallen, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(fallen[0], out)
    (out / folder.WEIGHTS).unlink()

    events = go(data, out, 24)

    assert events[-1].best.step == 24
    assert said(out)["step"] == 24
    assert latest_best(rows_of(out))["step"] == 24


def test_damaged_weights_are_no_best(tmp_path):
    (tmp_path / "w").write_bytes(b"\x09\x00\x00\x00\x00\x00\x00\x00{nothing}")

    assert step_of(tmp_path / "w") is None
    assert step_of(tmp_path / "absent") is None

"""What `seggeo train` says last: which validation the weights are of."""

from __future__ import annotations

import json
import re

import pytest
from support_flow import succeed
from support_threads import one_thread
from support_train import TINY, data_folder

from seggeo.train import folder
from seggeo.train.best import latest_best, step_of


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


def test_the_last_lines_name_the_best_validation_also_when_there_is_nothing_left_to_do(tmp_path):
    data_folder(tmp_path / "data")
    words = ("train", "unet", "data", *TINY, "--steps", "2", "--epoch", "1", "--json", "-o", "out")
    first, again = succeed(*words, cwd=tmp_path), succeed(*words, cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "out" / folder.HISTORY).read_text().splitlines()]
    best = latest_best(rows)
    scores = f"PQ {best['pq']:.3f}, AP50 {best['ap50']:.3f}"
    line = f"the best validation was at batch {best['step']}, {scores}; the weights are those"

    for ran in (first, again):
        assert re.findall("the best validation.*", ran.err) == [line]
        assert ran.err.index(line) < ran.err.index("use them: seggeo segment")
    assert [(each["step"], each["is_best"]) for each in first.results] == [(row["step"], row["is_best"]) for row in rows]
    assert best["pq"] == max(row["pq"] for row in rows)
    assert step_of(tmp_path / "out" / folder.WEIGHTS) == best["step"]

"""One part: pixels that are no data never belong to an object, and stopping is not a tile's failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_flow import scene, write_labels
from support_scenes import random_scene

from seggeo.config import settings_from
from seggeo.errors import ModelError, ResourceError, StoppedError
from seggeo.instances import Instances
from seggeo.protocols import ModelInfo, Prediction
from seggeo.run.answers import without_invalid
from seggeo.run.part import Recipe, predict_part, set_up
from seggeo.run.plan import make_plan


@pytest.mark.parametrize("kind", ["discs", "voronoi", "combs"])
@pytest.mark.parametrize("seed", range(5))
def test_without_invalid_is_and_with_valid(kind: str, seed: int):
    labels = random_scene(kind, seed, (60, 70))
    valid = np.random.default_rng(seed).random(labels.shape) > 0.3
    valid[20:30], valid[:, 64:] = False, False

    found = without_invalid(Instances.from_labels(labels), valid)

    wanted = Instances.from_labels(np.where(valid, labels, 0))
    assert len(found) == len(wanted)
    assert np.array_equal(found.box, wanted.box)
    assert np.array_equal(found.runs, wanted.runs)


def test_nothing_valid_leaves_nothing_and_all_valid_leaves_all():
    instances = Instances.from_labels(random_scene("discs", 1, (60, 70)))

    assert len(without_invalid(instances, np.zeros((60, 70), bool))) == 0
    assert without_invalid(instances, np.ones((60, 70), bool)) is instances


class Raising:
    """A segmenter that raises whatever it was given."""

    def __init__(self, error: Exception, batch: int = 1) -> None:
        self.error = error
        self.info = ModelInfo(name="raising", batch=batch)
        self.calls: list[int] = []

    def predict(self, tiles: list[object]) -> list[Prediction]:
        self.calls.append(len(tiles))
        raise self.error


def predicted(folder: Path, segmenter: Raising):
    write_labels(folder / "a.tif", scene("discs", 1, (60, 70)))
    settings, execution = settings_from({"model": "threshold", "tile": 64, "overlap": 16})
    plan = make_plan(str(folder / "a.tif"), settings, execution)
    recipe = Recipe(path=str(folder / "a.tif"), reading=settings.reading, job=plan.job, request=plan.request)
    bench = set_up(recipe, segmenter)
    try:
        return predict_part(bench, 0)
    finally:
        bench.close()


def test_what_stops_the_job_is_not_a_tiles_failure(tmp_path: Path):
    with pytest.raises(StoppedError):
        predicted(tmp_path, Raising(StoppedError(what="a", why="b", mend="c")))


@pytest.mark.parametrize("error", [ValueError("bad"), ModelError(what="bad", why="b", mend="c"), RuntimeError("bad")])
def test_what_a_model_raises_is_written_down(tmp_path: Path, error: Exception):
    part = predicted(tmp_path, Raising(error))

    (failure,) = part.notes["failures"]
    assert failure["error"] == type(error).__name__
    assert failure["message"].startswith("bad")
    assert (failure["tile"], failure["row"], failure["col"]) == (0, 0, 0)
    assert len(part.instances) == 0


@pytest.mark.parametrize("error", [MemoryError("bad"), ResourceError(what="bad", why="b", mend="c")])
def test_a_tile_too_small_to_divide_is_noted_when_memory_runs_out(tmp_path: Path, error: Exception):
    part = predicted(tmp_path, Raising(error))

    (failure,) = part.notes["failures"]
    assert failure["error"] == "ResourceError"
    assert "out of memory with a window of" in failure["message"]

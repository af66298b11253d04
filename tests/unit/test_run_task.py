"""A task that is read back is the task that was written, whatever its settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_flow import scene, write_labels

from seggeo.config import settings_from
from seggeo.errors import SourceError, StoreError
from seggeo.run.plan import make_plan
from seggeo.run.task import Task, freeze, load_task
from seggeo.store import RunStore


def frozen(folder: Path, **values: Any) -> Task:
    write_labels(folder / "a.tif", scene("discs", 1, (200, 210)))
    settings, execution = settings_from({"model": "threshold", "tile": 64, "overlap": 16, **values})
    plan = make_plan(str(folder / "a.tif"), settings, execution)
    store = RunStore(folder / "work")
    store.open(plan.job)
    return freeze(plan, str(folder / "a.tif"), folder / "out", "a", store, {"id": "a", "facts": {"age": "7"}})


@pytest.mark.parametrize(
    "values",
    [
        {}, {"format": ("gpkg", "cog"), "simplify": 0.5, "preview": False}, {"bands": (1,), "nodata": 0.0},
        {"set": {"min_distance": 3}}, {"stretch": "0,255", "min_area": 4, "match_iou": 0.4},
    ],
)  # fmt: skip
def test_a_task_comes_back(tmp_path: Path, values: dict[str, Any]):
    task = frozen(tmp_path, **values)

    assert load_task(tmp_path / "work") == replace(task, folder=tmp_path / "work")


def test_its_plan_is_the_one_it_was_made_from(tmp_path: Path):
    task = frozen(tmp_path)
    settings, execution = settings_from({"model": "threshold", "tile": 64, "overlap": 16})
    made, read = make_plan(str(tmp_path / "a.tif"), settings, execution), load_task(tmp_path / "work").plan()

    assert read.job == made.job
    assert read.source == made.source
    assert (read.overview.data == made.overview.data).all()
    assert task.recipe(execution, 1).job == made.job


def test_an_input_that_has_changed_has_no_plan(tmp_path: Path):
    frozen(tmp_path)
    write_labels(tmp_path / "a.tif", scene("discs", 2, (200, 210)))

    with pytest.raises(SourceError, match="changed"):
        load_task(tmp_path / "work").plan()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 99}', "null"])
def test_a_damaged_task_is_named(tmp_path: Path, text: str):
    frozen(tmp_path)
    (tmp_path / "work" / "task.json").write_text(text)

    with pytest.raises(StoreError, match=r"task\.json"):
        load_task(tmp_path / "work")

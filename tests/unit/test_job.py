"""A job's keys cover exactly what they promise, and a job survives its file."""

import json
from dataclasses import replace

import pytest
from affine import Affine

from seggeo.geometry import Frame
from seggeo.job import Job, differences

JOB = Job(
    source={"path": "/data/a.tif", "size": 120, "sha256": "ab"}, reading={"bands": [1, 2, 3], "gsd": None, "nodata": None},
    frame=Frame(height=3000, width=4000, transform=Affine(0.3, 0, 4e5, 0, -0.3, 5e6), crs="LOCAL"), tile=1024, overlap=128,
    stretch={"low": [0, 0, 0], "high": [255, 255, 255]},
    model={"name": "sam", "settings": {"points": 32}, "weights_sha256": "cd", "classes": ["object"], "exclusive": False},
    merge={"match_iou": 0.3, "min_area": 0, "min_score": 0.0},
)  # fmt: skip

PREDICTION_CHANGES = [
    {"source": {**JOB.source, "size": 121}},
    {"source": {**JOB.source, "sha256": "ac"}},
    {"reading": {**JOB.reading, "bands": [3, 2, 1]}},
    {"reading": {**JOB.reading, "gsd": 0.5}},
    {"frame": replace(JOB.frame, height=3001)},
    {"frame": replace(JOB.frame, transform=Affine(0.3, 0, 4e5, 0, -0.3, 5e6 + 1))},
    {"frame": replace(JOB.frame, crs="OTHER")},
    {"tile": 512},
    {"overlap": 64},
    {"stretch": None},
    {"stretch": {"low": [0, 0, 0], "high": [255, 255, 254]}},
    {"model": {**JOB.model, "name": "maskrcnn"}},
    {"model": {**JOB.model, "settings": {"points": 16}}},
    {"model": {**JOB.model, "weights_sha256": "ce"}},
    {"model": {**JOB.model, "exclusive": True}},
    {"schema": 2},
    {"version": "0.0.9"},
]


@pytest.mark.parametrize("change", PREDICTION_CHANGES, ids=str)
def test_whatever_changes_predictions_changes_both_keys(change):
    other = replace(JOB, **change)

    assert other.tile_key != JOB.tile_key
    assert other.merge_key != JOB.merge_key


@pytest.mark.parametrize("change", [{"match_iou": 0.5}, {"min_area": 20}, {"min_score": 0.5}])
def test_a_merge_setting_costs_no_prediction(change):
    other = replace(JOB, merge={**JOB.merge, **change})

    assert other.tile_key == JOB.tile_key
    assert other.merge_key != JOB.merge_key


def test_how_a_model_was_chosen_does_not_matter():
    other = replace(JOB, choice={"model": "sam", "kind": "overhead", "why": "it looks so"})

    assert (other.tile_key, other.merge_key) == (JOB.tile_key, JOB.merge_key)
    assert Job.from_json(json.loads(json.dumps(other.to_json()))) == other


def test_where_the_input_lies_does_not_matter():
    assert replace(JOB, source={**JOB.source, "path": "b/a.tif"}).tile_key == JOB.tile_key


def test_a_job_survives_its_file():
    there = Job.from_json(json.loads(json.dumps(JOB.to_json())))

    assert there == JOB
    assert there.tile_key == JOB.tile_key
    assert there.merge_key == JOB.merge_key


def test_keys_do_not_depend_on_the_order_of_settings():
    turned = replace(JOB, model=dict(reversed(JOB.model.items())), merge=dict(reversed(JOB.merge.items())))

    assert (turned.tile_key, turned.merge_key) == (JOB.tile_key, JOB.merge_key)


def test_the_grid_is_the_jobs():
    grid = JOB.grid

    assert (grid.height, grid.width, grid.tile, grid.halo) == (3000, 4000, 1024, 64)
    assert JOB.parts.grid == grid


def test_differences_name_every_value_that_changed():
    lines = differences({"a": 1, "b": {"c": 2, "d": 3}, "e": 4}, {"a": 1, "b": {"c": 5, "d": 3}, "f": 6})

    assert lines == ["b.c was 2 there and is 5 now", "e was 4 there and is None now", "f was None there and is 6 now"]
    assert differences(JOB.to_json(), JOB.to_json()) == []

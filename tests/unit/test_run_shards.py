"""Shards share the work out evenly, whatever it looks like, and batch systems are understood."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from affine import Affine

from seggeo.errors import ConfigError
from seggeo.geometry import Frame
from seggeo.job import Job
from seggeo.run.shards import ARRAY_VARIABLES, parse_part, part_from, part_work, shard_of


def job(height: int, width: int, tile: int = 64, overlap: int = 16, depth: int = 1) -> Job:
    frame = Frame(
        depth=depth, height=height, width=width, transform=Affine.identity(), crs=None, spacing=(1.0, 1.0, 1.0), unit="px"
    )
    return Job(
        source={}, reading={}, frame=frame, tile=tile, overlap=overlap, stretch=None, model={}, merge={},
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_work_of_parts_is_that_of_their_valid_pixels(seed: int):
    """Compared with counting pixel by pixel, at full resolution."""
    rng = np.random.default_rng(seed)
    height, width = (int(v) for v in rng.integers(100, 900, 2))
    made = job(height, width)
    valid = np.repeat(np.repeat(rng.random((height // 40 + 1, width // 40 + 1)) > 0.4, 40, 0), 40, 1)[:height, :width]

    work = part_work(made, valid)

    wanted = []
    for part in range(len(made.parts)):
        tiles = made.parts.tiles(part)
        cores = np.concatenate([valid[tile.core.slices()].ravel() for tile in tiles])
        wanted.append(len(tiles) * (0.02 + 0.98 * cores.mean()))
    np.testing.assert_allclose(work, wanted, rtol=1e-5)


def test_an_overview_tells_about_the_same():
    valid = np.zeros((1024, 1024), bool)
    valid[:512] = True
    made = job(8192, 8192, tile=512, overlap=64)

    work = part_work(made, valid)

    half = work.reshape(made.parts.rows, -1).sum(1)
    assert half[0] > 20 * half[-1]
    assert work.shape == (len(made.parts),)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("kind", ["even", "heavy tail", "random"])
def test_shards_differ_by_a_part_and_keep_the_order(count: int, kind: str):
    rng = np.random.default_rng(count)
    work = {"even": np.ones(200), "heavy tail": np.r_[np.full(150, 0.02), np.full(50, 1.0)], "random": rng.random(200)}[kind]

    shard = shard_of(work.astype(np.float32), count)

    assert (np.diff(shard) >= 0).all()
    sums = np.bincount(shard, weights=work, minlength=count)
    assert len(sums) == count
    assert abs(sums - work.sum() / count).max() <= work.max() + 1e-6


@pytest.mark.parametrize("work", [np.zeros(0, np.float32), np.zeros(4, np.float32)])
def test_no_work_is_no_trouble(work: Any):
    assert shard_of(work, 3).tolist() == [0] * len(work)


@pytest.mark.parametrize(("text", "found"), [("1/4", (1, 4)), ("4", (4, 8)), (" 3/3 ", (3, 3))])
def test_parts_in_words(text: str, found: tuple[int, int]):
    assert parse_part(text, 8) == found


@pytest.mark.parametrize("text", ["0", "9", "0/3", "4/3", "a", "1/", "/2", "1/2/3", ""])
def test_parts_that_cannot_be(text: str):
    with pytest.raises(ConfigError):
        parse_part(text, 8)


@pytest.mark.parametrize("name", ARRAY_VARIABLES)
def test_one_array_variable_is_heard(name: str):
    assert part_from({name: "7"}) == "7"
    assert part_from({**dict.fromkeys(ARRAY_VARIABLES, ""), name: "12"}) == "12"


def test_a_job_outside_an_array_has_no_part():
    assert part_from({}) is None
    assert part_from({"SGE_TASK_ID": "undefined", "LSB_JOBINDEX": "0"}) is None


@pytest.mark.parametrize("said", [{"SLURM_ARRAY_TASK_ID": "1", "PBS_ARRAY_INDEX": "1"}, {"SLURM_ARRAY_TASK_ID": "one"}])
def test_what_batch_systems_cannot_mean_is_refused(said: dict[str, str]):
    with pytest.raises(ConfigError):
        part_from(said)


def test_parts_of_a_volume_weigh_as_many_tiles_as_they_have():
    deep = job(300, 300, depth=37)

    weight = part_work(deep, np.ones((5, 9), np.bool_))

    assert weight.tolist() == [len(deep.parts.tiles(part)) for part in range(len(deep.parts))]
    assert deep.parts.layers > 1

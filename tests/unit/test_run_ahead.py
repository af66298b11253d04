"""Tiles are made ready ahead of the model, in order, and never more of them than was said."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from support_flow import scene, write_labels

from seggeo.config import settings_from
from seggeo.instances import Instances
from seggeo.protocols import ModelInfo, Prediction
from seggeo.run.ahead import AHEAD_BYTES, read_ahead, tiles_ahead
from seggeo.run.part import Recipe, predict_part, set_up
from seggeo.run.plan import make_plan
from seggeo.run.watch import NO_CARE, Care
from seggeo.tiling import TileGrid

TILES = list(TileGrid(height=300, width=300, tile=64, halo=8))


class Reading:
    """Counts what was read and not yet handed back."""

    def __init__(self) -> None:
        self.lock, self.order, self.held, self.most = threading.Lock(), [], 0, 0

    def __call__(self, tile):
        with self.lock:
            self.order.append(tile.index)
            self.held += 1
            self.most = max(self.most, self.held)
        return tile.index

    def done(self) -> None:
        with self.lock:
            self.held -= 1


@pytest.mark.parametrize("depth", [1, 2, 5, 1000])
def test_tiles_come_in_order_and_no_more_are_held_than_was_said(depth: int):
    read, given = Reading(), []
    for tile, coming in read_ahead(TILES, read, depth, NO_CARE, None):
        assert coming is not None
        given.append((tile.index, coming.result()))
        read.done()

    numbers = [tile.index for tile in TILES]
    assert given == list(zip(numbers, numbers, strict=True))
    assert read.order == numbers
    assert read.most <= depth + 1


def test_what_wants_care_is_never_read_beside_others():
    alone, barred = TILES[4].index, TILES[9].index
    care, read, seen = Care(alone=frozenset([alone]), barred={barred: "it died"}), Reading(), {}
    for tile, coming in read_ahead(TILES[:14], read, 3, care, None):
        if coming is not None:
            coming.result()
        seen[tile.index] = list(read.order)

    assert barred not in read.order
    assert seen[alone][-1] == alone
    assert seen[alone][:-1] == [tile.index for tile in TILES[:4]]
    assert TILES[10].index not in seen[barred]


def test_a_reader_that_is_left_drops_what_was_not_begun():
    gate, begun = threading.Event(), []

    def read(tile):
        begun.append(tile.index)
        gate.wait(10)

    tiles = read_ahead(TILES, read, 10, NO_CARE, None)
    next(tiles)
    gate.set()
    tiles.close()
    assert len(begun) <= 11


class Bright:
    """Finds whatever is not 0, some tiles at a time."""

    def __init__(self, batch: int) -> None:
        self.info, self.sizes = ModelInfo(name="bright", batch=batch), []

    def predict(self, tiles):
        self.sizes.append(len(tiles))
        return [Prediction(instances=Instances.from_labels((t.image[..., 0] > 0).astype(np.int32))) for t in tiles]


def test_batches_of_any_size_find_the_same(tmp_path: Path):
    path = tmp_path / "a.tif"
    write_labels(path, scene("discs", 1, (900, 900)))
    settings, execution = settings_from({"model": "threshold", "tile": 96, "overlap": 32, "stretch": "minmax"})
    plan = make_plan(str(path), settings, execution)
    recipe = Recipe(path=str(path), reading=settings.reading, job=plan.job, request=plan.request)
    found = []
    for batch in (1, 2, 4):
        model = Bright(batch)
        bench = set_up(recipe, model)
        found.append(predict_part(bench, 0))
        bench.close()
        assert max(model.sizes) == batch

    for one in found[1:]:
        assert np.array_equal(one.instances.runs, found[0].instances.runs)
        assert np.array_equal(one.instances.box, found[0].instances.box)
        assert np.array_equal(one.tile, found[0].tile)
        assert one.notes == found[0].notes
    assert len(found[0].instances) > 3


def test_torch_has_its_threads_again_after_a_run(tmp_path: Path):
    write_labels(tmp_path / "a.tif", scene("discs", 1, (80, 80)))
    settings, execution = settings_from({"model": "threshold", "tile": 64, "overlap": 16})
    plan = make_plan(str(tmp_path / "a.tif"), settings, execution)
    recipe = Recipe(path=str(tmp_path / "a.tif"), reading=settings.reading, job=plan.job, request=plan.request, threads=3)
    before = torch.get_num_threads()
    bench = set_up(recipe, Bright(1))

    assert torch.get_num_threads() == 3
    bench.close()
    assert torch.get_num_threads() == before


def test_as_many_are_read_ahead_as_the_model_takes_and_memory_allows(tmp_path: Path):
    write_labels(tmp_path / "a.tif", scene("discs", 1, (80, 80)))
    settings, execution = settings_from({"model": "threshold", "tile": 64, "overlap": 16})
    job = make_plan(str(tmp_path / "a.tif"), settings, execution).job

    assert tiles_ahead(ModelInfo(name="a"), job) == 1
    assert tiles_ahead(ModelInfo(name="a", batch=6), job) == 6
    assert tiles_ahead(ModelInfo(name="a", batch=6, context=20_000), job) == 1
    side = 64 + 2 * 1000
    fits = AHEAD_BYTES // (side * side * len(job.reading["bands"]) * 5)
    assert tiles_ahead(ModelInfo(name="a", batch=10_000, context=1000), job) == fits

"""Masks that nobody asks for are not computed, and what is stored of a tile is the same to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from support_models import make_maskrcnn_weights, scene

from seggeo.config import settings_from
from seggeo.geometry import Window
from seggeo.models.maskrcnn import MaskRCNNSegmenter
from seggeo.models.maskrcnn_paste import can_meet, paste_spans
from seggeo.protocols import Prediction, TileImage
from seggeo.run.part import Recipe, predict_part, set_up
from seggeo.run.plan import make_plan
from seggeo.run.segmenters import open_segmenter
from seggeo.store import Part


class Everything:
    """The same model, told that every pixel of a tile is its own."""

    def __init__(self, segmenter: MaskRCNNSegmenter) -> None:
        self.info, self._segmenter = segmenter.info, segmenter

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        return self._segmenter.predict([replace(tile, tile=replace(tile.tile, core=tile.tile.window)) for tile in tiles])


@pytest.mark.parametrize(("overlap", "detections"), [(48, 2000), (8, 20)])
def test_parts_are_the_same_and_the_mask_head_saw_fewer_boxes(tmp_path: Path, overlap: int, detections: int):
    weights = make_maskrcnn_weights(tmp_path / "toy.safetensors", seed=3)
    image = scene(144)
    grid = {"width": 144, "height": 144, "transform": rasterio.Affine(1, 0, 5e5, 0, -1, 6e6), "crs": "EPSG:32633"}
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=3, dtype="uint8", **grid) as file:
        file.write(np.moveaxis(image, 2, 0))
    chosen = {"model": "maskrcnn", "weights": str(weights), "tile": 96, "overlap": overlap, "device": "cpu"}
    chosen["set"] = {"detections": detections}
    plan = make_plan(str(tmp_path / "a.tif"), *settings_from(chosen))
    recipe = Recipe(path=str(tmp_path / "a.tif"), reading=plan.settings.reading, job=plan.job, request=plan.request)
    segmenter = open_segmenter(plan.request)
    seen: list[int] = []
    segmenter._model.roi_heads.mask_head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))

    less, few = predicted(recipe, segmenter), sum(seen)
    seen.clear()
    all_, many = predicted(recipe, Everything(segmenter)), sum(seen)

    assert 0 < few < many
    assert sum(part.notes["capped"] for part in less) == (len(recipe.job.grid) if detections == 20 else 0)
    for a, b in zip(less, all_, strict=True):
        assert a.notes == b.notes
        for name in ("box", "runs", "start", "score", "label"):
            assert np.array_equal(getattr(a.instances, name), getattr(b.instances, name))
        assert np.array_equal(a.tile, b.tile)
    foreign = sum(part.notes["foreign"] for part in less)
    assert many - few <= foreign
    assert sum(part.notes["predicted"] for part in less) == many


def predicted(recipe: Recipe, segmenter: MaskRCNNSegmenter | Everything) -> list[Part]:
    bench = set_up(recipe, segmenter)
    try:
        return [predict_part(bench, part) for part in range(len(recipe.job.parts))]
    finally:
        bench.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_mask_that_cannot_meet_a_window_has_no_pixel_there_however_full_it_is(seed: int):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(300, 2, generator=generator) * 190
    boxes = torch.cat([corner, corner + torch.rand(300, 2, generator=generator) * 60], 1)
    within = Window(row=60, col=80, height=50, width=40)

    meets = can_meet(boxes, 28, within).numpy()
    # At threshold 0 a mask is all of its rectangle, the ring of zeros included.
    spans = paste_spans(torch.ones(300, 28, 28), boxes, (200, 250), 0.0).clip(*within.bounds)

    assert np.array_equal(np.unique(spans.owner), np.flatnonzero(meets))
    assert 0 < meets.sum() < 300

"""Masks brought to the image many at once are those brought to it one by one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import build_point_grid
from support_sam import SIDE, blob_image, make_sam

from seggeo.models import sam_crops
from seggeo.models.sam_crops import in_crops
from seggeo.models.sam_decode import LeanSam
from seggeo.models.sam_masks import Work, find_masks
from seggeo.models.sam_measure import Thresholds, one_by_one
from seggeo.models.sam_upsample import Upsampling

SIZES = [(256, 256), (256, 100), (77, 256), (128, 128), (400, 400), (150, 231), (700, 90)]
"""Network input of 256 px and 64 cells; other images are resized to fill it."""


@lru_cache
def toy(seed: int):
    return make_sam(seed)


def view_of(shape: tuple[int, int], side: int = 256) -> Upsampling:
    scale = side / max(shape)
    return Upsampling(cell=4, scaled=(int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)), size=shape)


def smooth(count: int, cells: int, seed: int) -> torch.Tensor:
    """Logits of masks small and large, in the middle and at the edges, one without any cell and one everywhere."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:cells, :cells]
    logits = np.empty((count, cells, cells), np.float32)
    for one in logits:
        centre, radius = rng.uniform(0, cells, 2), np.exp(rng.uniform(0, np.log(cells / 2)))
        one[:] = 3 * (radius - np.hypot(row - centre[0], col - centre[1])) + rng.normal(0, 1, one.shape)
    logits[0], logits[1] = -9, 9
    return torch.from_numpy(logits)


def assert_equal(one, two):
    assert np.array_equal(one.which, two.which)
    for name in ("owner", "row", "start", "stop"):
        assert np.array_equal(getattr(one.spans, name), getattr(two.spans, name)), name
    np.testing.assert_allclose(one.stability, two.stability, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("values", [{}, {"mask_threshold": 0.7, "stability_score_offset": 2.0}])
def test_many_at_once_are_one_by_one(shape, values):
    thresholds = Thresholds(stability_score_thresh=0.5, **values)
    logits, view = smooth(40, 64, seed=sum(shape)), view_of(shape)

    together, alone = in_crops(logits, view, thresholds), one_by_one(logits, view, thresholds)

    assert len(alone.which) >= 5
    assert_equal(together, alone)


def test_groups_of_any_size_give_the_same(monkeypatch):
    logits, view, thresholds = smooth(30, 64, seed=1), view_of((256, 256)), Thresholds(stability_score_thresh=0.0)
    wanted = in_crops(logits, view, thresholds)
    monkeypatch.setattr(sam_crops, "_PIXELS", 1)

    assert_equal(in_crops(logits, view, thresholds), wanted)


def test_nothing_gives_nothing():
    view = view_of((256, 256))
    for logits in (torch.zeros(0, 64, 64), torch.full((3, 64, 64), -9.0)):
        found = in_crops(logits, view, Thresholds())
        assert len(found.which) == len(found.spans) == len(found.stability) == 0


@pytest.mark.parametrize("shape", [(128, 128), (77, 128), (200, 150)])
def test_a_whole_image_gives_the_same_masks_either_way(shape):
    sam, image, grid = toy(0), blob_image(*shape, seed=4), build_point_grid(6)
    thresholds = Thresholds(stability_score_thresh=0.6)

    one, two = (
        find_masks(LeanSam(sam), image, grid * [shape[1], shape[0]], thresholds, Work(points_per_batch=32, crops=crops))
        for crops in ("alone", "together")
    )

    assert len(one.instances) >= 2
    assert np.array_equal(one.instances.runs, two.instances.runs)
    assert np.array_equal(one.instances.box, two.instances.box)
    assert np.array_equal(one.instances.score, two.instances.score)
    assert np.array_equal(one.point, two.point)
    np.testing.assert_allclose(one.stability, two.stability, rtol=0, atol=1e-3)


def test_the_toy_has_cells_enough_for_two_sizes_of_crops():
    assert toy(0).prompt_encoder.mask_input_size[0] > sam_crops.LEAST_SIDE
    assert SIDE > sam_crops.LEAST_SIDE

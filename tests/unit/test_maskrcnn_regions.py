"""Boxes are sampled as torchvision samples them, whatever their size, place and company."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign

from seggeo.models.maskrcnn_regions import Detections, Pyramid

SHAPE = (128, 192)
NAMES = ["0", "1", "2", "3"]


def random_features(tiles: int, strides: tuple[int, ...] = (4, 8, 16, 32)) -> OrderedDict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(strides))
    return OrderedDict(
        (str(i), torch.randn(tiles, 8, SHAPE[0] // stride, SHAPE[1] // stride, generator=generator))
        for i, stride in enumerate(strides)
    )


def random_boxes(count: int, seed: int) -> torch.Tensor:
    """Boxes of 0 px to the whole tile, some at its far corner."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([SHAPE[1], SHAPE[0]], dtype=torch.float32)
    corner = torch.rand(count, 2, generator=generator) * limit
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) ** 3 * limit], 1)
    boxes[0], boxes[1] = torch.tensor([191.5, 127.5, 192, 128]), torch.tensor([0.0, 0, 192, 128])
    return torch.minimum(boxes, limit.repeat(2))


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (16, 32), (8,)], ids=str)
@pytest.mark.parametrize("grid", [7, 14])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_regions_are_torchvisions(strides, grid, layout):
    features = random_features(2, strides)
    pooler = MultiScaleRoIAlign(NAMES[: len(strides)], grid, 2)
    boxes = [random_boxes(60, 1), random_boxes(40, 2)]
    expected = pooler(features, boxes, [SHAPE, SHAPE])

    laid_out = {name: values.contiguous(memory_format=layout) for name, values in features.items()}
    pyramid = Pyramid.of(laid_out, pooler.featmap_names, SHAPE)
    found = pyramid.pool(pooler, torch.cat(boxes), torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([60, 40])))

    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found - expected).abs().mean() < 1e-6


def test_a_level_that_is_not_pooled_from_is_left_out():
    features = random_features(1)
    pooler = MultiScaleRoIAlign(["1", "2"], 7, 2)
    boxes = random_boxes(30, 3)

    found = Pyramid.of(features, pooler.featmap_names, SHAPE).pool(pooler, boxes, torch.zeros(30, dtype=torch.int64))

    assert torch.allclose(found, pooler(features, [boxes], [SHAPE]), atol=1e-4)


def test_a_region_does_not_depend_on_the_others():
    pooler, boxes = MultiScaleRoIAlign(NAMES, 7, 2), random_boxes(50, 4)
    pyramid, tile = Pyramid.of(random_features(1), NAMES, SHAPE), torch.zeros(50, dtype=torch.int64)
    together = pyramid.pool(pooler, boxes, tile)

    for some in (slice(0, 1), slice(3, 20), slice(49, 50)):
        assert torch.equal(pyramid.pool(pooler, boxes[some], tile[some]), together[some])


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8,)], ids=str)
def test_no_boxes_have_no_regions(strides):
    names = NAMES[: len(strides)]
    pyramid = Pyramid.of(random_features(1, strides), names, SHAPE)

    nothing = pyramid.pool(MultiScaleRoIAlign(names, 7, 2), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))

    assert nothing.shape == (0, 8, 7, 7)


def test_detections_travel_as_one_table():
    found = Detections(
        boxes=random_boxes(9, 5), scores=torch.linspace(1, 0.1, 9), labels=torch.arange(9) * 1000, tile=torch.arange(9) // 4
    )

    told = found.cpu()

    for name in ("boxes", "scores", "labels", "tile"):
        assert torch.equal(getattr(told, name), getattr(found, name))
        assert getattr(told, name).dtype == getattr(found, name).dtype

"""Masks pasted into their own boxes are torchvision's full-tile masks, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from seggeo.instances import Instances
from seggeo.models import maskrcnn_paste
from seggeo.models.maskrcnn_paste import paste_spans
from seggeo.rle import Spans

SHAPE = (150, 190)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    """Boxes of 0 to 120 px whose centres lie in the tile, many reaching beyond its edges."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 2, generator=generator) * torch.tensor([SHAPE[1] - 1.0, SHAPE[0] - 1.0])
    half = torch.rand(count, 2, generator=generator) ** 2 * 60
    return torch.cat([centre - half, centre + half], 1)


def drawn(spans: Spans, count: int) -> np.ndarray:
    out = np.zeros((count, *SHAPE), bool)
    for owner, row, start, stop in zip(spans.owner, spans.row, spans.start, spans.stop, strict=True):
        out[owner, row, start:stop] = True
    return out


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("smooth", [False, True])
def test_every_mask_is_torchvisions(seed, smooth):
    masks = torch.rand(150, 28, 28, generator=torch.Generator().manual_seed(seed))
    if smooth:  # blobs, as a mask head gives them, rather than salt and pepper
        masks = torch.nn.functional.avg_pool2d(masks[:, None], 9, 1, 4)[:, 0]
    boxes = random_boxes(150, seed)

    ours = drawn(paste_spans(masks, boxes, SHAPE, 0.5), 150)
    theirs = paste_masks_in_image(masks[:, None], boxes, SHAPE)[:, 0] >= 0.5

    assert np.array_equal(ours, theirs.numpy())
    assert ours.any((1, 2)).sum() > 0


@pytest.mark.parametrize("threshold", [0.2, 0.8])
def test_the_threshold_is_the_probability_a_pixel_needs(threshold):
    masks, boxes = torch.rand(40, 14, 14, generator=torch.Generator().manual_seed(9)), random_boxes(40, 9)

    ours = drawn(paste_spans(masks, boxes, SHAPE, threshold), 40)

    assert np.array_equal(ours, (paste_masks_in_image(masks[:, None], boxes, SHAPE)[:, 0] >= threshold).numpy())


@pytest.mark.parametrize("levels", [1, 2, 4, 8])
def test_only_pixels_at_the_threshold_itself_may_differ(levels):
    """Few levels of probability, so that many pixels lie on the threshold but for rounding."""
    masks = (torch.rand(80, 28, 28, generator=torch.Generator().manual_seed(levels)) * levels).round() / levels
    boxes = random_boxes(80, levels).round()

    ours = drawn(paste_spans(masks, boxes, SHAPE, 0.5), 80)
    theirs = paste_masks_in_image(masks[:, None], boxes, SHAPE)[:, 0].numpy()

    differs = ours != (theirs >= 0.5)
    assert np.abs(theirs[differs] - 0.5).max(initial=0) < 1e-6
    assert differs.mean() < 1e-4


def test_a_small_buffer_gives_the_same_spans(monkeypatch):
    masks, boxes = torch.rand(60, 28, 28, generator=torch.Generator().manual_seed(1)), random_boxes(60, 1)
    whole = paste_spans(masks, boxes, SHAPE, 0.5)

    monkeypatch.setattr(maskrcnn_paste, "BUFFER_ROWS", 50)
    pieces = paste_spans(masks, boxes, SHAPE, 0.5)

    for name in ("owner", "row", "start", "stop"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name))


def test_spans_are_sorted_and_apart_so_that_instances_take_them():
    masks, boxes = torch.rand(99, 28, 28, generator=torch.Generator().manual_seed(4)), random_boxes(99, 4)
    boxes[:, 2:] += 3  # so that no mask is empty
    spans = paste_spans(masks, boxes, SHAPE, 0.3)

    instances = Instances.from_spans(spans, score=np.ones(99), label=0)

    for full, (box, mask) in zip(drawn(spans, 99), instances, strict=True):
        row, col, row_stop, col_stop = box
        assert np.array_equal(full[row:row_stop, col:col_stop], mask)
        assert full.sum() == mask.sum()


def test_no_masks_and_masks_outside_the_tile_have_no_spans():
    assert len(paste_spans(torch.zeros(0, 28, 28), torch.zeros(0, 4), SHAPE, 0.5)) == 0
    outside = torch.tensor([[200.0, 10, 230, 40], [-60.0, -60, -20, -20]])
    assert len(paste_spans(torch.ones(2, 28, 28), outside, SHAPE, 0.5)) == 0

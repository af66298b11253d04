"""Fields of a tile with its context are those of the whole image, to the last bit, at every scale."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import ndimage
from support_unet import save_network, toy_network

from seggeo.geometry import Window
from seggeo.models.unet import UNetSegmenter, load
from seggeo.models.unet_arch import UNetShape, folded
from seggeo.models.unet_fields import compute_fields
from seggeo.models.unet_resample import SCALES, nearest_scale, resample
from seggeo.protocols import ModelRequest
from seggeo.tiling import TileGrid

SHAPE = (437, 501)


def segmenter(tmp_path, **settings) -> UNetSegmenter:
    path = save_network(toy_network(), tmp_path / "toy.safetensors")
    return load(ModelRequest(name="unet", weights=path, settings={"scale": "1", **settings}))


def image(seed: int = 0, shape: tuple[int, int] = SHAPE):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3)).astype(np.uint8)


@pytest.mark.parametrize(("scale", "tile"), [("1", 224), ("1", 256), ("1", 301), ("1/2", 320), ("2/3", 301), ("2", 224)])
def test_stitched_fields_are_those_of_the_whole_image(tmp_path, scale, tile):
    model = segmenter(tmp_path, scale=scale)
    pixels, valid = image(), np.ones(SHAPE, bool)
    whole = model.fields(pixels, valid)
    frame = Window(row=0, col=0, height=SHAPE[0], width=SHAPE[1])
    finer = max(1, int(Fraction(scale)))
    stitched = [np.full_like(values, np.nan) for values in (whole.offset, whole.chance, whole.seed[None])]

    for each in TileGrid(depth=1, height=SHAPE[0], width=SHAPE[1], tile=tile, halo=8):
        extent = model.info.extent(each.window, within=frame)
        part = model.fields(pixels[extent.slices()], valid[extent.slices()])
        into = tuple(slice(s.start * finer, s.stop * finer) for s in each.window.slices())
        out_of = tuple(slice(s.start * finer, s.stop * finer) for s in each.window.slices(extent))
        for target, source in zip(stitched, (part.offset, part.chance, part.seed[None]), strict=True):
            target[(slice(None), *into)] = source[(slice(None), *out_of)]

    assert np.array_equal(stitched[0], whole.offset)
    assert np.array_equal(stitched[1], whole.chance)
    assert np.array_equal(stitched[2][0], whole.seed)


def test_without_its_context_a_tile_sees_other_fields(tmp_path):
    model = segmenter(tmp_path)
    pixels, valid = image(), np.ones(SHAPE, bool)
    alone = model.fields(pixels[160:320, 160:320], valid[160:320, 160:320])

    assert not np.array_equal(alone.chance, model.fields(pixels, valid).chance[:, 160:320, 160:320])


@pytest.mark.parametrize("widths", [(16, 16), (16, 16, 16), (16, 16, 16, 16), (8, 8, 8, 8, 8)])
def test_context_is_enough_and_not_a_stride_more_than_needed(widths):
    network = folded(toy_network(widths=widths))
    shape = UNetShape(widths=widths)
    side = shape.stride * 24
    base = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    middle = side // 2 // shape.stride * shape.stride
    other = base.clone()
    other[:, :, middle : middle + shape.stride] += 1.0
    with torch.inference_mode():
        changed = (network(base) != network(other)).any(dim=1)[0].any(dim=1).nonzero().ravel()
    before, after = middle - int(changed.min()), int(changed.max()) - (middle + shape.stride - 1)

    assert max(before, after) <= shape.context
    assert max(before, after) > shape.context - 2 * shape.stride


def test_flips_see_the_same_image():
    """A network averaged over all eight views gives turned fields for a turned image."""
    network = folded(toy_network())
    pixels = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        plain = compute_fields(network, pixels, Fraction(1), 8)
        turned = compute_fields(network, torch.rot90(pixels, 1, (1, 2)), Fraction(1), 8)

    np.testing.assert_allclose(turned.chance, np.rot90(plain.chance, 1, (1, 2)), atol=1e-5)
    back = np.rot90(turned.offset, -1, (1, 2))
    np.testing.assert_allclose(np.stack([back[1], -back[0]]), plain.offset, atol=1e-4)


def test_one_view_differs_from_eight(tmp_path):
    network = folded(toy_network())
    pixels = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        one, eight = (compute_fields(network, pixels, Fraction(1), views).chance for views in (1, 8))

    assert np.abs(one - eight).max() > 1e-4


@pytest.mark.parametrize("scale", [s for s in SCALES if s < 1])
def test_shrinking_averages_areas(scale):
    side = 24 * scale.denominator
    pixels = torch.rand(1, 2, side, side, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    fine = np.repeat(np.repeat(pixels[0, 0].numpy(), scale.numerator, 0), scale.numerator, 1)
    q = scale.denominator
    blocks = fine.reshape(len(fine) // q, q, -1, q).mean(axis=(1, 3))

    np.testing.assert_allclose(resample(pixels, scale)[0, 0].numpy(), blocks, rtol=1e-12)


@pytest.mark.parametrize("scale", [s for s in SCALES if s > 1] + [1 / s for s in SCALES if s < 1])
def test_enlarging_interpolates_between_centres(scale):
    side = 12 * scale.denominator
    pixels = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    size = int(side * scale)
    place = (np.arange(size) + 0.5) / float(scale) - 0.5
    grid = np.meshgrid(place, place, indexing="ij")
    expected = ndimage.map_coordinates(pixels[0, 0].numpy(), grid, order=1, mode="nearest")

    np.testing.assert_allclose(resample(pixels, Fraction(scale))[0, 0].numpy(), expected, rtol=1e-12)


def test_nearest_scale_is_nearest_by_ratio():
    assert nearest_scale(0.9) == 1
    assert nearest_scale(0.45) == Fraction(1, 2)
    assert nearest_scale(100) == 4
    assert nearest_scale(2.2) == 2

"""The fields of a window: image to network scale, network, and what its outputs mean in pixels.

Everything here is local and fixed by position in the raster, so that the fields of two windows are equal to the last bit
wherever both windows saw the network's context. One thing bends that: for inputs of fewer than about 20 000 numbers oneDNN
adds in another order, so tiles below 160 px of the network's scale differ in the last bit (measured with torch 2.15).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from seggeo.models.unet_arch import UNet, UNetShape
from seggeo.models.unet_resample import resample

OFFSET_UNIT = 8.0
"""Pixels of the network's scale that one unit of an offset or of a ray means."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """What the network says of each pixel of a window."""

    chance: NDArray[np.float32]
    """`(k, h, w)` probability of each class of objects."""
    seed: NDArray[np.float32]
    """`(h, w)` distance to the object's boundary over the greatest in the object."""
    offset: NDArray[np.float32]
    """`(2, h, w)` to the object's centre, px of these fields, rows then columns."""
    rays: NDArray[np.float32]
    """`(rays, h, w)` to the object's boundary along each of `ray_directions`, px of these fields; `(0, h, w)` without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """How a network at a scale lies on the image's pixels."""

    stride: int
    """Windows begin at multiples of this, image px."""
    context: int
    """Image px around a pixel that can change its fields."""


def ray_directions(rays: int) -> NDArray[np.float64]:
    """Unit steps `(rays, 2)`, rows then columns: the first along +columns, then equal angles by way of +rows."""
    angle = 2 * np.pi * np.arange(rays) / rays
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def lattice_of(model: UNet, scale: Fraction) -> Lattice:
    """Stride and context of a network, in image px, when it works at `scale`."""
    deep, p, q = model.shape.stride, scale.numerator, scale.denominator
    border = q if scale < 1 else 1 if scale > 1 else 0  # what interpolation there and back reaches
    return Lattice(stride=deep * q // gcd(deep, p), context=ceil(model.shape.context / scale) + 2 * border)


def compute_fields(model: UNet, image: Tensor, scale: Fraction, flips: int) -> Fields:
    """Fields of a window that begins at a multiple of the lattice's stride.

    Args:
        model: In inference mode.
        image: `(bands, h, w)`, 0 to 1, on the model's device.
        scale: The network's share of the image's resolution.
        flips: Views averaged: 1, 2, 4 or 8.

    Returns:
        Fields at the image's resolution, or at the network's where that is higher: `(ceil(h * scale), ...)`.
    """
    height, width = image.shape[1:]
    stride = lattice_of(model, scale).stride
    padded = image[None] if scale == 1 else image[None].contiguous()
    if -width % stride or -height % stride:
        padded = F.pad(padded, (0, -width % stride, 0, -height % stride), mode="replicate")
    raw = _averaged(model, resample(padded, scale) - 0.5, flips)
    k = model.shape.classes
    raw[:, k + 1 :] *= OFFSET_UNIT
    raw[:, k + 3 :].clamp_(0, model.shape.context)  # it cannot know of a boundary that it does not see
    back = max(Fraction(1), scale)
    if scale < 1:
        raw = resample(raw, 1 / scale)
        raw[:, k + 1 :] *= float(1 / scale)
    rows, cols = ceil(height * back), ceil(width * back)
    out = raw[0, :, :rows, :cols].cpu().numpy()
    return Fields(chance=out[:k], seed=out[k], offset=out[k + 1 : k + 3], rays=out[k + 3 :])


def _averaged(model: UNet, image: Tensor, flips: int) -> Tensor:
    """Class probabilities without background, seed, offsets and rays, `(1, k + 3 + rays, h, w)`, averaged over views."""
    k = model.shape.classes
    total: Tensor | None = None
    for view in range(flips):
        fields = _seen(model, image, view)
        fields[:, 1 : k + 1] = fields[:, : k + 1].softmax(1)[:, 1:]
        total = fields[:, 1:] if total is None else total.add_(fields[:, 1:])
    if total is None:
        raise AssertionError("at least one view")
    return total.div_(flips) if flips > 1 else total


def _seen(model: UNet, image: Tensor, view: int) -> Tensor:
    """Raw fields of a view (bit 0 flips columns, bit 1 rows, bit 2 exchanges them), turned back."""
    sides = [axis for bit, axis in ((1, 3), (2, 2)) if view & bit]
    turned = torch.flip(image, sides) if sides else image
    if view & 4:
        turned = turned.transpose(2, 3)
    fields: Tensor = model(turned.contiguous(memory_format=torch.channels_last))
    if view & 4:
        fields = fields.transpose(2, 3)
    order = _channels_of(model.shape, view)
    if order != sorted(order):
        fields = fields[:, order]
    if sides:
        fields = torch.flip(fields, sides)
    first = model.shape.classes + 2  # the row offset
    for axis, bit in ((first, 2), (first + 1, 1)):
        if view & bit:
            fields[:, axis].neg_()
    return fields


def _channels_of(shape: UNetShape, view: int) -> list[int]:
    """Where a view has each channel of the image: exchanged axes exchange the offsets, and rays are seen along other ones."""
    order = list(range(shape.channels))
    first, n = shape.classes + 2, shape.rays
    if view & 4:
        order[first], order[first + 1] = first + 1, first
    for ray in range(n):
        seen = n // 2 - ray if view & 1 else ray
        seen = -seen if view & 2 else seen
        seen = n // 4 - seen if view & 4 else seen
        order[first + 2 + ray] = first + 2 + seen % n
    return order

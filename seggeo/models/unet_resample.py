"""Images at a rational share of their resolution, the same wherever a window begins at a multiple of the period.

`shrink` averages areas, `enlarge` interpolates linearly; both work period by period (`q` pixels in, `p` out) with fixed
weights and a fixed order of additions, so that two windows that share pixels agree to the last bit.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

SCALES = tuple(Fraction(*pq) for pq in ((1, 8), (1, 6), (1, 4), (1, 3), (1, 2), (2, 3), (1, 1), (2, 1), (3, 1), (4, 1)))
"""Shares of the image's resolution a network may work at."""


def nearest_scale(wanted: float) -> Fraction:
    """The scale whose ratio to `wanted` is smallest."""
    return min(SCALES, key=lambda scale: (abs(_log(float(scale)) - _log(wanted)), scale))


def _log(value: float) -> float:
    return float(torch.log(torch.tensor(value, dtype=torch.float64)))


def resample(image: Tensor, scale: Fraction) -> Tensor:
    """`(n, c, h, w)` at `scale`; h and w must be multiples of the scale's denominator."""
    if scale == 1:
        return image
    along = shrink if scale < 1 else enlarge
    return along(along(image, scale).transpose(2, 3), scale).transpose(2, 3)


def shrink(image: Tensor, scale: Fraction) -> Tensor:
    """Columns averaged over the area each new one covers."""
    p, q = scale.numerator, scale.denominator
    columns = image.reshape(*image.shape[:3], -1, q)
    out = []
    for j in range(p):
        start, stop = Fraction(j * q, p), Fraction((j + 1) * q, p)
        total = torch.zeros_like(columns[..., 0])
        for i in range(int(start), -(-stop.numerator // stop.denominator)):
            share = (min(stop, Fraction(i + 1)) - max(start, Fraction(i))) / (stop - start)
            total = total + columns[..., i] * float(share)
        out.append(total)
    return torch.stack(out, dim=4).flatten(3)


def enlarge(image: Tensor, scale: Fraction) -> Tensor:
    """Columns interpolated linearly between pixel centres, the outermost repeated."""
    p, q = scale.numerator, scale.denominator
    width = image.shape[3]
    padded = F.pad(image, (1, 1, 0, 0), mode="replicate")
    out = []
    for j in range(p):
        place = (Fraction(2 * j + 1, 2) * q / p) - Fraction(1, 2)
        low = place.numerator // place.denominator
        share = float(place - low)
        first = padded[..., low + 1 : low + 1 + width : q]
        second = padded[..., low + 2 : low + 2 + width : q][..., : first.shape[3]]
        out.append(first * (1 - share) + second * share if share else first)
    return torch.stack(out, dim=4).flatten(3)

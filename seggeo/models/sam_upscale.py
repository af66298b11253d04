"""segment-anything's mask head on image tokens of `sam_low_rank`: two transposed convolutions and a product per mask.

Both convolutions have kernels as large as their strides, so each image token makes 4 x 4 cells by itself and a convolution
is a matrix product. The first one takes base, vectors and offset of the image tokens apart, as every product with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from torch import Tensor

from seggeo.models.sam_low_rank import ImageTokens

CHUNK = 512
"""Image tokens on a CPU at once: what they become stays in the core's own cache."""
POINTS = 16
"""Points on an accelerator at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedCells:
    """What all points of one image share in the first convolution, `(4 * channels, T)`."""

    base: Tensor


class MaskHead:
    """The upscaling head of a `MaskDecoder`; in inference mode only.

    Args:
        decoder: The stock module.
        offset: Of the image tokens, `(C,)`.
        side_by_side: Some points and all their image tokens at once, not parts of each; default: not on a CPU.
    """

    def __init__(self, decoder: MaskDecoder, offset: Tensor, *, side_by_side: bool | None = None) -> None:
        self._side_by_side = offset.device.type != "cpu" if side_by_side is None else side_by_side
        first, norm, _, second, _ = decoder.output_upscaling
        # By position in the 2 x 2 cells of a token, then channel. The norm takes the mean over the channels off, whatever
        # made them: taken off the weights it costs nothing.
        weight = first.weight.permute(2, 3, 1, 0).flatten(0, 1)
        bias = first.bias.expand(4, -1)
        weight, bias = weight - weight.mean(1, keepdim=True), bias - bias.mean(1, keepdim=True)
        self._first = weight.flatten(0, 1)
        self._constant = (bias.flatten() + self._first @ offset)[:, None]
        self._norm = norm
        self._second = second.weight.permute(2, 3, 1, 0).flatten(0, 2)
        self._second_bias = second.bias.repeat(4)[:, None]

    def share(self, base: Tensor) -> SharedCells:
        """What all points share of the base `(C, T)` of their image tokens."""
        return SharedCells(base=self._first @ base)

    def __call__(self, shared: SharedCells, image: ImageTokens, points: Tensor, masks: Tensor) -> Tensor:
        """Low-resolution logits of masks, `(p, m, side, side)`.

        Args:
            shared: From `share`.
            image: Image tokens of `b` points.
            points: Which of them have masks to be made, `(p,)`.
            masks: Of each of those, what its mask tokens make of the cells' channels, `(p, m, channels)`.
        """
        length = image.rows.shape[2]
        together, chunk = (POINTS, length) if self._side_by_side else (1, CHUNK)
        logits = masks.new_empty(len(points), 16, masks.shape[1], length)
        for first in range(0, len(points), together):
            some = slice(first, first + together)
            which = points[some]
            vectors, rows, scale = self._first @ image.vectors[which].mT, image.rows[which], image.scale[which]
            for start in range(0, length, chunk):
                part = slice(start, start + chunk)
                coarse = torch.baddbmm(shared.base[:, part], vectors, rows[..., part]).mul_(scale[..., part])
                logits[some, :, :, part] = masks[some, None] @ self._cells(coarse)
        return _placed(logits)

    def _cells(self, coarse: Tensor) -> Tensor:
        """Channels of the 16 cells of some tokens, `(p, 16, channels, t)`, from the first convolution without its constant."""
        count, _, length = coarse.shape
        coarse = coarse.add_(self._constant).view(4 * count, -1, length)
        spread = torch.rsqrt(coarse.square().mean(1, keepdim=True) + self._norm.eps)
        coarse = coarse.mul_(spread).mul_(self._norm.weight[:, None]).add_(self._norm.bias[:, None])
        fine = torch.baddbmm(self._second_bias, self._second.expand(4 * count, -1, -1), F.gelu(coarse))
        return F.gelu(fine).view(count, 16, -1, length)


def _placed(logits: Tensor) -> Tensor:
    """Cells `(p, y, x, y, x of 2 x 2 in 2 x 2, m, token)` where they lie in the masks, `(p, m, side, side)`."""
    points, _, count, length = logits.shape
    side = round(length**0.5)
    parts = logits.view(points, 2, 2, 2, 2, count, side, side)
    return parts.permute(0, 5, 6, 1, 3, 7, 2, 4).reshape(points, count, 4 * side, 4 * side)

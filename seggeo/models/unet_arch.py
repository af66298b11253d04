"""A U-Net whose fields do not depend on the tile: strided convolutions, BatchNorm, nearest upsampling, nothing else.

The image is folded 2 x 2 into channels first and the fields are unfolded last, so that every convolution runs at half
the image's resolution or below; skips are added, not concatenated. Normalisation uses the statistics of the training
(BatchNorm), never those of a tile, so that fields of two tiles are equal wherever both saw `context` pixels around.

Ronneberger et al. 2015 (U-Net), Shi et al. 2016 (sub-pixel output), Cheng et al. 2020 (seed and offset heads).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seggeo.errors import ConfigError

FOLD = 2
"""Side of the image block that becomes channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetShape:
    """What defines the network; travels in the weights' metadata."""

    bands: int = 3
    classes: int = 1
    """Classes of objects, background not counted."""
    widths: tuple[int, ...] = field(default=(32, 64, 128, 256))
    """Channels at half, quarter, ... resolution."""
    rays: int = 0
    """Star distances per pixel beside the offsets, a multiple of 4 so that flips map rays on rays; 0 for none."""

    def __post_init__(self) -> None:
        if self.rays and (self.rays % 4 or not 8 <= self.rays <= 128):
            raise ConfigError(
                what=f"rays={self.rays}", why="a network tells 8 to 128 star distances, a multiple of 4, or 0",
                mend="--set rays=32",
            )  # fmt: skip

    @property
    def stride(self) -> int:
        """Side of the deepest cell, px: fields are equal only for windows that begin at its multiples."""
        return FOLD << (len(self.widths) - 1)

    @property
    def context(self) -> int:
        """Image px around a pixel that can change its fields, rounded up to the stride."""
        cells = [FOLD << level for level in range(len(self.widths))]
        # Per level one convolution down, one strided, two up; at the deepest one; stem and head; and a folded cell's own width.
        reach = 3 * FOLD + 4 * sum(cells[:-1]) + cells[-1]
        return -(-reach // self.stride) * self.stride

    @property
    def channels(self) -> int:
        """Channels of the output: background and classes, seed, two offsets, rays."""
        return self.classes + 1 + 3 + self.rays

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same shape."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> UNetShape:
        """The shape that `to_json` described."""
        return cls(
            bands=int(values["bands"]), classes=int(values["classes"]), widths=tuple(map(int, values["widths"])),
            rays=int(values.get("rays", 0)),
        )  # fmt: skip


class UNet(nn.Module):
    """Image `(n, bands, h, w)`, h and w multiples of the stride -> fields `(n, channels, h, w)`."""

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        w = shape.widths
        self.stem = _conv(shape.bands * FOLD**2, w[0])
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in zip(w, w[1:], strict=False))
        self.encode = nn.ModuleList(_conv(width, width) for width in w)
        self.reduce = nn.ModuleList(nn.Conv2d(b, a, 1, bias=False) for a, b in zip(w, w[1:], strict=False))
        self.decode = nn.ModuleList(nn.Sequential(_conv(width, width), _conv(width, width)) for width in w[:-1])
        self.head = nn.Conv2d(w[0], shape.channels * FOLD**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Class logits, seed, offsets (units of 8 px, rows then columns) and rays (likewise) of each pixel."""
        x = self.encode[0](self.stem(F.pixel_unshuffle(image, FOLD)))
        skips = []
        for down, encode in zip(self.down, list(self.encode)[1:], strict=True):
            skips.append(x)
            x = encode(down(x))
        for level in reversed(range(len(self.reduce))):
            x = self.decode[level](_lifted(self.reduce[level](x), skips.pop()))
        return _unfolded(self.head(x))


def _lifted(x: Tensor, skip: Tensor) -> Tensor:
    """`x` at twice its resolution, nearest, plus `skip`; without gradients in the skip's own memory."""
    if torch.is_grad_enabled():
        return F.interpolate(x, scale_factor=2.0, mode="nearest") + skip
    n, c, h, w = x.shape
    last = skip.permute(0, 2, 3, 1)  # as it lies in memory
    total = last.reshape(n, h, 2, w, 2, c).add_(x.permute(0, 2, 3, 1)[:, :, None, :, None])
    return total.view(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def _unfolded(x: Tensor) -> Tensor:
    """Cells of channels -> pixels, as `F.pixel_shuffle` does, each channel a plane of its own in memory."""
    n, c, h, w = x.shape
    cells = x.view(n, c // FOLD**2, FOLD, FOLD, h, w).permute(0, 1, 4, 2, 5, 3)
    return cells.reshape(n, c // FOLD**2, FOLD * h, FOLD * w)


def _conv(into: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
    )


def folded(model: UNet) -> UNet:
    """The same function with each BatchNorm absorbed by its convolution, in inference mode; the model is not changed."""
    own = copy.deepcopy(model)
    own.eval().requires_grad_(requires_grad=False)
    for block in [m for m in own.modules() if isinstance(m, nn.Sequential)]:
        if isinstance(block[0], nn.Conv2d) and isinstance(block[1], nn.BatchNorm2d):
            block[0] = fuse_conv_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
    return own.to(memory_format=torch.channels_last)


def without_rays(model: UNet) -> UNet:
    """The network without its star distances: all other fields, at the price of a network that never had rays."""
    if not model.shape.rays:
        return model
    own = copy.deepcopy(model)
    own.shape = replace(model.shape, rays=0)
    own.head.out_channels = own.shape.channels * FOLD**2
    for name, values in model.head.named_parameters():
        kept = values.detach()[: own.head.out_channels].clone()
        setattr(own.head, name, nn.Parameter(kept, requires_grad=values.requires_grad))
    return own

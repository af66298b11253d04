"""A light backbone for detectors that are trained from scratch: a ResNet of basic blocks behind a stem of two convolutions.

Two 3 x 3 convolutions and no pooling before the first stage (He et al. 2019, "Bag of Tricks", ResNet-C) keep the edges of
objects of ten pixels, which a 7 x 7 convolution and a max pool blur. Strides are those of ResNets: 4, 8, 16 and 32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import nn
from torchvision.models.resnet import BasicBlock

SMALL = "small"
"""What architectures call this backbone."""


def small_body(bands: int, widths: tuple[int, ...], blocks: tuple[int, ...], norm: Callable[..., nn.Module]) -> nn.Sequential:
    """The backbone, its stages called `layer1` to `layer4` as in torchvision's ResNets.

    Args:
        bands: Channels of the image.
        widths: Channels of the stem and of each stage.
        blocks: Basic blocks of each stage.
        norm: Makes a normalisation of that many channels.
    """
    stem, *stages = widths
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(bands, stem, 3, stride=2, padding=1, bias=False), bn1=norm(stem), relu1=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(stem, stem, 3, padding=1, bias=False), bn2=norm(stem), relu2=nn.ReLU(inplace=True),
    )  # fmt: skip
    before = stem
    for number, (width, count) in enumerate(zip(stages, blocks, strict=True), 1):
        layers[f"layer{number}"] = _stage(before, width, count, norm)
        before = width
    body = nn.Sequential(layers)
    for layer in body.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return body


def _stage(before: int, width: int, count: int, norm: Callable[..., nn.Module]) -> nn.Sequential:
    """Blocks of one width, the first of which halves the image."""
    shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), norm(width))
    first = BasicBlock(before, width, stride=2, downsample=shortcut, norm_layer=norm)
    return nn.Sequential(first, *(BasicBlock(width, width, norm_layer=norm) for _ in range(count - 1)))

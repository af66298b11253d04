"""The same network with less work between its products: no batch norm of its own, channels beside each other in memory.

In inference a batch norm multiplies and adds per channel, which the convolution before it can do with other weights; and
convolutions, pooling and sampling all read the channels of a place together. Answers are equal up to rounding.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.ops.misc import FrozenBatchNorm2d


def make_lean(model: MaskRCNN, *, autocast: bool = False) -> MaskRCNN:
    """The model itself, changed in place: for inference only, and its state dict is no longer torchvision's.

    Args:
        model: In inference mode, on its device.
        autocast: It will compute in lower precision.
    """
    fold_norms(model)
    device = next(model.parameters()).device.type
    if device == "cpu" or (device == "cuda" and autocast):  # elsewhere float32 kernels want each channel by itself
        model.to(memory_format=torch.channels_last)
    return model


def fold_norms(module: nn.Module) -> None:
    """Multiply every batch norm that directly follows a convolution into its weights, at any depth, in place."""
    before: nn.Module | None = None
    for name, child in list(module.named_children()):
        if isinstance(before, nn.Conv2d) and isinstance(child, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            _fold(before, child)
            setattr(module, name, nn.Identity())
        fold_norms(child)
        before = child


def _fold(layer: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> None:
    """Weights and bias for which the convolution alone gives what the two gave; in float64, rounded once."""
    state = {name: values.double() for name, values in norm.state_dict().items()}
    weight, bias, mean, var = (state[name] for name in ("weight", "bias", "running_mean", "running_var"))
    scale = weight / torch.sqrt(var + norm.eps)
    before = layer.bias.double() if layer.bias is not None else torch.zeros_like(mean)
    layer.bias = nn.Parameter(((before - mean) * scale + bias).float(), requires_grad=False)
    layer.weight = nn.Parameter((layer.weight.double() * scale[:, None, None, None]).float(), requires_grad=False)

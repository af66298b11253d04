"""A wider U-Net that begins as a narrower one: the channels that are added are computed, but nothing listens to them yet.

Chen et al. 2016 (Net2Net) widen a trained network by doubling channels; here the new ones are drawn anew, and the weights
by which older channels would hear them are zero, so that the fields are the same until training makes use of them.
"""

from __future__ import annotations

import torch

from seggeo.errors import ConfigError
from seggeo.models.unet_arch import UNet, UNetShape


def widened(narrow: UNet, shape: UNetShape) -> UNet:
    """A network of `shape`, at least as wide everywhere, whose fields are those of `narrow`.

    New weights are drawn from torch's current random numbers.

    Raises:
        ConfigError: Another depth, or fewer channels somewhere.
    """
    old = narrow.shape.widths
    if len(old) != len(shape.widths) or any(new < w for new, w in zip(shape.widths, old, strict=True)):
        raise ConfigError(
            what=f"a network of widths {_text(old)} cannot become one of {_text(shape.widths)}",
            why="weights grow, level by level; they do not shrink", mend="leave --set widths out, or give greater ones",
        )  # fmt: skip
    wide = UNet(shape)
    known = narrow.state_dict()
    with torch.no_grad():
        for name, value in wide.state_dict().items():
            before = known[name]
            if value.ndim >= 2:  # old outputs do not hear new inputs
                value[: before.shape[0]] = 0
            value[tuple(slice(n) for n in before.shape)] = before
    return wide


def _text(widths: tuple[int, ...]) -> str:
    return ",".join(map(str, widths))

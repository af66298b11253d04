"""U-Nets of toy size, and fields that say exactly what a label image says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from seggeo.geometry import Window
from seggeo.models.unet_arch import UNet, UNetShape
from seggeo.models.unet_settings import UNetCard
from seggeo.protocols import TileImage
from seggeo.tiling import Tile


def toy_network(seed: int = 0, **shape: Any) -> UNet:
    """A network with random weights and random batch statistics, in inference mode."""
    torch.manual_seed(seed)
    model = UNet(UNetShape(**{"widths": (16, 16, 32, 128), **shape})).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def save_network(model: UNet, path: Path, *, half: bool = False, **card: Any) -> Path:
    """The network as weights that `seggeo.models.unet.load` takes."""
    classes = tuple(f"class{i}" for i in range(model.shape.classes))
    said = UNetCard(**{"shape": model.shape, "classes": classes, "diameter": 0.0, "diameters": (0.0, 0.0), **card})
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"seggeo": json.dumps(said.to_json())})
    return path


def true_fields(labels: NDArray[np.int32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Chances `(1, h, w)` and offsets `(2, h, w)`, px, of a perfect network."""
    offset = np.zeros((2, *labels.shape), np.float32)
    row, col = np.nonzero(labels)
    owner = labels[row, col]
    area = np.maximum(np.bincount(owner), 1)
    for axis, place in enumerate((row, col)):
        centre = np.bincount(owner, weights=place) / area
        offset[axis, row, col] = centre[owner] - place
    return (labels > 0).astype(np.float32)[None], offset


def whole_tile(image: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> TileImage:
    """An image that is one tile."""
    window = Window(row=0, col=0, height=image.shape[0], width=image.shape[1])
    seen = np.ones(image.shape[:2], bool) if valid is None else valid
    return TileImage(image=image, valid=seen, tile=Tile(index=0, z=0, row=0, col=0, core=window, window=window))

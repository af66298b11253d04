"""Small Mask R-CNN weights for tests: real torchvision networks, random values, detections on any image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from seggeo.geometry import Window
from seggeo.models.maskrcnn_arch import Architecture, build_model
from seggeo.models.maskrcnn_settings import DetectorSettings, complete
from seggeo.protocols import TileImage
from seggeo.tiling import Tile


def make_maskrcnn_weights(path: Path, arch: str = "resnet18", classes: int = 2, bands: int = 3, seed: int = 0) -> Path:
    """Write a safetensors file whose network finds some tens of objects with uneven masks in any image; returns `path`.

    The backbone is of full size (ResNet-18: 11.2 M parameters, MobileNetV3: 3 M), pyramid and heads are 32 channels wide.

    Args:
        path: Where the file goes.
        arch: resnet18, resnet34, resnet50, resnet101 or mobilenet_v3_large.
        classes: Classes without background, called `class_1` and so on.
        bands: Bands of the input; unless 3, the model asks for native pixels.
        seed: Other weights for another number.
    """
    metadata = {
        "anchors": [8, 16, 32, 64, 128],
        "mean": [0.5] * bands,
        "std": [0.25] * bands,
        "classes": [f"class_{i + 1}" for i in range(classes)],
        "rpn_pre": 300,
        "rpn_post": 80,
        "nms": 0.3,
        "tile": 256,
        "overlap": 64,
    }
    model = toy_maskrcnn(arch=arch, classes=classes, bands=bands, seed=seed)
    save_file(model.state_dict(), path, metadata={"seggeo": json.dumps(metadata)})
    return path


def toy_maskrcnn(arch: str = "resnet18", classes: int = 2, bands: int = 3, seed: int = 0) -> torch.nn.Module:
    """The network of `make_maskrcnn_weights`, calibrated on noise so that scores and masks spread."""
    architecture = Architecture(
        backbone=arch, classes=classes + 1, bands=bands, anchors=15 if arch == "mobilenet_v3_large" else 3,
        pyramid=32, box_features=64, mask_convs=(32, 32), mask_hidden=32,
    )  # fmt: skip
    settings = complete(DetectorSettings(mean=(0.5,) * bands, std=(0.25,) * bands), bands=bands, classes=classes + 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(architecture, settings)
        _calibrate(model, torch.randn(2, bands, 128, 128))
    return model.eval()


@torch.no_grad()
def _calibrate(model: torch.nn.Module, noise: torch.Tensor) -> None:
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    features = model.backbone.train()(noise)
    model.eval()
    for norm in norms:
        norm.momentum = 0.1
    head = model.rpn.head
    _spread(head.cls_logits, head.conv(features["0"]), mean=-4.0, std=0.5)
    heads = model.roi_heads
    corner = torch.rand(200, 2) * 90
    boxes = torch.cat([corner, corner + 8 + torch.rand(200, 2) * 30], 1)
    regions = heads.box_head(heads.box_roi_pool(features, [boxes, boxes], [(128, 128)] * 2))
    _spread(heads.box_predictor.cls_score, regions, mean=0.0, std=1.0)
    heads.box_predictor.cls_score.bias[1:] += 2.0
    predictor = heads.mask_predictor
    hidden = predictor.relu(
        predictor.conv5_mask(heads.mask_head(heads.mask_roi_pool(features, [boxes, boxes], [(128, 128)] * 2)))
    )
    _spread(predictor.mask_fcn_logits, hidden, mean=0.7, std=1.0)


def _spread(layer: torch.nn.Module, inputs: torch.Tensor, *, mean: float, std: float) -> None:
    """Scale a layer's weights so that each of its outputs has this mean and standard deviation on these inputs."""
    layer.bias.zero_()
    outputs = layer(inputs).transpose(0, 1).flatten(1)
    scale = std / outputs.std(1).clamp_min(1e-6)
    layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.copy_(mean - outputs.mean(1) * scale)


def scene(size: int = 256, bands: int = 3, seed: int = 0) -> np.ndarray:
    """A uint8 image `(size, size, bands)` of bright discs on a dark gradient with noise."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:size, :size]
    image = 40 + 40 * (rows + cols) / (2 * size) + rng.normal(0, 6, (size, size))
    for row, col, radius in zip(*rng.uniform(0, size, (2, 40)), rng.uniform(4, 20, 40), strict=True):
        image[(rows - row) ** 2 + (cols - col) ** 2 < radius**2] = rng.uniform(120, 230)
    return np.clip(image[..., None] + rng.normal(0, 5, (size, size, bands)), 0, 255).astype(np.uint8)


def as_tile(image: np.ndarray) -> TileImage:
    """A tile of an image all of whose pixels are real."""
    height, width = image.shape[:2]
    window = Window(row=0, col=0, height=height, width=width)
    return TileImage(
        image=image, valid=np.ones((height, width), bool), tile=Tile(index=0, z=0, row=0, col=0, core=window, window=window)
    )

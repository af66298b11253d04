"""How Mask R-CNN is trained: batches, loss and weights; for what it learns and where it begins see the files beside."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN

from seggeo.models.maskrcnn import MaskRCNNSegmenter, info_of
from seggeo.models.maskrcnn_settings import DetectorSettings
from seggeo.train.maskrcnn_loss import detector_loss
from seggeo.train.maskrcnn_start import Start, start
from seggeo.train.maskrcnn_targets import Target, detector_target
from seggeo.train.recipe import Recipe
from seggeo.train.sampler import Sample, median_diameter
from seggeo.train.scenes import Scene

log = logging.getLogger(__name__)

NAME = "maskrcnn"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorBatch:
    """Tensors of a few samples."""

    image: Tensor
    """`(n, bands, h, w)`, normalised."""
    targets: tuple[Target, ...]
    """One for each image."""
    seed: int
    """Of the boxes that are drawn in the loss: a resumed training draws those that it would have drawn."""

    def to(self, device: torch.device) -> DetectorBatch:
        """The same on a device."""
        return replace(
            self, image=self.image.to(device, non_blocking=True), targets=tuple(target.to(device) for target in self.targets)
        )


class MaskRCNNTask:
    """Network, batches, loss and weights of a Mask R-CNN."""

    def __init__(self, begin: Start, facts: Mapping[str, Any] | None = None) -> None:
        """`facts` are information for the card, beside the settings."""
        self.network: MaskRCNN = begin.network
        self.raw = False
        self.rate = begin.rate
        self.settings = begin.settings
        self._architecture = begin.architecture
        self._facts = dict(facts or {})

    def collate(self, samples: Sequence[Sample]) -> DetectorBatch:
        """Samples of one size as tensors; the crop's own pixels, nothing is resized."""
        image = torch.from_numpy(np.stack([s.image for s in samples]))
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.settings.mean, self.settings.std))
        targets = tuple(detector_target(s.labels, s.classes, s.valid) for s in samples)
        seed = zlib.crc32(b"".join(s.labels.tobytes() for s in samples))
        return DetectorBatch(image=(image * _brightest(self.settings) - mean) / std, targets=targets, seed=seed)

    def loss(self, batch: DetectorBatch) -> dict[str, Tensor]:
        """Parts of the loss by name; the loss is their sum."""
        device = batch.image.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(batch.seed)
            return detector_loss(self.network, batch.image, batch.targets)

    def segmenter(self, network: nn.Module) -> MaskRCNNSegmenter:
        """What predicts with a copy of the network, on images of 8 bits."""
        assert isinstance(network, MaskRCNN)  # noqa: S101 - of this task
        bands, settings = self._architecture.bands, self.settings
        if bands != 3:
            settings = replace(settings, low=(0.0,) * bands, high=(255.0,) * bands)
        return MaskRCNNSegmenter(network.eval(), info_of(self._architecture, settings, None), settings)

    def card(self) -> dict[str, Any]:
        """What the weights must say to be used."""
        a = self._architecture
        return {**self._facts, "model": NAME, "architecture": a.name, "bands": a.bands, **self.settings.to_json()}

    def write(self, network: nn.Module, path: Path, facts: Mapping[str, Any]) -> None:
        """Half-precision weights with facts in their metadata."""
        state = {name: _stored(value) for name, value in network.state_dict().items()}
        save_file(state, path, metadata={"seggeo": json.dumps(facts)})


def maskrcnn_task(recipe: Recipe, scenes: Sequence[Scene], weights: Path | None) -> MaskRCNNTask:
    """The task of a recipe; weights to start from bring their architecture along.

    Args:
        recipe: `set` may hold `backbone` and settings of the segmenter, such as `anchors` and `nms`.
        scenes: What it will learn from; at least one of them holds an object.
        weights: A Mask R-CNN, torchvision's own included; its heads and first layer are made to fit.

    Raises:
        ModelError: Weights that are refused.
        ConfigError: A backbone or setting that does not exist.
    """
    # Networks are drawn before the training seeds itself.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        begin = start(recipe, scenes, weights)
    log.info(
        "maskrcnn: %s, anchors %s, %s", begin.architecture.name, begin.settings.to_json()["anchors"],
        f"from {weights}" if weights else "from scratch",
    )  # fmt: skip
    return MaskRCNNTask(begin, _sizes(scenes))


def _sizes(scenes: Sequence[Scene]) -> dict[str, float]:
    """Ground sample distance of the images, metres, 0 where one is unknown; and the median diameter of their objects, px."""
    known = [scene.gsd_m or 0.0 for scene in scenes]
    diameters = [median_diameter(scene.objects) for scene in scenes if len(scene.objects)]
    return {"gsd": float(np.median(known)) if all(known) else 0.0, "diameter": round(float(np.median(diameters)), 1)}


def _brightest(settings: DetectorSettings) -> float:
    """What the segmenter makes of the value 255 before mean and std."""
    return 255 / settings.scale if settings.scale and not settings.low and len(settings.mean) == 3 else 1.0


def _stored(value: Tensor) -> Tensor:
    """Half precision for weights; what is one number a channel stays exact: variances do not fit in 16 bits."""
    is_large = value.dtype.is_floating_point and value.ndim > 1
    return value.detach().to("cpu", torch.float16 if is_large else value.dtype).contiguous().clone()

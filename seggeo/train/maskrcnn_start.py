"""Where the training of a Mask R-CNN begins: which network, filled from a file as far as it fits, and its settings.

1. `learnt_settings` says what the data ask for: anchors, limits on proposals and detections, window and overlap.
2. `from_scratch` builds a named backbone; `from_weights` keeps the architecture of a file, replaces the heads where the
   classes are others and mixes the first layer anew where the bands are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from seggeo.errors import ConfigError
from seggeo.models.maskrcnn import DetectorFile, read_file
from seggeo.models.maskrcnn_arch import LIGHT, MOBILENET, RESNETS, Architecture, build_model
from seggeo.models.maskrcnn_body import SMALL
from seggeo.models.maskrcnn_settings import DetectorSettings, complete, read_settings
from seggeo.models.weights import load_strictly
from seggeo.train.anchors import anchor_levels, box_sides, seen_sides
from seggeo.train.augment import Augmentation
from seggeo.train.recipe import Recipe
from seggeo.train.scenes import Scene

log = logging.getLogger(__name__)

BACKBONES = (SMALL, "resnet18", "resnet34", "resnet50", MOBILENET)
HEADS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")
"""Beginnings of the names of the tensors that depend on the classes."""
_STRIDES = {MOBILENET: (16, 32, 64)}
_RATES = {"scratch": 1e-3, "weights": 2e-4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a training begins with."""

    network: MaskRCNN
    architecture: Architecture
    settings: DetectorSettings
    rate: float
    """Learning rate that suits it, for AdamW."""


def start(recipe: Recipe, scenes: Sequence[Scene], weights: Path | None) -> Start:
    """The network that a recipe begins with.

    Raises:
        ModelError: Weights that are refused.
        ConfigError: A backbone or setting that does not exist, or a backbone besides weights.
    """
    file = None if weights is None else read_file(weights)
    a = _architecture(recipe, scenes, file)
    chosen = {name: value for name, value in recipe.set.items() if name != "backbone"}
    said = {**learnt_settings(recipe, scenes, a), **_kept_settings(file, a)}
    settings = complete(read_settings(said, chosen), bands=a.bands, classes=a.classes)
    network = build_model(a, settings, _learning(recipe.crop))
    if file is not None and weights is not None:
        load_strictly(network, _fitted(file, network, a, settings.classes), weights)
    return Start(network=network, architecture=a, settings=settings, rate=_RATES["scratch" if file is None else "weights"])


def _learning(crop: int) -> dict[str, int]:
    """Boxes that a crop is learnt from: 128 for 256 px and 512 for 512 px, so that a step costs the same for each pixel."""
    regions = int(np.clip(crop**2 / 512, 64, 512))
    return {
        "rpn_pre_nms_top_n_train": 1000, "rpn_post_nms_top_n_train": 4 * regions, "rpn_batch_size_per_image": 2 * regions,
        "box_batch_size_per_image": regions,
    }  # fmt: skip


def _architecture(recipe: Recipe, scenes: Sequence[Scene], file: DetectorFile | None) -> Architecture:
    bands, classes = scenes[0].bands, 1 + len(scenes[0].classes or ("object",))
    backbone = recipe.set.get("backbone")
    if file is not None:
        if backbone not in (None, file.architecture.backbone):
            raise ConfigError(
                what=f"backbone {backbone} and weights of {file.architecture.backbone}",
                why="weights bring their architecture along",
                mend="leave one of the two out",
            )
        return replace(file.architecture, bands=bands, classes=classes)
    name = str(backbone or SMALL)
    if name not in BACKBONES:
        raise ConfigError(
            what=f"no backbone called {name!r}", why=f"known are {', '.join(BACKBONES)}", mend=f"--set backbone={SMALL}"
        )
    shape = LIGHT if name == SMALL else {"backbone": name, "anchors": 15 if name == MOBILENET else 6, "pyramid_norm": True}
    assert name in {SMALL, MOBILENET, *RESNETS.values()}  # noqa: S101 - or it could not be read back
    return Architecture(bands=bands, classes=classes, **shape)


def learnt_settings(recipe: Recipe, scenes: Sequence[Scene], architecture: Architecture) -> dict[str, Any]:
    """Settings that fit the labels, by name of `DetectorSettings`.

    The limit on detections is three times what the densest image holds in a window, 300 to 2000.
    """
    sides = seen_sides(scenes, Augmentation(scale=recipe.zoom, diameter=recipe.diameter), recipe.seed)
    strides = _STRIDES.get(architecture.backbone, (4, 8, 16, 32, 64))
    ratios = DetectorSettings().aspect_ratios
    large = float(np.percentile(np.concatenate([box_sides(scene.objects) for scene in scenes]), 98))
    tile = 512 if large < 96 else 1024
    densest = tile**2 * max(len(scene.objects) / scene.area for scene in scenes)
    detections = int(np.clip(np.ceil(0.03 * densest) * 100, 300, 2000))
    bands = architecture.bands
    return {
        "anchors": anchor_levels(sides, strides, architecture.anchors // len(ratios)), "aspect_ratios": ratios,
        "mean": (0.5,) * bands, "std": (0.25,) * bands, "nms": 0.4, "classes": scenes[0].classes or ("object",), "tile": tile,
        "overlap": int(np.clip(np.ceil(1.5 * large / 32) * 32, 64, tile // 4)), "detections": detections,
        "rpn_pre": 4000, "rpn_post": int(np.clip(2 * detections, 1000, 3000)), **_limits(scenes),
    }  # fmt: skip


def _limits(scenes: Sequence[Scene]) -> dict[str, Any]:
    """Limits of the bands where all images are learnt from as they are; else they are found in each image."""
    bands = scenes[0].bands
    if bands == 3 or any(scene.view.stretch.kind != "none" for scene in scenes):
        return {}
    return {"low": (0.0,) * bands, "high": (255.0,) * bands}


def _kept_settings(file: DetectorFile | None, architecture: Architecture) -> dict[str, Any]:
    """What a file's tensors were trained with and still need."""
    if file is None:
        return {}
    kept = {name: file.facts[name] for name in ("bn_eps", "aspect_ratios") if name in file.facts}
    if file.architecture.bands != architecture.bands or file.facts.get("scale"):
        return kept
    known = {name: file.facts[name] for name in ("mean", "std") if name in file.facts}
    imagenet = {"mean": (), "std": ()} if architecture.bands == 3 else {}  # what `complete` fills in, as when it was loaded
    return {**kept, **imagenet, **known}


def _fitted(file: DetectorFile, network: MaskRCNN, new: Architecture, classes: tuple[str, ...]) -> Mapping[str, Tensor]:
    """The file's tensors, those that depend on classes or bands brought to the new network's."""
    state, fresh = dict(file.state), network.state_dict()
    old = file.architecture
    names = tuple(map(str, file.facts.get("classes", ())))
    if old.classes != new.classes or (new.classes > 2 and names != classes):
        for name in [n for n in state if n.startswith(HEADS)]:
            state[name] = fresh[name]
        log.warning(
            "maskrcnn: the heads start anew, for %s instead of the %d classes of the weights",
            ", ".join(classes),
            old.classes - 1,
        )
    if old.bands != new.bands:
        stem = "backbone.body.0.0.weight" if new.backbone == MOBILENET else "backbone.body.conv1.weight"
        state[stem] = other_bands(state[stem], new.bands)
        log.warning("maskrcnn: the first layer of %d bands is repeated for %d", old.bands, new.bands)
    return state


def other_bands(weight: Tensor, bands: int) -> Tensor:
    """A first layer `(out, bands, h, w)` for other bands: the old ones in turn, their sum kept."""
    old = weight.shape[1]
    if bands == 1:
        return weight.float().sum(1, keepdim=True)
    turns = -(-bands // old)
    return weight.float().repeat(1, turns, 1, 1)[:, :bands] * (old / bands)

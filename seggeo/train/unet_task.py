"""How the U-Net is trained: what it learns from samples and what its errors cost."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from seggeo.errors import ConfigError, ModelError, SeggeoWarning
from seggeo.models.unet import UNetSegmenter, read_model
from seggeo.models.unet_arch import UNet, UNetShape, folded
from seggeo.models.unet_fields import OFFSET_UNIT
from seggeo.models.unet_settings import NAME, UNetCard, settings_of
from seggeo.protocols import ModelRequest
from seggeo.train.recipe import Recipe
from seggeo.train.sampler import Sample, diameters_of
from seggeo.train.scenes import Scene
from seggeo.train.seen import stretch_of
from seggeo.train.unet_growth import widened
from seggeo.train.unet_star_targets import star_targets
from seggeo.train.unet_targets import unet_targets

_LIKE_GSD = 1.5
"""Images whose pixels differ by more show objects of different sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetBatch:
    """Tensors of a few samples."""

    image: Tensor
    """`(n, bands, h, w)`, 0 to 1."""
    classes: Tensor
    """`(n, h, w)` int64."""
    seed: Tensor
    """`(n, h, w)`."""
    offset: Tensor
    """`(n, 2, h, w)`."""
    weight: Tensor
    """`(n, h, w)`."""
    distance: Tensor
    """`(n, rays, h, w)` of `StarTargets`."""
    is_cut: Tensor
    """`(n, rays, h, w)` likewise."""

    def to(self, device: torch.device) -> UNetBatch:
        """The same on a device."""
        move = {name: getattr(self, name).to(device, non_blocking=True) for name in self.__dataclass_fields__}
        return UNetBatch(**move)


class UNetTask:
    """Network, batches, loss and weights of the U-Net."""

    def __init__(self, shape: UNetShape, card: UNetCard | None = None) -> None:
        self.shape = shape
        self.network = UNet(shape)
        self.rate = 1.5e-3
        self.raw = False  # the task stretches whatever bands there are to 8 bits, as calibration does for users
        self._card = card or UNetCard(shape=shape, classes=("object",) * shape.classes, diameter=0.0, diameters=(0.0, 0.0))

    def collate(self, samples: Sequence[Sample]) -> UNetBatch:
        """Samples of one size as tensors."""
        targets = [unet_targets(s.labels, s.classes, s.valid) for s in samples]
        stars = [star_targets(s.labels, s.valid, self.shape.rays) for s in samples]
        return UNetBatch(
            image=torch.from_numpy(np.stack([s.image for s in samples])) - 0.5,
            classes=torch.from_numpy(np.stack([t.classes for t in targets])),
            seed=torch.from_numpy(np.stack([t.seed for t in targets])),
            offset=torch.from_numpy(np.stack([t.offset for t in targets])),
            weight=torch.from_numpy(np.stack([t.weight for t in targets])),
            distance=torch.from_numpy(np.stack([s.distance for s in stars])),
            is_cut=torch.from_numpy(np.stack([s.is_cut for s in stars])),
        )  # fmt: skip

    def loss(self, batch: UNetBatch) -> dict[str, Tensor]:
        """Parts of the loss by name; the loss is their sum."""
        fields: Tensor = self.network(batch.image)
        return unet_loss(fields.float(), batch, self.shape)

    def segmenter(self, network: nn.Module) -> UNetSegmenter:
        """What predicts with a copy of the network, at its own scale."""
        assert isinstance(network, UNet)  # noqa: S101 - of this task
        limits = {name: ",".join([value] * self.shape.bands) for name, value in (("low", "0"), ("high", "255"))}
        model = folded(network).to(next(network.parameters()).device)
        return UNetSegmenter(model, self._card, settings_of(self._card, {"scale": "1", **limits}))

    def card(self) -> dict[str, Any]:
        """What the weights must say to be used."""
        return self._card.to_json()

    def write(self, network: nn.Module, path: Path, facts: Mapping[str, Any]) -> None:
        """Half-precision weights with facts in their metadata."""
        state = {
            name: value.detach().to("cpu", torch.float16 if value.dtype.is_floating_point else value.dtype).contiguous()
            for name, value in network.state_dict().items()
        }
        save_file(state, path, metadata={"seggeo": json.dumps(facts)})


def unet_task(recipe: Recipe, scenes: Sequence[Scene], weights: Path | None) -> UNetTask:
    """The task of a recipe; weights to start from bring their widths along, or grow to those of the recipe.

    Raises:
        ModelError: Weights of another network, or for other bands or classes.
        ConfigError: Settings that are none of the U-Net's, or crops that it cannot halve.
    """
    classes = scenes[0].classes or ("object",)
    shape = UNetShape(bands=scenes[0].bands, classes=len(classes), **_shape_settings(recipe))
    model = None
    if weights is not None:
        model, old = read_model(ModelRequest(name=NAME, weights=weights))
        _check_fit(weights, old, shape, classes)
        shape = replace(
            shape, widths=shape.widths if "widths" in recipe.set else old.shape.widths,
            rays=shape.rays if "rays" in recipe.set else old.shape.rays,
        )  # fmt: skip
        _check_rays(weights, old.shape.rays, shape.rays)
    if recipe.crop % shape.stride:
        raise ConfigError(
            what=f"samples of {recipe.crop} px for {len(shape.widths)} widths",
            why=f"the network halves them until a cell is {shape.stride} px wide",
            mend=f"use --crop {max(1, recipe.crop // shape.stride) * shape.stride}",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        task = UNetTask(shape, _card(recipe, scenes, shape, classes))
        if model is not None:
            task.network = widened(model, shape)
    return task


def _check_fit(weights: Path, old: UNetCard, shape: UNetShape, classes: tuple[str, ...]) -> None:
    """Refuse weights of a network that is not the one to be trained."""
    if (old.shape.bands, old.shape.classes) != (shape.bands, shape.classes):
        raise ModelError(
            what=f"{weights} cannot be trained on these data",
            why=f"it takes {old.shape.bands} bands and tells {old.shape.classes} classes; the data have {shape.bands} and "
            f"{shape.classes}: {', '.join(classes)}",
            mend="leave --weights out, or choose --bands",
        )


def _check_rays(weights: Path, old: int, rays: int) -> None:
    """Refuse weights whose rays lead elsewhere; without any they take rays on."""
    if old not in (0, rays):
        raise ConfigError(
            what=f"{weights} tells {old} star distances, and rays={rays}",
            why="each was learnt for a direction of its own; only weights without rays take others on",
            mend=f"leave --set rays out, or use --set rays={old}",
        )


def _shape_settings(recipe: Recipe) -> dict[str, Any]:
    unknown = sorted(set(recipe.set) - {"widths", "rays"})
    if unknown:
        raise ConfigError(
            what=f"unet has no training setting called {unknown[0]!r}",
            why="known are: widths, rays",
            mend="--set widths=32,64,128,256",
        )
    chosen: dict[str, Any] = {}
    if "widths" in recipe.set:
        chosen["widths"] = _widths(recipe)
    if "rays" in recipe.set:
        chosen["rays"] = _rays(recipe)
    return chosen


def _rays(recipe: Recipe) -> int:
    """Any whole number; the shape refuses those it cannot be."""
    try:
        return int(str(recipe.set["rays"]))
    except ValueError as error:
        raise ConfigError(what=f"rays {recipe.set['rays']!r}", why="it is a whole number", mend="--set rays=32") from error


def _widths(recipe: Recipe) -> tuple[int, ...]:
    try:
        widths = tuple(int(v) for v in str(recipe.set["widths"]).strip("[]").split(","))
    except ValueError:
        widths = ()
    if not 2 <= len(widths) <= 6 or min(widths) < 4:
        raise ConfigError(
            what=f"widths {recipe.set['widths']!r}",
            why="they are 2 to 6 numbers of channels",
            mend="--set widths=32,64,128,256",
        )
    return widths


def _card(recipe: Recipe, scenes: Sequence[Scene], shape: UNetShape, classes: tuple[str, ...]) -> UNetCard:
    """What users' images are brought to: the GSD of the data, or a size of objects."""
    sizes = [size for size in diameters_of(scenes) if size > 0]
    say = partial(
        UNetCard, shape=shape, classes=classes, bands=scenes[0].view.reading.bands or (),
        stretch=stretch_of(recipe.reading, scenes),
    )  # fmt: skip
    known = [scene.gsd_m for scene in scenes if scene.gsd_m]
    if recipe.diameter is None and len(known) == len(scenes):
        if max(known) > _LIKE_GSD * min(known):
            sizes_m = f"{min(known):.3g} to {max(known):.3g} m"
            warnings.warn(SeggeoWarning(f"images of {sizes_m} a pixel are taken for images of one: give --gsd"), stacklevel=2)
        return say(diameter=float(np.median(sizes)), diameters=(0.0, 1e9), gsd=float(np.median(known)))
    low, high = recipe.diameter or (min(sizes) * recipe.zoom[0], max(sizes) * recipe.zoom[1])
    # The ends of the range are learnt from one side only.
    inner = (1.2 * low, high / 1.2) if high > 1.44 * low else (low, high)
    return say(diameter=float(np.sqrt(low * high)), diameters=inner)


def unet_loss(fields: Tensor, batch: UNetBatch, shape: UNetShape) -> dict[str, Tensor]:
    """Cross entropy and Dice of the classes, absolute error of seeds, and of offsets and rays in units of 8 px.

    With several classes their cross entropy counts once more inside objects, or the offsets would drown it: on two classes
    told apart by one band of five, 90 % of the pixels were right after 10 to 50 batches instead of about 110.
    """
    split = shape.classes + 1
    logits, seed, offset = fields[:, :split], fields[:, split], fields[:, split + 1 : split + 3]
    known = batch.weight.sum().clamp_min(1.0)
    entropy = (F.cross_entropy(logits, batch.classes, reduction="none") * batch.weight).sum() / known
    inside = (batch.classes > 0).float()
    mine = inside * batch.weight
    certain = (batch.weight > 0).float()
    chance = 1 - logits.softmax(1)[:, 0]
    dice = 1 - (2 * (chance * inside * certain).sum((1, 2)) + 50) / (((chance + inside) * certain).sum((1, 2)) + 50)
    seed_error = ((seed - batch.seed).abs() * batch.weight * (0.3 + inside)).sum() / known
    off = F.smooth_l1_loss(offset, batch.offset, reduction="none", beta=1 / OFFSET_UNIT).sum(1)
    offset_error = (off * mine).sum() / mine.sum().clamp_min(1.0)
    parts = {"classes": entropy, "dice": 0.5 * dice.mean(), "seed": seed_error, "offset": 2.0 * offset_error}
    if shape.classes > 1:
        kind = F.cross_entropy(logits[:, 1:], (batch.classes - 1).clamp_min(0), reduction="none")
        parts["kind"] = 2.0 * (kind * mine).sum() / mine.sum().clamp_min(1.0)
    if shape.rays:
        parts["rays"] = _ray_error(fields[:, split + 3 :], batch, mine * batch.seed)
    return parts


def _ray_error(rays: Tensor, batch: UNetBatch, weight: Tensor) -> Tensor:
    """Mean absolute error of star distances, weighted by pixel: the likelier a pixel's star is to be asked for, the more.

    Of a ray that the crop cuts only a length below what is seen of it is an error.
    """
    short = batch.distance - rays
    error = torch.where(batch.is_cut, short.clamp_min(0), short.abs()).mean(dim=1)
    return (error * weight).sum() / weight.sum().clamp_min(1.0)

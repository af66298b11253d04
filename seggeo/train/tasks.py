"""Architectures that can be trained, behind one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from seggeo.protocols import Segmenter
from seggeo.train.recipe import Recipe
from seggeo.train.sampler import Sample
from seggeo.train.scenes import Scene


class Trainable(Protocol):
    """A network with all that training and using it takes."""

    @property
    def network(self) -> nn.Module:
        """What learns."""
        ...

    @property
    def rate(self) -> float:
        """Greatest learning rate where the recipe names none."""
        ...

    @property
    def raw(self) -> bool:
        """True when its segmenter takes the file's own values, not 8 bits."""
        ...

    def collate(self, samples: Sequence[Sample]) -> Any:
        """Samples as a batch."""
        ...

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Parts of the loss by name; the loss is their sum."""
        ...

    def segmenter(self, network: nn.Module) -> Segmenter:
        """What predicts with a copy of the network."""
        ...

    def card(self) -> dict[str, Any]:
        """What the weights must say to be used."""
        ...

    def write(self, network: nn.Module, path: Path, facts: Mapping[str, Any]) -> None:
        """The weights of a copy of the network, with facts in their metadata."""
        ...


def make_task(recipe: Recipe, scenes: Sequence[Scene], weights: Path | None) -> Trainable:
    """The task of a recipe.

    Args:
        recipe: Names the architecture.
        scenes: What it will learn from: bands, classes and sizes of objects.
        weights: To start from, or None.

    Raises:
        ModelError: Weights of another network.
        ConfigError: A setting the architecture does not know.
    """
    if recipe.model == "maskrcnn":
        from seggeo.train.maskrcnn_task import maskrcnn_task

        return maskrcnn_task(recipe, scenes, weights)
    from seggeo.train.unet_task import unet_task

    return unet_task(recipe, scenes, weights)

"""What a training run is defined by: the same recipe, data and versions give the same samples in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from seggeo.config import Reading, to_json
from seggeo.errors import ConfigError

MODELS = ("unet", "maskrcnn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything besides the data that changes what is learnt."""

    model: str = "unet"
    """unet or maskrcnn."""
    reading: Reading = field(default_factory=Reading)
    """Bands, GSD and stretch of every image, as in `seggeo segment`."""
    all_bands: bool = False
    """Every band, in the file's order, instead of the three that make RGB."""
    crop: int = 256
    """Side of a training sample, px."""
    minutes: float = 60.0
    """Budget of training time, validation included; 0: no limit."""
    steps: int = 0
    """Batches in all; 0: no limit. The reproducible budget, where `minutes` is 0."""
    batch: int = 4
    """Samples in a batch."""
    rate: float | None = None
    """Greatest learning rate; None: the model's own."""
    epoch: int = 500
    """Batches between two validations."""
    diameter: tuple[float, float] | None = None
    """Object sizes, px, that images are zoomed to; None: the images' own, for images of one known resolution."""
    zoom: tuple[float, float] = (0.8, 1.25)
    """Zoom of the samples that keep about their size."""
    val: float = 0.15
    """Share of the objects held back for validation where the data name no split."""
    seed: int = 0
    autocast: bool = False
    """Half precision on an accelerator."""
    allow_overlap: bool = False
    """Objects may lie on each other."""
    set: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the architecture: widths (unet), backbone (maskrcnn)."""

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ConfigError(
                what=f"no model called {self.model!r} can be trained", why=f"known are {', '.join(MODELS)}", mend="use unet"
            )
        for name in ("crop", "batch", "epoch", "rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ConfigError(what=f"{name} {value}", why="it must be above 0", mend="leave it out")
        if self.crop % 32:
            raise ConfigError(
                what=f"samples of {self.crop} px",
                why="networks halve them five times",
                mend=f"use --crop {max(32, self.crop // 32 * 32)}",
            )
        if not 0 < self.val < 1:
            raise ConfigError(
                what=f"val {self.val}", why="a share of the objects is held back to judge by", mend="use --val 0.15"
            )
        if self.seed < 0:
            raise ConfigError(what=f"seed {self.seed}", why="seeds are not negative", mend="use --seed 0")
        self._check_budget()
        for name, pair, example in (("diameter", self.diameter, "9,48"), ("zoom", self.zoom, "0.8,1.25")):
            if pair is not None and not 0 < pair[0] <= pair[1] < inf:
                raise ConfigError(what=f"{name} {pair}", why="it is a range, low and high", mend=f"use --{name} {example}")

    def _check_budget(self) -> None:
        if not 0 <= self.minutes < inf or self.steps < 0 or not (self.minutes or self.steps):
            raise ConfigError(
                what=f"a budget of {self.minutes:g} minutes and {self.steps} batches",
                why="one of them must end the training",
                mend="use --minutes 60",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values: dict[str, Any] = to_json(self)
        return values

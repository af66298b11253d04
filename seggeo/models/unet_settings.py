"""What a U-Net's tensors cannot say: its metadata, and what a user may set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any, Literal

from seggeo.errors import ConfigError, ModelError
from seggeo.models.settings import bad_setting, parse_settings
from seggeo.models.unet_arch import UNetShape
from seggeo.models.unet_decode import Decoding
from seggeo.models.unet_resample import SCALES

NAME = "unet"
MOST_SMOOTH = 8.0
"""Sigma, px, three of which stay within what a tile sees around it (`unet.DECODE_REACH`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetSettings:
    """Everything besides the weights that changes what a U-Net predicts."""

    scale: str | float = "auto"
    """Share of the image's resolution the network works at: 1/2, 2; auto settles it once for the job."""
    diameter: float = 0.0
    """Typical diameter of the objects in the image, px; 0 when unknown."""
    mpp: float = 0.0
    """Micrometres per pixel of the image; 0 when unknown."""
    flips: int = 1
    """Views averaged: 1, 2, 4 or 8 flips and turns of each tile."""
    foreground: float = 0.5
    """Least probability of an object at a pixel."""
    smooth: float = 1.2
    """Sigma, px, by which votes for centres are gathered."""
    join: float = 0.45
    """Votes that pile up nearer than this share of their objects' radii are of one object."""
    min_area: float = 6.0
    """Smallest object, px at the network's scale."""
    min_score: float = 0.5
    """Least mean probability of an object."""
    group: Literal["votes", "stars"] = "votes"
    """How pixels become objects: votes for centres, or stars, for weights with star distances."""
    peak: float = 0.25
    """Stars: least seed times probability of a pixel that speaks for an object."""
    nms: float = 0.4
    """Stars: of two that share more than this of the smaller one the better stays."""
    low: str = ""
    """Values that become 0, one per band, for models of other than three bands; settled once for the job."""
    high: str = ""
    """Values that become 1."""
    sized: str = ""
    """How the scale was settled, for the record."""
    tile: int = 2048
    """Window side the model is best used with, px."""
    overlap: int = 64
    """Overlap of windows, px."""

    def __post_init__(self) -> None:
        if self.flips not in (1, 2, 4, 8):
            raise bad_setting(type(self), "flips", self.flips, model=NAME, why="is 1, 2, 4 or 8")
        for name in ("foreground", "min_score", "peak", "nms"):
            if not 0 <= getattr(self, name) < 1:
                raise bad_setting(type(self), name, getattr(self, name), model=NAME, why="lies between 0 and 1")
        for name in ("diameter", "mpp", "join", "min_area"):
            if not 0 <= getattr(self, name) < inf:
                raise bad_setting(type(self), name, getattr(self, name), model=NAME, why="is not negative")
        if not 0 <= self.smooth <= MOST_SMOOTH:
            why = f"lies between 0 and {MOST_SMOOTH}: a tile's context shows no votes from farther away"
            raise bad_setting(type(self), "smooth", self.smooth, model=NAME, why=why)
        if self.scale != "auto":
            try:
                known = Fraction(str(self.scale)) in SCALES
            except (ValueError, ZeroDivisionError):
                known = False
            if not known:
                choice = ", ".join(map(str, SCALES))
                raise bad_setting(type(self), "scale", self.scale, model=NAME, why=f"is auto or one of {choice}")

    @property
    def ratio(self) -> Fraction | None:
        """The scale as a number; None when it is still to be settled."""
        return None if self.scale == "auto" else Fraction(str(self.scale))

    def decoding(self) -> Decoding:
        """The thresholds of the decoding."""
        return Decoding(
            foreground=self.foreground, smooth=self.smooth, join=self.join, min_area=self.min_area,
            min_score=self.min_score, peak=self.peak, nms=self.nms,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetCard:
    """What the weights' metadata says of the model."""

    shape: UNetShape
    classes: tuple[str, ...]
    diameter: float
    """Diameter of objects the network is best at, px at its own scale."""
    diameters: tuple[float, float]
    """Range of median diameters it takes as they are."""
    gsd: float = 0.0
    """Ground sample distance of its own scale, metres; 0 when objects' size decides."""
    object_um: float = 0.0
    """Typical diameter of its objects, micrometres; 0 when unknown."""
    stretch: str = "auto"
    """How images become 8 bits, in `--stretch`'s words."""
    bands: tuple[int, ...] = ()
    """Bands of a file, counted from 1; empty: those that make RGB, or all of them where the network takes others than three."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Tuned defaults of `UNetSettings`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values that `read_card` turns back into the same card."""
        return {**asdict(self), "model": NAME, "shape": self.shape.to_json(), "settings": dict(self.settings)}


def read_card(metadata: Mapping[str, Any], path: Path) -> UNetCard:
    """The card of a weights file.

    Raises:
        ModelError: The file says not, or wrongly, what network it holds.
    """
    values = metadata.get("seggeo")
    try:
        if not isinstance(values, Mapping) or values.get("model") != NAME:
            raise ValueError("its metadata do not name a unet")  # noqa: TRY301 - one place tells the user
        shape = UNetShape.from_json(values["shape"])
        low, high = values.get("diameters", (0, float("inf")))
        return UNetCard(
            shape=shape, classes=tuple(map(str, values["classes"])), diameter=float(values.get("diameter", 0)),
            diameters=(float(low), float(high)), gsd=float(values.get("gsd", 0)),
            object_um=float(values.get("object_um", 0)), stretch=str(values.get("stretch", "auto")),
            bands=tuple(map(int, values.get("bands") or ())), settings=dict(values.get("settings", {})),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            what=f"{path} is not a U-Net of seggeo", why=str(error), mend="use weights made by seggeo train unet"
        ) from error


def settings_of(card: UNetCard, chosen: Mapping[str, Any]) -> UNetSettings:
    """Defaults, then what the weights say, then what the user set.

    Raises:
        ConfigError: A setting that does not exist or has no such value, or stars of weights without star distances.
    """
    known = {f.name for f in fields(UNetSettings)}
    tuned = {name: value for name, value in card.settings.items() if name in known}
    settings = parse_settings(UNetSettings, {**tuned, **chosen}, model=NAME)
    if settings.group == "stars" and not card.shape.rays:
        raise ConfigError(
            what="group=stars, but these weights know no star distances",
            why="only a training with rays learns them",
            mend="use --set group=votes, or train with them: seggeo train unet ... --set rays=32",
        )
    return settings

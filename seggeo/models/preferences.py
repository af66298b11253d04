"""How weights want their images read where a user does not say otherwise: as those that they have learnt from.

Stretch, bands and GSD, and of volumes the axis, channel, window, smoothing and neighbouring slices.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from math import inf, sqrt
from pathlib import Path
from typing import Any

from seggeo.config import Reading
from seggeo.errors import ConfigError, SeggeoWarning
from seggeo.geometry import Frame
from seggeo.models.bundled import is_safetensors, read_header

_READ_AT_THEIR_GSD = frozenset({"maskrcnn"})
"""Models that take pixels as they come; a unet scales what it gets by itself."""
LIKE_GSD = 1.2
"""Pixels that differ by less, as a factor, need no resampling."""
_LIKE_MPP = 1.1
FINEST = 4.0
"""Images are enlarged up to this many times: beyond, the objects of the training cannot be seen in them."""


def preferred(
    reading: Reading, weights: Path | None, frame: Frame | None = None, *, is_brightfield: bool = False
) -> Reading:  # fmt: skip
    """A user's reading with what the weights' metadata ask for in place of automatic choices.

    Args:
        reading: What the user asked for.
        weights: Of the model that will be opened.
        frame: The image's work grid, where the size of its pixels is to be heeded.
        is_brightfield: The image shows stained tissue, whose objects have the size that the weights say.

    Raises:
        ModelError: The weights cannot be read.
        ConfigError: They have learnt from slices with their neighbours, and the image has one plane.
    """
    if weights is None or not is_safetensors(weights):
        return reading
    facts = read_header(weights).facts
    stretch, bands = facts.get("stretch"), facts.get("bands")
    if frame is not None:
        reading = _sliced(reading, weights, facts, frame)
    if reading.stretch == "auto" and reading.window is None and isinstance(stretch, str):
        reading = replace(reading, stretch=stretch)
    if reading.bands is None and reading.channel is None and isinstance(bands, list) and bands:
        reading = replace(reading, bands=tuple(int(band) for band in bands))
    if reading.gsd is None and frame is not None:
        reading = replace(reading, gsd=_gsd_for(frame, facts))
    if reading.work_mpp is None and frame is not None and is_brightfield:
        reading = replace(reading, work_mpp=_mpp_for(frame, facts))
    return reading


def _sliced(reading: Reading, weights: Path, facts: Mapping[str, Any], frame: Frame) -> Reading:
    """A reading with what weights say of slices; of an image of one plane they may not ask for neighbours."""
    neighbours = facts.get("neighbours")
    neighbours = neighbours if isinstance(neighbours, int) and neighbours > 0 else 0
    if frame.placement is None:
        if neighbours:
            raise ConfigError(
                what=f"{weights} has learnt from slices with {neighbours} before and after, and the image has one plane",
                why="what it looks for is in the neighbouring slices of a volume",
                mend="give a volume, or weights that learnt from single images: seggeo train without --neighbours",
            )
        return reading
    asked: dict[str, Any] = {}
    if reading.neighbours == 0 and neighbours:
        asked["neighbours"] = neighbours
    if reading.axis is None and isinstance(facts.get("axis"), str):
        asked["axis"] = facts["axis"]
    if reading.smooth is None and isinstance(facts.get("smooth"), int | float):
        asked["smooth"] = float(facts["smooth"])
    if reading.window is None and reading.stretch == "auto" and isinstance(facts.get("window"), str):
        asked["window"] = facts["window"]
    channel = facts.get("channel")
    if reading.channel is None and reading.bands is None and isinstance(channel, list) and channel:
        asked["channel"] = tuple(map(str, channel))
    return replace(reading, **asked)


def _mpp_for(frame: Frame, facts: Mapping[str, Any]) -> float | None:
    """Micrometres per pixel at which objects have the size that a network is best at; None for a slide no finer than that."""
    size, diameter = facts.get("object_um"), facts.get("diameter")
    if frame.unit != "um" or not isinstance(size, int | float) or not isinstance(diameter, int | float):
        return None
    if not 0 < size < inf or not 0 < diameter < inf:
        return None
    own, best = sqrt(frame.spacing[1] * frame.spacing[2]), size / diameter
    return float(best) if own * _LIKE_MPP < best else None


def _gsd_for(frame: Frame, facts: Mapping[str, Any]) -> float | None:
    """The GSD of the training, metres, where the image's own is another and both are known; else None."""
    gsd = facts.get("gsd")
    if facts.get("model") not in _READ_AT_THEIR_GSD or frame.unit != "m":
        return None
    if not isinstance(gsd, int | float) or not 0 < gsd < inf:
        return None
    own = sqrt(frame.spacing[1] * frame.spacing[2])
    if own > FINEST * gsd:
        said = f"the weights have learnt at {gsd:.3g} m a pixel and the image has {own:.3g} m"
        warnings.warn(SeggeoWarning(f"{said}: it is read as it is, and little may be found"), stacklevel=3)
        return None
    return None if 1 / LIKE_GSD <= own / gsd <= LIKE_GSD else float(gsd)

"""The stain normalisation of a job: asked for or refused, and fitted once to pixels spread over the whole slide."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

import seggeo.io as image_io
from seggeo.config import Reading
from seggeo.errors import ConfigError, SeggeoWarning
from seggeo.io.stains import apply_stains, fit_stains
from seggeo.protocols import ModelInfo, Pixels
from seggeo.run.look import OVERVIEW_PX, SceneLook

_SIDE = 512
"""Side of a window that is looked at, px."""
_WINDOWS = 16
"""Windows that are looked at."""
_WHITE = 98.0
"""Percentile of the slide that is glass, as for the stains of single cells."""


def normalising_stretch(
    path: str, reading: Reading, source: image_io.AnySource, overview: Pixels, *, name: str
) -> image_io.Stretch:  # fmt: skip
    """The job's stretch, of normalised stains; a warning says where a slide's are left as they are.

    Args:
        path: The input.
        reading: How it is read.
        source: The input as RGB, open.
        overview: Its own.
        name: What the input is called in messages.

    Raises:
        ConfigError: The image is a map, or no stained tissue in brightfield.
    """
    _check_kind(name, source, overview)
    look = SceneLook(source, None, overview)
    samples = [tile.image[tile.valid] for tile in look.windows(_SIDE, _WINDOWS)]
    stains = fit_stains(samples, _white(path, reading, overview))
    if stains.kind == "none":
        text = f"{name}: the stains are left as they are, because {stains.why}"
        warnings.warn(SeggeoWarning(text), stacklevel=3)
    shown = Pixels(data=apply_stains(stains, overview.data), valid=overview.valid)
    return replace(image_io.fit_stretch(shown, reading.stretch), stains=stains)


def check_model(info: ModelInfo) -> None:
    """Refuse a model that takes the file's own values.

    Raises:
        ConfigError: It does.
    """
    if info.native:
        raise ConfigError(
            what=f"--stain-norm with {info.name}",
            why="it takes the file's own bands and values, and normalised stains are an 8-bit picture",
            mend="leave it out, or choose a model of RGB pictures: --model nuclei",
        )


def _check_kind(name: str, source: image_io.AnySource, overview: Pixels) -> None:
    is_map = source.frame.crs is not None
    if not is_map and image_io.shows_brightfield(source, overview):
        return
    raise ConfigError(
        what=f"--stain-norm for {name}",
        why="it is a map" if is_map else "it does not show stained tissue on light ground in 8-bit colour",
        mend="leave it out; it is for slides in brightfield, stained with haematoxylin and eosin",
    )


def _white(path: str, reading: Reading, overview: Pixels) -> list[float]:
    """What glass shows in each band; with a tissue mask the overview has no glass left, so that another is made."""
    if reading.tissue != "none":
        with image_io.open_source(path, replace(reading, tissue="none"), native=False) as whole:
            overview = whole.overview(OVERVIEW_PX)
    return [float(v) for v in np.percentile(overview.data[overview.valid], _WHITE, axis=0)]

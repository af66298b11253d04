"""Where a slide and its work grid lie: full-resolution pixels of the whole slide, micrometres and areas drawn on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import shapely
from affine import Affine

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame
from seggeo.io.aoi import load_aoi
from seggeo.io.frames import unknown_mpp
from seggeo.io.mpp import Mpp
from seggeo.io.regions import read_regions
from seggeo.io.slide_pyramid import Pyramid


def slide_frame(pyramid: Pyramid, mpp: Mpp | None) -> Frame:
    """Full resolution: micrometres where they are known, and the way to pixels of the whole slide."""
    (height, width), (row, col) = pyramid.facts.levels[0].shape, pyramid.facts.origin
    place = Affine(1.0, 0.0, col, 0.0, 1.0, row)
    if mpp is None:
        return Frame(height=height, width=width, transform=place)
    return Frame(height=height, width=width, transform=place, spacing=(1.0, mpp.row, mpp.col), unit="um")


def work_step(frame: Frame, work_mpp: float | None, reading: Reading, name: str) -> tuple[float, float]:
    """Full-resolution rows and columns in one pixel of the work grid asked for.

    Raises:
        SourceError: An MPP is asked for and nobody knows the slide's.
        ConfigError: No grid can have that MPP.
    """
    if work_mpp is None:
        return 1.0, 1.0
    if not 0 < work_mpp < float("inf"):
        raise ConfigError(what=f"a work grid of {work_mpp} um", why="it is the side of a pixel", mend="use 0.5")
    if frame.unit != "um":
        raise unknown_mpp(name, f"the model works at {work_mpp:g} um per pixel, and a guess would change every count")
    rows, cols = work_mpp / frame.spacing[1], work_mpp / frame.spacing[2]
    height, width = frame.height / rows, frame.width / cols
    if max(height, width) < 1 or height * width > reading.max_pixels:
        raise ConfigError(
            what=f"a work grid of {work_mpp:g} um makes {height:.0f} x {width:.0f} pixels of {name}",
            why=f"it has {frame.height} x {frame.width} px of {frame.spacing[1]:.4g} um, and the limit is {reading.max_pixels}",
            mend="check the MPP of the file, or give it with --mpp",
        )
    return rows, cols


def check_size(shape: tuple[int, int], reading: Reading, name: str) -> None:
    """Refuse a slide that claims more pixels than allowed.

    Raises:
        SourceError: It does.
    """
    if shape[0] * shape[1] > reading.max_pixels:
        raise SourceError(
            what=f"{name} claims {shape[0] * shape[1]} pixels",
            why=f"the limit is {reading.max_pixels}",
            mend="add --max-pixels if you trust the file",
        )


def slide_area(path: Path) -> Any:
    """One (multi)polygon in full-resolution pixels of the whole slide; a GeoJSON is in pixels here, not in degrees."""
    if not path.name.lower().removesuffix(".gz").endswith((".geojson", ".json")):
        return load_aoi(path, None)
    return shapely.union_all([region.shape for region in read_regions(path, Frame(height=1, width=1))])

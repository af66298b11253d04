"""One door for every image: slides and microscopes' files, else rasters; the tissue alone, where that is asked for."""

from __future__ import annotations

from pathlib import Path

from seggeo.config import Reading
from seggeo.io.geo import RasterSource, open_raster
from seggeo.io.masked import MaskedSource
from seggeo.io.regions import drawn_tissue
from seggeo.io.slide import SlideSource, is_slide, open_slide
from seggeo.io.tissue import find_tissue, is_brightfield
from seggeo.protocols import Pixels

AnySource = RasterSource | SlideSource | MaskedSource
TISSUE_RULES = ("auto", "none")
"""Anything else names a file."""
TISSUE_PX = 2048
"""Longest side of the overview that tissue is looked for on."""


def open_source(path: str, reading: Reading, *, native: bool) -> AnySource:
    """A source of the windows of an image.

    Args:
        path: A file or folder, or an http(s):// or s3:// address of a raster.
        reading: How it is read.
        native: True: its own bands and dtype; False: three bands for an RGB model.

    Raises:
        SourceError: The input is missing, damaged, unsupported or refused by a safety limit.
        ConfigError: The settings do not fit this image.
    """
    source = _open(path, reading, native=native)
    if reading.tissue == "none":
        return source
    try:
        overview = source.overview(TISSUE_PX)
        if reading.tissue == "auto":
            return MaskedSource(source, find_tissue(overview, source.frame), overview)
        return MaskedSource(source, drawn_tissue(Path(reading.tissue), overview, source.frame), overview)
    except BaseException:
        source.close()
        raise


def shows_brightfield(source: AnySource, overview: Pixels) -> bool:
    """True when an open image is colour on light ground; `overview` is its own, in the bands that are shown."""
    return source.is_brightfield if isinstance(source, MaskedSource) else is_brightfield(overview)


def _open(path: str, reading: Reading, *, native: bool) -> RasterSource | SlideSource:
    if not is_slide(path):
        return open_raster(path, reading, native=native)
    named = reading.channel
    channels = None if named is None else tuple(int(c) if c.isdecimal() else c for c in named)
    return open_slide(path, reading, native=native, mpp=reading.mpp, work_mpp=reading.work_mpp, channels=channels)

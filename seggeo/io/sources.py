"""One door for every image: volumes, slides and microscopes' files, else rasters; the tissue alone, where that is asked for."""

from __future__ import annotations

from pathlib import Path

from seggeo.config import Reading
from seggeo.errors import ConfigError
from seggeo.io.geo import RasterSource, open_raster
from seggeo.io.masked import MaskedSource
from seggeo.io.regions import drawn_tissue
from seggeo.io.slide import SlideSource, is_slide, open_slide
from seggeo.io.tissue import find_tissue, is_brightfield
from seggeo.io.volume import VolumeSource, open_volume
from seggeo.io.volume_detect import volume_kind
from seggeo.protocols import Pixels

AnySource = RasterSource | SlideSource | MaskedSource | VolumeSource
TISSUE_RULES = ("auto", "none")
"""Anything else names a file."""
TISSUE_PX = 2048
"""Longest side of the overview that tissue is looked for on."""


def open_source(path: str, reading: Reading, *, native: bool) -> AnySource:
    """A source of the windows of an image.

    Args:
        path: A file or folder, or an http(s):// or s3:// address of a raster or an OME-Zarr.
        reading: How it is read.
        native: True: its own bands and dtype; False: three bands for an RGB model.

    Raises:
        SourceError: The input is missing, damaged, unsupported or refused by a safety limit.
        ConfigError: The settings do not fit this image.
    """
    if volume_kind(path) is not None:
        return open_volume(path, reading, native=native)
    check_plane(path, reading)
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
    return source.is_brightfield if isinstance(source, MaskedSource | VolumeSource) else is_brightfield(overview)


def check_plane(path: str, reading: Reading) -> None:
    """Refuse options for volumes beside an image.

    Raises:
        ConfigError: One is given.
    """
    own = Reading()
    asked = [n for n in ("axis", "time", "window", "neighbours", "smooth", "spacing", "series", "allow_gaps")
             if getattr(reading, n) != getattr(own, n)]  # fmt: skip
    if asked:
        raise ConfigError(
            what=f"{' and '.join('--' + name.replace('_', '-') for name in asked)} for {path}",
            why="it is an image of one plane",
            mend="leave it out; if it should be a volume, see what seggeo info says",
        )  # fmt: skip


def _open(path: str, reading: Reading, *, native: bool) -> RasterSource | SlideSource:
    if not is_slide(path):
        return open_raster(path, reading, native=native)
    named = reading.channel
    channels = None if named is None else tuple(int(c) if c.isdecimal() else c for c in named)
    return open_slide(path, reading, native=native, mpp=reading.mpp, work_mpp=reading.work_mpp, channels=channels)

"""Settings of a job: frozen records, one field per option, checked when made.

A field's name is the option's long name with underscores and the TOML key; `cli/options.py` declares the options and
a test holds the three together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from seggeo.errors import ConfigError

MAX_PIXELS = 4 * 10**12
FORMATS = ("gpkg", "fgb", "parquet", "geojson", "cog")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How an input is read; everything here changes what a model sees."""

    bands: tuple[int, ...] | None = None
    """1-based band numbers, repeats allowed; None chooses by colour interpretation."""
    gsd: float | None = None
    """Ground sample distance of the work grid in metres (CRS units where the CRS is not metric); None: the file's own."""
    nodata: float | None = None
    """Value that means no data, instead of the file's own."""
    aoi: Path | None = None
    """Vector file of polygons; pixels outside them are not data."""
    stretch: str = "auto"
    """auto, none, minmax, percent:LOW,HIGH or LOW,HIGH in the file's own values."""
    allow_vrt: bool = False
    """Open VRT files, whose sources must lie in the VRT's own folder."""
    max_pixels: int = MAX_PIXELS
    """Refuse images that claim more pixels than this."""

    def __post_init__(self) -> None:
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise ConfigError(what=f"bands {self.bands} do not exist", why="bands count from 1", mend="use --bands 1,2,3")
        if self.gsd is not None and not self.gsd > 0:
            raise ConfigError(what=f"a GSD of {self.gsd} m", why="it is the side of a pixel on the ground", mend="use --gsd 0.3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How the work grid is cut."""

    tile: int = 1024
    """Side of a window, px."""
    overlap: int = 128
    """Pixels that two neighbouring windows share; even, at most half a tile."""

    def __post_init__(self) -> None:
        if self.tile < 16:
            raise ConfigError(what=f"a tile of {self.tile} px", why="models need at least 16 px", mend="use --tile 1024")
        if self.overlap < 2 or self.overlap % 2 or 2 * self.overlap > self.tile:
            raise ConfigError(
                what=f"an overlap of {self.overlap} px with tiles of {self.tile} px",
                why="it must be even, at least 2 px (or touching objects are ambiguous) and at most half a tile",
                mend=f"use --overlap {max(2, self.tile // 8 // 2 * 2)}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """When two readings are one object; changing these costs no new prediction."""

    match_iou: float = 0.3
    """Least IoU, inside the strip both windows saw, of two readings of one object."""
    min_area: int = 0
    """Smallest object that is written, px."""
    min_score: float = 0.0
    """Least score of an object that is written."""

    def __post_init__(self) -> None:
        if not 0 < self.match_iou < 1:
            raise ConfigError(what=f"match-iou {self.match_iou}", why="an IoU lies between 0 and 1", mend="use --match-iou 0.3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is written, and where from."""

    format: tuple[str, ...] = ("gpkg",)
    """Sinks by name."""
    simplify_m: float = 0.0
    """Tolerance of polygon simplification, metres; 0 keeps pixel edges."""
    preview: bool = True
    """Draw a PNG beside the result."""

    def __post_init__(self) -> None:
        if not self.format:
            raise ConfigError(what="no output format", why="a run without output is lost work", mend="use -f gpkg")
        if not self.simplify_m >= 0:
            raise ConfigError(what=f"simplify {self.simplify_m} m", why="a tolerance is not negative", mend="use --simplify 0.5m")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that defines a job's result."""

    model: str = "threshold"
    weights: Path | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    """Model settings by name, JSON values."""
    reading: Reading = field(default_factory=Reading)
    tiling: Tiling = field(default_factory=Tiling)
    merge: Merge = field(default_factory=Merge)
    output: Output = field(default_factory=Output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a job is run; nothing here changes the result."""

    workers: int = 0
    """Processes that predict; 0 chooses by device, cores and memory."""
    device: str = "auto"
    batch: int = 0
    autocast: bool = False
    """The one exception: lower precision changes predictions, so it is part of the job's key."""
    work: Path | None = None
    """Run folder; default: beside the output."""


def to_json(record: Any) -> Any:
    """Plain JSON values of nested settings."""
    if hasattr(record, "__dataclass_fields__"):
        return {f.name: to_json(getattr(record, f.name)) for f in fields(record)}
    if isinstance(record, Path):
        return str(record)
    if isinstance(record, Mapping):
        return {str(k): to_json(v) for k, v in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_json(v) for v in record]
    return record

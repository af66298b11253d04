"""Regions drawn on a slide: GeoJSON as QuPath writes it, in pixels of the slide's full resolution.

RFC 7946 says degrees; QuPath, and everyone who annotates slides, writes pixels. Plain or gzipped; a FeatureCollection, one
feature, an array of features, or geometries without features around them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from rasterio.features import rasterize

from seggeo.errors import ConfigError
from seggeo.geometry import Frame
from seggeo.io.tissue import Tissue
from seggeo.protocols import Pixels

_MAX_BYTES = 512 * 2**20
_AREAS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """A named area."""

    name: str
    """The annotation's own name, else its class, else its number."""
    shape: Any
    """Valid (multi)polygon in pixels of the work grid, x right and y down."""


def read_regions(path: Path, frame: Frame) -> list[Region]:
    """The polygons of a GeoJSON file in full-resolution pixels, brought to the work grid.

    Args:
        path: `.geojson`, `.json`, or either gzipped.
        frame: The work grid; its transform leads to full-resolution pixels.

    Raises:
        ConfigError: Not readable, not GeoJSON, or without polygons.
    """
    features = _features(path)
    found = []
    for number, feature in enumerate(features, 1):
        geometry = feature.get("geometry")
        if not isinstance(geometry, Mapping) or geometry.get("type") not in _AREAS:
            continue
        try:
            shape = shapely.geometry.shape(geometry)
        except (ValueError, TypeError, KeyError, IndexError, shapely.errors.ShapelyError) as error:
            raise _refused(path, f"feature {number} has no proper coordinates ({error})") from error
        placed = shapely.make_valid(shapely.transform(shape, lambda xy: _to_work(xy, frame)))
        if shapely.area(placed) > 0:
            found.append(Region(name=_name(feature, number), shape=placed))
    if not found:
        raise _refused(path, f"none of its {len(features)} features is a polygon")
    return found


def drawn_tissue(path: Path, overview: Pixels, frame: Frame) -> Tissue:
    """Tissue as the user gives it: polygons, or a mask image of the whole slide at any resolution (0 is glass).

    Raises:
        ConfigError: Not readable, of another shape than the slide, or empty.
    """
    if path.name.lower().removesuffix(".gz").endswith((".geojson", ".json")):
        mask = _painted(read_regions(path, frame), overview.valid.shape, frame)
    else:
        mask = _mask_image(path, overview.valid.shape, frame)
    mask &= overview.valid
    if not mask.any():
        raise _refused(path, "no part of it lies on the slide")
    return Tissue(mask=mask, body=mask, shape=frame.window.shape, kind="drawn")


def _painted(regions: Sequence[Region], shape: tuple[int, ...], frame: Frame) -> Any:
    scale = np.array([shape[1] / frame.width, shape[0] / frame.height])
    placed = [shapely.transform(region.shape, lambda xy: xy * scale) for region in regions]
    return rasterize(placed, out_shape=shape, dtype="uint8", all_touched=True).astype(bool)


def _mask_image(path: Path, shape: tuple[int, ...], frame: Frame) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            given = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _refused(path, str(error)) from error
    flat = np.asarray(given.any(axis=2) if given.ndim == 3 else given != 0)
    if flat.ndim != 2 or abs(flat.shape[1] * frame.height / (flat.shape[0] * frame.width) - 1) > 0.02:
        raise _refused(path, f"its {' x '.join(map(str, given.shape))} px have not the slide's {frame.height} to {frame.width}")
    rows, cols = (((np.arange(n) + 0.5) * have / n).astype(int) for n, have in zip(shape, flat.shape, strict=True))
    return flat[np.ix_(rows, cols)].copy()


def _features(path: Path) -> list[Mapping[str, Any]]:
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise _refused(path, f"it is larger than {_MAX_BYTES >> 20} MiB")
        values = json.loads(data)
    except (OSError, EOFError, ValueError) as error:
        raise _refused(path, str(error)) from error
    if isinstance(values, Mapping):
        values = values.get("features", [values])
    if not isinstance(values, list) or not all(isinstance(v, Mapping) for v in values):
        raise _refused(path, "it is neither a feature collection nor an array of features")
    return [feature for value in values for feature in _as_features(value)]


def _as_features(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A feature as it is; one without a name for a bare geometry, and for each of a collection of them."""
    if value.get("type") == "GeometryCollection" and isinstance(value.get("geometries"), list):
        return [f for inner in value["geometries"] if isinstance(inner, Mapping) for f in _as_features(inner)]
    return [{"geometry": value}] if "coordinates" in value else [value]


def _name(feature: Mapping[str, Any], number: int) -> str:
    said = feature.get("properties")
    properties = said if isinstance(said, Mapping) else {}
    kind = properties.get("classification")
    names = (properties.get("name"), kind.get("name") if isinstance(kind, Mapping) else kind)
    return next((str(name) for name in names if name), f"region {number}")


def _to_work(xy: Any, frame: Frame) -> Any:
    rows, cols = frame.world_to_pixel(xy[:, 0], xy[:, 1])
    return np.stack([cols, rows], axis=1)


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(
        what=f"{path} gives no regions of the slide", why=why,
        mend="give GeoJSON with polygons in full-resolution pixels, as QuPath exports it",
    )  # fmt: skip

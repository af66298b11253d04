"""Labels of every kind as masks of one grid: label rasters, vector files and COCO.

The kind is told by the file's content, not by its name: `{` or `[` begins JSON, an image has an image's first bytes, and
the rest is left to the readers of vector files.
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

from seggeo.errors import SourceError
from seggeo.geometry import Frame
from seggeo.io.annotations_coco import open_coco
from seggeo.io.annotations_raster import read_label_raster
from seggeo.io.annotations_record import Annotations
from seggeo.io.annotations_vector import read_polygons
from seggeo.io.checks import read_header, sniff

__all__ = ["Annotations", "kind_of_labels", "open_coco", "read_annotations"]

_VECTOR = {".gpkg", ".fgb", ".parquet", ".geoparquet", ".shp", ".geojson"}
_HEAD_BYTES = 64 * 2**10


def read_annotations(
    path: Path, frame: Frame | None = None, *, attribute: str | None = None, image: str | None = None
) -> Annotations:  # fmt: skip
    """The objects of a label raster, vector file or COCO json.

    Args:
        path: TIFF, PNG or another integer raster; GeoPackage, FlatGeobuf, GeoParquet, GeoJSON or Shapefile; COCO json.
        frame: The grid the masks are wanted on. Vector files need one and are reprojected to its CRS; for rasters and COCO,
            which bring their own, it must have their size.
        attribute: Column of a vector file that holds the class; `class` in seggeo's own outputs.
        image: File name or id of the image in a COCO json that has several.

    Raises:
        SourceError: Unreadable, of an unknown kind, or not of the frame's size or place.
        ConfigError: A frame, attribute or image is needed and missing, or does not exist.
    """
    kind = kind_of_labels(path)
    if kind == "vector":
        return read_polygons(path, frame, attribute=attribute)
    if kind == "coco":
        return open_coco(path).annotations(image, frame)
    return read_label_raster(path, frame)


def kind_of_labels(path: Path) -> str:
    """`raster`, `vector` or `coco`.

    Raises:
        SourceError: Missing, or none of these.
    """
    head = read_header(str(path), _HEAD_BYTES)
    if head[:2] == b"\x1f\x8b":
        head = _unpacked(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] in (b"{", b"["):
        return "vector" if _is_geojson(text) else "coco"
    driver = sniff(head)
    if driver is not None and driver != "VRT":
        return "raster"
    if path.suffix.lower() in _VECTOR or head[:15] == b"SQLite format 3" or head[:4] in (b"PAR1", b"fgb\x03"):
        return "vector"
    raise SourceError(
        what=f"{path} holds no labels that seggeo reads",
        why="it is no TIFF, PNG or other raster, no GeoPackage, FlatGeobuf, GeoParquet, GeoJSON or Shapefile, and no COCO json",
        mend="convert it, for example: ogr2ogr labels.gpkg IN",
    )


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            return file.read(_HEAD_BYTES)
    except (OSError, EOFError) as error:
        raise SourceError(what=f"{path} cannot be unpacked", why=str(error), mend="copy or download the file again") from error


def _is_geojson(text: bytes) -> bool:
    """Whether the first `type` of a JSON text is one of GeoJSON's."""
    return re.search(rb'"type"\s*:\s*"(FeatureCollection|Feature|GeometryCollection|(Multi)?Polygon)"', text) is not None

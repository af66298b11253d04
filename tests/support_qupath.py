"""What QuPath 0.5 and 0.6 accept of a GeoJSON file, as its type adapters read it; strict where QuPath would silently differ."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any
from uuid import UUID

OBJECT_TYPES = ("detection", "cell", "annotation", "tile")
_FEATURE = {"type", "id", "geometry", "properties", "nucleusGeometry"}
_PROPERTIES = {"objectType", "classification", "measurements", "name", "color", "isLocked", "metadata"}


class Refused(Exception):  # noqa: N818 - what QuPath does
    """QuPath would refuse the file, or read something else than meant."""


def read_qupath(path: Path) -> list[dict[str, Any]]:
    """The features of a file that keeps the contract.

    Raises:
        Refused: It does not.
    """
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    whole = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    need(isinstance(whole, dict) and whole.get("type") == "FeatureCollection", "a FeatureCollection")
    features = whole.get("features")
    need(isinstance(features, list), "a list of features")
    for feature in features:
        _check_feature(feature)
    ids = [f["id"] for f in features]
    need(len(set(ids)) == len(ids), "ids of their own: QuPath drops objects that share one")
    return features


def need(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(what)


def _no_constant(name: str) -> float:
    raise Refused(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len({k for k, _ in pairs}) == len(pairs), "each member once")
    return dict(pairs)


def _check_feature(feature: dict[str, Any]) -> None:
    need(feature.get("type") == "Feature", "features")
    need(set(feature) <= _FEATURE, f"known members, not {set(feature) - _FEATURE}")
    need(str(UUID(feature["id"])) == feature["id"], "a canonical UUID")
    _check_geometry(feature["geometry"])
    properties = feature["properties"]
    need(set(properties) <= _PROPERTIES, f"known properties, not {set(properties) - _PROPERTIES}")
    need(properties.get("objectType") in OBJECT_TYPES, "an objectType: without one it becomes an annotation")
    _check_classification(properties["classification"])
    for name, value in properties["measurements"].items():
        need(bool(name.strip()) and is_number(value), f"measurements that are finite numbers, not {name}={value!r}")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_classification(classification: dict[str, Any]) -> None:
    need(set(classification) == {"name", "color"} and bool(classification["name"].strip()), "a class with name and colour")
    color = classification["color"]
    need(len(color) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in color), "a colour of three bytes")


def _check_geometry(geometry: dict[str, Any]) -> None:
    need(set(geometry) == {"type", "coordinates", "plane"}, "type, coordinates and plane")
    plane = geometry["plane"]
    need(set(plane) == {"c", "z", "t"} and all(isinstance(v, int) for v in plane.values()), "a plane of c, z and t")
    need(plane["c"] >= -1 and plane["z"] >= 0 and plane["t"] >= 0, "a plane of the image")
    need(geometry["type"] in ("Polygon", "MultiPolygon"), "areas")
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    need(len(polygons) > (geometry["type"] == "MultiPolygon"), "a MultiPolygon of several parts only")
    for rings in polygons:
        need(len(rings) > 0, "an exterior")
        for i, ring in enumerate(rings):
            _check_ring(ring, is_hole=i > 0)


def _check_ring(ring: list[list[float]], *, is_hole: bool) -> None:
    need(len(ring) >= 4 and ring[0] == ring[-1], "closed rings: JTS throws on others")
    need(all(len(p) == 2 and is_number(p[0]) and is_number(p[1]) for p in ring), "pairs of numbers")
    # From the first point on, or small rings far from the origin would lose their sign.
    x, y = zip(*((p[0] - ring[0][0], p[1] - ring[0][1]) for p in ring), strict=True)
    twice = sum(x[i] * y[i + 1] - x[i + 1] * y[i] for i in range(len(ring) - 1))
    need(twice < 0 if is_hole else twice > 0, "exteriors counter-clockwise and holes clockwise (RFC 7946)")

"""Objects as features: batches of outlines, sizes and attributes, and the Arrow tables that vector formats are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seggeo.geometry import Frame
from seggeo.instances import Objects, concat
from seggeo.output import wkb
from seggeo.output.measures import Measures, Metric, ground_metric, measure
from seggeo.output.polygons import Polygons, outlines, simplify, to_world
from seggeo.protocols import Result

GEOMETRY = "geometry"
_OBJECTS, _RUNS = 20_000, 1 << 21  # of one group: outlines and tables of it then stay below some 100 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """A batch of objects with their outlines in the world and their sizes."""

    objects: Objects
    world: Polygons
    """Outlines in world coordinates; in those of the frame's transform without a CRS."""
    measures: Measures


def iter_features(result: Result, simplify_m: float = 0.0) -> Iterator[Features]:
    """All objects of a result as features, in order of id, a bounded number at a time.

    Areas and centroids are those of the masks whatever the simplification; perimeters and boxes are those of the
    outlines written.

    Args:
        result: What was merged.
        simplify_m: Tolerance in metres; in pixels without a CRS.
    """
    frame, metric = result.frame, ground_metric(result.frame)
    for objects in _regrouped(result.iter_objects()):
        spans = objects.instances.spans()
        pixels = outlines(objects.instances, spans)
        if simplify_m > 0:
            pixels = simplify(pixels, simplify_m, _metric_at_boxes(objects, metric), frame)
        world = to_world(pixels, frame)
        sizes = measure(objects.instances, (pixels, world), metric, frame, spans)
        yield Features(objects=objects, world=world, measures=sizes)


def schema(frame: Frame, *, nested_box: bool = False) -> pa.Schema:
    """Names and types of the attributes, and the geometry last; `nested_box` makes one column of the bounding box."""
    bounds = [(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")]
    slices = [("z", pa.int32())] if frame.depth > 1 else []
    return pa.schema(
        [
            ("id", pa.int64()), ("class", pa.string()), ("score", pa.float32()), ("area_m2", pa.float64()),
            ("perimeter_m", pa.float64()), ("area_px", pa.int64()), ("perimeter_px", pa.float64()), ("n_tiles", pa.int32()),
            ("cut", pa.bool_()), ("touches_edge", pa.bool_()), ("cx", pa.float64()), ("cy", pa.float64()), *slices,
            *([("bbox", pa.struct(bounds))] if nested_box else bounds), (GEOMETRY, pa.binary()),
        ]
    )  # fmt: skip


def to_arrow(features: Features, names: tuple[str, ...], fields: pa.Schema) -> pa.RecordBatch:
    """One row per object with the columns of `fields`, which `schema` made; `names` are the classes'."""
    objects, sizes = features.objects, features.measures
    instances = objects.instances
    bounds = {name: sizes.bounds[:, i] for i, name in enumerate(("xmin", "ymin", "xmax", "ymax"))}
    columns: dict[str, NDArray[np.generic] | pa.Array] = {
        "id": objects.id, "class": class_names(names).take(pa.array(instances.label)), "score": instances.score,
        "area_m2": sizes.area_m2, "perimeter_m": sizes.perimeter_m, "area_px": sizes.area_px,
        "perimeter_px": sizes.perimeter_px, "n_tiles": objects.n_tiles, "cut": objects.cut,
        "touches_edge": objects.touches_edge, "cx": sizes.centroid[:, 0], "cy": sizes.centroid[:, 1], **bounds,
        "z": instances.z, GEOMETRY: wkb.multipolygons(features.world),
    }  # fmt: skip
    if "bbox" in fields.names:
        columns["bbox"] = pa.StructArray.from_arrays([pa.array(v) for v in bounds.values()], list(bounds))
    return pa.record_batch([_column(columns[field.name], field.type) for field in fields], schema=fields)


def class_names(names: tuple[str, ...]) -> pa.Array:
    """Names of classes as Arrow strings; what is no valid Unicode is replaced."""
    return pa.array([name.encode("utf-8", "replace").decode() for name in names], pa.string())


def provenance_text(result: Result) -> str:
    """The provenance as JSON with sorted keys."""
    return json.dumps(dict(result.provenance), sort_keys=True, default=str)


def _column(values: NDArray[np.generic] | pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray):
        return pa.array(values, from_pandas=True).cast(kind)  # from_pandas: NaN means unknown and becomes null
    return values


def _regrouped(batches: Iterable[Objects]) -> Iterator[Objects]:
    """The same objects in groups that depend on them alone, so that a file's bytes do not depend on a result's batches."""
    waiting: Objects | None = None
    for batch in batches:
        rest = batch if waiting is None else _joined(waiting, batch)
        low, count, start = 0, len(rest), rest.instances.start
        while (high := _stop(start, low)) < count:
            yield _slice(rest, low, high)
            low = high
        waiting = _slice(rest, low, count)
    if waiting is not None and len(waiting):
        yield waiting


def _stop(start: NDArray[np.int64], low: int) -> int:
    """Where a group that begins at `low` ends when more objects follow than are known now."""
    fitting = int(np.searchsorted(start, start[low] + _RUNS, side="right")) - 1
    return max(min(fitting, low + _OBJECTS), low + 1)


def _slice(objects: Objects, low: int, high: int) -> Objects:
    rows = slice(low, high)
    return Objects(
        instances=objects.instances.take(rows), id=objects.id[rows], n_tiles=objects.n_tiles[rows],
        cut=objects.cut[rows], touches_edge=objects.touches_edge[rows],
    )  # fmt: skip


def _joined(a: Objects, b: Objects) -> Objects:
    return Objects(
        instances=concat([a.instances, b.instances]), id=np.concatenate([a.id, b.id]),
        n_tiles=np.concatenate([a.n_tiles, b.n_tiles]), cut=np.concatenate([a.cut, b.cut]),
        touches_edge=np.concatenate([a.touches_edge, b.touches_edge]),
    )  # fmt: skip


def _metric_at_boxes(objects: Objects, metric: Metric | None) -> NDArray[np.float64]:
    box = objects.instances.box.astype(np.float64)
    if metric is None:
        return np.tile([1.0, 0.0, 1.0], (len(box), 1))
    return metric.at((box[:, 0] + box[:, 2]) / 2, (box[:, 1] + box[:, 3]) / 2)

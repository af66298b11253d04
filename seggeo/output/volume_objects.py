"""`objects.csv`: one row for each object of a volume, or for each track of a series in time; streamed.

Columns of a volume: `id`, `class`, `score`, `voxels`, `volume_mm3`, `surface_mm2`, `sphericity`, `extent_x_mm` and so on,
`x_mm`, `y_mm`, `z_mm` in the world, `z_index`, `row_index`, `col_index` in voxels, `first_slice`, `last_slice`, `slices`,
`missed_slices`, `touches_edge`, `n_tiles`, `cut`, `branches`, `merges`, then the columns of `extras`. Endings name the unit
of the world: mm, um, m, or px where nobody knows. Slices count from 0, as indices do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from seggeo.files import publishing
from seggeo.output.cells_table import Extras
from seggeo.output.features import class_names
from seggeo.output.volume_measures import Rows, Shapes, Tracks, rows_of, tally
from seggeo.output.volume_slices import placement_of
from seggeo.protocols import Result, SinkOptions

Columns = dict[str, NDArray[Any]]
_NONE = Extras()
_KINDS = {"branch": "branches", "merge": "merges"}


def write_objects(result: Result, path: Path, options: SinkOptions, *, extras: Extras = _NONE) -> Path:
    """Write the table as CSV, UTF-8 with a header, and return `path`; same result, same bytes.

    Args:
        result: Objects of a volume, a series or a single plane.
        path: The file, replaced if it exists.
        options: Where temporary files lie.
        extras: Further columns, of which an object's value stands at `id - 1`.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    with publishing(path, options.scratch) as temporary:
        fields = schema(result, extras)
        with pa.csv.CSVWriter(temporary, fields, write_options=pa.csv.WriteOptions(quoting_style="needed")) as writer:
            for columns in iter_rows(result, extras, temporary.parent):
                writer.write_batch(pa.record_batch([_arrow(columns[f.name], f.type) for f in fields], schema=fields))
    return path


def iter_rows(result: Result, extras: Extras = _NONE, folder: Path | None = None) -> Iterator[Columns]:
    """The table's columns by name, some thousands of objects at a time, in order of id.

    Args:
        result: As above.
        extras: Further columns.
        folder: Where temporary files lie; default: the system's.
    """
    frame, place, events = result.frame, placement_of(result.frame), _Events(result.linking)
    names = np.array([_harmless(name) for name in class_names(result.classes).to_pylist()], object)
    with tally(result, folder) as ledger:
        for rows in rows_of(ledger):
            if frame.is_series:
                own = _track(rows, Tracks.of(rows, place), frame.unit)
            else:
                own = _shape(rows, Shapes.of(rows, place), frame.unit)
            yield {
                "id": rows.id, "class": names[rows.label], "score": rows.score.astype(np.float32), **own,
                "touches_edge": rows.touches_edge, "n_tiles": rows.n_tiles, "cut": rows.cut,
                **{name: events.of(kind, rows.id) for kind, name in _KINDS.items()},
                **extras.at(rows.id.astype(np.uint32)),
            }  # fmt: skip


def read_rows(path: Path) -> Iterator[Columns]:
    """The columns of a written table, bounded parts; empty values of numbers become NaN."""
    with pa.csv.open_csv(path) as reader:
        for batch in reader:
            yield {name: np.asarray(batch.column(name).to_numpy(zero_copy_only=False)) for name in batch.schema.names}


def schema(result: Result, extras: Extras = _NONE) -> pa.Schema:
    """Names and types of the columns."""
    unit = result.frame.unit
    own = _track_fields(unit) if result.frame.is_series else _shape_fields(unit)
    return pa.schema(
        [
            ("id", pa.int64()), ("class", pa.string()), ("score", pa.float32()), *own, ("touches_edge", pa.bool_()),
            ("n_tiles", pa.int64()), ("cut", pa.bool_()), *((name, pa.int64()) for name in _KINDS.values()),
            *((name, pa.from_numpy_dtype(values.dtype)) for name, values in extras.columns.items()),
        ]
    )  # fmt: skip


def _shape_fields(unit: str) -> list[tuple[str, pa.DataType]]:
    whole, number, place = pa.int64(), pa.float32(), pa.float64()
    return [
        ("voxels", whole), (f"volume_{unit}3", number), (f"surface_{unit}2", number), ("sphericity", number),
        *((f"extent_{axis}_{unit}", number) for axis in "xyz"), *((f"{axis}_{unit}", place) for axis in "xyz"),
        *((f"{axis}_index", place) for axis in ("z", "row", "col")),
        *((name, whole) for name in ("first_slice", "last_slice", "slices", "missed_slices")),
    ]  # fmt: skip


def _shape(rows: Rows, shapes: Shapes, unit: str) -> Columns:
    values: Iterable[NDArray[Any]] = (
        rows.voxels, shapes.volume, shapes.surface, shapes.sphericity, *shapes.extent.T,
        *shapes.centre.T.round(6), *shapes.voxel.T.round(4),
        rows.first, rows.last, rows.slices, rows.last - rows.first + 1 - rows.slices,
    )  # fmt: skip
    return {name: kind_values for (name, _), kind_values in zip(_shape_fields(unit), values, strict=True)}


def _track_fields(unit: str) -> list[tuple[str, pa.DataType]]:
    whole, number, place = pa.int64(), pa.float32(), pa.float64()
    return [
        *((name, whole) for name in ("first_frame", "last_frame", "frames", "missed_frames")),
        (f"area_mean_{unit}2", number), (f"displacement_{unit}", number), (f"path_{unit}", number),
        (f"speed_{unit}_per_frame", number),
        *((f"{end}_{axis}_{unit}", place) for end in ("start", "end") for axis in "xy"),
    ]  # fmt: skip


def _track(rows: Rows, tracks: Tracks, unit: str) -> Columns:
    values: Iterable[NDArray[Any]] = (
        rows.first, rows.last, rows.slices, rows.last - rows.first + 1 - rows.slices, tracks.area, tracks.displacement,
        tracks.path, tracks.speed, *tracks.start.T[:2].round(6), *tracks.end.T[:2].round(6),
    )  # fmt: skip
    return {name: kind_values for (name, _), kind_values in zip(_track_fields(unit), values, strict=True)}


class _Events:
    """How many branchings and mergings each object takes part in."""

    def __init__(self, linking: Mapping[str, Any]) -> None:
        met: dict[str, list[int]] = {kind: [] for kind in _KINDS}
        for event in linking.get("events", ()):
            met[event["kind"]] += {int(event["id"]), *map(int, event["others"])}
        self._counts = {kind: np.unique(np.array(ids, np.int64), return_counts=True) for kind, ids in met.items()}

    def of(self, kind: str, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(n,)`."""
        known, count = self._counts[kind]
        if not len(known):
            return np.zeros(len(ids), np.int64)
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, count[at], 0)


def _harmless(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r", "\0") else name


def _arrow(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.array(values, from_pandas=True).cast(kind, safe=False)  # from_pandas: NaN means unknown and becomes null

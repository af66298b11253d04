"""Tables of cells, one row each: Parquet for pandas, R and DuckDB, and CSV for everything else; streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seggeo.files import publishing
from seggeo.output.cells_table import Cells, Extras, Scale, iter_cells
from seggeo.output.features import class_names, provenance_text
from seggeo.protocols import Result, SinkOptions

_GROUP = 1 << 16  # rows of a Parquet row group; the same whatever the batches of the result
_NONE = Extras()


def write_cells(result: Result, path: Path, options: SinkOptions, *, extras: Extras = _NONE) -> Path:
    """Write a Parquet table of all cells, zstd, and return `path`; columns as `schema` has them.

    The file's metadata hold the provenance (`seggeo`). Same result, same bytes.

    Raises:
        OutputError: The result has several slices, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    fields = schema(result, extras).with_metadata({"seggeo": provenance_text(result)})
    with (
        publishing(path, options.scratch) as temporary,
        pq.ParquetWriter(temporary, fields, compression="zstd", write_statistics=True) as writer,
    ):
        waiting: list[pa.RecordBatch] = []
        for batch in _batches(result, fields, extras, temporary.parent):
            waiting.append(batch)
            if sum(map(len, waiting)) >= _GROUP:
                table = pa.Table.from_batches(waiting)
                whole = len(table) // _GROUP * _GROUP
                writer.write_table(table.slice(0, whole), row_group_size=_GROUP)
                waiting = table.slice(whole).combine_chunks().to_batches()
        writer.write_table(pa.Table.from_batches(waiting, fields), row_group_size=_GROUP)
    return path


def write_cells_csv(result: Result, path: Path, options: SinkOptions, *, extras: Extras = _NONE) -> Path:
    """Write a CSV table of all cells, UTF-8 with a header, and return `path`; unknown values are empty.

    Raises:
        OutputError: The result has several slices, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    fields = schema(result, extras)
    with (
        publishing(path, options.scratch) as temporary,
        pa.csv.CSVWriter(temporary, fields, write_options=pa.csv.WriteOptions(quoting_style="needed")) as writer,
    ):
        for batch in _batches(result, fields, extras, temporary.parent):
            writer.write_batch(batch)
    return path


def schema(result: Result, extras: Extras = _NONE) -> pa.Schema:
    """Names and types of the columns; endings name units: `_um`, `_um2`, or `_px` where the resolution is unknown."""
    scale = Scale.of(result.frame)
    unit = scale.unit
    position = [] if unit == "px" else [(f"x_{unit}", pa.float64()), (f"y_{unit}", pa.float64())]
    number = pa.float32()
    return pa.schema(
        [
            ("id", pa.int64()), ("class", pa.string()), ("score", number), ("x_px", pa.float64()), ("y_px", pa.float64()),
            *position, (f"area_{scale.area}", number), (f"perimeter_{unit}", number), ("circularity", number),
            ("eccentricity", number), ("solidity", number), (f"major_axis_{unit}", number), (f"minor_axis_{unit}", number),
            (f"neighbour_{unit}", number), *([("region", pa.int32())] if extras.region else []),
            ("n_tiles", pa.int32()), ("cut", pa.bool_()), ("touches_edge", pa.bool_()),
            *((name, pa.from_numpy_dtype(values.dtype)) for name, values in extras.columns.items()),
        ]
    )  # fmt: skip


def _batches(result: Result, fields: pa.Schema, extras: Extras, folder: Path) -> Iterator[pa.RecordBatch]:
    names, scale = class_names(result.classes), Scale.of(result.frame)
    for cells in iter_cells(result, extras, folder):
        columns = _columns(cells, names, scale)
        yield pa.record_batch([_arrow(columns[f.name], f.type) for f in fields], schema=fields)


def _columns(cells: Cells, names: pa.Array, scale: Scale) -> dict[str, NDArray[Any] | pa.Array]:
    objects, shapes, unit = cells.objects, cells.shapes, scale.unit
    return {
        "id": objects.id, "class": names.take(pa.array(objects.instances.label)), "score": objects.instances.score,
        f"x_{unit}": cells.x.round(4), f"y_{unit}": cells.y.round(4),
        "x_px": cells.x_px.round(3), "y_px": cells.y_px.round(3),
        f"area_{scale.area}": shapes.area, f"perimeter_{unit}": shapes.perimeter, "circularity": shapes.circularity,
        "eccentricity": shapes.eccentricity, "solidity": shapes.solidity, f"major_axis_{unit}": shapes.major_axis,
        f"minor_axis_{unit}": shapes.minor_axis, f"neighbour_{unit}": cells.neighbour, "region": cells.region,
        "n_tiles": objects.n_tiles, "cut": objects.cut, "touches_edge": objects.touches_edge, **cells.extra,
    }  # fmt: skip


def _arrow(values: NDArray[Any] | pa.Array, kind: pa.DataType) -> pa.Array:
    if not isinstance(values, np.ndarray):
        return values
    return pa.array(values, from_pandas=True).cast(kind, safe=False)  # from_pandas: NaN means unknown and becomes null

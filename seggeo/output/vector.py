"""Vector sinks: GeoPackage, FlatGeobuf, GeoParquet and GeoJSON, streamed batch by batch and published whole.

One layer, `objects`, of MultiPolygons in every format with a layer type: an object may have several parts, and a Polygon layer
that holds some MultiPolygons breaks the GeoPackage standard and makes QGIS split it. The same result always gives the same
bytes: time stamps are fixed (`SOURCE_DATE_EPOCH`, else 1970), nothing is random.
"""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj

from seggeo.errors import OutputError
from seggeo.files import has_room, plain_folder, publishing
from seggeo.geometry import Frame
from seggeo.output import style
from seggeo.output.features import GEOMETRY, iter_features, provenance_text, schema, to_arrow
from seggeo.output.fgb_check import check_fgb
from seggeo.output.geojson import write_geojson
from seggeo.output.gpkg_check import check_gpkg
from seggeo.protocols import Result, SinkOptions

INDEX_BYTES = 20_000_000
"""Memory for a GeoPackage's spatial index: some 400 000 objects fit; more are indexed as they come, so memory is flat."""

__all__ = ["LAYER", "write_flatgeobuf", "write_geojson", "write_geoparquet", "write_gpkg"]

LAYER = "objects"
_PROVENANCE = "SEGGEO_PROVENANCE"


def write_gpkg(result: Result, path: Path, options: SinkOptions) -> Path:
    """A GeoPackage with layer `objects`, spatial index, a QGIS style and the provenance in its metadata.

    Without a CRS the layer is of the undefined Cartesian system (-1), in the coordinates of `frame.transform`.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    now = _time_stamp()
    # The file is private until it is published, so a crash may spoil it; it is flushed to disk once, at the end.
    settings = {
        "OGR_CURRENT_DATE": now, "OGR_SQLITE_SYNCHRONOUS": "OFF", "OGR_GPKG_MAX_RAM_USAGE_RTREE": str(INDEX_BYTES),
    }  # fmt: skip
    layer = {"GEOMETRY_NAME": "geom", "SPATIAL_INDEX": "YES"}
    if result.frame.crs is None:
        layer["SRID"] = "-1"
    with publishing(path, options.scratch) as temporary, _gdal(settings):
        metadata = {_PROVENANCE: provenance_text(result)}
        how = {"driver": "GPKG", "layer_options": layer, "layer_metadata": metadata}
        count = _write(result, temporary, options, **how)
        empty = temporary.with_name("empty.gpkg")
        _write_batches(iter([]), empty, result.frame, **how)
        check_gpkg(temporary, empty, layer=LAYER, geometry="geom", count=count)
        style.install(temporary, LAYER, "geom", result.classes, now)
    return path


def write_flatgeobuf(result: Result, path: Path, options: SinkOptions) -> Path:
    """A FlatGeobuf file with spatial index, the provenance in its description.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    layer = {"SPATIAL_INDEX": "YES", "TITLE": LAYER, "DESCRIPTION": provenance_text(result)}
    with publishing(path, options.scratch) as temporary:
        count = _write(result, temporary, options, driver="FlatGeobuf", layer_options=layer)
        check_fgb(temporary, count)
    return path


def write_geoparquet(result: Result, path: Path, options: SinkOptions) -> Path:
    """A GeoParquet 1.1 file, zstd, one row group per batch, with a `bbox` column that readers filter by.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    metadata = {"geo": json.dumps(geo_metadata(result.frame), sort_keys=True), "seggeo": provenance_text(result)}
    fields = schema(result.frame, nested_box=True).with_metadata(metadata)
    with (
        publishing(path, options.scratch) as temporary,
        pq.ParquetWriter(temporary, fields, compression="zstd", write_statistics=True) as writer,
    ):
        for features in iter_features(result, options.simplify_m):
            writer.write_batch(to_arrow(features, result.classes, fields))
    return path


def geo_metadata(frame: Frame) -> dict[str, Any]:
    """The file's entry `geo`, GeoParquet 1.1."""
    column = {
        "encoding": "WKB", "geometry_types": ["MultiPolygon"], "orientation": "counterclockwise", "edges": "planar",
        "crs": None if frame.crs is None else pyproj.CRS.from_user_input(frame.crs).to_json_dict(),
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }  # fmt: skip
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}


@dataclass(slots=True)
class _Stream:
    """Record batches for GDAL; keeps the error that ended them, which would come back as a mere text."""

    result: Result
    fields: pa.Schema
    simplify_m: float
    count: int = 0
    size: int = 0
    """Bytes given so far."""
    errors: list[Exception] = field(default_factory=list)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for features in iter_features(self.result, self.simplify_m):
                batch = to_arrow(features, self.result.classes, self.fields)
                self.count, self.size = self.count + len(batch), self.size + batch.nbytes
                yield batch
        except Exception as error:
            self.errors.append(error)
            raise


def _write_batches(batches: Iterator[pa.RecordBatch], path: Path, frame: Frame, **how: Any) -> None:
    reader = pa.RecordBatchReader.from_batches(schema(frame), batches)
    with warnings.catch_warnings(), plain_folder(path) as plain:
        warnings.filterwarnings("ignore", message="'crs' was not provided")  # known, and told to the user by the plan
        pyogrio.write_arrow(
            reader, plain, layer=LAYER, geometry_name=GEOMETRY, geometry_type="MultiPolygon", crs=frame.crs, **how
        )


def _write(result: Result, path: Path, options: SinkOptions, **how: Any) -> int:
    """Write all objects; how many there were."""
    stream = _Stream(result, schema(result.frame), options.simplify_m)
    try:
        _write_batches(iter(stream), path, result.frame, **how)
    except Exception:
        if stream.errors:
            raise stream.errors[0] from None
        if not has_room(path.parent, 2 * stream.size):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        raise
    with plain_folder(path) as plain:
        written = int(pyogrio.read_info(plain, layer=LAYER, force_feature_count=True)["features"])
    if written != stream.count:
        raise OutputError(
            what=f"{path.name} holds {written} of {stream.count} objects",
            why="the driver gave up without saying so, as on a full disk",
            mend="check the free space and run the same command again",
        )
    return written


@contextmanager
def _gdal(settings: Mapping[str, str]) -> Iterator[None]:
    """GDAL configuration for the time of the block."""
    before = {name: pyogrio.get_gdal_config_option(name) for name in settings}
    pyogrio.set_gdal_config_options(dict(settings))
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options(before)


def _time_stamp() -> str:
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")

"""The rows of a vector file: geometry, id, class and score of each feature."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError

from seggeo.errors import ConfigError, SourceError
from seggeo.io.checks import read_header

_LAYER = "objects"
_OURS = frozenset({"id", "class", "score", "n_tiles", "touches_edge"})
"""Columns that together say that seggeo wrote the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Features of one layer."""

    geometry: NDArray[Any]
    """WKB of each feature, `(n,)` of bytes or None."""
    ids: NDArray[np.int64]
    """Column `id` where it numbers the features, else the file's own feature numbers."""
    label: NDArray[np.int32]
    """Index into `classes`."""
    classes: tuple[str, ...]
    score: NDArray[np.float32] | None
    """Column `score` where it holds numbers from 0 to 1."""
    crs: str | None
    crs_is_implied: bool
    """True when the format, not the file, says the CRS (GeoJSON without a member `crs`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    """What was read, before it is understood."""

    geometry: NDArray[Any]
    fids: NDArray[np.int64]
    values: dict[str, NDArray[Any]]
    names: tuple[str, ...]
    """All columns of the layer."""
    crs: str | None
    crs_is_implied: bool = False


def read_table(path: Path, attribute: str | None) -> Table:
    """The features of a vector file; of a GeoPackage with several layers, those of `objects`.

    Raises:
        ConfigError: The attribute does not exist or is empty for some features, or several layers could be meant.
        SourceError: The file cannot be read.
    """
    head = read_header(str(path), 64 * 2**10)
    columns = _from_parquet(path, attribute) if head[:4] == b"PAR1" else _from_gdal(path, head, attribute)
    ours = set(columns.names) >= _OURS
    label, classes = _classes(columns, attribute or ("class" if ours else None), path, may_be_blank=ours)
    return Table(
        geometry=columns.geometry, ids=_ids(columns), label=label, classes=classes, score=_score(columns),
        crs=columns.crs, crs_is_implied=columns.crs_is_implied,
    )  # fmt: skip


def _from_gdal(path: Path, head: bytes, attribute: str | None) -> _Columns:
    if b"OGRVRTDataSource" in head:
        raise SourceError(what=f"{path} is an OGR VRT", why="it can name any other file", mend="give a GPKG or GeoJSON")
    source: Any = str(path.absolute())
    if head[:2] == b"\x1f\x8b":
        source = gzip.decompress(path.read_bytes())
        head = source[: 64 * 2**10]
    try:
        layer = _layer(source, path)
        names = tuple(str(n) for n in pyogrio.read_info(source, layer=layer)["fields"])
        wanted = _wanted(names, attribute)
        meta, fids, geometry, values = pyogrio.raw.read(source, layer=layer, columns=wanted, return_fids=True)
    except (DataSourceError, DataLayerError) as error:
        raise SourceError(what=f"{path} cannot be read", why=str(error), mend="copy or download the file again") from error
    if geometry is None:
        raise SourceError(what=f"{path} holds no polygons", why="its layer has no geometry", mend="give the objects' outlines")
    is_json = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"{"
    crs = None if b"no coordinate reference system" in head[:2048] else meta["crs"]
    return _Columns(
        geometry=geometry, fids=np.asarray(fids, np.int64), values=dict(zip(meta["fields"], values, strict=True)),
        names=names, crs=crs, crs_is_implied=is_json and b'"crs"' not in head,
    )  # fmt: skip


def _wanted(names: tuple[str, ...], attribute: str | None) -> list[str]:
    return [n for n in names if n in ("id", "score", "class", attribute)]


def _layer(source: Any, path: Path) -> str:
    layers = pyogrio.list_layers(source)
    names = [str(name) for name, kind in layers if kind is not None]
    if _LAYER in names:
        return _LAYER
    if len(names) == 1:
        return names[0]
    raise ConfigError(
        what=f"{path} holds {len(names)} layers of shapes",
        why=f"seggeo reads one, called {_LAYER!r} where there are several: {', '.join(names) or 'none'}",
        mend=f"write the one you mean into a file of its own: ogr2ogr OUT.gpkg {path.name} LAYER",
    )


def _from_parquet(path: Path, attribute: str | None) -> _Columns:
    try:
        file = pq.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
        about = json.loads((file.schema_arrow.metadata or {}).get(b"geo", b"{}"))
        place = about.get("primary_column", "geometry")
        if place not in names:
            raise SourceError(
                what=f"{path} holds no polygons", why=f"it has no column {place!r}: {', '.join(names)}", mend="write GeoParquet"
            )
        wanted = _wanted(names, attribute)
        table = file.read(columns=[place, *wanted])
    except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(what=f"{path} cannot be read", why=str(error), mend="copy or download the file again") from error
    described = about.get("columns", {}).get(place, {})
    # GeoParquet: a missing member means longitude and latitude, an explicit null means unknown.
    crs = described.get("crs", "OGC:CRS84")
    return _Columns(
        geometry=np.array(table[place].to_pylist(), object), fids=np.arange(table.num_rows, dtype=np.int64),
        values={n: np.array(table[n].to_pylist(), object) if pa.types.is_string(table[n].type) or table[n].null_count
                else table[n].to_numpy() for n in wanted},
        names=tuple(n for n in names if n != place), crs=None if crs is None else pyproj.CRS.from_user_input(crs).to_wkt(),
    )  # fmt: skip


def _ids(columns: _Columns) -> NDArray[np.int64]:
    own = columns.values.get("id")
    if own is not None and own.dtype.kind in "iu" and len(np.unique(own)) == len(own):
        return own.astype(np.int64)
    return columns.fids


def _score(columns: _Columns) -> NDArray[np.float32] | None:
    own = columns.values.get("score")
    if (
        own is None
        or own.dtype.kind != "f"
        or not len(own)
        or not (np.isfinite(own).all() and 0 <= own.min() <= own.max() <= 1)
    ):
        return None
    return own.astype(np.float32)


def _classes(
    columns: _Columns, attribute: str | None, path: Path, *, may_be_blank: bool
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    count = len(columns.geometry)
    if attribute is None:
        return np.zeros(count, np.int32), ("object",)
    if attribute not in columns.names:
        raise ConfigError(
            what=f"{path} has no column {attribute!r}",
            why=f"its columns are: {', '.join(columns.names) or 'none'}",
            mend="use --attribute with one of them, or leave it out for one class",
        )
    values = columns.values[attribute]
    empty = [i for i, value in enumerate(values) if value is None or value != value or (value == "" and not may_be_blank)]
    if empty:
        raise ConfigError(
            what=f"column {attribute!r} of {path} is empty for {len(empty)} of {count} objects",
            why=f"their class is unknown, for example that of feature {columns.fids[empty[0]]}",
            mend="fill the column, or leave these objects out",
        )
    found, label = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
    return label.astype(np.int32), tuple(_name(v) for v in found) or ("object",)


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, np.floating) and float(value).is_integer() else str(value)

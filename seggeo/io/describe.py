"""What a raster is, in JSON values, for `seggeo info` and for provenance."""

from __future__ import annotations

from math import isfinite
from typing import Any

from rasterio.io import DatasetReader

from seggeo.geometry import Frame
from seggeo.io.bands import BandPlan, mask_kind
from seggeo.io.checks import Input
from seggeo.io.tiff import Sparse


def describe(ds: DatasetReader, *, entry: Input, plan: BandPlan, sparse: Sparse | None, frame: Frame) -> dict[str, Any]:
    """Format, size, bands, position and layout of an open raster, and how seggeo reads it."""
    crs = ds.crs
    return {
        "path": entry.name,
        "driver": ds.driver,
        "height": ds.height,
        "width": ds.width,
        "bands": ds.count,
        "dtype": ds.dtypes[0],
        "colour": [c.name for c in ds.colorinterp],
        "descriptions": list(ds.descriptions),
        "nodata": [_number(v) for v in ds.nodatavals],
        "mask": mask_kind(ds),
        "compression": ds.compression.value if ds.compression else None,
        "interleave": ds.interleaving.value if ds.interleaving else None,
        "block": list(ds.block_shapes[0]),
        "overviews": list(ds.overviews(1)),
        "sparse_blocks": 0 if sparse is None else int(sparse.empty.sum()),
        "sparse_share": 0.0 if sparse is None else sparse.share,
        "georeference": _georeference(ds),
        "crs": crs.to_string() if crs else None,
        "transform": list(ds.transform)[:6],
        "gsd": None if frame.unit == "px" else [frame.spacing[1] / frame.scale, frame.spacing[2] / frame.scale],
        "gsd_unit": frame.unit,
        "read_bands": list(plan.names),
        "read_dtype": plan.dtype,
        "work_grid": frame.to_json(),
    }


def _georeference(ds: DatasetReader) -> str:
    """How the pixels are tied to the world."""
    t = ds.transform
    if t.is_identity:
        return "CRS without a transform, not used" if ds.crs else "none"
    kind = "rotated or sheared" if t.b or t.d else "south-up" if t.e > 0 else "north-up"
    return kind if ds.crs else f"{kind}, without CRS"


def _number(value: float | None) -> float | str | None:
    """JSON has no NaN: it is written as text."""
    return value if value is None or isfinite(value) else str(value)

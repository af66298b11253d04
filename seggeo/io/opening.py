"""Opening a checked input with GDAL, and refusing what cannot be segmented as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.io.checks import Input

GDAL_CACHE_BYTES = 192 * 2**20
"""Decoded blocks that GDAL keeps: a whole part of 8 x 8 RGB tiles of 1024 px, so that its right neighbour finds the shared
blocks. Measured on 28672 px (deflate): 1.08 times the rate of 128 MiB, and no gain from 256 MiB."""
GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""What rasterio raises: its own kinds, and GDAL's where it has none."""
_MAX_BLOCK_BYTES = 256 * 2**20
_OPTIONS = {"GDAL_VRT_ENABLE_PYTHON": "NO", "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO", "GDAL_NUM_THREADS": "1"}
_REMOTE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_VSIL_CURL_HEADER_FILE_KVP_ENABLED": "NO",
    "GDAL_HTTP_MAX_RETRY": "3", "GDAL_HTTP_RETRY_DELAY": "1", "GDAL_HTTP_TIMEOUT": "60", "GDAL_HTTP_CONNECTTIMEOUT": "15",
}  # fmt: skip


@contextmanager
def gdal_settings(entry: Input, cache_bytes: int = GDAL_CACHE_BYTES) -> Iterator[None]:
    """Safe GDAL options and a capped block cache; every open and every read happens inside."""
    options = _OPTIONS | (_REMOTE_OPTIONS if entry.is_remote else {})
    with rasterio.Env(GDAL_CACHEMAX=cache_bytes, **options):
        yield


def open_dataset(entry: Input, level: int | None = None) -> DatasetReader:
    """A GDAL handle at full resolution, or at the overview with index `level`.

    Raises:
        SourceError: GDAL cannot open the file.
    """
    with gdal_settings(entry), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # describe() says it, once and in words
        options = {} if level is None else {"OVERVIEW_LEVEL": level}
        reason: Exception | None = None
        for driver in entry.drivers:
            try:
                return rasterio.open(entry.path, driver=driver, **options)
            except GDAL_ERRORS as error:
                reason = reason or error
    assert reason is not None
    raise damaged(entry, reason) from reason


def damaged(entry: Input, error: Exception, where: str = "") -> SourceError:
    """The refusal of a file that GDAL cannot read (`where`: the part of it), with GDAL's reason on one line."""
    reason = " ".join(str(error.__cause__ or error).replace(entry.path, entry.name).split())
    return SourceError(what=f"{entry.name} cannot be read{where}", why=reason, mend="copy or download the file again")


def check_dataset(ds: DatasetReader, entry: Input, reading: Reading) -> None:
    """Refuse an open image that has no pixels, several images, complex numbers, huge blocks or no usable position.

    Raises:
        SourceError: It cannot be read safely, or must be warped first.
        ConfigError: It holds several images and the user must name one.
    """
    if min(ds.count, ds.height, ds.width) < 1:
        if ds.subdatasets:
            raise _several(ds, entry)
        raise SourceError(
            what=f"{entry.name} has no pixels", why=f"{ds.height} x {ds.width}, {ds.count} bands", mend="check it"
        )
    if ds.subdatasets:
        raise _several(ds, entry)
    if ds.height * ds.width > reading.max_pixels:
        raise SourceError(
            what=f"{entry.name} claims {ds.height * ds.width} pixels",
            why=f"the limit is {reading.max_pixels}",
            mend="add --max-pixels if you trust the file",
        )
    if reading.complex is None and any(np.dtype(numpy_name(t)).kind == "c" for t in ds.dtypes):
        raise SourceError(
            what=f"{entry.name} holds complex numbers",
            why="a model takes one real number for each band of a pixel",
            mend="use --complex abs for the magnitude, or --complex real",
        )
    if block_bytes(ds) > _MAX_BLOCK_BYTES:
        raise SourceError(
            what=f"{entry.name} has blocks of {block_bytes(ds) >> 20} MiB",
            why=f"each must be decoded whole, and the limit is {_MAX_BLOCK_BYTES >> 20} MiB",
            mend="write smaller blocks: gdal_translate -co TILED=YES IN OUT.tif",
        )
    _check_position(ds, entry)


def block_bytes(ds: DatasetReader) -> int:
    """Bytes of the largest block that is decoded as one piece."""
    together = ds.count if ds.interleaving == Interleaving.pixel else 1
    layouts = zip(ds.block_shapes, ds.dtypes, strict=True)
    return int(max(prod(shape) * np.dtype(numpy_name(t)).itemsize for shape, t in layouts) * together)


def alpha_band(ds: DatasetReader) -> int | None:
    """1-based number of the band that holds transparency."""
    return next((i for i, c in enumerate(ds.colorinterp, 1) if c == ColorInterp.alpha), None)


def numpy_name(dtype: str) -> str:
    """The name in numpy of a number type of rasterio."""
    return {"complex_int16": "complex64"}.get(dtype, dtype)


def _check_position(ds: DatasetReader, entry: Input) -> None:
    points = ds.gcps[0]
    if not ds.transform.is_identity or not (points or ds.rpcs):
        return
    kind = f"{len(points)} ground control points" if points else "rational polynomials (RPC)"
    raise SourceError(
        what=f"{entry.name} has no affine georeference",
        why=f"its position is given by {kind}, so its pixels are not a grid on the ground",
        mend="warp it first: gdalwarp IN OUT.tif",
    )


def _several(ds: DatasetReader, entry: Input) -> ConfigError:
    names = [str(s).replace(entry.path, entry.name) for s in ds.subdatasets]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return ConfigError(
        what=f"{entry.name} holds {len(names)} images",
        why=f"seggeo reads one at a time: {shown}",
        mend="write the one you mean into a file of its own: gdal_translate NAME OUT.tif",
    )

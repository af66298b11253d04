"""One image of a pyramid: windows of its own pixels, decoded, expanded from its palette, and what is real in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from seggeo.geometry import Window
from seggeo.io.bands import BandPlan, mask_kind
from seggeo.io.blocks import Decoded, SlabCache
from seggeo.io.checks import Input
from seggeo.io.opening import GDAL_CACHE_BYTES, GDAL_ERRORS, block_bytes, damaged, gdal_settings, numpy_name, open_dataset
from seggeo.io.tiff import Sparse

SLAB_BYTES = 64 * 2**20
"""Memory of each of seggeo's own caches, which exist for computed grids and very wide blocks only."""
_ONCE_BYTES = 16 * 2**20
"""Memory of GDAL's cache, at least, while all of a tiled image is read once."""
_ROWS = 1024
"""Rows of the windows that the caches are laid out for; taller ones work, and decode more often."""


class Level:
    """The full-resolution image or one of its overviews; `read` gives `(c, h, w)` of the bands asked for."""

    def __init__(
        self, ds: DatasetReader, *, entry: Input, plan: BandPlan, sparse: Sparse | None, full: tuple[int, int]
    ) -> None:
        self.shape: tuple[int, int] = ds.shape
        self.ratio = (full[0] / ds.height, full[1] / ds.width)
        """Full-resolution rows and columns in one pixel of this level."""
        self.storage = _storage_block(ds)
        """Rows and columns of one block of the file."""
        self._full = full
        self._ds = ds
        self._entry = entry
        self._plan = plan
        self._sparse = sparse
        self._cache_bytes = GDAL_CACHE_BYTES if block_bytes(ds) <= GDAL_CACHE_BYTES // 4 else 2 * block_bytes(ds)
        block = _virtual_block(ds, plan)
        self._slabs = self._own_cache(block) if block != self.storage else None

    def read(self, window: Window) -> Decoded:
        """Values `(c, h, w)` and valid `(h, w)` of a window of this level.

        Raises:
            SourceError: The file is damaged there, or gone.
        """
        return self.decode(window) if self._slabs is None else self._slabs.read(window)

    def decode(self, window: Window) -> Decoded:
        """The same as `read`, past seggeo's own cache."""
        gaps = self._gaps(window)
        if gaps is not None and gaps.all():
            return self.blank(window.shape), np.zeros(window.shape, np.bool_)
        raw, mask = self._decode_file(window)
        data, valid = _expand(raw, mask, self._plan)
        if gaps is not None:
            valid &= ~gaps
        return data, valid

    def blank(self, shape: tuple[int, int]) -> NDArray[np.generic]:
        """Zeros `(c, *shape)` of the dtype and bands that are read."""
        bands = 3 if self._plan.palette is not None else len(self._plan.read)
        return np.zeros((bands, *shape), self._plan.dtype)

    def is_empty(self, window: Window) -> bool:
        """True when nothing of a window of this level is in the file."""
        return self._sparse is not None and self._sparse.covers(self._behind(window))

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """While it lasts GDAL keeps little more than one window of a tiled image: no block is wanted much later again."""
        before = self._cache_bytes
        if self.storage[1] <= _ROWS:
            pixel_bytes = len(self._plan.read) * np.dtype(numpy_name(self._ds.dtypes[0])).itemsize
            self._cache_bytes = min(before, max(_ONCE_BYTES, 8 * _ROWS * _ROWS * pixel_bytes))
        try:
            yield
        finally:
            self._cache_bytes = before

    def close(self) -> None:
        """Close the file and forget its pixels."""
        if self._slabs is not None:
            self._slabs.clear()
        self._ds.close()

    def _own_cache(self, block: tuple[int, int]) -> SlabCache:
        frame = Window(row=0, col=0, height=self.shape[0], width=self.shape[1])
        return SlabCache(frame=frame, block=block, memory_bytes=SLAB_BYTES, decode=self.decode)

    def _decode_file(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.uint8] | None]:
        box = RasterWindow(window.col, window.row, window.width, window.height)
        plan = self._plan
        bands = [*plan.read, plan.alpha] if plan.alpha is not None and plan.alpha not in plan.read else list(plan.read)
        try:
            with gdal_settings(self._entry, self._cache_bytes):
                raw = self._ds.read(bands, window=box)
                if plan.real is not None:
                    raw = (np.abs(raw) if plan.real == "abs" else raw.real).astype(plan.dtype)
                if plan.alpha is not None:
                    return raw[: len(plan.read)], raw[bands.index(plan.alpha)]
                return raw, self._ds.read_masks(1, window=box) if plan.mask == "mask" else None
        except GDAL_ERRORS as error:
            where = f" in rows {window.row}-{window.row_stop - 1}, columns {window.col}-{window.col_stop - 1}"
            raise damaged(self._entry, error, where) from error

    def _gaps(self, window: Window) -> NDArray[np.bool_] | None:
        """True where the full-resolution pixel at the centre of a pixel was never written; None where all were."""
        if self._sparse is None:
            return None
        if self.is_empty(window):
            return np.broadcast_to(np.True_, window.shape)
        rows, cols = (
            np.minimum(((np.arange(first, first + count) + 0.5) * ratio).astype(np.int64), full - 1)
            for ratio, full, first, count in zip(self.ratio, self._full, (window.row, window.col), window.shape, strict=True)
        )
        gaps = self._sparse.at(rows, cols)
        return gaps if gaps.any() else None

    def _behind(self, window: Window) -> Window:
        """The full-resolution pixels from the centre of the first to the centre of the last pixel of a window."""
        (down, right), (height, width) = self.ratio, self._full
        return Window.from_bounds(
            min(int((window.row + 0.5) * down), height - 1),
            min(int((window.col + 0.5) * right), width - 1),
            min(int((window.row_stop - 0.5) * down), height - 1) + 1,
            min(int((window.col_stop - 0.5) * right), width - 1) + 1,
        )


def open_level(entry: Input, *, index: int, plan: BandPlan, sparse: Sparse | None, full: tuple[int, int]) -> Level | None:
    """The overview with this index, or None when its mask is not of the image's own kind and so cannot be trusted."""
    ds = open_dataset(entry, index)
    if mask_kind(ds) != plan.mask and not (mask_kind(ds) == "none" and plan.mask == "nodata"):
        ds.close()
        return None
    return Level(ds, entry=entry, plan=plan, sparse=sparse, full=full)


def _expand(
    raw: NDArray[np.generic], mask: NDArray[np.uint8] | None, plan: BandPlan
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Palette to colours, and one valid mask from the file's mask, its nodata values and what is no number."""
    valid = np.ones(raw.shape[1:], np.bool_) if mask is None else mask != 0
    if any(value is not None for value in plan.nodata):
        # A pixel is data when any band is: black roofs have zeros, and a zero in one band is not a hole.
        real = np.zeros(raw.shape[1:], np.bool_)
        for band, value in zip(raw, plan.nodata, strict=True):
            real |= _differs(band, value)
        valid &= real
    if raw.dtype.kind == "f":
        # Not any band here: one NaN is enough to spoil everything a network computes from the pixel.
        valid &= np.isfinite(raw).all(axis=0)
    if plan.palette is None:
        return raw, valid
    colours = plan.palette[raw[0]]
    valid &= colours[..., 3] != 0
    return colours[..., :3].transpose(2, 0, 1), valid


def _differs(band: NDArray[np.generic], value: float | None) -> NDArray[np.bool_]:
    if value is None:
        return np.ones(band.shape, np.bool_)
    if band.dtype.kind == "f":
        if np.isnan(value):
            return ~np.isnan(band)  # type: ignore[no-any-return]
        with np.errstate(over="ignore"):
            return band != band.dtype.type(value)  # type: ignore[no-any-return]
    limits = np.iinfo(band.dtype)  # type: ignore[type-var]
    if value != int(value) if np.isfinite(value) else True:
        return np.ones(band.shape, np.bool_)
    if not limits.min <= value <= limits.max:
        return np.ones(band.shape, np.bool_)
    return band != band.dtype.type(int(value))  # type: ignore[no-any-return]


def _storage_block(ds: DatasetReader) -> tuple[int, int]:
    return min(ds.block_shapes[0][0], ds.height), min(ds.block_shapes[0][1], ds.width)


def _virtual_block(ds: DatasetReader, plan: BandPlan) -> tuple[int, int]:
    """The file's own block, or a part of it where a row of blocks as tall as a window would not fit GDAL's cache."""
    rows, cols = _storage_block(ds)
    pixel_bytes = len(plan.read) * np.dtype(numpy_name(ds.dtypes[0])).itemsize
    if cols <= _ROWS or (_ROWS + rows) * cols * pixel_bytes <= GDAL_CACHE_BYTES:
        return rows, cols
    height = min(_ROWS, max(rows, 256 // rows * rows)) if rows <= _ROWS else _ROWS
    width = max(512, SLAB_BYTES // 2 // ((_ROWS + 256) * (pixel_bytes + 1)))
    return min(height, ds.height), min(width, cols)

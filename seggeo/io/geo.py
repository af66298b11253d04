"""Georeferenced rasters through GDAL: windows of a work grid, with what is real data in them.

1. `check_input` looks at the bytes, `open_dataset` lets one driver open them, `check_dataset` refuses what cannot be segmented.
2. `choose_bands` says what to decode, `gsd_step` and `scaled` lay the work grid.
3. `Level` decodes windows of one image of the pyramid; `Resampled` makes another GSD of it.
4. `RasterSource` cuts at the area of interest and hands out `Pixels`.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rasterio.io import DatasetReader

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame, Window
from seggeo.io.aoi import AoiMask, load_aoi
from seggeo.io.bands import BandPlan, choose_bands
from seggeo.io.blocks import Decoded
from seggeo.io.checks import Input, check_input, fingerprint_of
from seggeo.io.describe import describe
from seggeo.io.frames import check_inside, file_frame, gsd_step, reduced, scaled, with_mpp
from seggeo.io.levels import Level, open_level
from seggeo.io.opening import GDAL_ERRORS, check_dataset, damaged, gdal_settings, open_dataset
from seggeo.io.overview import is_cheap, sample_level
from seggeo.io.resample import Resampled
from seggeo.io.tiff import Sparse
from seggeo.protocols import Pixels


def open_raster(path: str, reading: Reading, *, native: bool) -> RasterSource:
    """A source of the windows of a raster file, or of a remote one whose address the user typed.

    Args:
        path: A file, or an http(s):// or s3:// address.
        reading: Bands, GSD, nodata, area of interest and limits.
        native: True: all bands but alpha (or the asked ones) in the file's dtype; False: three bands for an RGB model.

    Raises:
        SourceError: The input is missing, damaged, unsupported or refused by a safety limit.
        ConfigError: The settings do not fit this image.
    """
    entry = check_input(path, reading)
    ds = open_dataset(entry)
    try:
        with gdal_settings(entry):
            check_dataset(ds, entry, reading)
            return RasterSource(ds, entry=entry, path=path, reading=reading, native=native)
    except GDAL_ERRORS as error:
        ds.close()
        raise damaged(entry, error) from error
    except BaseException:
        ds.close()
        raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """A work grid and what computes its pixels."""

    frame: Frame
    level: Level
    resampled: Resampled | None

    def read(self, window: Window) -> Decoded:
        return self.level.read(window) if self.resampled is None else self.resampled.read(window)

    def is_empty(self, window: Window) -> bool:
        return self.level.is_empty(window) if self.resampled is None else self.resampled.is_empty(window)


class RasterSource:
    """A `Source` over one raster; safe to share between threads, pickled as the recipe to open it again."""

    def __init__(self, ds: DatasetReader, *, entry: Input, path: str, reading: Reading, native: bool) -> None:
        self._recipe = (path, reading, native)
        self._entry = entry
        self._ds = ds
        self._lock = threading.RLock()
        self._plan: BandPlan = choose_bands(ds, reading, native=native, name=entry.name)
        self._sparse = _sparse(ds, entry)
        self._file_frame = with_mpp(file_frame(ds), reading, name=entry.name)
        self._full = Level(ds, entry=entry, plan=self._plan, sparse=self._sparse, full=ds.shape)
        self._view = self._make_view(gsd_step(self._file_frame, reading, name=entry.name))
        self._area = None if reading.aoi is None else load_aoi(reading.aoi, self._file_frame.crs)
        self._aoi = None if self._area is None else AoiMask(self._area, self._view.frame)
        if self._aoi is not None and not self._aoi.meets():
            raise ConfigError(
                what=f"the AOI {reading.aoi} does not meet {entry.name}",
                why="no part of it lies inside the image",
                mend="check that both show the same place (seggeo info)",
            )

    @property
    def frame(self) -> Frame:
        """The work grid."""
        return self._view.frame

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that `read` gives, in order."""
        return self._plan.names

    def read(self, window: Window, z: int = 0) -> Pixels:
        """Pixels of a window that lies in `frame.window`; `data` is a transposed view of band-first memory.

        Raises:
            GeometryError: A window or slice outside the frame.
            SourceError: The file is damaged there.
        """
        check_inside(window, z, self.frame, "image")
        with self._lock:
            return self._pixels(self._view.read(window), window, self._aoi)

    def is_empty(self, window: Window, z: int = 0) -> bool:
        """True when it is known without decoding that no pixel of a window is valid."""
        with self._lock:
            outside = self._aoi is not None and self._aoi.is_empty(window)
            return outside or self._view.is_empty(window)

    def overview_frame(self, max_side: int = 2048) -> Frame:
        """The grid of `overview`: the work grid, reduced by the least whole factor that fits `max_side` pixels."""
        return reduced(self.frame, max_side)[0]

    def overview(self, max_side: int = 2048) -> Pixels:
        """The whole work grid in at most `max_side` pixels a side: area averages, from the file's overviews if it has any.

        A file without overviews that is too large to decode for this gives the nearest pixels of a lattice of its blocks;
        pixels between these are not valid, nor are blocks that cannot be decoded. The result depends on the file and the
        settings only.
        """
        frame, factor = reduced(self.frame, max_side)
        window = frame.window
        aoi = None if self._area is None else AoiMask(self._area, frame)
        with self._lock:
            if frame == self.frame and self._view.resampled is None:
                return self._pixels(self._whole(window), window, aoi)
            step = self._step[0] * factor, self._step[1] * factor
            level, _ = self._best_level(step)
            try:
                with level.read_once():
                    decoded = self._reduce(level, frame, step)
                return self._pixels(decoded, window, aoi)
            finally:
                if level is not self._full:
                    level.close()

    def fingerprint(self) -> dict[str, Any]:
        """Size, time of change and SHA-256 of the first bytes, to notice that an input was replaced during a run."""
        if self._entry.is_remote:
            text = repr((sorted(map(str, self._ds.profile.items())), self._ds.get_tag_item("IFD_OFFSET", "TIFF", bidx=1)))
            return {"size": None, "mtime_ns": None, "header_sha256": hashlib.sha256(text.encode()).hexdigest()}
        return fingerprint_of(self._entry.path)

    def describe(self) -> dict[str, Any]:
        """What the file is and how it is read, as JSON values, for `seggeo info`."""
        with self._lock, gdal_settings(self._entry):
            for again in (True, False):  # GDAL may raise here what it has kept from an earlier read of a damaged block
                try:
                    return describe(self._ds, entry=self._entry, plan=self._plan, sparse=self._sparse, frame=self.frame)
                except GDAL_ERRORS as error:
                    if not again:
                        raise damaged(self._entry, error) from error
        raise AssertionError("described, or refused")

    def close(self) -> None:
        """Close the file; the source may not be read afterwards."""
        with self._lock:
            self._view.level.close()
            self._full.close()

    def __enter__(self) -> RasterSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, self._recipe

    def _make_view(self, step: tuple[float, float]) -> _View:
        self._step = step
        if step == (1.0, 1.0):
            return _View(frame=self._file_frame, level=self._full, resampled=None)
        level, number = self._best_level(step)
        frame = scaled(self._file_frame, step, level=number)
        return _View(frame=frame, level=level, resampled=_resampled(level, frame, step))

    def _best_level(self, step: tuple[float, float]) -> tuple[Level, int]:
        """The smallest image of the pyramid that still has at least the resolution asked for, and its number."""
        factors = self._ds.overviews(self._plan.read[0])
        fitting = [(factor, i) for i, factor in enumerate(factors) if 1 < factor <= min(step) * (1 + 1e-6)]
        for _, index in sorted(fitting, reverse=True):
            level = open_level(self._entry, index=index, plan=self._plan, sparse=self._sparse, full=self._ds.shape)
            if level is not None:
                return level, index + 1
        return self._full, 0

    def _reduce(self, level: Level, frame: Frame, step: tuple[float, float]) -> Decoded:
        share = 1.0 if self._sparse is None else 1 - self._sparse.share
        if is_cheap(level, share):
            with suppress(SourceError):  # a damaged block: the lattice leaves it out
                return _resampled(level, frame, step).read(frame.window)
        within = step[0] / level.ratio[0], step[1] / level.ratio[1]
        return sample_level(level, shape=(frame.height, frame.width), step=within, share=share)

    def _whole(self, window: Window) -> Decoded:
        with suppress(SourceError):
            return self._full.read(window)
        return sample_level(self._full, shape=window.shape, step=(1.0, 1.0), share=1.0)

    def _pixels(self, decoded: Decoded, window: Window, aoi: AoiMask | None) -> Pixels:
        data, valid = decoded
        if aoi is not None:
            valid &= aoi.read(window)
        if self._plan.order != tuple(range(data.shape[0])):
            data = data[list(self._plan.order)]
        return Pixels(data=data.transpose(1, 2, 0), valid=valid)


def _reopen(path: str, reading: Reading, native: bool) -> RasterSource:
    return open_raster(path, reading, native=native)


def _resampled(level: Level, frame: Frame, step: tuple[float, float]) -> Resampled:
    within = step[0] / level.ratio[0], step[1] / level.ratio[1]
    return Resampled(level, shape=(frame.height, frame.width), step=within)


def _sparse(ds: DatasetReader, entry: Input) -> Sparse | None:
    first = next(iter(entry.directories), None)
    return first.sparse() if first is not None and (first.height, first.width) == ds.shape else None

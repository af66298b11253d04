"""Whole slides and microscopy images: windows of a work grid at the MPP a model wants, with what was scanned in them.

1. `open_pyramid` finds the library that reads the file; `settle_mpp` its resolution, `choose_channels` its bands.
2. `_lay` chooses the coarsest level that is at least as fine as asked, and lays the work grid over it.
3. `SlideLevel` puts windows together from decoded blocks; `Resampled` makes another MPP of them.
4. `SlideSource` cuts at the area of interest and hands out `Pixels`, as `RasterSource` does.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame, Window
from seggeo.io.aoi import AoiMask
from seggeo.io.blocks import Decoded
from seggeo.io.channels import choose_channels
from seggeo.io.checks import fingerprint_of
from seggeo.io.frames import check_inside, reduced, scaled
from seggeo.io.mpp import Mpp, settle_mpp
from seggeo.io.overview import is_cheap, sample_level
from seggeo.io.slide_blocks import BlockCache
from seggeo.io.slide_detect import is_slide, open_pyramid
from seggeo.io.slide_grid import check_size, slide_area, slide_frame, work_step
from seggeo.io.slide_level import SlideLevel
from seggeo.io.slide_pyramid import Pyramid
from seggeo.io.slide_resample import SharedResampled, as_level
from seggeo.protocols import Pixels

__all__ = ["SAME_MPP", "SlideSource", "is_slide", "open_slide"]

SAME_MPP = 0.01
"""A level within this share of the MPP asked for is taken as it is: resampling 0.499 to 0.5 um would blur every pixel and
change no size that matters. The frame states the true spacing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What was asked of a slide, besides `Reading`."""

    native: bool
    mpp: float | None
    work_mpp: float | None
    channels: tuple[str | int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """A work grid and what its pixels are made from."""

    frame: Frame
    step: tuple[float, float]
    """Full-resolution rows and columns in one pixel of the grid."""
    level: SlideLevel
    resampled: SharedResampled | None


def open_slide(
    path: str,
    reading: Reading,
    *,
    native: bool,
    mpp: float | None = None,
    work_mpp: float | None = None,
    channels: tuple[str | int, ...] | None = None,
) -> SlideSource:
    """A source of the windows of a slide, a microscopy image or an OME-Zarr folder.

    Args:
        path: A local file or folder.
        reading: Nodata, area of interest (in full-resolution pixels of the whole slide) and limits.
        native: True: all channels, or those asked for, in the file's dtype; False: three for an RGB model.
        mpp: Micrometres per full-resolution pixel, where the file does not say or is wrong.
        work_mpp: Micrometres per pixel of the work grid; None for full resolution.
        channels: Names, or numbers from 1.

    Raises:
        SourceError: The input is missing, damaged, unsupported, refused by a limit, or does not say its resolution where
            that is needed.
        ConfigError: The settings do not fit this image.
    """
    full = os.path.abspath(path)
    name = path if path.isprintable() else repr(path)
    pyramid = open_pyramid(full, name, reading)
    try:
        wish = _Wish(native=native, mpp=mpp, work_mpp=work_mpp, channels=_asked(channels, reading))
        return SlideSource(pyramid, path=full, name=name, reading=reading, wish=wish)
    except BaseException:
        pyramid.close()
        raise


class SlideSource:
    """A `Source` over one slide; `read` may be called from several threads, pickled as the recipe to open it again."""

    def __init__(self, pyramid: Pyramid, *, path: str, name: str, reading: Reading, wish: _Wish) -> None:
        self._pyramid = pyramid
        self._path, self._name, self._reading, self._wish = path, name, reading, wish
        facts = pyramid.facts
        check_size(facts.levels[0].shape, reading, name)
        self.mpp: Mpp | None = settle_mpp(facts.claims, wish.mpp, name)
        """The resolution of the file, and who says so."""
        self._channels = choose_channels(facts.channels, wish.channels, native=wish.native, is_rgb=facts.is_rgb, name=name)
        self._lock = threading.RLock()
        self._cache = BlockCache()
        self._file_frame = slide_frame(pyramid, self.mpp)
        self._grid = self._lay(work_step(self._file_frame, wish.work_mpp, reading, name), snap=True)
        self._area = None if reading.aoi is None else slide_area(reading.aoi)
        self._aoi = None if self._area is None else AoiMask(self._area, self.frame)
        if self._aoi is not None and not self._aoi.meets():
            raise ConfigError(
                what=f"the AOI {reading.aoi} does not meet {name}",
                why="no part of it lies inside the slide",
                mend="give it in full-resolution pixels of the whole slide, as QuPath exports it",
            )

    @property
    def frame(self) -> Frame:
        """The work grid; its transform leads to full-resolution pixels of the whole slide."""
        return self._grid.frame

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the channels that `read` gives, in order."""
        return tuple(self._pyramid.facts.channels[i] for i in self._channels)

    @property
    def is_brightfield(self) -> bool:
        """True for the three colours of a camera, False for channels of fluorescence."""
        return self._pyramid.facts.is_rgb

    def read(self, window: Window, z: int = 0) -> Pixels:
        """Pixels of a window that lies in `frame.window`.

        Raises:
            GeometryError: A window or slice outside the frame.
            SourceError: The file is damaged there.
        """
        check_inside(window, z, self.frame, "slide")
        return self._pixels((self._grid.resampled or self._grid.level).pixels(window), window, self._aoi)

    def is_empty(self, window: Window, z: int = 0) -> bool:
        """True when it is known without decoding that no pixel of a window is valid."""
        grid = self._grid
        with self._lock:
            if self._aoi is not None and self._aoi.is_empty(window):
                return True
            return grid.level.is_empty(window) if grid.resampled is None else grid.resampled.is_empty(window)

    def overview_frame(self, max_side: int = 2048) -> Frame:
        """The grid of `overview`: the work grid, reduced by the least whole factor that fits `max_side` pixels."""
        return reduced(self.frame, max_side)[0]

    def overview(self, max_side: int = 2048) -> Pixels:
        """The whole work grid in at most `max_side` pixels a side: area averages of the level next finer.

        A slide without levels that is too large to decode for this gives the nearest pixels of a lattice of its blocks;
        pixels between these are not valid, nor are blocks that cannot be decoded. The result depends on the file and the
        settings only.
        """
        frame, factor = reduced(self.frame, max_side)
        aoi = None if self._area is None else AoiMask(self._area, frame)
        step = self._grid.step[0] * factor, self._grid.step[1] * factor
        level, _ = self._best_level(step)
        return self._pixels(self._reduce(level, frame, step), frame.window, aoi)

    def fingerprint(self) -> dict[str, Any]:
        """Size, time of change and SHA-256 of the first bytes, to notice that an input was replaced during a run."""
        path = self._path
        if os.path.isdir(path):  # an OME-Zarr folder: what describes the image stands for it
            marks = [os.path.join(path, mark) for mark in ("zarr.json", ".zattrs", ".zgroup")]
            path = next(mark for mark in marks if os.path.isfile(mark))
        return fingerprint_of(path)

    def describe(self) -> dict[str, Any]:
        """What the slide is and how it is read, as JSON values, for `seggeo info`."""
        facts, mpp = self._pyramid.facts, self.mpp
        missing = facts.levels[0].missing
        return {
            "path": self._name,
            "driver": facts.kind,
            "height": facts.levels[0].shape[0],
            "width": facts.levels[0].shape[1],
            "bands": len(facts.channels),
            "dtype": facts.dtype.name,
            "channels": list(facts.channels),
            "illumination": "brightfield" if facts.is_rgb else "fluorescence",
            "levels": [
                {"height": level.shape[0], "width": level.shape[1], "downsample": list(level.downsample),
                 "block": list(level.block)} for level in facts.levels
            ],
            "origin": [facts.origin[1], facts.origin[0]],
            "mpp": None if mpp is None else [mpp.row, mpp.col],
            "mpp_origin": None if mpp is None else mpp.origin,
            "sparse_blocks": 0 if missing is None else int(missing.sum()),
            **facts.notes,
            "read_bands": list(self.bands),
            "read_dtype": facts.dtype.name,
            "work_grid": self.frame.to_json(),
        }  # fmt: skip

    def close(self) -> None:
        """Close the file; the source may not be read afterwards."""
        self._cache.clear()
        self._pyramid.close()

    def __enter__(self) -> SlideSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path, self._reading, self._wish)

    def _lay(self, step: tuple[float, float], *, snap: bool) -> _Grid:
        level, number = self._best_level(step)
        within = step[0] / level.ratio[0], step[1] / level.ratio[1]
        if snap and max(abs(within[0] - 1), abs(within[1] - 1)) <= SAME_MPP:
            frame = scaled(self._file_frame, level.ratio, level=number)
            frame = replace(frame, height=level.shape[0], width=level.shape[1], level=number)
            return _Grid(frame=frame, step=level.ratio, level=level, resampled=None)
        frame = scaled(self._file_frame, step, level=number)
        return _Grid(frame=frame, step=step, level=level, resampled=self._resampled(level, frame, step))

    def _best_level(self, step: tuple[float, float]) -> tuple[SlideLevel, int]:
        """The smallest image of the pyramid that still has the resolution asked for, and its number."""
        levels = self._pyramid.facts.levels
        fine = [
            i for i, one in enumerate(levels) if all(d <= s * (1 + SAME_MPP) for d, s in zip(one.downsample, step, strict=True))
        ]
        number = max(fine, default=0, key=lambda i: (levels[i].downsample[0], -i))
        level = SlideLevel(
            self._pyramid, number, channels=self._channels, cache=self._cache, nodata=self._reading.nodata
        )  # fmt: skip
        return level, number

    def _reduce(self, level: SlideLevel, frame: Frame, step: tuple[float, float]) -> Decoded:
        missing = self._pyramid.facts.levels[0].missing
        share = 1.0 if missing is None else 1 - float(missing.mean())
        if is_cheap(as_level(level), share):
            with suppress(SourceError):  # a damaged block: the lattice leaves it out
                return self._resampled(level, frame, step).pixels(frame.window)
        within = step[0] / level.ratio[0], step[1] / level.ratio[1]
        data, valid = sample_level(as_level(level), shape=(frame.height, frame.width), step=within, share=share)
        return data.transpose(1, 2, 0), valid

    def _resampled(self, level: SlideLevel, frame: Frame, step: tuple[float, float]) -> SharedResampled:
        within = step[0] / level.ratio[0], step[1] / level.ratio[1]
        return SharedResampled(level, shape=(frame.height, frame.width), step=within, cache=self._cache)

    def _pixels(self, decoded: Decoded, window: Window, aoi: AoiMask | None) -> Pixels:
        data, valid = decoded
        if aoi is not None:
            with self._lock:
                valid &= aoi.read(window)
        return Pixels(data=data, valid=valid)


def _reopen(path: str, reading: Reading, wish: _Wish) -> SlideSource:
    return open_slide(
        path, reading, native=wish.native, mpp=wish.mpp, work_mpp=wish.work_mpp, channels=wish.channels
    )  # fmt: skip


def _asked(channels: tuple[str | int, ...] | None, reading: Reading) -> tuple[str | int, ...] | None:
    """The channels asked for, in either of two ways; a GSD is for maps."""
    if reading.gsd is not None:
        raise ConfigError(
            what=f"a GSD of {reading.gsd} m for a slide",
            why="slides are measured in um per pixel",
            mend="use --work-mpp for the micrometres per pixel to work at",
        )
    if channels is not None and reading.bands is not None:
        raise ConfigError(what="bands and channels", why="both choose what is read", mend="use one of --channel and --bands")
    return reading.bands if channels is None else channels

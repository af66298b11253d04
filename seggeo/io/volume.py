"""Volumes: stacks, NIfTI, DICOM, OME-Zarr and their like, as slices of a work grid along any axis.

1. A `VolumeFile` reads boxes of voxels (`volume_detect.open_volume_file` finds which); `View` turns its axes.
2. `Blocks` keeps what was decoded together, so that slices of one chunk are decoded once.
3. `VolumeSource` puts channels, or a slice and its neighbours, beside each other, says what is data, and shows the whole
   volume as one picture of slices side by side, from which the job's one stretch is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from math import ceil, isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import ConfigError, SeggeoWarning
from seggeo.geometry import Frame, Window
from seggeo.io.channels import choose_channels
from seggeo.io.frames import check_inside
from seggeo.io.volume_blocks import Blocks
from seggeo.io.volume_file import VolumeFacts, VolumeFile
from seggeo.io.volume_smooth import Smoothing, smoothing_for
from seggeo.io.volume_view import time_of, view_of
from seggeo.protocols import Pixels

OVERVIEW_SLICES = 16
"""Slices in the picture of the whole."""
_GOLDEN = (5**0.5 - 1) / 2
_NOISE_SIDE = 512
"""Side of the windows that noise is measured in, px."""
_OVERVIEW_VOXELS = 2**28
"""Voxels that are decoded for it at most, about."""


def open_volume(path: str, reading: Reading, *, native: bool) -> VolumeSource:
    """A source of the slices of a volume.

    Args:
        path: A file, a folder, or the address of an OME-Zarr.
        reading: Axis, time, channels and limits.
        native: True: the channels asked for, or all, in the file's dtype; False: three for an RGB model.

    Raises:
        SourceError: The input is missing, damaged, unsupported or refused by a limit.
        ConfigError: The settings do not fit this volume.
    """
    from seggeo.io.volume_detect import open_volume_file

    file = open_volume_file(path, reading)
    try:
        return VolumeSource(file, path=path, reading=reading, native=native)
    except BaseException:
        file.close()
        raise


class VolumeSource:
    """A `Source` over one volume; may be read from several threads, pickled as the recipe to open it again."""

    def __init__(self, file: VolumeFile, *, path: str, reading: Reading, native: bool) -> None:
        self._file, self._path, self._reading, self._native = file, path, reading, native
        self._name = path if path.isprintable() else repr(path)
        facts = file.facts
        self._view = view_of(facts, reading, self._name)
        self._blocks = Blocks(file, self._view, time_of(facts, reading, self._name))
        self._planes = self._chosen()
        self._shown: list[int] | None = None
        self._smoothing = None
        if reading.smooth and not native:
            frame = self._view.frame
            self._smoothing = Smoothing.of(reading.smooth, frame.spacing, is_series=frame.is_series)
        for text in facts.warnings:
            told = text.removeprefix(f"{self._name}: ")
            warnings.warn(SeggeoWarning(f"{self._name}: {told}"), stacklevel=1)  # from one place, so that it is heard once

    @property
    def frame(self) -> Frame:
        """The work grid; its placement leads to the world."""
        return self._view.frame

    @property
    def facts(self) -> VolumeFacts:
        """What the file says of itself, whichever way it is sliced."""
        return self._file.facts

    @property
    def reach(self) -> int:
        """Slices on either side from which a slice's pixels are made: its neighbours, and those it is smoothed with."""
        return self._reading.neighbours + (0 if self._smoothing is None else self._smoothing.slices)

    def is_missing(self, z: int) -> bool:
        """True for a slice that was lost."""
        return bool(self.facts.missing) and self._view.order[0] == 0 and z in self.facts.missing

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of what `read` gives, in order: channels, with the offset of the slice where neighbours are read."""
        names = self._file.facts.channels
        return tuple(names[channel] + (f" z{step:+d}" if step else "") for channel, step in self._planes)

    @property
    def is_brightfield(self) -> bool:
        """True for the three colours of a camera."""
        return self._file.facts.is_rgb

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` gives: the file's, or real numbers where it is smoothed and its values are to be stretched."""
        as_it_is = self._smoothing is None or self._reading.stretch == "none"
        return self._file.facts.dtype if as_it_is else np.dtype(np.float32)

    def noise_smoothing(self) -> float:
        """Sigma, px, of the Gaussian that the volume's noise wants, from whole slices or windows of them."""
        channel = self._planes[0][0]
        window = _central(self.frame.window, _NOISE_SIDE)
        return smoothing_for([self._valued(window, z, channel) for z in self.overview_slices()])

    def read(self, window: Window, z: int = 0) -> Pixels:
        """Pixels of a window that lies in `frame.window`, of slice `z`; neighbours beyond an end repeat the last slice.

        Raises:
            GeometryError: A window or slice outside the frame.
            SourceError: The file is damaged there.
        """
        check_inside(window, z, self.frame, "volume")
        data = np.empty((len(self._planes), *window.shape), self.dtype)
        done: dict[tuple[int, int], int] = {}
        for i, (channel, step) in enumerate(self._planes):
            at = min(max(z + step, 0), self.frame.depth - 1)
            if self.is_missing(at):
                at = z
            if (channel, at) in done:
                data[i] = data[done[channel, at]]
            else:
                data[i] = self._plane(window, at, channel)
                done[channel, at] = i
        if self._smoothing is None:
            return Pixels(data=data.transpose(1, 2, 0), valid=self._valid(data, window, z))
        own = np.stack([self._blocks.plane(window, z, channel) for channel in sorted({c for c, _ in self._planes})])
        return Pixels(data=data.transpose(1, 2, 0), valid=self._whole(own, window, z))

    def is_empty(self, window: Window, z: int = 0) -> bool:
        """True when it is known without decoding that a window of slice `z` holds nothing."""
        if self._smoothing is None or self.is_missing(z):
            return self.is_missing(z) or self._blocks.is_empty(window, z)
        wide, reach = window.grow(self._smoothing.margin, within=self.frame.window), self._smoothing.slices
        near = range(max(0, z - reach), min(self.frame.depth, z + reach + 1))
        return all(self.is_missing(at) or self._blocks.is_empty(wide, at) for at in near)

    def overview_slices(self) -> list[int]:
        """The slices that the overview shows, ascending: evenly spread over those that may hold something, none at the ends."""
        if self._shown is None:
            filled = [z for slab in self._filled_slabs() for z in slab if not self.is_missing(z)] or range(self.frame.depth)
            count = min(len(filled), OVERVIEW_SLICES)
            # Where much was never written, not in step with its blocks, whose first slices may all hold nothing.
            step = 0.0 if len(filled) == self.frame.depth else _GOLDEN
            places = (i + (0.5 + i * step) % 1 for i in range(count))
            self._shown = sorted({filled[int(place * len(filled) / count)] for place in places})
        return self._shown

    def overview(self, max_side: int = 2048) -> Pixels:
        """Slices side by side, each decimated to nearest voxels, in at most `max_side` pixels a side.

        Of slices too large to decode whole only a lattice of blocks is read; what lies between is not valid, nor is what
        nobody ever wrote, unless that is all there is: a stretch shall fit what is there.
        """
        slices = self.overview_slices()
        across = isqrt(len(slices) - 1) + 1
        cell = max(1, max_side // across)
        step = max(1, ceil(max(self.frame.height, self.frame.width) / cell))
        height, width = -(-self.frame.height // step), -(-self.frame.width // step)
        down = -(-len(slices) // across)
        data = np.zeros((down * height, across * width, len(self._planes)), self.dtype)
        valid = np.zeros(data.shape[:2], np.bool_)
        voxels = self.frame.height * self.frame.width * len({channel for channel, _ in self._planes})
        every = max(1, ceil((voxels * len(slices) / _OVERVIEW_VOXELS) ** 0.5))
        for i, z in enumerate(slices):
            row, col = i // across * height, i % across * width
            cell_of = np.s_[row : row + height, col : col + width]
            self._decimate(z, (step, every), data[cell_of], valid[cell_of])
        if not valid.any():
            valid[:] = np.isfinite(data).all(axis=2)
        return Pixels(data=data, valid=valid)

    def slice_overview(self, z: int, max_side: int) -> Pixels:
        """One slice decimated to nearest voxels, in at most `max_side` pixels a side."""
        step = max(1, ceil(max(self.frame.height, self.frame.width) / max_side))
        shape = -(-self.frame.height // step), -(-self.frame.width // step)
        data = np.zeros((*shape, len(self._planes)), self.dtype)
        valid = np.zeros(shape, np.bool_)
        self._decimate(z, (step, 1), data, valid)
        return Pixels(data=data, valid=valid)

    def fingerprint(self) -> dict[str, Any]:
        """To notice that an input was replaced during a run."""
        return self._file.fingerprint()

    def describe(self) -> dict[str, Any]:
        """What the volume is and how it is read, as JSON values, for `seggeo info`."""
        facts, frame = self._file.facts, self.frame
        return {
            "path": self._name, "driver": facts.kind, "depth": facts.shape[0], "height": facts.shape[1],
            "width": facts.shape[2], "axes": list(facts.axes), "bands": len(facts.channels), "dtype": facts.dtype.name,
            "channels": list(facts.channels), "times": facts.times, "space": facts.space or None, "unit": facts.unit,
            "spacing": np.linalg.norm(np.asarray(facts.matrix)[:, :3], axis=0).tolist(), "chunk": list(facts.chunk),
            "missing_slices": sorted(facts.missing), "nodata": facts.nodata, "warnings": list(facts.warnings), **facts.notes,
            "sliced_along": facts.axes[self._view.order[0]], "read_bands": list(self.bands), "read_dtype": facts.dtype.name,
            "work_grid": {k: v for k, v in frame.to_json().items() if k != "placement"},
        }  # fmt: skip

    def close(self) -> None:
        """Close the file; the source may not be read afterwards."""
        self._blocks.clear()
        self._file.close()

    def __enter__(self) -> VolumeSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._path, self._reading, self._native)

    def _chosen(self) -> tuple[tuple[int, int], ...]:
        """Channel and offset of the slice of every band."""
        facts, reach = self._file.facts, self._reading.neighbours
        named = self._reading.channel
        asked: tuple[str | int, ...] | None = self._reading.bands
        if named is not None:
            asked = tuple(int(c) if c.isdecimal() else c for c in named)
        if not reach:
            channels = choose_channels(
                facts.channels, asked, native=self._native, is_rgb=facts.is_rgb, name=self._name
            )  # fmt: skip
            return tuple((channel, 0) for channel in channels)
        channels = choose_channels(facts.channels, asked, native=True, is_rgb=False, name=self._name)
        if asked is None and len(channels) > 1:
            channels = channels[:1]
        steps = range(-reach, reach + 1)
        if not self._native and (reach != 1 or len(channels) != 1):
            raise ConfigError(
                what=f"{reach} neighbours of {len(channels)} channels for a model that takes red, green and blue",
                why="it sees three pictures: a slice of one channel, the one before and the one after",
                mend="use --neighbours 1 and one --channel, or a model with more bands",
            )
        return tuple((channel, step) for step in steps for channel in channels)

    def _filled_slabs(self) -> Iterator[range]:
        """Slices that are decoded together, of which one may hold something."""
        for first in range(0, self.frame.depth, self._blocks.shape[0]):
            slab = range(first, min(first + self._blocks.shape[0], self.frame.depth))
            if not self._blocks.is_empty(self.frame.window, slab[0], slab[-1] + 1):
                yield slab

    def _plane(self, window: Window, z: int, channel: int) -> NDArray[Any]:
        if self._smoothing is None:
            return self._blocks.plane(window, z, channel)

        def valued(wide: Window, at: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
            return self._valued(wide, at, channel)

        smoothed = self._smoothing.apply(valued, window, z, within=(self.frame.depth, self.frame.window))
        return smoothed if self.dtype.kind == "f" else np.rint(smoothed).astype(self.dtype)

    def _valued(self, window: Window, z: int, channel: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values and validity of one channel, `(h, w)`."""
        values = self._blocks.plane(window, z, channel)
        return values, self._whole(values[None], window, z)

    def _valid(self, data: NDArray[Any], window: Window, z: int) -> NDArray[np.bool_]:
        return self._whole(data[[i for i, (_, step) in enumerate(self._planes) if step == 0]], window, z)

    def _whole(self, own: NDArray[Any], window: Window, z: int) -> NDArray[np.bool_]:
        """Where no channel `(c, h, w)` of a slice is a hole: NaN, the nodata value, or a slice that was lost."""
        facts, order = self._file.facts, self._view.order
        valid = np.full(own.shape[1:], not self.is_missing(z))
        nodata = facts.nodata if self._reading.nodata is None else self._reading.nodata
        if own.dtype.kind == "f":
            valid &= np.isfinite(own).all(axis=0)
        if nodata is not None:
            valid &= (own != nodata).all(axis=0)
        if facts.missing and order[0] != 0:  # rows are the file's slices then
            lost = np.array(sorted(facts.missing)) - window.row
            valid[lost[(lost >= 0) & (lost < window.height)]] = False
        return valid

    def _decimate(
        self, z: int, steps: tuple[int, int], data: NDArray[Any], valid: NDArray[np.bool_]
    ) -> None:  # fmt: skip
        """Fill one cell of the overview from every `steps[1]`-th block, every `steps[0]`-th voxel."""
        step, every = steps
        _, height, width = self._blocks.shape
        rows = range(0, self.frame.height, height)[::every]
        cols = range(0, self.frame.width, width)[::every]
        for row in rows:
            for col in cols:
                stop = min(row + height, self.frame.height), min(col + width, self.frame.width)
                first = -(-row // step), -(-col // step)
                window = Window.from_bounds(row, col, *stop)
                down, right = slice(first[0], -(-stop[0] // step)), slice(first[1], -(-stop[1] // step))
                if down.start >= down.stop or right.start >= right.stop:
                    continue
                if self.is_empty(window, z):
                    continue
                pixels = self.read(window, z)
                picked = np.s_[first[0] * step - row :: step, first[1] * step - col :: step]
                data[down, right] = pixels.data[picked]
                valid[down, right] = pixels.valid[picked]


def _central(whole: Window, side: int) -> Window:
    """The middle of a slice, at most `side` px a side."""
    height, width = min(side, whole.height), min(side, whole.width)
    return Window(row=(whole.height - height) // 2, col=(whole.width - width) // 2, height=height, width=width)


def _reopen(path: str, reading: Reading, native: bool) -> VolumeSource:
    return open_volume(path, reading, native=native)

"""How a volume is looked at: which axis is sliced along, and the work grid that follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame, Placement, matrix_of
from seggeo.io.volume_file import Box, VolumeFacts

_PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""World axis of RAS and LPS that the slices of a plane follow each other along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Axes of a work grid and of the file it looks at."""

    order: tuple[int, int, int]
    """File axis of each of z, row and col."""
    frame: Frame

    def box(self, z: slice, rows: slice, cols: slice) -> Box:
        """A box of the work grid in the file's order of axes."""
        stretches: list[slice] = [z, rows, cols]
        for stretch, axis in zip((z, rows, cols), self.order, strict=True):
            stretches[axis] = stretch
        return stretches[0], stretches[1], stretches[2]


def view_of(facts: VolumeFacts, reading: Reading, name: str) -> View:
    """The view that is asked for.

    Raises:
        ConfigError: An axis, time or spacing that does not fit.
        SourceError: More pixels than the limit.
    """
    _check(facts, reading, name)
    first = _sliced_axis(facts, reading.axis or "z", name)
    second, third = (axis for axis in range(3) if axis != first)
    order = first, second, third
    depth, height, width = (facts.shape[axis] for axis in order)
    if depth * height * width > reading.max_pixels:
        raise SourceError(
            what=f"{name} claims {depth * height * width} voxels", why=f"the limit is {reading.max_pixels}",
            mend="add --max-pixels if you trust the file",
        )  # fmt: skip
    matrix, unit = np.asarray(facts.matrix, np.float64), facts.unit
    if reading.spacing is not None:
        matrix[:, :3] *= np.asarray(reading.spacing) / np.linalg.norm(matrix[:, :3], axis=0)
        unit = "um" if unit == "px" else unit
    placement = Placement(
        matrix=matrix_of(matrix[:, [*order, 3]]), space=facts.space, axes=order,
        header={"family": facts.family, "kind": facts.kind, **facts.header},
    )  # fmt: skip
    is_series = facts.axes[first] == "t"
    z_step, row_step, col_step = placement.spacing
    frame = Frame(
        depth=depth, height=height, width=width, spacing=(1.0 if is_series else z_step, row_step, col_step), unit=unit,
        placement=placement, is_series=is_series,
    )  # fmt: skip
    return View(order=order, frame=frame)


def time_of(facts: VolumeFacts, reading: Reading, name: str) -> int:
    """The 0-based time that is read.

    Raises:
        ConfigError: There are several and none is named, or there is no such one.
    """
    if facts.times == 1 and reading.time in (None, 1):
        return 0
    if reading.time is None or reading.time > facts.times:
        raise ConfigError(
            what=f"{name} holds {facts.times} volumes in time" + (f", and no {reading.time}" if reading.time else ""),
            why="one is segmented at a time, and which of them is meant would be a guess", mend="choose one, from 1: --time 1",
        )  # fmt: skip
    return reading.time - 1


def _sliced_axis(facts: VolumeFacts, axis: str, name: str) -> int:
    if axis == "z":
        return 0
    if facts.axes[0] == "t":
        raise ConfigError(
            what=f"--axis {axis} for {name}", why="it is a series in time, whose slices are its frames", mend="leave --axis out"
        )
    if axis in ("y", "x"):
        return ("z", "y", "x").index(axis)
    if facts.space not in ("RAS", "LPS"):
        raise ConfigError(
            what=f"--axis {axis} for {name}", why="the file does not say how a patient lies in it", mend="use --axis z, y or x"
        )
    columns = np.abs(np.asarray(facts.matrix)[:, :3])
    return int(np.argmax(columns[_PLANES[axis]] / np.linalg.norm(columns, axis=0)))


def _check(facts: VolumeFacts, reading: Reading, name: str) -> None:
    """Refuse what has no meaning for a volume."""
    asked = {
        "--gsd": reading.gsd, "--aoi": reading.aoi, "--mpp": reading.mpp,
        "--complex": None if facts.family == "nifti" else reading.complex,
        "--tissue": None if reading.tissue == "none" else reading.tissue,
        "--stain-norm": None if reading.stain_norm == "none" else reading.stain_norm,
        "--work-mpp": None if facts.family == "ome-zarr" else reading.work_mpp,  # it chooses among levels
    }  # fmt: skip
    given = [option for option, value in asked.items() if value is not None]
    if given:
        raise ConfigError(
            what=f"{' and '.join(given)} for {name}, a volume ({facts.kind})", why="that is for maps and slides",
            mend="leave it out; the size of voxels is said with --spacing Z,Y,X",
        )  # fmt: skip
    if facts.family != "dicom" and (reading.series is not None or reading.allow_gaps):
        raise ConfigError(
            what=f"{'--allow-gaps' if reading.series is None else '--series'} for {name}",
            why=f"that is for folders of DICOM, and it is {facts.kind}", mend="leave it out",
        )  # fmt: skip
    if min(facts.shape) < 1:
        raise SourceError(what=f"{name} has no voxels", why=f"its shape is {facts.shape}", mend="check it")

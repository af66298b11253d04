"""What the metadata of an OME-Zarr image say: axes, levels, and where voxels lie in the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import Row
from seggeo.io.mpp import to_um
from seggeo.io.slide_zarr import channel_names, is_camera
from seggeo.io.volume_file import VolumeFacts

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The levels of one image, full resolution first."""

    image: Mapping[str, Any]
    """An entry of multiscales."""
    arrays: tuple[Any, ...]
    axes: str
    """One capital letter for each dimension of the arrays."""

    def size(self, axis: str, level: int = 0) -> int:
        """Length of a level along an axis, 1 where it does not have it."""
        return int(self.arrays[level].shape[self.axes.index(axis)]) if axis in self.axes else 1

    def unit(self, axis: str) -> str | None:
        """Unit of an axis in the file's own word."""
        told = (self.image.get("axes") or [None] * len(self.axes))[self.axes.index(axis)] if axis in self.axes else None
        return str(told["unit"]) if isinstance(told, Mapping) and told.get("unit") else None

    @property
    def is_series(self) -> bool:
        """True where time is the only axis besides rows and columns."""
        return self.size("Z") == 1 and self.size("T") > 1


def choose_level(layout: Layout, reading: Reading) -> int:
    """Full resolution, or the coarsest level that is still as fine as the work grid of `reading.work_mpp`."""
    if reading.work_mpp is None:
        return 0
    full, is_length, _ = _steps(layout, 0)
    mpp = reading.mpp if reading.mpp is not None else max(full["Y"], full["X"]) if is_length else None
    if mpp is None:
        return 0
    fitting = 0
    for level in range(1, len(layout.arrays)):
        step = _steps(layout, level)[0]
        coarser = max(step[a] / full[a] for a in "YX")
        if mpp * coarser <= reading.work_mpp * (1 + _ROUNDING):
            fitting = level
    return fitting


def zarr_facts(layout: Layout, attributes: Mapping[str, Any], *, level: int, name: str) -> VolumeFacts:
    """The facts of one level.

    Raises:
        SourceError: Scales that give voxels no volume.
    """
    array, series = layout.arrays[level], layout.is_series
    steps, is_length, corner = _steps(layout, level)
    if not all(isfinite(v) for v in (*steps.values(), *corner.values())) or not all(steps.values()):
        raise SourceError(
            what=f"{name} has scales {list(steps.values())}", why="they give its voxels no size", mend="repair its metadata"
        )
    depth = layout.size("T" if series else "Z", level)
    first = (1.0, 0.0) if series else (steps["Z"], corner["Z"])
    matrix: tuple[Row, Row, Row] = (
        (0.0, 0.0, steps["X"], corner["X"]), (0.0, steps["Y"], 0.0, corner["Y"]), (first[0], 0.0, 0.0, first[1])
    )  # fmt: skip
    return VolumeFacts(
        kind=f"OME-Zarr {attributes.get('version', layout.image.get('version', ''))}".strip(),
        family="ome-zarr",
        shape=(depth, layout.size("Y", level), layout.size("X", level)),
        dtype=np.dtype(array.dtype).newbyteorder("="),
        axes=("t", "y", "x") if series else ("z", "y", "x"),
        channels=_channels(layout, attributes),
        is_rgb=is_camera(attributes, layout.arrays[0], layout.axes),
        times=1 if series else layout.size("T", level),
        matrix=matrix,
        unit="um" if is_length else "px",
        chunk=_chunk(layout, level, series=series),
        header={"axes": layout.axes.lower(), "level": level},
        notes=_notes(layout, level),
        warnings=_warnings(layout, is_length=is_length, steps=steps),
    )


def _steps(layout: Layout, level: int) -> tuple[dict[str, float], bool, dict[str, float]]:
    """Lengths of a voxel along z, y and x of a level, whether they are micrometres, and the centre of its first voxel."""
    scale, shift = _transform(layout, level)
    named = [axis for axis in "ZYX" if axis in layout.axes and (axis != "Z" or not layout.is_series)]
    factors = {axis: to_um(1.0, layout.unit(axis)) for axis in named}
    is_length = all(factor is not None for factor in factors.values())
    in_um = {axis: (factors.get(axis) or 1.0) if is_length else 1.0 for axis in "ZYX"}
    steps = {axis: scale.get(axis, 1.0) * in_um[axis] for axis in "ZYX"}
    return steps, is_length, {axis: shift.get(axis, 0.0) * in_um[axis] for axis in "ZYX"}


def _transform(layout: Layout, level: int) -> tuple[dict[str, float], dict[str, float]]:
    """Scale and translation of a level along each axis: its own, then those of all levels.

    A level that states none is taken to cover what the first one does.
    """
    own, common = (_stated(node, layout.axes) for node in (layout.image["datasets"][level], layout.image))
    if own is None and level > 0:
        scale, shift = _transform(layout, 0)
        ratios = {axis: layout.size(axis) / layout.size(axis, level) for axis in layout.axes}
        centred = {axis: shift[axis] + scale[axis] * (ratios[axis] - 1) / 2 for axis in layout.axes}
        return {axis: scale[axis] * ratios[axis] for axis in layout.axes}, centred
    ones, zeros = dict.fromkeys(layout.axes, 1.0), dict.fromkeys(layout.axes, 0.0)
    (scale, shift), (factor, origin) = own or (ones, zeros), common or (ones, zeros)
    return (
        {axis: scale[axis] * factor[axis] for axis in layout.axes},
        {axis: shift[axis] * factor[axis] + origin[axis] for axis in layout.axes},
    )


def _stated(node: Mapping[str, Any], axes: str) -> tuple[dict[str, float], dict[str, float]] | None:
    """The scale and translation of a list of transformations in their order; None where it has none."""
    scale, shift = np.ones(len(axes)), np.zeros(len(axes))
    steps = [step for step in node.get("coordinateTransformations") or () if step.get("type") in ("scale", "translation")]
    for step in steps:
        values = np.array([float(v) for v in step[step["type"]]])
        if len(values) != len(axes):
            raise ValueError(f"a {step['type']} of {len(values)} numbers for {len(axes)} axes")
        scale, shift = (scale * values, shift * values) if step["type"] == "scale" else (scale, shift + values)
    if not steps:
        return None
    return dict(zip(axes, scale.tolist(), strict=True)), dict(zip(axes, shift.tolist(), strict=True))


def _channels(layout: Layout, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    names = channel_names(attributes, layout.size("C"))
    return ("gray",) if names == ("band 1",) else names


def _chunk(layout: Layout, level: int, *, series: bool) -> tuple[int, int, int]:
    chunks: Sequence[int] = layout.arrays[level].chunks
    sizes = {axis: min(int(chunk), layout.size(axis, level)) for axis, chunk in zip(layout.axes, chunks, strict=True)}
    return sizes.get("T" if series else "Z", 1), sizes["Y"], sizes["X"]


def _notes(layout: Layout, level: int) -> dict[str, Any]:
    return {
        "axes": layout.axes.lower(), "level": level, "levels": [list(map(int, array.shape)) for array in layout.arrays],
        "stated_units": {axis.lower(): layout.unit(axis) for axis in layout.axes},
    }  # fmt: skip


def _warnings(layout: Layout, *, is_length: bool, steps: Mapping[str, float]) -> tuple[str, ...]:
    if is_length or set(steps.values()) == {1.0}:
        return ()
    lacking = [axis.lower() for axis in "ZYX" if axis in layout.axes and to_um(1.0, layout.unit(axis)) is None]
    sizes = " x ".join(f"{steps[axis]:.4g}" for axis in "ZYX")
    return (f"no unit of length is given for axis {', '.join(lacking)}; its voxels of {sizes} are measured in px",)

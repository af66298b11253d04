"""Planes put in order by where they lie, never by number or name, and the way from their voxels to the patient.

1. `_axes` checks that all planes look the same way and have the same pixels.
2. `_places` sorts them along their common normal; planes of one place are times, if every place has as many.
3. `_counted` counts the steps from place to place; what is not a whole step is refused, and missing steps unless allowed.
4. `_matrix` leads from (slice, row, column) to LPS mm. Slices that are displaced sideways (a tilted gantry) give a sheared one.

ImagePositionPatient is the only attribute that says where a plane lies: DICOM PS3.3, C.7.6.2.1.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.geometry import Row, matrix_of
from seggeo.io.volume_dicom_headers import TIME_KEYS, Plane

UNEVEN = 0.01
"""Part of a step by which one may differ from the others."""
_SAME = 1e-4
"""mm; positions nearer than this are one, since they are written with few digits."""
_TURN = 1e-3
_TILT = 0.1
_LISTED = 5
_REPEATED = ("TemporalPositionIdentifier", "EchoTime", "DiffusionBValue")
"""Keys whose values must come again at every place."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Planes of a volume in their places."""

    planes: tuple[tuple[Plane | None, ...], ...]
    """By time and place; None where a slice is missing."""
    matrix: tuple[Row, Row, Row]
    """LPS mm from (slice, row, column)."""
    missing: frozenset[int]
    warnings: tuple[str, ...]


def stacked(planes: Sequence[Plane], name: str, *, allow_gaps: bool) -> Stack:
    """The planes of a series as a regular stack.

    Raises:
        SourceError: They are of different kinds, several lie in one place, or they are not evenly spaced.
    """
    row_way, col_way, spacing = _axes(planes, name)
    normal = np.cross(row_way, col_way)
    positions = np.array([plane.position for plane in planes], np.float64)
    groups = _places(positions, normal, name)
    first = positions[[group[0] for group in groups]]
    index = _counted(first @ normal, name, allow_gaps=allow_gaps)
    step, told = _step(first, index, normal, (planes[0].thickness, name))
    ordered, order_told = _in_time([[planes[i] for i in group] for group in groups], name)
    depth = int(index[-1]) + 1
    times = []
    for volume in ordered:
        slots: list[Plane | None] = [None] * depth
        for place, plane in zip(index, volume, strict=True):
            slots[int(place)] = plane
        times.append(tuple(slots))
    matrix = np.stack([step, col_way * spacing[0], row_way * spacing[1], first[0]], axis=1)
    missing = frozenset(range(depth)) - {int(i) for i in index}
    gone = (f"{len(missing)} of {depth} slices are missing and hold no data",) if missing else ()
    return Stack(planes=tuple(times), matrix=matrix_of(matrix), missing=missing, warnings=(*told, *order_told, *gone))


def _axes(planes: Sequence[Plane], name: str) -> tuple[Floats, Floats, tuple[float, float]]:
    """Unit vectors along a row and down a column, and the spacing of rows and columns."""
    layouts = {plane.layout.shape for plane in planes}
    kinds = {(p.layout.samples, p.layout.photometric, p.layout.is_signed, p.layout.is_float) for p in planes}
    if len(layouts) > 1 or len(kinds) > 1:
        sizes = ", ".join(f"{rows} x {cols}" for rows, cols in sorted(layouts))
        raise _mixed(name, f"it has images of {sizes}" if len(layouts) > 1 else "it mixes kinds of pixels")
    if any(plane.orientation is None or plane.spacing is None for plane in planes):
        raise _mixed(name, "some of its images lack an orientation or a pixel spacing")
    ways = np.array([plane.orientation for plane in planes])
    if np.abs(ways - ways[0]).max() > _TURN:
        count = len(np.unique(np.round(ways, 2), axis=0))
        raise _mixed(name, f"its images lie in {max(count, 2)} different orientations, such as a scout beside a scan")
    sides = np.array([plane.spacing for plane in planes])
    if np.abs(sides / sides[0] - 1).max() > _TURN:
        raise _mixed(name, f"its pixels measure {sides.min():g} to {sides.max():g} mm")
    row_way, col_way = ways[0, :3], ways[0, 3:]
    lengths = np.linalg.norm(row_way), np.linalg.norm(col_way)
    if max(abs(length - 1) for length in lengths) > _TURN or abs(row_way @ col_way) > _TURN:
        raise _mixed(name, f"its orientation {ways[0].tolist()} is not two unit vectors at right angles")
    return row_way / lengths[0], col_way / lengths[1], (float(sides[0, 0]), float(sides[0, 1]))


def _places(positions: Floats, normal: Floats, name: str) -> list[NDArray[np.int64]]:
    """Numbers of the planes of each place, along the normal."""
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    apart = steps[steps > max(_SAME, UNEVEN * float(steps.max(initial=0.0)))]  # times of one place may differ in the last digit
    near = max(_SAME, UNEVEN * float(np.median(apart))) if len(apart) else _SAME
    groups = np.split(order, np.flatnonzero(steps > near) + 1)
    for group in groups:
        spread = float(np.ptp(positions[group], axis=0).max())
        if spread > 2 * near:
            raise _mixed(name, f"at {along[group[0]]:.2f} mm along the stack images lie {spread:.2f} mm apart, side by side")
    counts = sorted({len(group) for group in groups})
    if len(counts) > 1:
        crowded = [f"{along[group[0]]:.2f} mm" for group in groups if len(group) == counts[-1]]
        raise _mixed(
            name, f"places have {counts[0]} to {counts[-1]} images, the most at {', '.join(crowded[:_LISTED])} along the stack"
        )
    return groups


def _counted(along: Floats, name: str, *, allow_gaps: bool) -> NDArray[np.int64]:
    """Steps from the first place to each."""
    if len(along) == 1:
        return np.zeros(1, np.int64)
    steps = np.diff(along)
    one = float(np.median(steps))
    counts, uneven = _whole(steps, one)
    if uneven.any():  # where most slices are missing the usual step is several
        small = float(steps.min())
        small_counts, is_odd = _whole(steps, small)
        if not is_odd.any() and (small_counts - 1).sum() <= len(along):
            one, counts, uneven = small, small_counts, is_odd
    if uneven.any():
        where = [f"{steps[i]:.3f} mm after {along[i]:.2f} mm" for i in np.flatnonzero(uneven)[:_LISTED]]
        raise SourceError(
            what=f"the slices of {name} are not evenly spaced",
            why=f"the step is {one:.3f} mm, but {'; '.join(where)} along the stack"
            + (f" and {int(uneven.sum()) - _LISTED} more" if uneven.sum() > _LISTED else ""),
            mend="split the series where its spacing changes, or resample it to even slices first",
        )
    gaps = np.flatnonzero(counts > 1)
    if len(gaps) and not allow_gaps:
        where = [f"{counts[i] - 1} between {along[i]:.2f} and {along[i + 1]:.2f} mm" for i in gaps[:_LISTED]]
        raise SourceError(
            what=f"{int((counts - 1).sum())} slices of {name} are missing",
            why=f"at a step of {one:.3f} mm along the stack: {', '.join(where)}"
            + (f" and {len(gaps) - _LISTED} more gaps" if len(gaps) > _LISTED else ""),
            mend="copy the series again, or use --allow-gaps: missing slices then hold no data",
        )
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _whole(steps: Floats, one: float) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How many times `one` each step is, and where it is not a whole number of times."""
    counts = np.rint(steps / one).astype(np.int64)
    return counts, (np.abs(steps - counts * one) > UNEVEN * one + _SAME) | (counts < 1)


def _step(
    first: Floats, index: NDArray[np.int64], normal: Floats, facts: tuple[float | None, str]
) -> tuple[Floats, tuple[str, ...]]:
    """The way from a slice to the next, and what to tell of it."""
    thickness, name = facts
    if len(first) == 1:
        told = () if thickness else ("one slice without a thickness: taken as 1 mm",)
        return normal * (thickness or 1.0), told
    step = (first[-1] - first[0]) / index[-1]
    off = np.linalg.norm(first - (first[0] + index[:, None] * step), axis=1)
    length = float(np.linalg.norm(step))
    if off.max() > UNEVEN * length + 2 * _SAME:
        raise SourceError(
            what=f"the slices of {name} do not lie on a straight line", why=f"one lies {off.max():.3f} mm beside it",
            mend="split the series, or resample it to one stack first",
        )  # fmt: skip
    angle = math.degrees(math.acos(min(1.0, abs(float(step @ normal)) / length)))
    if angle < _TILT:
        return step, ()
    return step, (f"gantry tilt: slices are displaced {angle:.2f} degrees from their normal; world coordinates follow it",)


def _in_time(places: list[list[Plane]], name: str) -> tuple[list[list[Plane]], tuple[str, ...]]:
    """The planes of each volume in time, by place."""
    count = len(places[0])
    if count == 1:
        return [[place[0] for place in places]], ()
    for key, label in enumerate(TIME_KEYS):
        values = [[plane.times[key] for plane in place] for place in places]
        if all(None not in row and len(set(row)) == count for row in values) and (
            label not in _REPEATED or all(set(row) == set(values[0]) for row in values)
        ):
            ordered = [sorted(place, key=lambda plane, k=key: plane.times[k]) for place in places]  # type: ignore[misc]
            volumes = [[place[time] for place in ordered] for time in range(count)]
            return volumes, (f"{count} volumes in one place, told apart by {label}",)
    raise _mixed(name, f"every place has {count} images, and nothing in them says which belong together")


def _mixed(name: str, why: str) -> SourceError:
    return SourceError(
        what=f"the images of {name} are not one volume", why=why,
        mend="copy the images of one volume to a folder of their own",
    )  # fmt: skip

"""The labels as a pyramid in an OME-Zarr folder (OME-NGFF 0.4), which napari, QuPath, Fiji and GDAL open.

    NAME_labels.ome.zarr/           an image whose levels are those below: for readers that know images alone
        labels/objects/             the same levels as labels of that image
            0/ROW/COL ... N/0/0     blocks of 512 px, deflate; where there is no object there is no file
            0/Z/ROW/COL ...         of a volume: chunks of up to 32 x 256 x 256 voxels, in the order of the input's axes

Every level holds ids of level 0 only; those of an image are equal to the label COG's: `Pyramid` makes both. The labels are not
the root itself, since readers look for the image two folders above labels, and napari's plug-in makes one there that is empty.
What is written is small enough to need no library: a JSON text for each group and array, and a file for each block.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.features import provenance_text
from seggeo.output.labels import drawn
from seggeo.output.ome_zarr_volume import LEVEL, VolumeLevel, VolumeLevels, volume_levels
from seggeo.output.pyramid import BLOCK, Block, Pyramid
from seggeo.output.volume_labels import FileGrid, filed, is_volume
from seggeo.protocols import Result, SinkOptions

_VERSION = "0.4"
_LABELS = "labels/objects"
_UNITS = {"um": "micrometer", "mm": "millimeter", "m": "meter"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """One array: its sizes, and where its pixels lie along each axis."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]


def write_ome_zarr(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as a uint32 OME-Zarr folder and return `path`.

    Scales are steps of the work grid in its unit. On slides translations place pixel centres in the frame whose origin is the
    centre of the first full-resolution pixel; on volumes in the world, where the axes run along its own, else from the first
    voxel. `seggeo` in the root's attributes holds the transform from (col, row) of level 0 to full resolution or the map, of
    a volume the placement, and the provenance. Same result, same bytes.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    with publishing(path, options.scratch) as temporary:
        if is_volume(result.frame):
            _write_volume(temporary, result)
        else:
            _write_plane(temporary, result)
    return path


def _write_plane(root: Path, result: Result) -> None:
    labels = root / _LABELS
    pyramid = Pyramid(result.frame, lambda *block: _write_block(labels, *block))
    _write_metadata(root, result, _plane(result.frame, pyramid.shapes))
    for row, col, block in drawn(result):
        pyramid.put(row, col, block)
    pyramid.finish()


def _write_volume(root: Path, result: Result) -> None:
    frame, grid = result.frame, FileGrid.of(result.frame)
    levels = volume_levels(grid.shape, grid.spacing, is_series=frame.is_series)
    _write_metadata(root, result, _volume(frame, grid, levels))
    volume = VolumeLevels(root / _LABELS, levels)
    for z, row, col, block in filed(result, root.parent):
        volume.put(z, row, col, block)
    volume.finish()


def is_ours(path: Path) -> bool:
    """True for a folder that `write_ome_zarr` made, which may be replaced as a whole."""
    try:
        return "seggeo" in json.loads((path / ".zattrs").read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _write_block(labels: Path, level: int, row: int, col: int, block: Block) -> None:
    folder = labels / str(level) / str(row)
    folder.mkdir(exist_ok=True)
    (folder / str(col)).write_bytes(zlib.compress(block.astype("<u4", copy=False).tobytes(), LEVEL))


def _write_metadata(root: Path, result: Result, levels: Sequence[_Level]) -> None:
    frame = result.frame
    axes = _axes(frame)
    about = {"provenance": json.loads(provenance_text(result)), "transform": list(frame.transform)[:6], "crs": frame.crs}
    if frame.placement is not None:
        about["placement"] = {**frame.placement.to_json(), "header": {}}
    _write_group(root, {"multiscales": [_multiscales(axes, levels, f"{_LABELS}/")], "seggeo": about})
    _write_group(root / "labels", {"labels": [_LABELS.removeprefix("labels/")]})
    label = {"version": _VERSION, "source": {"image": "../../"}}
    _write_group(root / _LABELS, {"multiscales": [_multiscales(axes, levels, "")], "image-label": label})
    for number, level in enumerate(levels):
        _write_array(root / _LABELS / str(number), level, [axis["name"] for axis in axes])


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    folder.mkdir()
    _write_json(folder / ".zgroup", {"zarr_format": 2})
    _write_json(folder / ".zattrs", attributes)


def _write_array(folder: Path, level: _Level, axes: Sequence[str]) -> None:
    folder.mkdir()
    layout = {
        "zarr_format": 2, "shape": level.shape, "chunks": level.chunks, "dtype": "<u4", "order": "C", "fill_value": 0,
        "compressor": {"id": "zlib", "level": LEVEL}, "filters": None, "dimension_separator": "/",
    }  # fmt: skip
    _write_json(folder / ".zarray", layout)
    _write_json(folder / ".zattrs", {"_ARRAY_DIMENSIONS": axes})  # names of the axes for xarray and GDAL


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _axes(frame: Frame) -> list[dict[str, str]]:
    unit = {"unit": _UNITS[frame.unit]} if frame.unit in _UNITS else {}
    plane = [{"name": name, "type": "space", **unit} for name in "yx"]
    if not is_volume(frame):
        return plane
    return [{"name": "t", "type": "time"} if frame.is_series else {"name": "z", "type": "space", **unit}, *plane]


def _multiscales(axes: Sequence[Mapping[str, str]], levels: Sequence[_Level], folder: str) -> dict[str, Any]:
    """Axes, and size and place of the pixels of every level; `folder` leads from the group to the arrays."""
    deep = any(upper.shape[0] < lower.shape[0] for lower, upper in pairwise(levels)) and len(axes) == 3
    return {
        "version": _VERSION, "name": "instance id", "type": "mode of 2 x 2 x 2" if deep else "mode of 2 x 2",
        "axes": list(axes),
        "datasets": [
            {
                "path": f"{folder}{number}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": level.scale}, {"type": "translation", "translation": level.shift}
                ],
            }
            for number, level in enumerate(levels)
        ],
    }  # fmt: skip


def _plane(frame: Frame, shapes: Sequence[tuple[int, int]]) -> list[_Level]:
    steps = [(2**level, 2**level) for level in range(len(shapes))]
    first, spacing = _first_centre(frame), frame.spacing[1:]
    start = tuple(place * size for place, size in zip(first, spacing, strict=True))
    return [_placed(shape, (BLOCK, BLOCK), step, spacing, start) for shape, step in zip(shapes, steps, strict=True)]


def _volume(frame: Frame, grid: FileGrid, levels: Sequence[VolumeLevel]) -> list[_Level]:
    spacing = (1.0, *grid.spacing[1:]) if frame.is_series else grid.spacing
    start = _origin(frame, grid)
    return [_placed(level.shape, level.chunk, level.step, spacing, start) for level in levels]


def _placed(
    shape: tuple[int, ...], chunks: tuple[int, ...], step: tuple[int, ...], spacing: tuple[float, ...], start: tuple[float, ...]
) -> _Level:
    """A level whose pixels are `step` pixels of the work grid wide; `start` is the centre of the grid's first one."""
    scale = tuple(n * size for n, size in zip(step, spacing, strict=True))
    shift = tuple(first + (n - 1) / 2 * size for first, n, size in zip(start, step, spacing, strict=True))
    return _Level(shape=shape, chunks=chunks, scale=scale, shift=shift)


def _origin(frame: Frame, grid: FileGrid) -> tuple[float, ...]:
    """World z, y and x of the first voxel; zeros where the axes do not run along those of the world, and upwards."""
    steps = grid.matrix[::-1, :3]  # z, y and x of a step along each axis
    if frame.placement is None or (np.diag(steps) <= 0).any() or (steps - np.diag(np.diag(steps))).any():
        return 0.0, 0.0, 0.0
    z, y, x = (float(v) for v in grid.matrix[::-1, 3])
    return 0.0 if frame.is_series else z, y, x


def _first_centre(frame: Frame) -> tuple[float, float]:
    """Row and col of the first pixel's centre in work-grid pixels, counted from the centre of the slide's first pixel."""
    t = frame.transform
    if frame.crs is not None or frame.unit not in ("um", "mm") or t.b or t.d or min(t.a, t.e) <= 0:
        return 0.0, 0.0
    return (t.f - 0.5) / t.e + 0.5, (t.c - 0.5) / t.a + 0.5

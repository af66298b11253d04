"""The label raster as a pyramid in an OME-Zarr folder (OME-NGFF 0.4), which napari, QuPath, Fiji and GDAL open.

    NAME_labels.ome.zarr/           an image whose levels are those below: for readers that know images alone
        labels/objects/             the same levels as labels of that image
            0/ROW/COL ... N/0/0     blocks of 512 px, deflate; where there is no object there is no file

Every level holds ids of level 0 only and is equal to that of the label COG: `Pyramid` makes both. The labels are not the
root itself, since readers look for the image two folders above labels, and napari's plug-in makes one there that is empty.
What is written is small enough to need no library: a JSON text for each group and array, and a file for each block.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.features import provenance_text
from seggeo.output.labels import check_plane, drawn
from seggeo.output.pyramid import BLOCK, Block, Pyramid
from seggeo.protocols import Result, SinkOptions

_VERSION = "0.4"
_LABELS = "labels/objects"
_UNITS = {"um": "micrometer", "mm": "millimeter", "m": "meter"}
_LEVEL = 3
"""Of deflate: whole ids repeat, so 1 takes as long and leaves 1.4 times the bytes, 6 takes 3 times as long for 0.65 of them."""


def write_ome_zarr(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as a uint32 OME-Zarr folder and return `path`.

    Scales are steps of the work grid in its unit. On slides translations place pixel centres in the frame whose origin is the
    centre of the first full-resolution pixel. `seggeo` in the root's attributes holds the transform from (col, row) of
    level 0 to full resolution or the map, and the provenance. Same result, same bytes.

    Raises:
        OutputError: The result has several slices, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    check_plane(result, path, "label image")
    with publishing(path, options.scratch) as temporary:
        labels = temporary / _LABELS
        pyramid = Pyramid(result.frame, lambda *block: _write_block(labels, *block))
        _write_metadata(temporary, result, pyramid.shapes)
        for row, col, block in drawn(result):
            pyramid.put(row, col, block)
        pyramid.finish()
    return path


def is_ours(path: Path) -> bool:
    """True for a folder that `write_ome_zarr` made, which may be replaced as a whole."""
    try:
        return "seggeo" in json.loads((path / ".zattrs").read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def _write_block(labels: Path, level: int, row: int, col: int, block: Block) -> None:
    folder = labels / str(level) / str(row)
    folder.mkdir(exist_ok=True)
    (folder / str(col)).write_bytes(zlib.compress(block.astype("<u4", copy=False).tobytes(), _LEVEL))


def _write_metadata(root: Path, result: Result, shapes: Sequence[tuple[int, int]]) -> None:
    frame = result.frame
    provenance = json.loads(provenance_text(result))
    about = {"provenance": provenance, "transform": list(frame.transform)[:6], "crs": frame.crs}
    _write_group(root, {"multiscales": [_multiscales(frame, len(shapes), f"{_LABELS}/")], "seggeo": about})
    _write_group(root / "labels", {"labels": [_LABELS.removeprefix("labels/")]})
    label = {"version": _VERSION, "source": {"image": "../../"}}
    _write_group(root / _LABELS, {"multiscales": [_multiscales(frame, len(shapes), "")], "image-label": label})
    for level, shape in enumerate(shapes):
        _write_array(root / _LABELS / str(level), shape)


def _write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    folder.mkdir()
    _write_json(folder / ".zgroup", {"zarr_format": 2})
    _write_json(folder / ".zattrs", attributes)


def _write_array(folder: Path, shape: tuple[int, int]) -> None:
    folder.mkdir()
    layout = {
        "zarr_format": 2, "shape": list(shape), "chunks": [BLOCK, BLOCK], "dtype": "<u4", "order": "C", "fill_value": 0,
        "compressor": {"id": "zlib", "level": _LEVEL}, "filters": None, "dimension_separator": "/",
    }  # fmt: skip
    _write_json(folder / ".zarray", layout)
    _write_json(folder / ".zattrs", {"_ARRAY_DIMENSIONS": ["y", "x"]})  # names of the axes for xarray and GDAL


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _multiscales(frame: Frame, levels: int, folder: str) -> dict[str, Any]:
    """Axes, and size and place of the pixels of every level; `folder` leads from the group to the arrays."""
    unit = {"unit": _UNITS[frame.unit]} if frame.unit in _UNITS else {}
    return {
        "version": _VERSION, "name": "instance id", "type": "mode of 2 x 2",
        "axes": [{"name": name, "type": "space", **unit} for name in "yx"],
        "datasets": [
            {"path": f"{folder}{level}", "coordinateTransformations": _placement(frame, 2**level)} for level in range(levels)
        ],
    }  # fmt: skip


def _placement(frame: Frame, step: int) -> list[dict[str, Any]]:
    """Scale, then translation, of a level whose pixels are `step` pixels of the work grid wide."""
    spacing, first = frame.spacing[1:], _first_centre(frame)
    scale = [step * size for size in spacing]
    shift = [(start + (step - 1) / 2) * size for start, size in zip(first, spacing, strict=True)]
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]


def _first_centre(frame: Frame) -> tuple[float, float]:
    """Row and col of the first pixel's centre in work-grid pixels, counted from the centre of the slide's first pixel."""
    t = frame.transform
    if frame.crs is not None or frame.unit not in ("um", "mm") or t.b or t.d or min(t.a, t.e) <= 0:
        return 0.0, 0.0
    return (t.f - 0.5) / t.e + 0.5, (t.c - 0.5) / t.a + 0.5

"""What a TIFF says of the volume inside it: channels and the size of its voxels, from OME, ImageJ, LSM or plain tags."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from seggeo.errors import SourceError
from seggeo.geometry import Row
from seggeo.io.channels import are_colours
from seggeo.io.mpp import number, to_um
from seggeo.io.slide_tiff_facts import check_kind
from seggeo.io.slide_tiff_text import OmeImage, lsm_claims, ome_images, pick_ome, rational, tag_claims
from seggeo.io.volume_file import VolumeFacts
from seggeo.io.volume_tiff_layout import Stack

_RGB, _YCBCR = 2, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Micrometres of a voxel, None where the file does not say."""

    z: float | None = None
    row: float | None = None
    col: float | None = None


def tiff_volume_facts(
    tif: Any, stack: Stack, *, chunk: tuple[int, int], missing: frozenset[int], name: str
) -> VolumeFacts:  # fmt: skip
    """What a TIFF says about the volume inside it.

    Args:
        tif: tifffile's handle.
        stack: Which planes it is made of.
        chunk: Rows and columns that are decoded together.
        missing: Slices without pixels.
        name: The file, for errors.

    Raises:
        SourceError: Neither gray values nor colours, or one of several files of an image.
    """
    keyframe = stack.keyframe
    check_kind(keyframe, name)
    height, width = int(keyframe.imagelength), int(keyframe.imagewidth)
    ome = pick_ome(ome_images(tif.ome_metadata, name), (height, width), stack.index) if tif.is_ome else None
    if ome is not None and len(ome.files) > 1:
        raise SourceError(
            what=f"{name} is one of {len(ome.files)} files of an image",
            why="its other planes lie in files that it names, and seggeo opens no file that another one names",
            mend="write them as one file: bfconvert IN OUT.ome.tif",
        )
    channels, is_rgb = _channels(tif, ome, stack)
    sizes = _sizes(tif, ome, keyframe)
    steps, unit, said = _steps(sizes, stack)
    z, row, col = steps
    matrix: tuple[Row, Row, Row] = ((0.0, 0.0, col, 0.0), (0.0, row, 0.0, 0.0), (z, 0.0, 0.0, 0.0))
    return VolumeFacts(
        kind=stack.kind,
        family="tiff",
        shape=(stack.size("T" if stack.is_series else "Z"), height, width),
        dtype=np.dtype(keyframe.dtype).newbyteorder("="),
        axes=("t", "y", "x") if stack.is_series else ("z", "y", "x"),
        channels=channels,
        is_rgb=is_rgb,
        times=1 if stack.is_series else stack.size("T"),
        matrix=matrix,
        unit=unit,
        chunk=(1, *chunk),
        missing=missing,
        header={"is_ome": bool(tif.is_ome), "is_imagej": bool(tif.is_imagej)},
        notes=_notes(tif, stack, sizes),
        warnings=said,
    )


def _channels(tif: Any, ome: OmeImage | None, stack: Stack) -> tuple[tuple[str, ...], bool]:
    count, samples = stack.size("C") * stack.samples, stack.samples
    camera = stack.keyframe.photometric in (_RGB, _YCBCR) and stack.size("C") == 1 and samples >= 3
    if camera:
        return ("red", "green", "blue", *(f"band {i}" for i in range(4, count + 1))), True
    names: tuple[str, ...] = ()
    if ome is not None:
        names = ome.channels
    elif tif.is_lsm:
        names = tuple(map(str, (tif.lsm_metadata or {}).get("ChannelColors", {}).get("ColorNames", ())))
    if len(names) != count or not any(names):
        return (("gray",) if count == 1 else tuple(f"band {i}" for i in range(1, count + 1))), False
    told = tuple(text or f"band {i}" for i, text in enumerate(names, 1))
    return told, stack.keyframe.dtype == np.uint8 and are_colours(told)


def _sizes(tif: Any, ome: OmeImage | None, page: Any) -> _Sizes:
    """The file's own statement, the most trusted first; resolutions of printers are left out as with slides."""
    if ome is not None:
        return _Sizes(z=ome.slice_um, row=ome.mpp[0], col=ome.mpp[1])
    if tif.is_lsm:
        told = lsm_claims(tif.lsm_metadata or {})
        z = to_um(number((tif.lsm_metadata or {}).get("VoxelSizeZ")), "m")
        return _Sizes(z=z, row=told[0].row, col=told[0].col) if told else _Sizes(z=z)
    if tif.is_imagej:
        text = tif.imagej_metadata or {}
        unit, spacing = str(text.get("unit", "")), number(text.get("spacing"))
        cols, rows = (rational(page.tags.valueof(tag)) for tag in (282, 283))
        return _Sizes(
            z=to_um(None if spacing is None else abs(spacing), unit),
            row=to_um(1 / rows if rows else None, unit),
            col=to_um(1 / cols if cols else None, unit),
        )
    told = tag_claims(page)
    return _Sizes(row=told[0].row, col=told[0].col) if told else _Sizes()


def _steps(sizes: _Sizes, stack: Stack) -> tuple[tuple[float, float, float], str, tuple[str, ...]]:
    """Steps along the axes, their unit, and what the user should hear."""
    said = () if stack.is_named else (f"nothing says what its {stack.size('Z')} pages are; they are taken as slices",)
    row, col = sizes.row or sizes.col, sizes.col or sizes.row
    if row is None or col is None or not (isfinite(row) and isfinite(col)):
        return (1.0, 1.0, 1.0), "px", said
    if stack.is_series:
        return (1.0, row, col), "um", said
    if sizes.z is None or not isfinite(sizes.z):
        unsaid = f"the distance of its slices is not known; that of its rows, {row:.4g} um, is taken"
        return (row, row, col), "um", (*said, unsaid)
    return (sizes.z, row, col), "um", said


def _notes(tif: Any, stack: Stack, sizes: _Sizes) -> dict[str, Any]:
    interval = number((tif.imagej_metadata or {}).get("finterval")) if tif.is_imagej else None
    return {
        "axes": "".join(axis for axis, _ in stack.pages).lower() + "yx", "stated_um": [sizes.z, sizes.row, sizes.col],
        "compression": getattr(stack.keyframe.compression, "name", "NONE"), "time_step_s": interval,
    }  # fmt: skip

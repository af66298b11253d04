"""What a user is told once, when the job is planned: places that cannot be, and speed at the price of equal numbers."""

from __future__ import annotations

from collections.abc import Iterator

from pyproj import CRS

from seggeo.geometry import Frame
from seggeo.protocols import ModelInfo, ModelRequest

_POLE = 1.5708 + 1e-4
"""Latitude that none exceeds, radians, and a little more."""
_KEPT = {
    "sam": "the image encoder computes in bfloat16 and the decoder in float32; segment-anything-fast publishes a change of "
    "mIoU of at most 0.003 for that",
    "maskrcnn": "its layers compute in bfloat16, boxes and the logits of masks in float32; no change of accuracy is published",
    "unet": "its layers compute in bfloat16, objects are gathered in float32; no change of accuracy is published",
}
"""By model, what stays exact under `--autocast`, and what is known of the rest."""


def place_notice(frame: Frame) -> str | None:
    """What is to be said of where an image lies; None where nothing is."""
    if frame.crs is None:
        if frame.unit != "px":
            return None
        if frame.placement is not None:
            return "does not say the size of its voxels, and lengths are in voxels: say it with --spacing Z,Y,X"
        whose = "and areas" if frame.is_upright else "are those of its transform, areas"
        return f"has no CRS: coordinates {whose} are in pixels"
    crs = CRS.from_wkt(frame.crs)
    if not crs.is_geographic:
        return None
    rows, cols = [0, 0, frame.height, frame.height], [0, frame.width, 0, frame.width]
    most = abs(frame.pixel_to_world(rows, cols)[1]).max()
    if most * crs.axis_info[0].unit_conversion_factor <= _POLE:
        return None
    return (
        f"has coordinates in degrees by its CRS ({crs.name}), but latitudes up to {most:.6g}: the CRS is probably that of "
        "another map, and areas in metres will be wrong; mend it with gdal_edit.py -a_srs EPSG:CODE FILE"
    )


def faster_notices(info: ModelInfo, request: ModelRequest) -> Iterator[str]:
    """A line for each of `--autocast` and `--compile` that was asked for: what it does to the results, or that it is not used.

    Args:
        info: Of the open model.
        request: What was asked of it.
    """
    if request.autocast:
        yield f"--autocast: {_autocast(info)}"
    if request.compile and "compile" in info.faster:
        yield (
            "--compile: the first tiles of every process are slower, and again those of another size at the image's edges; "
            "results are equal up to rounding, so tiles predicted without it are not mixed in"
        )
    elif request.compile:
        yield f"--compile: {_unused(info)}"


def _autocast(info: ModelInfo) -> str:
    if "autocast" not in info.faster:
        return _unused(info)
    kept = _KEPT.get(info.name, "no change of accuracy is published")
    slow = "; without AMX or AVX512-BF16 a CPU is slower in bfloat16 than in float32" if info.device == "cpu" else ""
    return f"results are approximate: {kept}; compare with seggeo evaluate before you trust it{slow}"


def _unused(info: ModelInfo) -> str:
    return f"{info.name} has no use for it and predicts as without"

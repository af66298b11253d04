"""OME-Zarr images (versions 0.4 and 0.5) in local folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from seggeo.errors import SourceError
from seggeo.io.channels import are_colours
from seggeo.io.mpp import Claim, claim, to_um
from seggeo.io.slide_array import READ_ERRORS, ArrayPyramid, array_block, array_slicer, check_axes
from seggeo.io.slide_pyramid import PyramidLevel, SlideFacts, check_block_bytes, damaged_slide
from seggeo.io.zarr_guard import guarded

_MARKS = (".zattrs", ".zgroup", "zarr.json")


def is_zarr(path: str) -> bool:
    """True for a folder that holds a Zarr group."""
    return any(os.path.isfile(os.path.join(path, mark)) for mark in _MARKS)


def open_zarr(path: str, name: str) -> ArrayPyramid:
    """The image of an OME-Zarr folder.

    Raises:
        SourceError: It is no OME-Zarr image, damaged, or not one plane.
    """
    try:
        import zarr
    except ImportError as error:
        raise SourceError(what=f"{name} needs zarr", why=str(error), mend='pip install "seggeo[slides]"') from error
    try:
        group = zarr.open_group(guarded(path), mode="r")
        return _open(group, name)
    except SourceError:
        raise
    except READ_ERRORS as error:
        raise damaged_slide(name, error) from error


def _open(group: Any, name: str) -> ArrayPyramid:
    attributes: Mapping[str, Any] = dict(group.attrs)
    attributes = attributes.get("ome", attributes)
    images = attributes.get("multiscales")
    if not images:
        raise no_image(attributes, name)
    arrays = [group[safe_path(str(data["path"]), name)] for data in images[0]["datasets"]]
    axes = axes_of(images[0], arrays[0].ndim)
    check_axes(axes, arrays[0].shape, name)
    levels = tuple(_level(array, arrays[0], axes, name) for array in arrays)
    steps, factors = _scales(images[0])
    facts = SlideFacts(
        kind=f"OME-Zarr {attributes.get('version', images[0].get('version', ''))}".strip(),
        levels=tuple(_with_scale(level, step, steps[0], axes) for level, step in zip(levels, steps, strict=True)),
        dtype=np.dtype(arrays[0].dtype).newbyteorder("="),
        channels=channel_names(attributes, arrays[0].shape[axes.index("C")] if "C" in axes else 1),
        is_rgb=is_camera(attributes, arrays[0], axes),
        claims=_claims(images[0], steps[0], factors),
        notes={"axes": axes},
    )
    return ArrayPyramid(facts, [array_slicer(array, axes) for array in arrays], name=name, close=group.store.close)


def safe_path(path: str, name: str) -> str:
    """A path of the metadata that stays inside the group.

    Raises:
        SourceError: It does not.
    """
    if path.startswith("/") or ".." in path.split("/"):
        raise SourceError(what=f"{name} is refused", why=f"its metadata name data outside it: {path}", mend="repair them")
    return path


def check_codecs(array: Any, name: str) -> None:
    """Refuse chunks that would be unpickled: a pickle can run any program.

    Raises:
        SourceError: They would.
    """
    described = array.metadata.to_dict()
    codecs = [described.get("compressor"), *(described.get("filters") or ()), *(described.get("codecs") or ())]
    if any("pickle" in str(codec).lower() for codec in codecs):
        raise SourceError(
            what=f"{name} is refused", why="its chunks are pickles, and a pickle can run any program", mend="do not use it"
        )


def no_image(attributes: Mapping[str, Any], name: str) -> SourceError:
    """The refusal of a group without multiscales."""
    kinds = [kind for kind in ("plate", "well", "bioformats2raw.layout", "labels") if kind in attributes]
    return SourceError(
        what=f"{name} is a Zarr group without an image",
        why="it has no multiscales metadata" + (f"; it is a {kinds[0].split('.')[0]}" if kinds else ""),
        mend="give the folder of one image, for example PLATE.zarr/A/1/0",
    )


def axes_of(image: Mapping[str, Any], count: int) -> str:
    """One capital letter for each dimension."""
    axes = image.get("axes") or "tczyx"[-count:]
    return "".join(str(a["name"] if isinstance(a, Mapping) else a)[:1] for a in axes).upper()


def _level(array: Any, first: Any, axes: str, name: str) -> PyramidLevel:
    y, x = axes.index("Y"), axes.index("X")
    shape, full = (int(array.shape[y]), int(array.shape[x])), (int(first.shape[y]), int(first.shape[x]))
    if array.ndim != len(axes) or min(shape) < 1 or array.dtype.kind not in "uif":
        raise SourceError(
            what=f"{name} has a level of shape {array.shape} and type {array.dtype}",
            why=f"its axes are {axes}, and pixels are whole or real numbers",
            mend="write it again",
        )
    stored = getattr(array, "shards", None) or array.chunks
    check_codecs(array, name)
    array.store.watch(array)
    pixel_bytes = prod(stored) // (stored[y] * stored[x]) * array.dtype.itemsize
    check_block_bytes(
        PyramidLevel(shape=shape, downsample=(1.0, 1.0), block=(stored[y], stored[x])), pixel_bytes, name
    )  # fmt: skip
    block = array_block(shape, (array.chunks[y], array.chunks[x]))
    return PyramidLevel(shape=shape, downsample=(full[0] / shape[0], full[1] / shape[1]), block=block)


def _scales(image: Mapping[str, Any]) -> tuple[list[Sequence[float] | None], Sequence[float] | None]:
    """Size of a pixel along each axis for every level, and a factor for all of them, where they are given."""
    return [_scale(data) for data in image["datasets"]], _scale(image)


def _scale(node: Mapping[str, Any]) -> Sequence[float] | None:
    for step in node.get("coordinateTransformations") or ():
        if step.get("type") == "scale":
            return [float(v) for v in step["scale"]]
    return None


def _with_scale(level: PyramidLevel, step: Sequence[float] | None, full: Sequence[float] | None, axes: str) -> PyramidLevel:
    """The level with the factor its metadata state, where this agrees with its size but for rounding."""
    if step is None or full is None:
        return level
    stated = tuple(step[axes.index(a)] / full[axes.index(a)] for a in "YX")
    fits = all(abs(n * ratio / told - n) <= 1 for n, ratio, told in zip(level.shape, level.downsample, stated, strict=True))
    if not fits:
        return level
    return PyramidLevel(shape=level.shape, downsample=(stated[0], stated[1]), block=level.block)


def channel_names(attributes: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Labels of the channels, numbers where they have none."""
    told = [str(channel.get("label") or "") for channel in (attributes.get("omero") or {}).get("channels") or ()]
    names = told if len(told) == count else [""] * count
    return tuple(text or f"band {i}" for i, text in enumerate(names, 1))


def is_camera(attributes: Mapping[str, Any], array: Any, axes: str) -> bool:
    """True for three channels of 8 bits that are red, green and blue."""
    if "C" not in axes or array.shape[axes.index("C")] != 3 or array.dtype != np.uint8:
        return False
    told = (attributes.get("omero") or {}).get("channels") or ()
    return are_colours([str(c.get("label") or "") for c in told] or [""] * 3, [str(c.get("color") or "") for c in told])


def _claims(image: Mapping[str, Any], step: Sequence[float] | None, factors: Sequence[float] | None) -> tuple[Claim, ...]:
    axes = image.get("axes") or ()
    if step is None or not axes or not all(isinstance(axis, Mapping) for axis in axes):
        return ()
    sizes = {
        str(axis["name"]).lower(): to_um(value * (1.0 if factors is None else factors[i]), axis.get("unit"))
        for i, (axis, value) in enumerate(zip(axes, step, strict=True))
    }
    return claim("OME", sizes.get("y"), sizes.get("x"))

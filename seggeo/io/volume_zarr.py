"""OME-Zarr volumes (0.4 and 0.5), in local folders and at addresses that the user typed.

1. `open_group` (volume_zarr_store) opens the folder or the address, and nothing else.
2. `choose_level` takes full resolution, or the level that is just fine enough for the work grid.
3. `zarr_facts` (volume_zarr_facts) makes the matrix of that level from its scales and translations.
4. `ZarrFile.read` slices its array; a chunk that nobody wrote holds the fill value, and no damaged one ever does.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.slide_pyramid import MAX_BLOCK_BYTES, damaged_slide
from seggeo.io.slide_zarr import axes_of, check_codecs, no_image, safe_path
from seggeo.io.volume_file import Box, VolumeFacts
from seggeo.io.volume_zarr_facts import Layout, choose_level, zarr_facts
from seggeo.io.volume_zarr_store import open_group

_KNOWN = "TCZYX"


def open_zarr_volume(path: str, name: str, reading: Reading) -> ZarrFile:
    """The volume in an OME-Zarr folder, or at an http(s):// or s3:// address.

    Args:
        path: Folder or address of one image, not of a plate.
        name: As the user is shown it, without credentials.
        reading: `work_mpp` and `mpp` choose the level; `time` says of which volume `is_empty` is asked.

    Raises:
        SourceError: It is no OME-Zarr image, damaged, or refused by a safety limit.
    """
    opened = open_group(path, name)
    try:
        layout, attributes = read_layout(opened.group, name)
        level = choose_level(layout, reading)
        _check_arrays(layout, name, root=opened.folder)
        facts = zarr_facts(layout, attributes, level=level, name=name)
        return ZarrFile(layout, facts, level=level, opened=opened, time=reading.time)
    except READ_ERRORS as error:  # SourceError too, which is an OSError
        opened.close()
        raise error if isinstance(error, SourceError) else damaged_slide(name, error) from error
    except BaseException:
        opened.close()
        raise


def is_zarr_volume(path: str) -> bool:
    """True for an OME-Zarr image with several slices or times. Only its metadata are read.

    Raises:
        SourceError: It cannot be opened, or holds no image.
    """
    opened = open_group(path, path)
    try:
        layout, _ = read_layout(opened.group, path)
        return any(layout.size(axis) > 1 for axis in "ZT")
    finally:
        opened.close()


def read_layout(group: Any, name: str) -> tuple[Layout, Mapping[str, Any]]:
    """Levels and axes of the first image of an open group, and its attributes.

    Raises:
        SourceError: No image, or axes without names that mean something here.
    """
    attributes: Mapping[str, Any] = dict(group.attrs)
    attributes = attributes.get("ome", attributes)
    images = attributes.get("multiscales")
    if not images:
        raise no_image(attributes, name)
    arrays = tuple(group[safe_path(str(data["path"]), name)] for data in images[0]["datasets"])
    if not arrays or any(not hasattr(array, "shape") for array in arrays):
        raise SourceError(what=f"{name} holds no image", why="its metadata name no array of pixels", mend="write it again")
    axes = axes_of(images[0], arrays[0].ndim)
    if len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise SourceError(what=f"{name} holds no volume", why=f"its axes are {axes or 'none'}", mend="name them t, c, z, y, x")
    layout = Layout(image=images[0], arrays=arrays, axes=axes)
    longer = [f"{axis} ({layout.size(axis)})" for axis in axes if axis not in _KNOWN and layout.size(axis) > 1]
    if longer:
        raise SourceError(
            what=f"{name} has axes whose meaning is not known: {', '.join(longer)}",
            why="a volume has axes t, c, z, y and x", mend="write the part that is meant as an image of its own",
        )  # fmt: skip
    return layout, attributes


class ZarrFile:
    """A `VolumeFile` over one level of an OME-Zarr image."""

    def __init__(self, layout: Layout, facts: VolumeFacts, *, level: int, opened: Any, time: int | None) -> None:
        self.facts = facts
        self._array, self._axes = layout.arrays[level], layout.axes
        self._series = facts.axes[0] == "t"
        self._opened, self._time = opened, time
        described = {"attributes": dict(opened.group.attrs), "array": repr(self._array.metadata)}
        self._digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()

    def read(self, box: Box, channel: int, time: int) -> NDArray[Any]:
        """See `VolumeFile`."""
        picks = self._picks(box, channel, time)
        try:
            values = np.asarray(self._array[tuple(picks.get(axis, 0) for axis in self._axes)])
        except READ_ERRORS as error:
            where = f" in {', '.join(f'{a} {s.start}-{s.stop - 1}' for a, s in zip(self.facts.axes, box, strict=True))}"
            raise damaged_slide(self._opened.name, error, where) from error
        kept = [axis for axis in self._axes if isinstance(picks.get(axis, 0), slice)]
        wanted = [axis.upper() for axis in self.facts.axes if axis.upper() in kept]
        ordered = values.transpose([kept.index(axis) for axis in wanted])
        out = ordered.reshape(tuple(s.stop - s.start for s in box))
        return np.ascontiguousarray(out, self.facts.dtype)

    def is_empty(self, box: Box) -> bool:
        """See `VolumeFile`: no chunk of it lies in the folder, in any channel; at an address nobody can tell cheaply."""
        folder = self._opened.folder
        if folder is None:
            return False
        times = self._array.shape[self._axes.index("T")] if "T" in self._axes else 1
        chosen = slice(0, times) if self._time is None or self._series else slice(self._time - 1, self._time)
        picks = {"C": slice(None), **self._picks(box, slice(None), chosen)}
        stored = getattr(self._array, "shards", None) or self._array.chunks
        sizes = zip(self._axes, self._array.shape, stored, strict=True)
        spans = [_chunks(picks.get(axis, slice(0, 1)), size, chunk) for axis, size, chunk in sizes]
        base, encode = os.path.join(folder, self._array.path), self._array.metadata.encode_chunk_key
        return not any(os.path.lexists(os.path.join(base, encode(place))) for place in itertools.product(*spans))

    def fingerprint(self) -> dict[str, Any]:
        """See `VolumeFile`: of the metadata, and of the time of their last change in a folder."""
        marks: dict[str, Any] = {"metadata_sha256": self._digest}
        folder = self._opened.folder
        if folder is not None:
            files = [os.path.join(folder, part, mark) for part in ("", self._array.path) for mark in _METADATA]
            marks["mtime_ns"] = [os.stat(file).st_mtime_ns for file in files if os.path.isfile(file)]
        return marks

    def close(self) -> None:
        """Release the store."""
        self._opened.close()

    def _picks(self, box: Box, channel: Any, time: Any) -> dict[str, Any]:
        first = "T" if self._series else "Z"
        return {"T": time, "C": channel, first: box[0], "Y": box[1], "X": box[2]}


_METADATA = ("zarr.json", ".zattrs", ".zarray")


def _chunks(span: slice, size: int, chunk: int) -> range:
    """Chunk numbers along one axis that a stretch of it meets."""
    first, stop, _ = span.indices(size)
    return range(first // chunk, -(-stop // chunk))


def _check_arrays(layout: Layout, name: str, *, root: str | None) -> None:
    """Refuse levels that lie elsewhere, do not belong together, or cannot be decoded safely."""
    first = layout.arrays[0]
    for array in layout.arrays:
        if array.ndim != len(layout.axes) or min(array.shape) < 1 or array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
            raise SourceError(
                what=f"{name} has a level of shape {array.shape} and type {array.dtype}",
                why=f"its axes are {layout.axes}, and pixels are whole or real numbers",
                mend="write it again",
            )
        if array.dtype != first.dtype:
            raise SourceError(
                what=f"{name} has levels of type {first.dtype} and {array.dtype}", why="they show one image",
                mend="write it again",
            )  # fmt: skip
        if root is not None and not _lies_in(os.path.join(root, array.path), root):
            raise SourceError(what=f"{name} is refused", why=f"its level {array.path} is a link that leads out", mend="copy it")
        check_codecs(array, name)
        array.store.watch(array)
        size = prod(_decoded_shape(array)) * array.dtype.itemsize
        if size > MAX_BLOCK_BYTES:
            raise SourceError(
                what=f"{name} has chunks of {size >> 20} MiB",
                why=f"each must be decoded whole, and the limit is {MAX_BLOCK_BYTES >> 20} MiB",
                mend="write it with smaller chunks, for example 64 x 256 x 256",
            )


def _decoded_shape(array: Any) -> tuple[int, ...]:
    """Voxels decoded as one piece: a chunk, or the whole shard where something is packed around it."""
    shards = getattr(array, "shards", None)
    codecs = getattr(array.metadata, "codecs", ())
    return tuple(shards if shards is not None and len(codecs) > 1 else array.chunks)


def _lies_in(path: str, root: str) -> bool:
    real, top = os.path.realpath(path), os.path.realpath(root)
    return real == top or real.startswith(top + os.sep)

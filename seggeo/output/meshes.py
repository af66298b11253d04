"""Surfaces of a volume's objects as PLY or OBJ: a folder with one file each, in world coordinates.

Cross-sections are held as runs until the object's last slice has gone by, which a first walk over the result tells; then
its surface is made and written, one object at a time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from seggeo.errors import OutputError
from seggeo.files import publishing
from seggeo.instances import Instances
from seggeo.output.mesh import MOST_VOXELS, Mesh, mesh_of
from seggeo.output.volume_slices import iter_slices, last_slices, placement_of
from seggeo.protocols import Result, SinkOptions

_NAME = re.compile(r"object_\d{6,}\.(ply|obj)")
_MARK = b" seggeo object "
_FACE = np.dtype([("count", "u1"), ("points", "<i4", 3)])


def write_ply(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write a folder of binary little-endian PLY files, `object_000001.ply` and so on, and return `path`.

    Raises:
        OutputError: The result is of one plane or a series in time, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    return _write(result, path, options, (".ply", packed_ply))


def write_obj(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write a folder of Wavefront OBJ files, `object_000001.obj` and so on, and return `path`.

    Raises:
        OutputError: The result is of one plane or a series in time, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    return _write(result, path, options, (".obj", packed_obj))


def iter_meshes(result: Result, *, most: int = MOST_VOXELS) -> Iterator[tuple[int, int, Mesh]]:
    """Id, class index and surface of every object, in the order in which they end.

    Args:
        result: Objects of a volume.
        most: Voxels of an object's box up to which every voxel counts.
    """
    place, last = placement_of(result.frame), last_slices(result)
    waiting: dict[int, list[Instances]] = {}
    for one in iter_slices(result):
        instances = one.objects.instances
        for i, number in enumerate(one.objects.id.tolist()):
            waiting.setdefault(number, []).append(instances.take(slice(i, i + 1)))
        for number in one.objects.id[last[one.ids - 1] == one.z].tolist():
            sections = waiting.pop(number)
            yield number, int(sections[0].label[0]), mesh_of(sections, place, most=most)


def is_ours(path: Path) -> bool:
    """True for a folder of surfaces that seggeo made and nobody put anything into, which may be replaced as a whole."""
    try:
        return path.is_dir() and all(_NAME.fullmatch(entry.name) and _is_marked(entry) for entry in path.iterdir())
    except OSError:
        return False


def _is_marked(path: Path) -> bool:
    with path.open("rb") as file:
        return _MARK in file.read(100)


def packed_ply(mesh: Mesh, remarks: list[str]) -> bytes:
    """A surface as PLY."""
    header = [
        "ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in remarks),
        f"element vertex {len(mesh.points)}", *(f"property float {axis}" for axis in "xyz"),
        f"element face {len(mesh.faces)}", "property list uchar int vertex_indices", "end_header", "",
    ]  # fmt: skip
    faces = np.empty(len(mesh.faces), _FACE)
    faces["count"], faces["points"] = 3, mesh.faces
    return "\n".join(header).encode() + mesh.points.astype("<f4").tobytes() + faces.tobytes()


def packed_obj(mesh: Mesh, remarks: list[str]) -> bytes:
    """A surface as OBJ."""
    points = "".join("v %.7g %.7g %.7g\n" % (x, y, z) for x, y, z in mesh.points.tolist())  # noqa: UP031 - twice as fast
    faces = "".join("f %d %d %d\n" % (a, b, c) for a, b, c in (mesh.faces + 1).tolist())  # noqa: UP031
    return ("".join(f"# {line}\n" for line in remarks) + points + faces).encode()


def _write(
    result: Result, path: Path, options: SinkOptions, kind: tuple[str, Callable[[Mesh, list[str]], bytes]]
) -> Path:  # fmt: skip
    if result.frame.depth == 1 or result.frame.is_series:
        raise OutputError(
            what=f"{path} cannot be written: there are no surfaces",
            why="the objects are those of one plane" if result.frame.depth == 1 else "slices are frames in time",
            mend="choose another output format with -f",
        )
    suffix, packed = kind
    with publishing(path, options.scratch) as temporary:
        temporary.mkdir()
        for number, label, mesh in iter_meshes(result):
            (temporary / f"object_{number:06d}{suffix}").write_bytes(packed(mesh, remarks_of(result, (number, label), mesh)))
    return path


def remarks_of(result: Result, which: tuple[int, int], mesh: Mesh) -> list[str]:
    """What a file says of itself, for the object of an id and a class index."""
    number, label = which
    name = " ".join(result.classes[label].encode("ascii", "replace").decode().split())
    space, unit = placement_of(result.frame).space, result.frame.unit
    axes = {"RAS": "x to the right, y anterior, z superior", "LPS": "x to the left, y posterior, z superior"}.get(space)
    remarks = [
        f"seggeo object {number}, class {name}",
        f"world coordinates in {'voxels' if unit == 'px' else unit}" + (f", {space}: {axes}" if axes else ""),
        "marching cubes, smoothed after Taubin; triangles are counter-clockwise from outside",
    ]
    if max(mesh.joined) > 1:
        z, row, col = mesh.joined
        remarks.append(f"coarser than the volume: blocks of {z} x {row} x {col} voxels (z, row, col) were taken as one")
    return remarks

"""Label volumes of the ITK family: MetaImage (`.mha`) and NRRD, in the order of axes of the input, packed.

Both are a short text and a stream of voxels, written here as they come, so that no library is needed and memory stays that of
a band of rows. ITK's world is LPS; a volume placed in RAS (NIfTI) is turned to it, which moves no voxel.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.volume_labels import FileGrid, Ids, bands, filed, id_type
from seggeo.protocols import Result, SinkOptions

_LEVEL = 4
_GZIP = 31
"""zlib's number for a stream with a gzip head, which then holds no time."""
_SIZE_DIGITS = 20
_META_TYPES = {2: "MET_USHORT", 4: "MET_UINT"}
_UNITS = ("mm", "um")
_WORLD = {"RAS": (-1.0, -1.0, 1.0)}
"""What the axes of a space are multiplied with to be those of LPS."""


def write_mha(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as a zlib-packed MetaImage and return `path`; uint32 where uint16 does not hold them.

    Same result, same bytes.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    with publishing(path, options.scratch) as temporary, temporary.open("wb") as file:
        head = _meta_head(result)
        file.write(head.encode())
        size_at = head.index("CompressedDataSize = ") + len("CompressedDataSize = ")
        size = _pack(file, result, temporary.parent, zlib.compressobj(_LEVEL))
        file.seek(size_at)
        file.write(f"{size:<{_SIZE_DIGITS}}".encode())
    return path


def write_nrrd(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as a gzip-packed NRRD and return `path`; uint32 where uint16 does not hold them.

    Same result, same bytes.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    with publishing(path, options.scratch) as temporary, temporary.open("wb") as file:
        file.write(_nrrd_head(result).encode())
        _pack(file, result, temporary.parent, zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP))
    return path


def lps_matrix(frame: Frame) -> NDArray[np.float64]:
    """LPS x, y and z from `(axis 0, axis 1, axis 2, 1)` of the file, `(3, 4)`; a microscope's own axes stay as they are."""
    space = "" if frame.placement is None else frame.placement.space
    return np.asarray(FileGrid.of(frame).matrix * np.array(_WORLD.get(space, (1.0, 1.0, 1.0)))[:, None], np.float64)


def _pack(file: IO[bytes], result: Result, scratch: Path, packer: Any) -> int:
    """Append all voxels, and return the bytes they took."""
    size = 0
    for rows in _rows(result, scratch):
        size += file.write(packer.compress(rows.tobytes()))
    return size + file.write(packer.flush())


def _rows(result: Result, scratch: Path) -> Iterator[Ids]:
    kind = id_type(result)
    little = kind.newbyteorder("<")
    for rows in bands(filed(result, scratch), FileGrid.of(result.frame).shape, kind):
        yield rows.astype(little, copy=False)


def _meta_head(result: Result) -> str:
    matrix = lps_matrix(result.frame)[:, ::-1]  # origin, then the steps along x, y and z of the file
    steps = np.linalg.norm(matrix[:, 1:], axis=0)
    ways = (matrix[:, 1:] / steps).T  # MetaImage lists the way of one axis after the other
    shape = FileGrid.of(result.frame).shape
    fields = {
        "ObjectType": "Image", "NDims": 3, "BinaryData": "True", "BinaryDataByteOrderMSB": "False", "CompressedData": "True",
        "CompressedDataSize": " " * _SIZE_DIGITS, "TransformMatrix": _numbers(ways.ravel()), "Offset": _numbers(matrix[:, 0]),
        "CenterOfRotation": "0 0 0", "DistanceUnits": result.frame.unit if result.frame.unit in _UNITS else None,
        "ElementSpacing": _numbers(steps), "DimSize": " ".join(map(str, shape[::-1])),
        "ElementType": _META_TYPES[id_type(result).itemsize], "ElementDataFile": "LOCAL",
    }  # fmt: skip
    return "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None)


def _nrrd_head(result: Result) -> str:
    matrix, frame = lps_matrix(result.frame), result.frame
    is_placed = frame.placement is not None and frame.placement.space in ("LPS", "RAS")
    unit = frame.unit if frame.unit in _UNITS else None
    lines = [
        "NRRD0005",
        f"type: uint{8 * id_type(result).itemsize}",
        "dimension: 3",
        "space: left-posterior-superior" if is_placed else "space dimension: 3",
        f"sizes: {' '.join(map(str, FileGrid.of(frame).shape[::-1]))}",
        f"space directions: {' '.join(_vector(matrix[:, axis]) for axis in (2, 1, 0))}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
        *([] if unit is None else [f'space units: "{unit}" "{unit}" "{unit}"']),
        f"space origin: {_vector(matrix[:, 3])}",
    ]
    return "\n".join(lines) + "\n\n"


def _numbers(values: NDArray[np.float64]) -> str:
    return " ".join(repr(float(value) + 0.0) for value in values)


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value) + 0.0) for value in values)})"

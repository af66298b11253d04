"""The label volume as NIfTI: in the very space of a NIfTI input, or in that of any other volume.

1. `_header` takes the input's own header and changes what values the file holds, never where they lie: qform, sform, their
   codes, sizes of voxels and units keep every bit. For other inputs, and where the work grid is not the input's grid, it
   writes both forms from the placement;
2. the voxels follow in the order of the input's axes, a few rows at a time (`volume_labels.filed`).
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import OutputError
from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.volume_labels import FileGrid, bands, filed, id_type
from seggeo.protocols import Result, SinkOptions

_LABEL = 1002
"""NIFTI_INTENT_LABEL."""
_LONGEST = 32_767
"""Of an axis in NIfTI-1."""
_UNITS = {"m": 1, "mm": 2, "um": 3}
_SCANNER, _ALIGNED = 1, 2
_METRES = 1
_LEVEL = 4
"""Of deflate: runs of ids pack well at any level."""


def write_nifti(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the ids of all objects as NIfTI (gzip unless the name ends in .nii), intent label, and return `path`.

    uint16, or uint32 for more than 65535 objects; NIfTI-2 for an input that is one and for axes beyond 32767 voxels; no
    extensions. Frames in time are the fourth axis. Of an image without slices one slice is written. Same result, same bytes.

    Raises:
        OutputError: nibabel is not installed, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    frame, kind = result.frame, id_type(result)
    grid = FileGrid.of(frame)
    header = _header(frame, grid, kind, path)
    with publishing(path, options.scratch) as temporary, _packed(temporary) as file:
        file.write(header)
        for band in bands(filed(result, temporary.parent), grid.shape, kind):
            file.write(np.ascontiguousarray(band, kind.newbyteorder("<")).data)
    return path


@contextmanager
def _packed(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, as a gzip stream without name and time unless it is a plain .nii."""
    with path.open("wb") as plain:
        if path.suffix.lower() == ".nii":
            yield plain
            return
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=plain, mtime=0) as packed:
            yield packed  # type: ignore[misc]  # it writes bytes, whatever its base class says


def _header(frame: Frame, grid: FileGrid, kind: np.dtype[Any], path: Path) -> bytes:
    """The header, and the mark that no extensions follow."""
    nibabel = _nibabel(path)
    shape, own = _sizes(frame, grid), _own_fields(nibabel, frame)
    if own is not None and _is_of_this_grid(own, frame, grid):
        fields = own
    else:
        fields = (nibabel.Nifti2Header if max(shape) > _LONGEST else nibabel.Nifti1Header)(endianness="<")
        _place(fields, frame, grid, _code(own, frame))
    _describe(fields, shape, kind)
    return bytes(fields.binaryblock) + bytes(4)


def _own_fields(nibabel: Any, frame: Frame) -> Any:
    """The header of a NIfTI input, in little-endian order; None for other inputs."""
    stored = frame.placement.header if frame.placement is not None else {}
    if not {"block", "version", "endian", "form"} <= stored.keys():
        return None
    kind = nibabel.Nifti1Header if stored["version"] == 1 else nibabel.Nifti2Header
    return kind(base64.b64decode(stored["block"]), endianness=stored["endian"], check=False).as_byteswapped("<")


def _is_of_this_grid(own: Any, frame: Frame, grid: FileGrid) -> bool:
    """True where the input's header describes the volume that is written: same shape, same place."""
    count = int(own["dim"][0])
    sizes = tuple(int(n) if i < count else 1 for i, n in enumerate(own["dim"][1:4]))
    assert frame.placement is not None
    return not frame.is_series and sizes == grid.shape[::-1] and _is_in_place(own, frame.placement.header["form"], grid)


def _code(own: Any, frame: Frame) -> int:
    """What space the world is: as the input has it, else a scanner's or a microscope's own."""
    told = 0 if own is None else int(own["sform_code"]) or int(own["qform_code"])
    return told or (_SCANNER if frame.placement is not None and frame.placement.space else _ALIGNED)


def _is_in_place(fields: Any, form: str, grid: FileGrid) -> bool:
    """True where the form that the placement was made of still says what the placement says."""
    said = {"sform": fields.get_sform, "qform": fields.get_qform, "pixdim": fields.get_base_affine}[form]()
    factor = 1000.0 if int(fields["xyzt_units"]) & 7 == _METRES else 1.0
    return np.allclose(np.asarray(said, np.float64)[:3] * factor, grid.matrix[:, [2, 1, 0, 3]], rtol=1e-6, atol=1e-9)


def _place(fields: Any, frame: Frame, grid: FileGrid, code: int) -> None:
    """Write both forms; the qform has no code where it cannot hold the placement."""
    affine = np.eye(4)
    affine[:3] = _ras(frame, grid)[:, [2, 1, 0, 3]]
    if frame.is_series:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / np.linalg.norm(normal)
    fields.set_data_shape(_sizes(frame, grid))
    fields.set_qform(affine, code, strip_shears=True)
    if not np.allclose(fields.get_qform(), affine, rtol=1e-4, atol=1e-4 * np.abs(affine[:3, :3]).max()):
        fields["qform_code"] = 0
    fields.set_sform(affine, code)
    fields["xyzt_units"] = _UNITS.get(frame.unit, 0)


def _ras(frame: Frame, grid: FileGrid) -> NDArray[np.float64]:
    is_lps = frame.placement is not None and frame.placement.space == "LPS"
    return grid.matrix * np.array([[-1.0], [-1.0], [1.0]]) if is_lps else grid.matrix


def _describe(fields: Any, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    """Everything but the place: what the values are, and how many."""
    fields["dim"] = [len(shape), *shape, *[1] * (7 - len(shape))]
    fields["pixdim"][4:] = 1
    fields.set_data_dtype(kind.newbyteorder("<"))
    fields.set_intent(_LABEL, name="", allow_unknown=True)
    fields["intent_p1"] = fields["intent_p2"] = fields["intent_p3"] = 0
    fields["scl_slope"], fields["scl_inter"] = 1, 0
    fields["cal_min"] = fields["cal_max"] = fields["toffset"] = 0
    fields["descrip"], fields["aux_file"] = b"instance id", b""
    is_first = int(fields["sizeof_hdr"]) == 348
    fields["magic"] = b"n+1" if is_first else b"n+2"
    fields["vox_offset"] = 352 if is_first else 544
    if len(shape) == 3:
        fields["xyzt_units"] = int(fields["xyzt_units"]) & 7


def _sizes(frame: Frame, grid: FileGrid) -> tuple[int, ...]:
    slow, rows, cols = grid.shape
    return (cols, rows, 1, slow) if frame.is_series else (cols, rows, slow)


def _nibabel(path: Path) -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise OutputError(
            what=f"{path} needs nibabel", why=str(error), mend='pip install "seggeo[volumes]", or choose another -f'
        ) from error
    return nibabel

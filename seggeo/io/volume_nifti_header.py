"""What the header of a NIfTI file says: how values are stored and rescaled, and where voxels lie.

The facts' `header` is for the writer of labels in the same space:
    block: base64 of the 348 (NIfTI-1) or 540 (NIfTI-2) bytes of the header exactly as they are in the file.
    version: 1 or 2.
    endian: `<` or `>`, the byte order of the block.
    form: sform, qform or pixdim, of which `matrix` was made (nibabel's choice).
    is_pair: True where header and voxels lie in two files.
"""

from __future__ import annotations

import base64
import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import matrix_of
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.volume_bytes import is_gzip, read_head
from seggeo.io.volume_file import VolumeFacts

_SIZES = {1: 348, 2: 540}
_MAGIC = {(1, b"n+1\0"): False, (1, b"ni1\0"): True, (2, b"n+2\0\r\n\x1a\n"): False, (2, b"ni2\0\r\n\x1a\n"): True}
"""True where the voxels lie in a file of their own."""
_UNITS = {0: ("mm", 1.0), 1: ("mm", 1000.0), 2: ("mm", 1.0), 3: ("um", 1.0)}
"""Of xyzt_units: unit that is reported, and how many of it one of the file's is. Files without a unit are in mm."""
_COLOURS = {128: 3, 2304: 4}
_FORM_TOLERANCE = 0.01
"""Voxels by which the corners of a volume may differ between sform and qform: both are stored with 24 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiHeader:
    """The header of a NIfTI file, and where its voxels lie."""

    version: int
    path: str
    data_path: str
    block: bytes
    is_pair: bool
    fields: Any
    """nibabel's header."""
    offset: int
    """First byte of the voxels in the (unpacked) file that holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiFacts:
    """The facts, and how values are stored."""

    facts: VolumeFacts
    stored: np.dtype[Any]
    """Type in the file, of one sample."""
    samples: int
    """Values of a voxel that lie together: 3 or 4 for colours."""
    slope: float
    inter: float
    stored_bytes: int
    """Of all times and channels."""
    is_magnitude: bool = False
    """Of complex numbers: True for their magnitudes, False for their real parts."""

    def outer(self, channel: int, time: int) -> int:
        """Number of the volume in the file that holds a channel and a time."""
        return time if self.samples > 1 else channel * self.facts.times + time

    def rescaled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Stored values as `facts.dtype`, times slope plus intercept."""
        if self.stored.kind == "c":
            numbers = values.astype(np.complex128) * self.slope + self.inter
            return (np.abs(numbers) if self.is_magnitude else numbers.real).astype(self.facts.dtype)
        if self.slope == 1 and self.inter == 0:
            return values.astype(self.facts.dtype)
        wide = np.int64 if self.facts.dtype.kind == "i" else np.float64
        with np.errstate(over="ignore"):  # beyond float32 is infinity, as it is for every reader
            return (values.astype(wide) * wide(self.slope) + wide(self.inter)).astype(self.facts.dtype)


def read_nifti_header(path: str, name: str) -> NiftiHeader:
    """The header of a NIfTI file; of an .img, that of the .hdr beside it.

    Raises:
        SourceError: It is no NIfTI, or nibabel is not installed.
        EOFError, OSError, ValueError: It is damaged.
    """
    found = find_nifti(path)
    if found is None:
        raise SourceError(what=f"{name} is no NIfTI", why="the mark n+1, ni1, n+2 or ni2 is missing", mend="check it")
    version, header_path, block, is_pair = found
    try:
        import nibabel
    except ImportError as error:
        raise SourceError(what=f"{name} needs nibabel", why=str(error), mend='pip install "seggeo[volumes]"') from error
    kind: Any = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    fields = kind(block, check=False)
    if int(fields["sizeof_hdr"]) != _SIZES[version]:
        raise ValueError(f"its header says it has {int(fields['sizeof_hdr'])} bytes and has {_SIZES[version]}")
    offset = float(fields["vox_offset"])
    if not (offset >= 0 and offset.is_integer()):
        raise ValueError(f"its voxels start at byte {offset}")
    return NiftiHeader(
        version=version, path=header_path, data_path=_partner(path, ".img") if is_pair else path, block=block,
        is_pair=is_pair, fields=fields, offset=int(offset) if is_pair or offset else _SIZES[version] + 4,
    )  # fmt: skip


def nifti_facts(head: NiftiHeader, name: str, reading: Reading) -> NiftiFacts:
    """What a header says, checked.

    Raises:
        SourceError: Values that are no single real numbers, more axes than can be named, or no usable position.
    """
    fields = head.fields
    shape, times, vectors = _sizes(fields, name)
    stored, samples = _stored(fields, name, allow_complex=reading.complex is not None)
    if samples > 1 and vectors > 1:
        raise _unreadable(name, f"it has {vectors} colours in each voxel", "a voxel is a number, a vector or a colour")
    slope, inter = (1.0, 0.0) if samples > 1 else _scaling(fields)
    count = samples if samples > 1 else vectors
    affine, form, said = _affine(fields, shape, name)
    unit, factor = _UNITS.get(int(fields["xyzt_units"]) & 7, ("px", 1.0))
    facts = VolumeFacts(
        kind=f"NIfTI-{head.version}",
        family="nifti",
        shape=shape,
        dtype=_result_type(stored, slope, inter),
        channels=("red", "green", "blue", "alpha")[:count] if samples > 1 else _names(count),
        is_rgb=samples >= 3,
        times=times,
        matrix=matrix_of(affine[:, [2, 1, 0, 3]] * factor),
        space="" if form == "pixdim" else "RAS",
        unit=unit,
        chunk=(1, shape[1] if is_gzip(head.data_path) else 1, shape[2]),
        header={
            "block": base64.b64encode(head.block).decode("ascii"), "version": head.version, "form": form,
            "endian": fields.endianness, "is_pair": head.is_pair,
        },
        notes=_notes(fields, form),
        warnings=said,
    )  # fmt: skip
    total = int(np.prod(shape, dtype=object)) * times * vectors * samples * stored.itemsize
    return NiftiFacts(
        facts=facts, stored=stored, samples=samples, slope=slope, inter=inter, stored_bytes=total,
        is_magnitude=reading.complex == "abs",
    )  # fmt: skip


def find_nifti(path: str) -> tuple[int, str, bytes, bool] | None:
    """Version, path, bytes, and whether the voxels lie elsewhere, of the header of a file or of its pair; None: no NIfTI.

    Raises:
        EOFError, OSError: The header is cut off.
    """
    for candidate in dict.fromkeys((path, _partner(path, ".hdr"))):
        if not os.path.isfile(candidate):
            continue
        block = read_head(candidate, _SIZES[2])
        for (version, magic), is_pair in _MAGIC.items():
            place = 344 if version == 1 else 4
            if block[place : place + len(magic)] == magic and (is_pair or candidate == path):
                if len(block) < _SIZES[version]:
                    raise EOFError(f"its header has {len(block)} of {_SIZES[version]} bytes")
                return version, candidate, block[: _SIZES[version]], is_pair
    return None


def _partner(path: str, ending: str) -> str:
    """The other file of a pair, in the letters and with the packing of the one that is named."""
    packed = path[-3:] if path.lower().endswith(".gz") else ""
    stem, own = os.path.splitext(path[: len(path) - len(packed)])
    if own.lower() not in (".hdr", ".img"):
        return path
    wanted = stem + (ending.upper() if own.isupper() else ending)
    return next((one for one in (wanted + packed, wanted, wanted + ".gz") if os.path.isfile(one)), wanted + packed)


def _sizes(fields: Any, name: str) -> tuple[tuple[int, int, int], int, int]:
    """Slices, rows, columns; volumes in time; values of a voxel."""
    dim = [int(n) for n in fields["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise _unreadable(name, f"its dimensions are {dim}", "they are 1 to 7, each at least 1")
    sizes = dim[1 : dim[0] + 1] + [1] * (7 - dim[0])
    if max(sizes[5:]) > 1:
        raise _unreadable(name, f"it has {dim[0]} dimensions: {sizes[: dim[0]]}", "only the first five have a meaning here")
    return (sizes[2], sizes[1], sizes[0]), sizes[3], sizes[4]


def _stored(fields: Any, name: str, *, allow_complex: bool) -> tuple[np.dtype[Any], int]:
    from nibabel.spatialimages import HeaderDataError

    code = int(fields["datatype"])
    if code in _COLOURS:
        return np.dtype(np.uint8), _COLOURS[code]
    try:
        dtype = np.dtype(fields.get_data_dtype())
    except (HeaderDataError, *READ_ERRORS) as error:
        raise _unreadable(name, f"its values are of type {code}", str(error)) from error
    if dtype.kind == "c" and dtype.itemsize <= 16 and not allow_complex:
        raise SourceError(
            what=f"{name} holds complex numbers", why="a model takes one real number for each voxel",
            mend="use --complex abs for the magnitude, or --complex real",
        )  # fmt: skip
    widest = {"u": 8, "i": 8, "f": 8, "c": 16}.get(dtype.kind, 0)
    if dtype.itemsize > widest or int(fields["bitpix"]) != 8 * dtype.itemsize:
        raise _unreadable(
            name, f"its values are {dtype.name} of {int(fields['bitpix'])} bits", "a model takes whole or real numbers"
        )
    return dtype, 1


def _scaling(fields: Any) -> tuple[float, float]:
    """Slope and intercept; a slope of 0, or one that is no number, means none."""
    slope, inter = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return 1.0, 0.0
    if not np.isfinite(inter):
        raise ValueError(f"values are rescaled by {slope} plus {inter}")
    return slope, inter


def _result_type(stored: np.dtype[Any], slope: float, inter: float) -> np.dtype[Any]:
    """The least signed integer that holds all rescaled values, where these are whole; else a real type as wide as needed."""
    if stored.kind == "c":
        return np.dtype(f"f{stored.itemsize // 2}")
    if slope == 1 and inter == 0:
        return stored.newbyteorder("=")
    if stored.kind in "ui" and slope.is_integer() and inter.is_integer():
        bounds = [int(slope) * int(end) + int(inter) for end in (np.iinfo(stored).min, np.iinfo(stored).max)]
        for bits in (8, 16, 32, 64):
            if -(2 ** (bits - 1)) <= min(bounds) and max(bounds) < 2 ** (bits - 1):
                return np.dtype(f"int{bits}")
    return np.result_type(stored.newbyteorder("="), np.float32)


def _affine(fields: Any, shape: tuple[int, int, int], name: str) -> tuple[NDArray[np.float64], str, tuple[str, ...]]:
    """World from `(i, j, k, 1)` as nibabel decides it, where it comes from, and what the user should hear."""
    sform, qform, said = fields.get_sform(coded=True)[0], _qform(fields), []
    form = "sform" if sform is not None else "qform" if qform is not None else "pixdim"
    affine = np.asarray(sform if sform is not None else qform if qform is not None else fields.get_base_affine(), np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        determinant = np.linalg.det(affine[:3, :3])
    if not np.isfinite(affine).all() or determinant == 0 or not np.isfinite(determinant):
        raise _unreadable(
            name, f"its {form} {affine[:3].tolist()} gives voxels no volume", "no position in the world can be made of it"
        )
    if sform is not None and qform is not None and _differ(affine, np.asarray(qform), shape):
        said.append("its sform and qform disagree; the sform is used")
    elif sform is not None and qform is None and int(fields["qform_code"]) > 0:
        said.append("its qform is no rotation; the sform is used")
    if form == "pixdim":
        said.append("it has neither sform nor qform, so the sizes of its voxels are known but not how it lies")
    return affine, form, tuple(said)


def _qform(fields: Any) -> Any:
    """The qform where it has a code; None where it has none, or is no rotation and an sform is there."""
    from nibabel.spatialimages import HeaderDataError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fields.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError) as error:
        if int(fields["sform_code"]) > 0:
            return None
        raise ValueError(f"its qform is no rotation: {error}") from error


def _differ(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """True where a corner of the volume lies elsewhere by more than the tolerance."""
    corners = np.array([(i, j, k, 1) for i in (0, shape[2] - 1) for j in (0, shape[1] - 1) for k in (0, shape[0] - 1)], float)
    apart = np.linalg.norm(corners @ (one - other)[:3].T, axis=1).max()
    return not apart <= _FORM_TOLERANCE * np.linalg.norm(one[:3, :3], axis=0).min()


def _notes(fields: Any, form: str) -> dict[str, Any]:
    step = float(fields["pixdim"][4])
    return {
        "form": form, "sform_code": int(fields["sform_code"]), "qform_code": int(fields["qform_code"]),
        "is_unit_stated": bool(int(fields["xyzt_units"]) & 7), "time_step": step if np.isfinite(step) else None,
    }  # fmt: skip


def _names(count: int) -> tuple[str, ...]:
    return ("gray",) if count == 1 else tuple(f"band {i}" for i in range(1, count + 1))


def _unreadable(name: str, why: str, rule: str) -> SourceError:
    return SourceError(
        what=f"{name} cannot be read as a volume", why=f"{why}; {rule}", mend="convert it, or repair its header with nibabel"
    )

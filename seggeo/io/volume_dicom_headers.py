"""What the headers of DICOM files say of each of their planes; no pixels, and nothing of the patient.

A plane is one image in space: a file of a classic series, or a frame of an enhanced multi-frame one. All that follows, order,
gaps, tilt and times, is the same for both.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

Vector = tuple[float, float, float]

TIME_KEYS = (
    "TemporalPositionIdentifier", "TriggerTime", "EchoTime", "DiffusionBValue", "AcquisitionTime", "ContentTime",
    "InstanceNumber",
)  # fmt: skip
"""What tells volumes of one place apart, the surest first."""
_TAGS = [
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "GridFrameOffsetVector", "DoseGridScaling",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "AcquisitionDate",
    *TIME_KEYS,
]  # fmt: skip
_SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the pixels of a file are stored; must be the same in all planes of a volume."""

    rows: int
    cols: int
    samples: int
    photometric: str
    bits: int
    """Bits that hold a value, of each sample."""
    is_signed: bool
    is_float: bool
    padding: tuple[int, int] | None
    """Stored values, both ends included, that mean there is no data."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows, self.cols


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """One image of a file, where it lies, and what its stored values mean."""

    path: str
    frame: int
    """0-based, in its file."""
    uid: str
    """SOPInstanceUID of its file."""
    layout: Layout
    position: Vector | None
    """Centre of the first pixel, mm LPS."""
    orientation: tuple[float, ...] | None
    """Six cosines: of the way along a row of pixels, and of the way down a column."""
    spacing: tuple[float, float] | None
    """mm from row to row, and from column to column."""
    thickness: float | None
    slope: float = 1.0
    intercept: float = 0.0
    times: tuple[Any, ...] = ()
    """Values of `TIME_KEYS`, None where absent."""


@dataclass(slots=True, kw_only=True)
class Series:
    """The planes of one SeriesInstanceUID, and what a user knows it by."""

    uid: str
    number: int | None
    description: str
    modality: str
    sop_class: str
    syntax: str
    """UID of the transfer syntax of its first file; empty in files without a head that says."""
    image_type: tuple[str, ...]
    planes: list[Plane] = field(default_factory=list)
    files: int = 0


def uid_name(uid: str) -> str:
    """What the standard calls a UID; the UID itself where it has no name there."""
    from pydicom.config import IGNORE
    from pydicom.uid import UID

    return str(UID(uid, IGNORE).name) if uid else ""


def quiet() -> AbstractContextManager[None]:
    """Within it pydicom takes values that break rules of writing, such as too many digits, without a word."""
    from pydicom.config import disable_value_validation

    return disable_value_validation()


def damage() -> tuple[type[Exception], ...]:
    """What pydicom raises where a header is damaged; it has no one error for it."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        InvalidDicomError, BytesLengthException, struct.error, EOFError, ValueError, TypeError, LookupError, AttributeError,
        ArithmeticError, NotImplementedError, RecursionError, OSError,
    )  # fmt: skip


def read_header(path: str, *, force: bool = False) -> Any:
    """The data set of a file without pixels, or None where it is no DICOM file or holds no image.

    Args:
        path: A file.
        force: Also try what lacks the mark of a DICOM file, as very old ones do.
    """
    import pydicom

    try:
        found = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_TAGS], force=force)
        has_image = "Rows" in found and "Columns" in found and found.Rows > 0 and found.Columns > 0
    except damage():
        return None
    return found if has_image and "SOPInstanceUID" in found else None


def series_of(dataset: Any) -> Series:
    """The series that a file says it is of, without planes."""
    number = dataset.get("SeriesNumber")
    kinds = dataset.get("ImageType") or ()
    return Series(
        uid=str(dataset.get("SeriesInstanceUID", "")), number=None if number in (None, "") else int(number),
        description=str(dataset.get("SeriesDescription") or ""), modality=str(dataset.get("Modality") or ""),
        sop_class=str(dataset.get("SOPClassUID") or ""), syntax=syntax_of(dataset),
        image_type=(kinds,) if isinstance(kinds, str) else tuple(map(str, kinds)),
    )  # fmt: skip


def syntax_of(dataset: Any) -> str:
    """UID of the transfer syntax, empty where the file does not say."""
    return str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", ""))


def planes_of(dataset: Any, path: str) -> Iterator[Plane]:
    """The planes of a file, in the order of its frames.

    Raises:
        ValueError, TypeError, AttributeError, IndexError: A header that is damaged.
    """
    layout = _layout(dataset)
    if dataset.get("ModalityLUTSequence"):
        raise ValueError("its values have a meaning only through a table (Modality LUT), which is not read")
    count = int(dataset.get("NumberOfFrames") or 1)
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if frames and len(frames) != count:
        raise ValueError(f"{count} frames, but {len(frames)} of them described")
    offsets = _dose_offsets(dataset, count)
    for i in range(count):
        groups = [frames[i]] if frames else []
        groups += [] if shared is None else [shared]
        yield _plane(_Lookup(dataset, groups), path, i, (layout, offsets[i] if offsets else None, count))


def is_slide(series: Series) -> bool:
    """True for a whole slide image of pathology."""
    return series.sop_class == _SLIDE_CLASS


class _Lookup:
    """Attributes of one frame: of its own functional groups, of the shared ones, then of the file."""

    def __init__(self, dataset: Any, groups: Sequence[Any]) -> None:
        self._dataset = dataset
        self._groups = groups

    def get(self, group: str, name: str) -> Any:
        """A value, or None; `group` is the sequence that holds it in an enhanced file."""
        for groups in self._groups:
            item = _first(groups.get(group))
            value = None if item is None else item.get(name)
            if value not in (None, ""):
                return value
        value = self._dataset.get(name)
        return None if value in (None, "") else value


def _plane(of: _Lookup, path: str, frame: int, facts: tuple[Layout, float | None, int]) -> Plane:
    layout, offset, count = facts
    position = _floats(of.get("PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _floats(of.get("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    if position is not None and offset is not None and orientation is not None:
        a, b = orientation[:3], orientation[3:]
        normal = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
        position = tuple(p + offset * n for p, n in zip(position, normal, strict=True))
    elif count > 1 and not of.get("PlanePositionSequence", "ImagePositionPatient"):
        position = None
    gap = of.get("PixelMeasuresSequence", "SpacingBetweenSlices") or of.get("PixelMeasuresSequence", "SliceThickness")
    slope = of.get("PixelValueTransformationSequence", "RescaleSlope")
    intercept = of.get("PixelValueTransformationSequence", "RescaleIntercept")
    dose = of.get("", "DoseGridScaling")
    slope = float(slope if slope is not None else dose if dose is not None else 1)
    intercept = float(intercept) if intercept is not None else 0.0
    if not abs(slope) + abs(intercept) < float("inf"):
        raise ValueError(f"values are rescaled by {slope} and {intercept}")
    return Plane(
        path=path, frame=frame, uid=str(of.get("", "SOPInstanceUID")), layout=layout, orientation=orientation,
        position=None if position is None else (position[0], position[1], position[2]), spacing=_spacing(of),
        thickness=None if not gap else abs(float(gap)), times=_times(of, frame),
        slope=slope, intercept=intercept,
    )  # fmt: skip


def _spacing(of: _Lookup) -> tuple[float, float] | None:
    names = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
    found = next((v for v in (_floats(of.get("PixelMeasuresSequence", name), 2) for name in names) if v), None)
    return None if found is None or min(found) <= 0 else (found[0], found[1])


def _times(of: _Lookup, frame: int) -> tuple[Any, ...]:
    moment = of.get("FrameContentSequence", "FrameAcquisitionDateTime")
    clock = of.get("", "AcquisitionTime")
    if moment is None and clock is not None:
        moment = f"{of.get('', 'AcquisitionDate') or ''}{clock}"
    own: dict[str, Any] = {
        "TemporalPositionIdentifier": of.get("FrameContentSequence", "TemporalPositionIndex")
        or of.get("", "TemporalPositionIdentifier"),
        "TriggerTime": of.get("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime") or of.get("", "TriggerTime"),
        "EchoTime": of.get("MREchoSequence", "EffectiveEchoTime") or of.get("", "EchoTime"),
        "DiffusionBValue": of.get("MRDiffusionSequence", "DiffusionBValue"),
        "InstanceNumber": of.get("", "InstanceNumber"),
    }
    values: list[Any] = [float(own[key]) if own.get(key) is not None else None for key in TIME_KEYS]
    values[TIME_KEYS.index("AcquisitionTime")] = None if moment is None else str(moment)
    content = of.get("", "ContentTime")
    values[TIME_KEYS.index("ContentTime")] = None if content is None else str(content)
    last = TIME_KEYS.index("InstanceNumber")
    values[last] = None if values[last] is None else (values[last], frame)
    return tuple(values)


def _layout(dataset: Any) -> Layout:
    stored, allocated = dataset.get("BitsStored"), dataset.get("BitsAllocated")
    bits, samples = int(stored or allocated or 16), int(dataset.get("SamplesPerPixel") or 1)
    if not 1 <= bits <= int(allocated or 16) <= 64 or samples not in (1, 3):
        raise ValueError(f"{bits} of {allocated} bits in {samples} samples of a pixel are no image")
    is_signed = bool(dataset.get("PixelRepresentation", 0))
    return Layout(
        rows=int(dataset.Rows), cols=int(dataset.Columns), samples=samples,
        photometric=str(dataset.get("PhotometricInterpretation") or "MONOCHROME2"), bits=bits, is_signed=is_signed,
        is_float=stored is None and allocated in (32, 64), padding=_padding(dataset, bits, is_signed=is_signed),
    )  # fmt: skip


def _padding(dataset: Any, bits: int, *, is_signed: bool) -> tuple[int, int] | None:
    ends = [dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")]
    found = [int(end) for end in ends if isinstance(end, (int, float))]
    if ends[0] is None or not found:
        return None
    # Writers that know no signed numbers store -2000 as 63536.
    found = [v - (1 << 16) if is_signed and v >= 1 << (bits - 1) and v >= 1 << 15 else v for v in found]
    return min(found), max(found)


def _dose_offsets(dataset: Any, count: int) -> list[float] | None:
    """Where the frames of a radiotherapy dose lie along the normal, mm from the first."""
    offsets = dataset.get("GridFrameOffsetVector")
    if offsets is None or count == 1:
        return None
    values = [float(v) for v in offsets]
    if len(values) != count or values[0] != 0:
        raise ValueError(f"{count} frames and {len(values)} offsets, the first of which must be 0")
    return values


def _floats(values: Any, count: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    found = tuple(float(v) for v in values)
    if len(found) != count or not all(abs(v) < 1e9 for v in found):
        raise ValueError(f"{len(found)} numbers where {count} are needed, or not finite")
    return found


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None

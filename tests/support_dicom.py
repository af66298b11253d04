"""DICOM series made by hand with pydicom: any orientation, step, kind of pixels and order of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SERIES = "1.2.826.0.1.3680043.8.498.7.1"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Where the slices of a series lie."""

    orientation: Sequence[float] = AXIAL
    step: Sequence[float] = (0.0, 0.0, 2.5)
    origin: Sequence[float] = (-30.0, 12.5, 100.0)
    spacing: tuple[float, float] = (0.75, 0.5)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """LPS from (slice, row, column)."""
        row, col = np.array(self.orientation[:3]), np.array(self.orientation[3:])
        return np.stack([self.step, col * self.spacing[0], row * self.spacing[1], self.origin], axis=1)


def oblique(seed: int = 0, step: float = 2.5, tilt: float = 0.0) -> Shape:
    """A shape in no plane of the body; `tilt` degrees between the step and the normal."""
    ways, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    ways[:, 2] = np.cross(ways[:, 0], ways[:, 1])
    angle = np.deg2rad(tilt)
    way = ways[:, 2] * np.cos(angle) + ways[:, 1] * np.sin(angle)
    return Shape(orientation=tuple(ways[:, 0]) + tuple(ways[:, 1]), step=tuple(way * step), spacing=(0.75, 0.5))


def slice_of(pixels: NDArray[Any], place: int, shape: Shape, **more: Any) -> Dataset:
    """The data set of one slice; `more` are attributes in place of those made here, None leaves one out."""
    position = np.array(shape.origin) + place * np.array(shape.step)
    found = Dataset()
    bits = 8 * pixels.dtype.itemsize
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"{more.get('SeriesInstanceUID', SERIES)}.{more.pop('number', place + 1)}",
        "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.7", "SeriesInstanceUID": SERIES, "SeriesNumber": 4,
        "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.9", "Modality": "CT", "SeriesDescription": "thin slices",
        "PatientName": "Secret^Person", "PatientID": "4711", "PatientBirthDate": "19700304", "PatientSex": "O",
        "StudyDate": "20200102", "StudyTime": "101112", "StudyID": "1", "AccessionNumber": "", "ReferringPhysicianName": "",
        "PositionReferenceIndicator": "", "InstanceNumber": 1000 - place, "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "ImagePositionPatient": _numbers(position), "ImageOrientationPatient": _numbers(shape.orientation),
        "PixelSpacing": list(shape.spacing), "SliceThickness": 2.5, "Rows": pixels.shape[0], "Columns": pixels.shape[1],
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": int(pixels.dtype.kind == "i"), "RescaleSlope": 1, "RescaleIntercept": 0,
    }  # fmt: skip
    for name, value in {**values, **more}.items():
        if value is not None:
            setattr(found, name, value)
    found.PixelData = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).tobytes()
    found["PixelData"].VR = "OW"
    return found


def save(found: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    """Write a data set, with a head; packed where the syntax says so."""
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.file_meta.MediaStorageSOPClassUID = found.SOPClassUID
    found.file_meta.MediaStorageSOPInstanceUID = found.SOPInstanceUID
    if syntax != ExplicitVRLittleEndian:
        found.compress(syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=True)
    return path


def write_series(
    folder: Path, volume: NDArray[Any], shape: Shape | None = None, *, skip: Sequence[int] = (), **more: Any
) -> Path:
    """A file for each slice, names shuffled; `syntax` may be among `more`."""
    shape = shape or Shape()
    syntax = more.pop("syntax", ExplicitVRLittleEndian)
    names = np.random.default_rng(3).permutation(len(volume))
    for place, pixels in enumerate(volume):
        if place not in skip:
            save(slice_of(pixels, place, shape, **more), folder / f"im{names[place]:03d}.dcm", syntax)
    return folder


def phantom(seed: int = 0, shape: tuple[int, int, int] = (7, 20, 24), kind: str = "<i2") -> NDArray[Any]:
    """Voxels that differ from one another."""
    rng = np.random.default_rng(seed)
    low, high = (-1000, 3000) if kind[-2] == "i" else (0, 250)
    return rng.integers(low, high, shape).astype(kind)


def enhanced(volume: NDArray[Any], shape: Shape, order: Sequence[int], **more: Any) -> Dataset:
    """A multi-frame data set whose frames are slices in the order given; `times` volumes of one place where more frames."""
    times = more.pop("times", 1)
    found = slice_of(volume[0], 0, shape, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", ImagePositionPatient=None,
                     ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None, RescaleSlope=None,
                     RescaleIntercept=None, NumberOfFrames=len(order) * times, **more)  # fmt: skip
    found.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    found.SharedFunctionalGroupsSequence = [_groups(
        PlaneOrientationSequence={"ImageOrientationPatient": _numbers(shape.orientation)},
        PixelMeasuresSequence={"PixelSpacing": list(shape.spacing), "SliceThickness": 2.5},
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": -1000, "RescaleType": "HU"},
    )]  # fmt: skip
    frames = []
    for time in range(times):
        for place in order:
            position = np.array(shape.origin) + place * np.array(shape.step)
            frames.append(_groups(
                PlanePositionSequence={"ImagePositionPatient": _numbers(position)},
                FrameContentSequence={"TemporalPositionIndex": times - time, "DimensionIndexValues": [1, len(frames) + 1]},
            ))  # fmt: skip
    found.PerFrameFunctionalGroupsSequence = frames
    pixels = np.concatenate([volume[list(order)] + time for time in range(times)])
    found.PixelData = np.ascontiguousarray(pixels).tobytes()
    return found


def _numbers(values: Sequence[float]) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]


def _groups(**groups: dict[str, Any]) -> Dataset:
    found = Dataset()
    for name, values in groups.items():
        item = Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(found, name, [item])
    return found

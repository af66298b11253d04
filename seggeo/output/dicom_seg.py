"""DICOM segmentations of DICOM images, through highdicom: each voxel's segment, in the geometry of the series that was read.

A segment is an object, as long as there are at most `MAX_OBJECTS` of them; else a class, since every segment is described
in the head of the file and viewers list them all. The kind is LABELMAP: one number for each voxel (DICOM supplement 243).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

from seggeo import __version__
from seggeo.errors import OutputError
from seggeo.files import publishing
from seggeo.geometry import Frame
from seggeo.output.features import provenance_text
from seggeo.output.volume_labels import FileGrid, filed, slices
from seggeo.protocols import Result, SinkOptions

MAX_OBJECTS = 1000
"""Objects that become segments of their own."""
MAX_VOXELS = 1 << 29
"""highdicom holds the whole volume in memory, 2 bytes a voxel and once more while it packs them."""
_MEND = "use -f mha or -f nifti"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segments:
    """Which segment each object becomes."""

    number: NDArray[np.uint16]
    """By id, 0 where there is none."""
    labels: tuple[str, ...]
    """Of segment 1 and on."""
    are_objects: bool


def write_dicom_seg(result: Result, path: Path, options: SinkOptions) -> Path:
    """Write the objects as a DICOM segmentation that refers to the images read, and return `path`.

    It carries over the patient and study of the series, as the standard asks. Same result and same series, same bytes.

    Raises:
        OutputError: The input was no DICOM series, was resampled, has too many voxels, or lacks what the standard asks for.
        ResourceError: The disk is full.
    """
    check_dicom_seg(result.frame, path)
    if options.source is None:
        raise OutputError(
            what=f"{path} cannot be written", why="nothing says where the images are", mend="pass SinkOptions(source=...)"
        )
    sources, frames = _sources(result, path, options.source)
    with publishing(path, options.scratch) as temporary:
        segments = _segments(result)
        voxels = _voxels(result, segments, temporary.parent)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of rules that the series itself breaks
                found = _segmentation(result, segments, (sources, _in_frames(voxels, frames, sources)))
                found.save_as(temporary, enforce_file_format=True)
        except (AttributeError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
            raise OutputError(
                what=f"{path} could not be written", why=f"the series lacks what a segmentation must carry over: {error}",
                mend=_MEND,
            ) from error  # fmt: skip
    return path


def check_dicom_seg(frame: Frame, path: Path) -> None:
    """Refuse a segmentation that cannot be written, as soon as the input is known.

    Raises:
        OutputError: The input is no DICOM series placed in space, or highdicom is not installed.
    """
    header = {} if frame.placement is None else frame.placement.header
    if "uids" not in header:
        raise OutputError(
            what=f"{path} cannot be written",
            why="a DICOM segmentation refers to DICOM images, and the input has none placed in space",
            mend="choose another format: -f nifti, -f mha or -f nrrd",
        )
    try:
        import highdicom.seg  # noqa: F401 - whether it is there
    except ImportError as error:
        raise OutputError(
            what=f"{path} needs highdicom", why=str(error), mend='pip install "seggeo[volumes-more]", or use -f mha'
        ) from error


def _sources(result: Result, path: Path, source: Path) -> tuple[list[Any], list[tuple[int, int]]]:
    """Heads of the images, and the slice of the volume and frame of the file that belong together."""
    assert result.frame.placement is not None
    header, grid = result.frame.placement.header, FileGrid.of(result.frame)
    slots = header["slices"]
    if len(slots) != grid.shape[0] or list(grid.shape[1:]) != list(header["size"]):
        raise OutputError(
            what=f"{path} cannot be written",
            why=f"the labels measure {grid.shape}, the images {[len(slots), *header['size']]}",
            mend="segment the volume at its own resolution, or use -f mha",
        )  # fmt: skip
    if np.prod(grid.shape, dtype=np.int64) > MAX_VOXELS:
        raise OutputError(
            what=f"{path} cannot be written",
            why=f"{np.prod(grid.shape, dtype=np.int64)} voxels need too much memory in highdicom; the limit is {MAX_VOXELS}",
            mend=_MEND,
        )
    root = source if source.is_dir() else source.parent
    placed = [(i, *slot) for i, slot in enumerate(slots) if slot is not None]
    heads: dict[int, Any] = {}  # in the order in which the slices use them
    for _, number, _ in placed:
        if number not in heads:
            heads[number] = _head(root / header["files"][number], header["uids"][number], path)
    return list(heads.values()), [(i, frame) for i, _, frame in placed]


def _head(image: Path, uid: str, path: Path) -> Any:
    """All of an image but its pixels."""
    import pydicom
    from pydicom.config import disable_value_validation

    try:
        with disable_value_validation():
            found = pydicom.dcmread(image, stop_before_pixels=True, force=True)
        if found.SOPInstanceUID == uid:
            return found
        why = f"{image} is another image now"
    except (OSError, EOFError, AttributeError) as error:
        why = f"{image} cannot be read any more: {error}"
    raise OutputError(what=f"{path} cannot be written", why=why, mend="run the whole command again, on all images")


def _in_frames(voxels: NDArray[np.uint16], frames: Sequence[tuple[int, int]], sources: Sequence[Any]) -> NDArray[np.uint16]:
    """The slices in the order that highdicom expects: of the files, or of the frames of the one file."""
    count = int(sources[0].get("NumberOfFrames") or 1)
    if count == 1:
        return voxels[[i for i, _ in frames]]
    if len(sources) > 1:
        raise ValueError("its volume lies in several files of several frames")
    ordered = np.zeros((count, *voxels.shape[1:]), np.uint16)
    ordered[[frame for _, frame in frames]] = voxels[[i for i, _ in frames]]
    return ordered


def _segments(result: Result) -> _Segments:
    """A segment for each object, or for each class where there are too many."""
    label = np.zeros(result.count + 1, np.int64)
    for objects in result.iter_objects():
        label[objects.id] = objects.instances.label + 1
    names = [_plain(name) for name in result.classes]
    if 0 < result.count <= MAX_OBJECTS:
        titles = tuple(f"{names[max(kind - 1, 0)]} {i}" for i, kind in enumerate(label[1:].tolist(), 1))
        return _Segments(number=np.arange(result.count + 1, dtype=np.uint16), labels=titles, are_objects=True)
    return _Segments(number=label.astype(np.uint16), labels=tuple(names), are_objects=False)


def _voxels(result: Result, segments: _Segments, scratch: Path) -> NDArray[np.uint16]:
    """Number of the segment of each voxel, in the order of the file."""
    shape = FileGrid.of(result.frame).shape
    voxels = np.zeros(shape, np.uint16)
    for i, ids in enumerate(slices(filed(result, scratch), shape, np.dtype(np.uint32))):
        voxels[i] = segments.number[ids]
    return voxels


def _segmentation(result: Result, segments: _Segments, drawn: tuple[list[Any], NDArray[np.uint16]]) -> Any:
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom.uid import RLELossless

    sources, voxels = drawn
    uids = _uids(result, sources[0])
    version = str(result.provenance.get("seggeo", __version__))
    found = Segmentation(
        source_images=sources, pixel_array=voxels,
        segmentation_type=SegmentationTypeValues.LABELMAP,
        segment_descriptions=list(_descriptions(result, segments, version)), series_instance_uid=next(uids),
        series_number=int(sources[0].get("SeriesNumber") or 0) % 10_000 * 100 + 99, sop_instance_uid=next(uids),
        instance_number=1,
        manufacturer="seggeo", manufacturer_model_name="seggeo", software_versions=version, device_serial_number="0",
        omit_empty_frames=False, content_label="SEGGEO",
        content_description="objects" if segments.are_objects else "classes",
        transfer_syntax_uid=RLELossless,
    )  # fmt: skip
    _settle(found, sources[0], uids)
    return found


def _settle(found: Any, source: Any, uids: Iterator[str]) -> None:
    """Put what follows from the input in place of the moment and the dice, so that the same result gives the same bytes."""
    day, moment = (source.get(f"Study{part}") or source.get(f"Content{part}") for part in ("Date", "Time"))
    for name in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        if name in found:
            setattr(found, name, day or "19700101")
    for name in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        if name in found:
            setattr(found, name, moment or "000000")
    for item in found.get("ContributingEquipmentSequence") or ():
        item.ContributionDateTime = f"{day or '19700101'}{moment or '000000'}"
    organization = next(uids)
    for item in found.get("DimensionOrganizationSequence") or ():
        item.DimensionOrganizationUID = organization
    for item in found.get("DimensionIndexSequence") or ():
        item.DimensionOrganizationUID = organization


def _descriptions(result: Result, segments: _Segments, version: str) -> Iterator[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    model = result.provenance.get("model") or {}
    name = str(model.get("name", "seggeo")) if isinstance(model, Mapping) else str(model)
    how = AlgorithmIdentificationSequence(name=f"seggeo {name}"[:64], family=codes.DCM.ArtificialIntelligence, version=version)
    for number, label in enumerate(segments.labels, 1):
        yield SegmentDescription(
            segment_number=number, segment_label=label[:64], segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue, algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=how, tracking_id=label[:64] if segments.are_objects else None,
            tracking_uid=_uid(f"{provenance_text(result)}:{number}") if segments.are_objects else None,
        )  # fmt: skip


def _uids(result: Result, source: Any) -> Iterator[str]:
    """UIDs that follow from the job and the series."""
    base = f"{source.SeriesInstanceUID}:{provenance_text(result)}"
    return (_uid(f"{base}:{name}") for name in ("series", "instance", "organization"))


def _uid(text: str) -> str:
    return f"2.25.{uuid5(NAMESPACE_URL, 'seggeo:' + text).int}"


def _plain(name: str) -> str:
    """A class name as DICOM takes it."""
    return name.replace("\\", "/").strip() or "object"

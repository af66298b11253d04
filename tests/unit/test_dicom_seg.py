"""DICOM segmentations say what was found, where it was found, and of which images."""

import numpy as np
import pytest
from support_dicom import enhanced, oblique, phantom, save, write_series
from support_volume import blobs, placement, volume_of

from seggeo.config import Reading
from seggeo.errors import OutputError
from seggeo.geometry import Frame, Placement
from seggeo.io.volume_dicom import open_dicom
from seggeo.output import dicom_seg
from seggeo.output.dicom_seg import write_dicom_seg
from seggeo.protocols import SinkOptions

hd = pytest.importorskip("highdicom")


def frame_of(facts, axes=(0, 1, 2)):
    """The frame of a volume that is sliced along an axis of its file."""
    depth, height, width = (facts.shape[axis] for axis in axes)
    matrix = np.array(facts.matrix)[:, [*axes, 3]]
    place = Placement(matrix=tuple(map(tuple, matrix.tolist())), space=facts.space, axes=axes, header=facts.header)
    return Frame(depth=depth, height=height, width=width, unit="mm", placement=place)


def written(path, labels, source, axes=(0, 1, 2), **settings):
    facts = open_dicom(source, "scan", Reading(**settings)).facts
    result = volume_of(labels.transpose(axes), frame_of(facts, axes))
    return facts, write_dicom_seg(result, path, SinkOptions(source=source))


def numbers(facts, path):
    """Numbers of segments in the order of the volume's slices, by the images they refer to."""
    found = hd.seg.segread(path)
    uids = [facts.header["uids"][slot[0]] for slot in facts.header["slices"] if slot is not None]
    return found.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=True)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
def test_segments_are_the_objects_at_their_images_and_in_the_world(axes, tmp_path):
    labels = blobs(1, (7, 20, 24))
    source = write_series(tmp_path / "scan", phantom(), oblique(2))
    facts, path = written(tmp_path / "seg.dcm", labels, source, axes)
    found = hd.seg.segread(path)
    volume = found.get_volume(combine_segments=True)

    assert np.array_equal(numbers(facts, path), labels)
    matrix = np.array(facts.matrix)
    for index in np.argwhere(labels)[::97]:
        there = np.rint(np.linalg.inv(volume.affine) @ [*(matrix[:, :3] @ index + matrix[:, 3]), 1])[:3].astype(int)
        assert volume.array[tuple(there)] == labels[tuple(index)]
    assert (found.PatientID, found.Modality) == ("4711", "SEG")
    assert found.get_segment_description(1).segment_label == "object 1"
    assert found.FrameOfReferenceUID == "1.2.826.0.1.3680043.8.498.9"


def test_the_same_result_gives_the_same_bytes(tmp_path):
    source = write_series(tmp_path / "scan", phantom())
    labels = blobs(1, (7, 20, 24))
    _, one = written(tmp_path / "a.dcm", labels, source)
    _, two = written(tmp_path / "b.dcm", labels, source)

    assert one.read_bytes() == two.read_bytes()


def test_frames_of_an_enhanced_file_are_found_again(tmp_path):
    labels, order = blobs(3, (7, 20, 24)), [4, 0, 6, 2, 5, 1, 3]
    dataset = enhanced(phantom(8), oblique(3), order)
    dataset.AcquisitionContextSequence = []
    source = save(dataset, tmp_path / "one.dcm")
    _, path = written(tmp_path / "seg.dcm", labels, source)
    found = hd.seg.segread(path)
    frames = found.get_pixels_by_source_frame(
        dataset.SOPInstanceUID, [order.index(z) + 1 for z in range(7)], combine_segments=True, ignore_spatial_locations=True
    )

    assert np.array_equal(frames, labels)


def test_missing_slices_are_left_out(tmp_path):
    labels = blobs(3, (7, 20, 24))
    source = write_series(tmp_path / "scan", phantom(), skip=(3,))
    facts, path = written(tmp_path / "seg.dcm", labels, source, allow_gaps=True)

    assert np.array_equal(numbers(facts, path), np.delete(labels, 3, axis=0))


def test_more_objects_than_the_limit_become_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_seg, "MAX_OBJECTS", 10)
    labels = blobs(3, (7, 20, 24))
    source = write_series(tmp_path / "scan", phantom())
    facts, path = written(tmp_path / "seg.dcm", labels, source)

    assert np.array_equal(numbers(facts, path), labels > 0)
    assert hd.seg.segread(path).get_segment_description(1).segment_label == "object"


def test_an_empty_result_is_a_segmentation_without_voxels(tmp_path):
    source = write_series(tmp_path / "scan", phantom())
    facts, path = written(tmp_path / "seg.dcm", np.zeros((7, 20, 24), np.uint32), source)

    assert not numbers(facts, path).any()


def test_what_is_not_of_dicom_images_is_refused_with_another_format(tmp_path):
    result = volume_of(blobs(1, (3, 5, 5)), Frame(depth=3, height=5, width=5, placement=placement()))
    with pytest.raises(OutputError, match="-f nifti"):
        write_dicom_seg(result, tmp_path / "seg.dcm", SinkOptions(source=tmp_path))


def test_images_that_were_exchanged_or_lack_what_is_needed_are_refused(tmp_path):
    labels = blobs(1, (7, 20, 24))
    source = write_series(tmp_path / "scan", phantom())
    facts = open_dicom(source, "scan", Reading()).facts
    write_series(tmp_path / "scan", phantom(), SeriesInstanceUID="1.2.3")
    with pytest.raises(OutputError, match="another image now"):
        write_dicom_seg(volume_of(labels, frame_of(facts)), tmp_path / "seg.dcm", SinkOptions(source=source))
    source = write_series(tmp_path / "poor", phantom(), FrameOfReferenceUID=None, PatientID=None)
    with pytest.raises(OutputError, match="lacks what a segmentation must carry"):
        written(tmp_path / "seg.dcm", labels, source)
    assert not (tmp_path / "seg.dcm").exists()

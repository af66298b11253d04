"""NIfTI labels lie where their input lies, bit for bit, and other readers find the ids where we put them."""

import base64
import gzip
import tracemalloc
from dataclasses import replace
from itertools import permutations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support_results import empty_result, result_of
from support_volume import VolumeResult, blobs, objects_in, placement, slice_objects, volume_of

from seggeo.config import Reading
from seggeo.geometry import Frame, Placement, matrix_of
from seggeo.io.volume_nifti import open_nifti
from seggeo.output.nifti_labels import write_nifti
from seggeo.protocols import SinkOptions

SHAPE = (17, 23, 31)
"""Slices, rows and columns as the file has them, the slowest axis first."""
FORMS = [field for field in nib.Nifti1Header().keys() if field.startswith(("quatern", "qoffset", "srow"))]  # noqa: SIM118
FORMS += ["qform_code", "sform_code"]


def in_metres(made):
    made.header.set_xyzt_units("meter")
    return made


def oblique(flips=(1, 1, 1), shear=0.0):
    a, b = 0.3, -0.2
    rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    rotation = rotation @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(np.array([0.7, 0.9, 2.5]) * flips)
    affine[0, 1] += shear
    affine[:3, 3] = -31.7, 12.25, 1001.1
    return affine


def image(affine, codes=(1, 1), kind=nib.Nifti1Image, order="<"):
    header = kind.header_class(endianness=order)
    made = kind(np.zeros(SHAPE[::-1], np.dtype(np.int16).newbyteorder(order)), affine, header)
    made.set_qform(affine, codes[0], strip_shears=True)
    made.set_sform(affine, codes[1])
    return made


def frame_of(path, axes=(0, 1, 2), **fields):
    """The frame that slicing a file along another axis gives."""
    file = open_nifti(str(path), path.name, Reading())
    facts = file.facts
    file.close()
    matrix = np.array(facts.matrix)[:, [*axes, 3]]
    place = Placement(matrix=matrix_of(matrix), space=facts.space, axes=axes, header=facts.header)
    depth, height, width = (facts.shape[a] for a in axes)
    return Frame(depth=depth, height=height, width=width, unit=facts.unit, spacing=place.spacing, placement=place, **fields)


def written(labels, frame, path, **options):
    return write_nifti(volume_of(labels, frame, **options), path, SinkOptions())


CASES = {
    "oblique": image(oblique()),
    "flipped": image(oblique((-1, 1, -1))),
    "left-handed": image(oblique((-1, 1, 1)), (4, 2)),
    "sform alone": image(oblique(), (0, 3)),
    "sheared sform alone": image(oblique(shear=0.2), (0, 2)),
    "qform alone": image(oblique((1, -1, 1)), (1, 0)),
    "no form": image(oblique(), (0, 0)),
    "big-endian": image(oblique(), order=">"),
    "metres": in_metres(image(oblique())),
    "nifti-2": image(oblique(), kind=nib.Nifti2Image),
}


@pytest.mark.parametrize("name", CASES)
def test_every_bit_of_the_geometry_is_the_inputs(name, tmp_path):
    source = tmp_path / "in.nii.gz"
    nib.save(CASES[name], source)
    labels = blobs(5, SHAPE)
    ours, theirs = nib.load(written(labels, frame_of(source), tmp_path / "l.nii.gz")), nib.load(source)

    assert type(ours) is type(theirs)
    assert ours.affine.tobytes() == theirs.affine.tobytes()
    for field in FORMS:
        assert ours.header[field].tobytes() == np.asarray(theirs.header[field].astype(ours.header[field].dtype)).tobytes()
    assert np.array_equal(ours.header["pixdim"][:4], theirs.header["pixdim"][:4])
    assert ours.header.get_xyzt_units()[0] == theirs.header.get_xyzt_units()[0]
    assert ours.header.get_intent("code")[0] == 1002
    assert ours.header.get_data_dtype() == np.uint16
    assert np.array_equal(np.asarray(ours.dataobj), labels.transpose(2, 1, 0))


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_whatever_axis_it_was_sliced_along_the_file_is_the_same(axes, tmp_path):
    source, labels = tmp_path / "in.nii.gz", blobs(6, SHAPE)
    nib.save(CASES["flipped"], source)
    straight = written(labels, frame_of(source), tmp_path / "a.nii.gz")

    turned = written(labels.transpose(axes), frame_of(source, axes), tmp_path / "b.nii.gz", batch=3)

    assert turned.read_bytes() == straight.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz", "in.nii.gz"]


@pytest.mark.parametrize("name", ["oblique", "flipped", "left-handed", "qform alone", "sform alone"])
def test_simpleitk_finds_voxels_where_the_input_has_them(name, tmp_path):
    source = tmp_path / "in.nii.gz"
    nib.save(CASES[name], source)
    labels = blobs(7, SHAPE)
    path = written(labels.transpose(1, 2, 0), frame_of(source, (1, 2, 0)), tmp_path / "l.nii.gz")
    ours, theirs = sitk.ReadImage(str(path)), sitk.ReadImage(str(source))

    assert np.array_equal(sitk.GetArrayFromImage(ours), labels)
    for index in [(0, 0, 0), (30, 22, 16), (3, 20, 9)]:
        assert ours.TransformIndexToPhysicalPoint(index) == theirs.TransformIndexToPhysicalPoint(index)


def test_other_inputs_are_placed_in_ras(tmp_path):
    labels = blobs(8, SHAPE)
    lps = np.array([[0.1, 0.2, 0.69, 11], [0.2, 0.85, -0.1, -7], [3.0, -0.1, 0.0, 40]])
    frame = Frame(
        depth=17, height=23, width=31, unit="mm", placement=placement(matrix=orthogonal(lps), space="LPS"),
    )  # fmt: skip
    path = written(labels, frame, tmp_path / "l.nii.gz")
    ours = nib.load(path)
    for zyx in [(0, 0, 0), (16, 3, 30), (5, 22, 1)]:
        x, y, z = frame.placement.world([zyx])[0]
        assert nib.affines.apply_affine(ours.affine, zyx[::-1]) == pytest.approx([-x, -y, z], abs=1e-4)
        assert nib.affines.apply_affine(ours.get_qform(), zyx[::-1]) == pytest.approx([-x, -y, z], abs=1e-3)
        point = sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint(zyx[::-1])
        assert point == pytest.approx((x, y, z), abs=1e-3)
    assert (int(ours.header["qform_code"]), int(ours.header["sform_code"])) == (1, 1)
    assert ours.header.get_xyzt_units()[0] == "mm"


def orthogonal(matrix):
    """The nearest matrix without shear."""
    steps = matrix[:, :3]
    u, _, v = np.linalg.svd(steps / np.linalg.norm(steps, axis=0))
    return np.c_[u @ v * np.linalg.norm(steps, axis=0), matrix[:, 3]]


def test_a_microscopes_spacing_keeps_its_unit_and_a_sheared_grid_has_no_qform(tmp_path):
    labels = blobs(9, SHAPE)
    frame = Frame(depth=17, height=23, width=31, unit="um", placement=placement((2.0, 0.5, 0.25)))
    ours = nib.load(written(labels, frame, tmp_path / "l.nii"))
    assert ours.header.get_xyzt_units()[0] == "micron"
    assert ours.header.get_zooms() == (0.25, 0.5, 2.0)
    assert np.array_equal(ours.affine, np.diag([0.25, 0.5, 2, 1]))

    tilted = placement(matrix=[[0, 0, 0.5, 0], [0.4, 0.5, 0, 0], [2, 0, 0, 0]], space="LPS")
    sheared = nib.load(written(labels, replace(frame, placement=tilted), tmp_path / "s.nii.gz"))
    assert int(sheared.header["qform_code"]) == 0
    assert np.allclose(sheared.affine, [[-0.5, 0, 0, 0], [0, -0.5, -0.4, 0], [0, 0, 2, 0], [0, 0, 0, 1]])


def test_a_coarser_work_grid_is_placed_by_its_own_matrix_in_the_inputs_space(tmp_path):
    source = tmp_path / "in.nii.gz"
    nib.save(CASES["left-handed"], source)
    frame = frame_of(source)
    matrix = np.array(frame.placement.matrix)
    matrix[:, :3] *= 2
    coarse = replace(frame, depth=9, height=12, width=16, placement=replace(frame.placement, matrix=matrix_of(matrix)))
    ours = nib.load(written(blobs(1, (9, 12, 16)), coarse, tmp_path / "l.nii.gz"))
    assert np.allclose(ours.affine[:3], matrix[:, [2, 1, 0, 3]], rtol=1e-6)
    assert int(ours.header["sform_code"]) == 2


def test_frames_in_time_are_the_fourth_axis(tmp_path):
    labels = blobs(2, SHAPE)
    frame = Frame(depth=17, height=23, width=31, unit="um", placement=placement((1, 0.5, 0.5)), is_series=True)
    ours = nib.load(written(labels, frame, tmp_path / "l.nii.gz"))
    assert ours.shape == (31, 23, 1, 17)
    assert np.array_equal(np.asarray(ours.dataobj)[:, :, 0].transpose(2, 1, 0), labels)


def test_one_slice_no_object_and_images_without_slices(tmp_path):
    one = blobs(3, (1, 600, 40))
    assert np.array_equal(np.asarray(nib.load(written(one, None, tmp_path / "a.nii.gz")).dataobj).T, one)
    blank = nib.load(written(np.zeros_like(one), None, tmp_path / "b.nii.gz"))
    assert not np.asarray(blank.dataobj).any()
    assert blank.shape == (40, 600, 1)
    plane = write_nifti(result_of(one[0].astype(np.int32)), tmp_path / "c.nii.gz", SinkOptions())
    assert len(np.unique(np.asarray(nib.load(plane).dataobj))) == len(np.unique(one))
    assert nib.load(write_nifti(empty_result(Frame(height=3, width=4)), tmp_path / "d.nii", SinkOptions())).shape == (4, 3, 1)


def test_more_ids_than_16_bits_hold_and_longer_axes_than_nifti_1_has(tmp_path):
    labels = np.arange(1, 2 * 40_000 + 1, dtype=np.uint32).reshape(2, 1, 40_000)
    ours = nib.load(written(labels, None, tmp_path / "l.nii.gz"))
    assert isinstance(ours, nib.Nifti2Image)
    assert ours.header.get_data_dtype() == np.uint32
    assert np.array_equal(np.asarray(ours.dataobj).T, labels)


def test_bytes_repeat_and_the_name_matters_for_packing_alone(tmp_path):
    labels = blobs(4, (5, 700, 600))
    files = [written(labels, None, tmp_path / name, batch=batch) for name, batch in (("a.nii.gz", 3), ("b.nii.gz", 99))]
    plain = written(labels, None, tmp_path / "c.nii").read_bytes()
    assert files[0].read_bytes() == files[1].read_bytes()
    assert gzip.decompress(files[0].read_bytes()) == plain
    assert len(plain) == 352 + labels.size * 2


def test_the_header_of_a_2d_file_still_fits_the_one_slice_read_from_it(tmp_path):
    source = tmp_path / "in.nii"
    nib.save(nib.Nifti1Image(np.zeros((31, 23), np.uint8), oblique()), source)
    ours = nib.load(written(blobs(5, (1, 23, 31)), frame_of(source), tmp_path / "l.nii.gz"))
    block = base64.b64decode(frame_of(source).placement.header["block"])
    assert ours.shape == (31, 23, 1)
    assert ours.header.binaryblock[252:344][:76] == block[252:328]


def test_memory_does_not_grow_with_depth(tmp_path):
    peaks = []
    plane = slice_objects(blobs(3, (1, 300, 400))[0], 0)
    for depth in (16, 256):
        frame = Frame(depth=depth, height=300, width=400, placement=placement())
        result = VolumeResult(frame, lambda z: objects_in(plane.instances.shift(0, 0, z), plane.id), 30)
        tracemalloc.start()
        write_nifti(result, tmp_path / "l.nii.gz", SinkOptions())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]

"""MetaImage and NRRD are read as SimpleITK reads them, and what is written it reads as the same labels in the same place."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from support_volume import VolumeResult, blobs, objects_in, placement, volume_of

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.io.volume_itk import open_itk
from seggeo.output.itk_labels import write_mha, write_nrrd
from seggeo.protocols import SinkOptions

sitk = pytest.importorskip("SimpleITK")
ENDINGS = ("mha", "mhd", "nrrd", "nhdr")
WRITERS = {"mha": write_mha, "nrrd": write_nrrd}


_OPEN = []


@pytest.fixture(autouse=True)
def _closing():
    yield
    while _OPEN:
        _OPEN.pop().close()


def opened(path):
    _OPEN.append(open_itk(path, path.name, Reading()))
    return _OPEN[-1]


def voxels(volume, channel=0, time=0):
    return volume.read(tuple(slice(0, n) for n in volume.facts.shape), channel, time)


def way(seed, shear=0.0):
    """An oblique way from (slice, row, column) to the world."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix = np.column_stack([turned * [3.0, 0.7, 0.5], [10.0, -20.0, 30.25]])
    matrix[:, 0] += shear * matrix[:, 1]
    return matrix


def image_of(stored, matrix=None, *, is_vector=False):
    image = sitk.GetImageFromArray(stored, isVector=is_vector)
    if matrix is not None:
        steps = np.linalg.norm(matrix[:, 2::-1], axis=0)
        image.SetSpacing(steps.tolist())
        image.SetDirection((matrix[:, 2::-1] / steps).ravel().tolist())
        image.SetOrigin(matrix[:, 3].tolist())
    return image


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_any_kind_of_voxels_is_read_as_simpleitk_does(ending, is_packed, kind, tmp_path):
    rng = np.random.default_rng(1)
    for parts in (1, 2, 3):
        shape = (5, 7, 9) + ((parts,) if parts > 1 else ())
        stored = (rng.random(shape) * 200).astype(kind)
        matrix = way(parts)
        path = tmp_path / f"v{parts}.{ending}"
        sitk.WriteImage(image_of(stored, matrix, is_vector=parts > 1), str(path), is_packed)
        volume = opened(path)

        assert volume.facts.shape == (5, 7, 9)
        assert volume.facts.dtype == np.dtype(kind)
        assert len(volume.facts.channels) == parts
        assert volume.facts.is_rgb == (parts == 3 and kind == "u1")
        assert np.allclose(volume.facts.matrix, matrix)
        assert (volume.facts.space, volume.facts.unit, volume.facts.family) == ("LPS", "mm", "itk")
        for channel in range(parts):
            assert np.array_equal(voxels(volume, channel), stored[..., channel] if parts > 1 else stored)
        box = (slice(1, 3), slice(2, 7), slice(0, 4))
        assert np.array_equal(volume.read(box, 0, 0), (stored[..., 0] if parts > 1 else stored)[box])


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
def test_four_axes_are_volumes_in_time_and_two_are_one_slice(ending, tmp_path):
    stored = np.random.default_rng(0).integers(0, 99, (3, 4, 5, 6)).astype(np.int16)
    path = tmp_path / f"v.{ending}"
    image = sitk.JoinSeries([image_of(one) for one in stored])
    sitk.WriteImage(image, str(path))
    volume = opened(path)
    assert volume.facts.times == 3
    for time in range(3):
        assert np.array_equal(voxels(volume, time=time), stored[time])

    sitk.WriteImage(image_of(stored[0, 0]), str(path), True)
    volume = opened(path)
    assert volume.facts.shape == (1, 5, 6)
    assert np.array_equal(voxels(volume)[0], stored[0, 0])


def test_bytes_in_the_other_order_and_voxels_at_the_end_are_read(tmp_path):
    stored = np.arange(60, dtype=">i2").reshape(3, 4, 5)
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\nDimSize = 5 4 3\n"
    (tmp_path / "a.mha").write_bytes(f"{head}ElementType = MET_SHORT\nElementDataFile = LOCAL\n".encode() + stored.tobytes())
    (tmp_path / "b.raw").write_bytes(b"junk" + stored.tobytes())
    (tmp_path / "b.mhd").write_text(f"{head}HeaderSize = -1\nElementType = MET_SHORT\nElementDataFile = b.raw\n")
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: raw\nendian: big\nbyte skip: 4\ndata file: b.raw\n\n"
    (tmp_path / "c.nhdr").write_text(text)
    ascii_head = "NRRD0004\ntype: short\ndimension: 3\nsizes: 5 4 3\nencoding: ascii\n\n"
    (tmp_path / "d.nrrd").write_text(ascii_head + " ".join(map(str, range(60))))

    for name in ("a.mha", "b.mhd", "c.nhdr", "d.nrrd"):
        assert np.array_equal(voxels(opened(tmp_path / name)), stored), name


def test_a_space_of_nifti_is_turned_to_lps(tmp_path):
    head = "NRRD0004\ntype: uchar\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 2 2\nencoding: raw\n"
    head += "space directions: (0.5,0,0) (0,0.5,0) (0,0,2)\nspace origin: (1,2,3)\n\n"
    (tmp_path / "v.nrrd").write_bytes(head.encode() + bytes(8))

    assert np.allclose(opened(tmp_path / "v.nrrd").facts.matrix, [[0, 0, -0.5, -1], [0, -0.5, 0, -2], [2, 0, 0, 3]])


@pytest.mark.parametrize(("ending", "field"), [("mhd", "ElementDataFile = "), ("nhdr", "data file: ")])
def test_voxels_in_another_folder_are_refused(ending, field, tmp_path):
    path = tmp_path / "in" / f"v.{ending}"
    path.parent.mkdir()
    sitk.WriteImage(image_of(np.zeros((3, 4, 5), np.uint8)), str(path))
    text = path.read_text()
    name = next(line for line in text.splitlines() if line.startswith(field)).removeprefix(field)
    (tmp_path / "secret").write_bytes(bytes(60))
    (path.parent / "link").symlink_to(tmp_path / "secret")
    for other in ("../secret", str(tmp_path / "secret"), "link", "/etc/hostname"):
        path.write_text(text.replace(name, other))
        with pytest.raises(SourceError, match="any file of this machine"):
            opened(path)
    path.write_text(text.replace(name, "LIST"))
    with pytest.raises(SourceError, match="several files"):
        opened(path)
    path.write_text(text.replace(name, "absent.raw"))
    with pytest.raises(SourceError, match="not there"):
        opened(path)


@pytest.mark.parametrize("ending", ["mha", "nrrd"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_cut_and_bent_files_are_refused_or_read(ending, is_packed, tmp_path):
    path = tmp_path / f"v.{ending}"
    stored = np.random.default_rng(0).integers(0, 9, (6, 20, 20)).astype(np.uint16)
    sitk.WriteImage(image_of(stored), str(path), is_packed)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SourceError):
        voxels(opened(path))
    rng = np.random.default_rng(2)
    for _ in range(60):
        bent = bytearray(data)
        for at in rng.integers(0, min(len(data), 400), 3):
            bent[at] = int(rng.integers(256))
        path.write_bytes(bent)
        try:
            volume = opened(path)
            volume.read((slice(0, 1),) * 3, 0, 0)
        except SourceError:
            pass


def test_text_and_nothing_are_refused(tmp_path):
    for name in ("a.mha", "a.nrrd"):
        (tmp_path / name).write_bytes(b"<html>not here</html>")
        with pytest.raises(SourceError):
            opened(tmp_path / name)


@pytest.mark.parametrize("ending", list(WRITERS))
@pytest.mark.parametrize("space", ["LPS", "RAS", ""])
@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_labels_lie_where_the_voxels_lay_whatever_axis_was_sliced(ending, space, shear, tmp_path):
    stored = blobs(1, (9, 20, 30))
    for seed, axes in enumerate(permutations(range(3))):
        matrix, work = way(seed, shear), stored.transpose(axes)
        place = placement(axes=axes, matrix=matrix[:, [*axes, 3]], space=space)
        frame = Frame(depth=work.shape[0], height=work.shape[1], width=work.shape[2], unit="mm", placement=place)
        path = WRITERS[ending](volume_of(work, frame), tmp_path / f"v.{ending}", SinkOptions())
        image = sitk.ReadImage(str(path))

        assert np.array_equal(sitk.GetArrayFromImage(image), stored)
        assert image.GetPixelID() == sitk.sitkUInt16
        turn = [-1, -1, 1] if space == "RAS" else [1, 1, 1]
        for index in np.random.default_rng(seed).integers(0, stored.shape, (10, 3)):
            point = (matrix[:, :3] @ index + matrix[:, 3]) * turn
            assert np.allclose(image.TransformIndexToPhysicalPoint(index[::-1].tolist()), point, atol=1e-5)
        assert np.array_equal(voxels(opened(path)), stored)


@pytest.mark.parametrize("ending", list(WRITERS))
@pytest.mark.parametrize("unit", ["mm", "um"])
def test_the_unit_is_written_and_read(ending, unit, tmp_path):
    stored = blobs(2, (4, 9, 9))
    frame = Frame(depth=4, height=9, width=9, unit=unit, placement=placement((3.0, 0.5, 0.25)))
    facts = opened(WRITERS[ending](volume_of(stored, frame), tmp_path / f"v.{ending}", SinkOptions())).facts

    assert facts.unit == unit
    assert np.allclose(facts.matrix, [[0, 0, 0.25, 0], [0, 0.5, 0, 0], [3, 0, 0, 0]])


@pytest.mark.parametrize("ending", list(WRITERS))
def test_many_objects_keep_their_ids_and_bytes_repeat(ending, tmp_path):
    stored = blobs(2, (4, 30, 30)).astype(np.uint32) * 3000
    result = volume_of(stored)
    path = WRITERS[ending](result, tmp_path / f"a.{ending}", SinkOptions())
    again = WRITERS[ending](result, tmp_path / f"b.{ending}", SinkOptions())

    assert stored.max() > 65535
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), stored)
    assert path.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("ending", list(WRITERS))
def test_memory_does_not_grow_with_the_depth(ending, tmp_path):
    mask = np.ones((40, 40), bool)

    def peak(depth):
        frame = Frame(depth=depth, height=700, width=700, placement=placement())
        one = Instances.from_masks([mask], origin=[[5, 5]])
        result = VolumeResult(frame, lambda z: objects_in(one.shift(0, 0, z), np.array([1])), 1)
        tracemalloc.start()
        WRITERS[ending](result, tmp_path / f"v.{ending}", SinkOptions())
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(64) < 1.2 * peak(8) + 1e6

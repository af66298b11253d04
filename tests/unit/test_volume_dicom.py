"""DICOM series are read as GDCM reads them, and where GDCM guesses, as their headers say."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support_dicom import SERIES, Shape, enhanced, oblique, phantom, save, slice_of, write_series

from seggeo.config import Reading
from seggeo.io.volume_dicom import open_dicom

pydicom = pytest.importorskip("pydicom")
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def opened(path, **settings):
    return open_dicom(path, path.name, Reading(**settings))


def voxels(volume, channel=0, time=0):
    return volume.read(tuple(slice(0, n) for n in volume.facts.shape), channel, time)


def world(facts, index):
    matrix = np.array(facts.matrix)
    return matrix[:, :3] @ index + matrix[:, 3]


@pytest.mark.parametrize("shape", [
    Shape(), Shape(step=(0, 0, -2.5)), Shape(orientation=CORONAL, step=(0, 3.0, 0)),
    Shape(orientation=SAGITTAL, step=(-1.5, 0, 0)),
    *map(oblique, range(4)),
])  # fmt: skip
def test_a_series_in_shuffled_files_is_what_simpleitk_reads(shape, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    stored = phantom(2)
    write_series(tmp_path / "scan", stored, shape, RescaleIntercept=-1024)
    volume = opened(tmp_path / "scan")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "scan"))
    theirs = sitk.ReadImage(names)

    assert volume.facts.shape == stored.shape
    assert np.array_equal(voxels(volume), sitk.GetArrayFromImage(theirs))
    for index in np.random.default_rng(0).integers(0, stored.shape, (20, 3)):
        point = theirs.TransformIndexToPhysicalPoint([int(v) for v in index[::-1]])
        assert np.allclose(world(volume.facts, index), point, atol=1e-4)
    assert volume.facts.space == "LPS"
    assert not volume.facts.warnings


def test_the_way_along_the_normal_decides_not_the_number_or_the_name(tmp_path):
    stored = phantom(1)
    write_series(tmp_path, stored)  # instance numbers fall with the place, names are shuffled
    volume = opened(tmp_path)

    assert np.array_equal(voxels(volume), stored)
    assert np.allclose(volume.facts.matrix, Shape().matrix)


def test_boxes_are_parts_of_the_whole(tmp_path):
    stored = phantom(5, (6, 30, 40))
    volume = opened(write_series(tmp_path, stored))
    rng = np.random.default_rng(0)
    for _ in range(10):
        low = rng.integers(0, stored.shape)
        box = tuple(slice(int(a), int(rng.integers(a + 1, n + 1))) for a, n in zip(low, stored.shape, strict=True))
        assert np.array_equal(volume.read(box, 0, 0), stored[box])


def test_a_tilted_gantry_gives_the_matrix_of_its_positions_and_is_told(tmp_path):
    shape = oblique(7, tilt=15.0)
    volume = opened(write_series(tmp_path, phantom(), shape))

    assert np.allclose(volume.facts.matrix, shape.matrix, atol=1e-6)
    assert "gantry tilt" in volume.facts.warnings[0]
    assert "15.00 degrees" in volume.facts.warnings[0]


def test_slopes_of_each_slice_and_parts_of_a_unit_give_real_numbers(tmp_path):
    stored = phantom(0, kind="<u2")
    for i, pixels in enumerate(stored):
        save(slice_of(pixels, i, Shape(), RescaleSlope=0.5 + i, RescaleIntercept=-i, Modality="PT"), tmp_path / f"{i}.dcm")
    volume = opened(tmp_path)

    assert volume.facts.dtype == np.float32
    assert np.allclose(voxels(volume), stored * (0.5 + np.arange(7))[:, None, None] - np.arange(7)[:, None, None])


@pytest.mark.parametrize(("slope", "intercept", "bits", "kind"), [
    (1, 0, 16, np.int16), (1, -1024, 12, np.int16), (1, -1024, 16, np.int32), (2, 0, 16, np.int32),
])  # fmt: skip
def test_whole_numbers_stay_whole_in_a_type_that_holds_them(slope, intercept, bits, kind, tmp_path):
    stored = phantom(4) % 2000
    more = {"BitsStored": bits, "HighBit": bits - 1, "RescaleSlope": slope, "RescaleIntercept": intercept}
    volume = opened(write_series(tmp_path, stored, **more))

    assert volume.facts.dtype == kind
    assert np.array_equal(voxels(volume), stored.astype(np.int64) * slope + intercept)


@pytest.mark.parametrize("is_signed", [False, True])
def test_bits_above_the_stored_ones_are_not_part_of_the_value(is_signed, tmp_path):
    values = np.arange(-2048 if is_signed else 0, 2048).astype(np.int16)[:2048].reshape(4, 16, 32)
    rubbish = np.random.default_rng(0).integers(0, 16, values.shape).astype(np.uint16) << 12
    stored = (values.view(np.uint16) & 0xFFF) | rubbish
    more = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(is_signed)}

    assert np.array_equal(voxels(opened(write_series(tmp_path, stored, **more))), values)


@pytest.mark.parametrize("stated", [-2000, 63536])
def test_padding_is_no_data_also_where_its_sign_was_lost(stated, tmp_path):
    stored = phantom(3)
    stored[:, :3] = -2000
    for i, pixels in enumerate(stored):
        found = slice_of(pixels, i, Shape(), RescaleIntercept=-24)
        found.add_new("PixelPaddingValue", "SS" if stated < 0 else "US", stated)
        save(found, tmp_path / f"{i}.dcm")
    facts = opened(tmp_path).facts

    assert facts.nodata == -2024.0


def test_packed_series_give_the_same_voxels(tmp_path):
    stored = phantom(6, (4, 32, 32), "<u2")
    plain = voxels(opened(write_series(tmp_path / "plain", stored)))
    for syntax in (pydicom.uid.RLELossless, pydicom.uid.JPEG2000Lossless, pydicom.uid.JPEGLSLossless):
        encoder = pydicom.pixels.get_encoder(syntax)
        if encoder.is_available:
            assert np.array_equal(voxels(opened(write_series(tmp_path / syntax.name, stored, syntax=syntax))), plain)
    assert np.array_equal(plain, stored)


def test_an_enhanced_file_is_ordered_by_the_positions_of_its_frames(tmp_path):
    stored, shape = phantom(8), oblique(3)
    order = [4, 0, 6, 2, 5, 1, 3]
    path = save(enhanced(stored, shape, order), tmp_path / "one.dcm")
    volume = opened(path)

    assert volume.facts.kind == "DICOM multi-frame"
    assert np.array_equal(voxels(volume), stored.astype(int) * 2 - 1000)
    assert np.allclose(volume.facts.matrix, shape.matrix, atol=1e-6)
    assert volume.facts.header["slices"] == [[0, order.index(z)] for z in range(7)]


def test_volumes_in_time_are_told_apart(tmp_path):
    stored, shape = phantom(8), oblique(3)
    volume = opened(save(enhanced(stored, shape, range(7), times=3), tmp_path / "e" / "one.dcm"))
    assert volume.facts.times == 3
    for time in range(3):  # written in falling order of their index
        assert np.array_equal(voxels(volume, time=time), (stored.astype(int) + 2 - time) * 2 - 1000)
    assert "3 volumes in one place, told apart by TemporalPositionIdentifier" in volume.facts.warnings[0]

    for time in range(2):
        for i, pixels in enumerate(stored):
            found = slice_of(pixels + time, i, shape, number=100 * time + i + 1, AcquisitionTime=f"1200{i:02d}.{5 - time}")
            save(found, tmp_path / "s" / f"{i}_{time}.dcm")
    volume = opened(tmp_path / "s")
    assert volume.facts.times == 2
    assert np.array_equal(voxels(volume, time=0), stored + 1)
    assert np.array_equal(voxels(volume, time=1), stored)


def test_volumes_in_time_may_lie_a_hair_apart(tmp_path):
    stored = phantom(8)
    for time in range(3):
        for i, pixels in enumerate(stored):
            near = Shape(origin=(-30.0, 12.5, 100.0 + 0.004 * time))
            found = slice_of(pixels + time, i, near, number=100 * time + i + 1, TemporalPositionIdentifier=time + 1)
            save(found, tmp_path / f"{i}_{time}.dcm")
    volume = opened(tmp_path, time=2)

    assert volume.facts.shape == stored.shape
    assert all(np.array_equal(voxels(volume, time=time), stored + time) for time in range(3))
    numbers = [int(volume.facts.header["uids"][slot[0]].rpartition(".")[2]) for slot in volume.facts.header["slices"]]
    assert numbers == [101 + i for i in range(7)]


def test_threads_read_what_one_reads(tmp_path):
    stored = phantom(5, (6, 30, 40))
    volume = opened(write_series(tmp_path, stored, syntax=pydicom.uid.RLELossless))
    boxes = [(slice(i % 6, i % 6 + 1), slice(0, 30), slice(i, 40)) for i in range(36)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda box: volume.read(box, 0, 0), boxes))

    assert all(np.array_equal(one, stored[box]) for one, box in zip(found, boxes, strict=True))


def test_a_missing_slice_that_is_allowed_holds_no_data(tmp_path):
    stored = phantom(9)
    volume = opened(write_series(tmp_path, stored, skip=(2, 3)), allow_gaps=True)
    stored[2:4] = 0

    assert volume.facts.missing == frozenset({2, 3})
    assert np.array_equal(voxels(volume), stored)
    assert volume.is_empty((slice(2, 4), slice(0, 5), slice(0, 5)))
    assert not volume.is_empty((slice(2, 5), slice(0, 5), slice(0, 5)))
    assert np.allclose(volume.facts.matrix, Shape().matrix)
    assert volume.facts.header["slices"][2:4] == [None, None]


def test_colours_are_channels_and_frames_without_a_place_are_a_series_in_time(tmp_path):
    pixels = phantom(1, (5, 12, 14 * 3), "u1").astype(np.uint8)
    found = slice_of(pixels[0], 0, Shape(), ImagePositionPatient=None, ImageOrientationPatient=None, NumberOfFrames=5,
                     SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0, Columns=14)  # fmt: skip
    found.PixelData = pixels.tobytes()
    volume = opened(save(found, tmp_path / "film.dcm"))
    stored = pixels.reshape(5, 12, 14, 3)

    assert volume.facts.axes == ("t", "y", "x")
    assert volume.facts.is_rgb
    assert volume.facts.channels == ("red", "green", "blue")
    for channel in range(3):
        assert np.array_equal(voxels(volume, channel), stored[..., channel])
    assert "series in time" in volume.facts.warnings[0]


def test_folders_hold_other_things_and_are_searched_all_the_way_down(tmp_path):
    stored = phantom()
    write_series(tmp_path / "study" / "CT 4", stored)
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "study" / "notes.txt").write_text("nothing")
    (tmp_path / "study" / "broken.dcm").write_bytes(b"not at all")
    copy = next((tmp_path / "study" / "CT 4").glob("*.dcm"))
    (tmp_path / "study" / "again.dcm").write_bytes(copy.read_bytes())

    assert np.array_equal(voxels(opened(tmp_path)), stored)


def test_one_of_several_series_is_chosen_by_number_or_by_the_end_of_its_uid(tmp_path):
    first, second = phantom(1), phantom(2, (4, 10, 10))
    write_series(tmp_path / "a", first)
    write_series(tmp_path / "b", second, SeriesInstanceUID="1.2.3.77.12", SeriesNumber=12, SeriesDescription="thick")

    assert np.array_equal(voxels(opened(tmp_path, series="12")), second)
    assert np.array_equal(voxels(opened(tmp_path, series="4")), first)
    assert np.array_equal(voxels(opened(tmp_path, series=SERIES[-5:])), first)


def test_nothing_of_the_patient_is_told(tmp_path):
    volume = opened(write_series(tmp_path, phantom(), AcquisitionTime="101112", AcquisitionDate="20200102"))
    facts = volume.facts
    told = json.dumps([facts.kind, dict(facts.notes), list(facts.warnings), dict(facts.header)])

    for secret in ("Secret", "4711", "19700304", "20200102", "101112"):
        assert secret not in told
    assert facts.notes["modality"] == "CT"
    assert facts.notes["series"] == "thin slices"


def test_dark_is_high_is_said_and_values_stay(tmp_path):
    stored = phantom()
    volume = opened(write_series(tmp_path, stored, PhotometricInterpretation="MONOCHROME1"))

    assert "MONOCHROME1" in volume.facts.warnings[0]
    assert np.array_equal(voxels(volume), stored)


def test_a_file_that_was_exchanged_changes_the_fingerprint(tmp_path):
    volume = opened(write_series(tmp_path, phantom()))
    before = volume.fingerprint()
    assert volume.fingerprint() == before
    path = tmp_path / "im003.dcm"
    data = path.read_bytes()
    path.write_bytes(data + b"\0\0")

    assert volume.fingerprint() != before

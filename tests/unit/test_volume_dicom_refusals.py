"""What is not one regular volume is refused with what a user needs to know, never guessed."""

from pathlib import Path

import numpy as np
import pytest
from support_dicom import Shape, oblique, phantom, save, slice_of, write_series

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.io.volume_dicom import open_dicom
from seggeo.io.volume_dicom_pixels import check_decoder

pydicom = pytest.importorskip("pydicom")
FOUND = pytest.importorskip("pydicom.data")


def opened(path, **settings):
    return open_dicom(path, path.name, Reading(**settings))


def refused(path, *words, kind=SourceError, **settings):
    with pytest.raises(kind) as caught:
        opened(path, **settings)
    for word in words:
        assert word in str(caught.value)
    return caught.value


def test_missing_slices_are_refused_with_their_places(tmp_path):
    write_series(tmp_path, phantom(), skip=(2, 3, 5))
    error = refused(tmp_path, "3 slices", "2 between 102.50 and 110.00 mm", "1 between 110.00 and 115.00 mm", "--allow-gaps")

    assert error.exit_code == 3


def test_uneven_slices_are_refused_even_where_gaps_are_allowed(tmp_path):
    stored = phantom()
    for i, pixels in enumerate(stored):
        shape = Shape(origin=(0, 0, 0.3 if i == 4 else 0.0))
        save(slice_of(pixels, i, shape), tmp_path / f"{i}.dcm")
    refused(tmp_path, "not evenly spaced", "2.800 mm after 7.50 mm", allow_gaps=True)


def test_a_step_may_differ_by_less_than_a_hundredth(tmp_path):
    for i, pixels in enumerate(phantom()):
        save(slice_of(pixels, i, Shape(origin=(0, 0, 0.01 * (i % 2)))), tmp_path / f"{i}.dcm")

    assert opened(tmp_path).facts.shape[0] == 7


@pytest.mark.parametrize(("more", "word"), [
    ({"shape": oblique(1)}, "orientations"), ({"shape": Shape(spacing=(0.8, 0.8))}, "pixels measure"),
    ({"pixels": np.zeros((10, 10), np.int16)}, "images of 10 x 10, 20 x 24"),
    ({"shape": Shape(step=(5, 0, 2.5))}, "straight line"),
    ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "orientation"), ({"PixelSpacing": None}, "pixel spacing"),
])  # fmt: skip
def test_a_series_of_several_kinds_is_not_one_volume(more, word, tmp_path):
    stored = phantom()
    write_series(tmp_path, stored)
    pixels = more.pop("pixels", stored[3])
    name = f"im{np.random.default_rng(3).permutation(7)[3]:03d}.dcm"
    save(slice_of(pixels, 3, more.pop("shape", Shape()), **more), tmp_path / name)
    refused(tmp_path, word)


def test_places_with_more_images_than_others_are_refused(tmp_path):
    write_series(tmp_path, phantom())
    save(slice_of(phantom()[3], 3, Shape(), number=50), tmp_path / "more.dcm")
    refused(tmp_path, "1 to 2 images", "107.50 mm")


def test_images_that_nothing_tells_apart_are_refused(tmp_path):
    for time in range(2):
        for i, pixels in enumerate(phantom()):
            save(slice_of(pixels, i, Shape(), number=100 * time + i + 1), tmp_path / f"{i}_{time}.dcm")
    refused(tmp_path, "every place has 2 images")


def test_several_series_are_listed(tmp_path):
    write_series(tmp_path / "a", phantom())
    write_series(
        tmp_path / "b", phantom(1, (4, 10, 10)), SeriesInstanceUID="1.2.3.77.12", SeriesNumber=12, SeriesDescription="thick"
    )
    error = refused(tmp_path, "2 DICOM series", "4: thin slices, CT, 7 images of 20 x 24", "12: thick, CT, 4 images of 10 x 10",
                    "--series 4", kind=ConfigError)  # fmt: skip
    assert "Secret" not in str(error)
    refused(tmp_path, "--series 3 is none of the 2", kind=ConfigError, series="3")
    write_series(tmp_path / "c", phantom(), SeriesInstanceUID="1.2.3.78.12", SeriesNumber=12)
    refused(tmp_path, "--series 12 is several", "1.2.3.77.12", kind=ConfigError, series="12")


def test_images_without_a_place_have_no_order(tmp_path):
    write_series(tmp_path, phantom(), ImagePositionPatient=None)
    refused(tmp_path, "nothing says in which order the 7 images")


@pytest.mark.parametrize(("more", "word"), [
    ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "mosaic"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette"),
    ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6"}, "whole slide"), ({"Modality": "SEG"}, "segments"),
])  # fmt: skip
def test_other_kinds_of_images_are_refused_by_name(more, word, tmp_path):
    refused(write_series(tmp_path, phantom(), **more), word)


def test_a_segmentation_beside_the_images_is_not_a_second_series(tmp_path):
    write_series(tmp_path / "a", phantom())
    write_series(tmp_path / "b", phantom(), SeriesInstanceUID="1.2.3.9", Modality="SEG")

    assert opened(tmp_path).facts.notes["modality"] == "CT"


def test_nothing_there_and_damage_are_said(tmp_path):
    (tmp_path / "a.txt").write_text("no")
    refused(tmp_path, "holds no DICOM image")
    refused(tmp_path / "a.txt", "holds no DICOM image")
    path = save(slice_of(phantom()[0], 0, Shape()), tmp_path / "cut.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    volume = opened(path)
    with pytest.raises(SourceError, match="cannot be decoded"):
        volume.read((slice(0, 1), slice(0, 2), slice(0, 2)), 0, 0)


def test_a_compression_nobody_reads_is_named(tmp_path):
    path = save(slice_of(phantom()[0], 0, Shape()), tmp_path / "one.dcm")
    data = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0")
    path.write_bytes(data)
    refused(path, "compressed in a way")
    syntax = pydicom.uid.HTJ2KLossless
    if not pydicom.pixels.get_decoder(syntax).is_available:
        with pytest.raises(SourceError, match="pip install pylibjpeg pylibjpeg-openjpeg"):
            check_decoder(syntax, "scan")


def test_headers_with_random_bytes_are_read_or_refused(tmp_path):
    data = save(slice_of(phantom()[0], 0, Shape()), tmp_path / "one.dcm").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "bent" / "one.dcm"
    path.parent.mkdir()
    for _ in range(150):
        bent = bytearray(data)
        for at in rng.integers(132, len(data) - 900, 4):
            bent[at] = int(rng.integers(256))
        path.write_bytes(bent)
        try:
            volume = opened(path)
            assert min(volume.facts.shape) >= 1
            if np.prod(volume.facts.shape, dtype=float) < 1e6:
                volume.read((slice(0, 1), slice(0, 1), slice(0, 1)), 0, 0)
        except SourceError:
            pass


def test_files_that_others_made_are_as_gdcm_reads_them():
    sitk = pytest.importorskip("SimpleITK")
    names = ["CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
             "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "MR_small_jp2klossless.dcm", "examples_overlay.dcm",
             "SC_rgb_rle_2frame.dcm", "ExplVR_BigEnd.dcm"]  # fmt: skip
    for name in names:
        path = FOUND.get_testdata_file(name, download=False)
        if path is None:
            pytest.skip(f"this pydicom comes without {name}")
        volume = opened(Path(path))
        theirs = sitk.ReadImage(path)
        box = tuple(slice(0, n) for n in volume.facts.shape)
        ours = np.stack([volume.read(box, c, 0) for c in range(len(volume.facts.channels))], axis=-1)
        assert np.array_equal(ours, sitk.GetArrayFromImage(theirs).reshape(ours.shape)), name
        if volume.facts.space:
            matrix = np.array(volume.facts.matrix)
            assert np.allclose(
                matrix[:, :3] @ [0, 3, 5] + matrix[:, 3], theirs.TransformIndexToPhysicalPoint((5, 3, 0)), atol=1e-6
            )


def test_frames_of_a_dose_lie_where_its_offsets_say():
    path = Path(FOUND.get_testdata_file("rtdose.dcm", download=False))
    volume = opened(path)
    dose = pydicom.dcmread(path)
    values = volume.read(tuple(slice(0, n) for n in volume.facts.shape), 0, 0)

    assert np.allclose(values, dose.pixel_array * float(dose.DoseGridScaling))
    assert np.allclose(np.array(volume.facts.matrix)[:, 0] * 14, [0, 0, dose.GridFrameOffsetVector[-1]])

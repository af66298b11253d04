"""NIfTI volumes, read as nibabel reads them."""

import base64
import gzip
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np
import pytest
from support_volumes_read import SHARED, assert_reads, boxes, closing_volumes, read_or_refuse

from seggeo.errors import SourceError
from seggeo.geometry import Placement
from seggeo.io import volume_bytes
from seggeo.io.volume_detect import volume_kind

RNG = np.random.default_rng(7)
OBLIQUE = np.array([[-1.2, 0.3, 0.1, 20.5], [0.2, 0.9, -0.4, -31.25], [0.1, 0.5, 3.0, 7.0], [0, 0, 0, 1]])


def values(shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return RNG.normal(0, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def write(path, data, *, kind=nibabel.Nifti1Image, endian="<", scaled=None, **fields):
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(data.dtype.newbyteorder(endian))
    image = kind(data, OBLIQUE, header, dtype=data.dtype)
    image.set_data_dtype(data.dtype.newbyteorder(endian))
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    if scaled is not None:
        patch(path, 112, np.array(scaled, endian + "f4").tobytes())
    return path


def patch(path, place, raw):
    """Other bytes at a place of a plain NIfTI file."""
    changed = bytearray(path.read_bytes())
    changed[place : place + len(raw)] = raw
    path.write_bytes(changed)


@pytest.fixture
def opened():
    with closing_volumes() as opener:
        yield opener


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
@pytest.mark.parametrize(("endian", "ending"), [("<", ".nii"), (">", ".nii.gz")])
def test_every_type_reads_as_with_nibabel(tmp_path, dtype, endian, ending, opened):
    path = write(tmp_path / f"a{ending}", values((13, 11, 7), dtype), endian=endian)

    volume = opened(path)
    assert volume.facts.header["endian"] == endian
    assert_reads(volume, np.asarray(nibabel.load(path).dataobj).T)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_world_coordinates_are_nibabels(tmp_path, kind, ending, opened):
    path = write(tmp_path / f"a{ending}", values((13, 11, 7), "i2"), kind=kind)
    image, volume = nibabel.load(path), opened(path)

    ijk = RNG.integers(0, 100, (50, 3))
    placed = Placement(matrix=volume.facts.matrix, space=volume.facts.space)
    np.testing.assert_allclose(placed.world(ijk[:, ::-1]), nibabel.affines.apply_affine(image.affine, ijk), rtol=0, atol=1e-9)
    assert (volume.facts.space, volume.facts.unit) == ("RAS", "mm")
    assert volume.facts.kind == f"NIfTI-{1 if kind is nibabel.Nifti1Image else 2}"


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_the_header_is_kept_byte_for_byte(tmp_path, kind, opened):
    path = write(tmp_path / "a.nii.gz", values((5, 4, 3), "i2"), kind=kind)
    header = opened(path).facts.header

    raw = gzip.decompress(path.read_bytes())
    assert base64.b64decode(header["block"]) == raw[: 348 if kind is nibabel.Nifti1Image else 540]
    assert json.loads(json.dumps(header)) == header


@pytest.mark.parametrize("ending", [".hdr", ".img"])
def test_a_pair_opens_by_either_file(tmp_path, ending, opened):
    data = values((6, 5, 4), "u2")
    nibabel.save(nibabel.Nifti1Pair(data, OBLIQUE), tmp_path / "a.img")

    assert volume_kind(str(tmp_path / f"a{ending}")) == "nifti"
    volume = opened(tmp_path / f"a{ending}")
    assert_reads(volume, data.T)
    assert volume.facts.header["is_pair"]
    assert set(volume.fingerprint()) == {"size", "mtime_ns", "header_sha256", "voxels"}
    (tmp_path / "a.hdr").unlink()
    assert volume_kind(str(tmp_path / f"a{ending}")) is None


@pytest.mark.parametrize(
    ("dtype", "slope", "inter", "held"),
    [("u1", 1, 0, "u1"), ("u1", 1, -100, "i2"), ("i2", 2, 0, "i4"), ("u2", 1, -1024, "i4"), ("i2", 1, 1000, "i4"),
     ("u4", 1, 1, "i8"), ("u8", 2, 1, "f8"), ("i2", 0.5, 3, "f4"), ("i4", 0.5, 3, "f8"), ("f4", 2, 1, "f4"),
     ("u1", -1, 0, "i2"), ("i2", 0, 5, "i2"), ("i2", float("nan"), 0, "i2")],
)  # fmt: skip
def test_rescaled_values_are_nibabels_in_the_least_type_that_holds_them(tmp_path, dtype, slope, inter, held, opened):
    path = write(tmp_path / "a.nii", values((9, 8, 7), dtype), scaled=(slope, inter))

    volume = opened(path)
    assert volume.facts.dtype == np.dtype(held)
    theirs = np.asarray(nibabel.load(path).dataobj).T
    ours = volume.read(next(boxes((7, 8, 9), 0)), 0, 0)
    np.testing.assert_allclose(ours.astype(np.float64), theirs.astype(np.float64), rtol=1e-6)
    if np.dtype(held).kind in "ui":
        np.testing.assert_array_equal(ours, theirs)


def test_times_vectors_and_colours(tmp_path, opened):
    series, vectors = values((6, 5, 4, 3), "i2"), values((6, 5, 4, 2, 3), "f4")
    colours = np.zeros((6, 5, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        colours[name] = RNG.integers(0, 255, colours.shape)

    volume = opened(write(tmp_path / "t.nii.gz", series))
    assert (volume.facts.times, volume.facts.channels) == (3, ("gray",))
    for t in range(3):
        assert_reads(volume, series[..., t].T, time=t)
    volume = opened(write(tmp_path / "v.nii", vectors))
    assert (volume.facts.times, len(volume.facts.channels), volume.facts.is_rgb) == (2, 3, False)
    for t, c in ((0, 0), (1, 0), (0, 2), (1, 1)):
        assert_reads(volume, vectors[..., t, c].T, time=t, channel=c)
    nibabel.save(nibabel.Nifti1Image(colours, OBLIQUE), tmp_path / "c.nii.gz")
    volume = opened(tmp_path / "c.nii.gz")
    assert (volume.facts.channels, volume.facts.is_rgb) == (("red", "green", "blue"), True)
    for c, name in enumerate("RGB"):
        assert_reads(volume, colours[name].T, channel=c)


def test_complex_numbers_are_read_as_asked(tmp_path, opened):
    data = (RNG.normal(size=(5, 4, 3)) + 1j * RNG.normal(size=(5, 4, 3))).astype(np.complex64)
    path = write(tmp_path / "a.nii", data)

    with pytest.raises(SourceError, match="complex"):
        opened(path)
    assert_reads(opened(path, complex="real"), data.T.real)
    np.testing.assert_allclose(opened(path, complex="abs").read(next(boxes((3, 4, 5), 0)), 0, 0), np.abs(data.T), rtol=1e-6)


@pytest.mark.parametrize(
    ("sform", "qform", "form", "said"),
    [
        (2, 0, "sform", ""),
        (0, 1, "qform", ""),
        (1, 1, "sform", "disagree; the sform"),
        (0, 0, "pixdim", "neither sform nor qform"),
    ],
)
def test_each_form_places_voxels_as_nibabel_does_and_what_is_odd_is_said(tmp_path, sform, qform, form, said, opened):
    image = nibabel.Nifti1Image(values((6, 5, 4), "i2"), None)
    image.header.set_zooms((2, 3, 4))
    image.set_qform(np.diag([2, 3, 4, 1]), qform)
    image.set_sform(OBLIQUE if sform else None, sform)
    nibabel.save(image, tmp_path / "a.nii")

    facts = opened(tmp_path / "a.nii").facts
    assert facts.header["form"] == form
    assert facts.space == ("" if form == "pixdim" else "RAS")
    assert len(facts.warnings) == bool(said)
    assert all(said in text for text in facts.warnings)
    np.testing.assert_allclose(np.array(facts.matrix)[:, [2, 1, 0, 3]], nibabel.load(tmp_path / "a.nii").affine[:3], atol=1e-9)


@pytest.mark.parametrize(("code", "unit", "factor"), [(0, "mm", 1), (1, "mm", 1000), (2, "mm", 1), (3, "um", 1)])
def test_units_are_told_as_they_are(tmp_path, code, unit, factor, opened):
    facts = opened(write(tmp_path / "a.nii", values((3, 4, 5), "u1"), xyzt_units=code)).facts

    assert facts.unit == unit
    np.testing.assert_allclose(np.array(facts.matrix)[:, [2, 1, 0, 3]], OBLIQUE[:3].astype(np.float32) * factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("place", "raw", "why"),
    [(280, np.zeros(4, "<f4").tobytes(), "no volume"), (280, np.full(4, np.nan, "<f4").tobytes(), "no volume"),
     (42, np.array([0], "<i2").tobytes(), "dimensions"), (42, np.array([-3], "<i2").tobytes(), "dimensions"),
     (42, np.array([30000], "<i2").tobytes(), "cut off"), (40, np.array([9], "<i2").tobytes(), "cannot be read"),
     (70, np.array([99], "<i2").tobytes(), "type 99"), (70, np.array([1536], "<i2").tobytes(), "whole or real"),
     (72, np.array([7], "<i2").tobytes(), "bits"), (108, np.array([np.inf], "<f4").tobytes(), "start at"),
     (108, np.array([1e6], "<f4").tobytes(), "cut off"), (108, np.array([-8], "<f4").tobytes(), "start at"),
     (112, np.array([2, np.nan], "<f4").tobytes(), "rescaled"), (0, np.array([77], "<i4").tobytes(), "cannot be read")],
)  # fmt: skip
def test_headers_that_cannot_be_are_refused(tmp_path, place, raw, why, opened):
    path = write(tmp_path / "a.nii", values((6, 5, 4), "i2"))
    patch(path, place, raw)

    with pytest.raises(SourceError, match=why):
        opened(path)


def test_six_dimensions_are_refused(tmp_path, opened):
    with pytest.raises(SourceError, match="first five"):
        opened(write(tmp_path / "a.nii", values((3, 3, 3, 1, 1, 2), "u1")))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, ending):
    whole = write(tmp_path / f"a{ending}", values((20, 20, 20), "i2")).read_bytes()
    for place in [*RNG.integers(0, len(whole) - 1, 40).tolist(), 1, 2, 347, 400, len(whole) - 1]:
        cut = tmp_path / f"cut{ending}"
        cut.write_bytes(whole[:place])
        assert read_or_refuse(cut) is None, place


def test_flipped_bytes_of_a_gzip_stream_never_give_other_voxels_silently(tmp_path):
    data = values((24, 24, 24), "u1")
    whole = bytearray(write(tmp_path / "a.nii.gz", data).read_bytes())
    refused = 0
    for place in RNG.integers(400, len(whole) - 8, 30).tolist():
        broken = whole.copy()
        broken[place] ^= 0xFF
        path = tmp_path / "b.nii.gz"
        path.write_bytes(broken)
        found = read_or_refuse(path)
        refused += found is None
    # What is stored unpacked inside the stream decodes to other values; only the checksum at its end notices.
    assert refused == 30


def test_random_headers_end_in_voxels_or_a_refusal(tmp_path):
    whole = bytearray(write(tmp_path / "a.nii", values((6, 5, 4), "i2")).read_bytes())
    ends = set()
    for _ in range(150):
        broken = whole.copy()
        for place in RNG.integers(0, 348, 3).tolist():
            broken[place] = int(RNG.integers(0, 256))
        path = tmp_path / "b.nii"
        path.write_bytes(broken)
        if volume_kind(str(path)) == "nifti":
            ends.add(read_or_refuse(path) is None)
    assert ends == {True, False}


def test_a_stream_of_several_parts_reads_whole(tmp_path, opened):
    data = values((12, 11, 10), "i2")
    raw = gzip.decompress(write(tmp_path / "a.nii.gz", data).read_bytes())
    (tmp_path / "b.nii.gz").write_bytes(b"".join(gzip.compress(raw[i : i + 700]) for i in range(0, len(raw), 700)))

    assert_reads(opened(tmp_path / "b.nii.gz"), data.T)


def test_threads_and_a_missing_index_library_read_the_same(tmp_path, monkeypatch, opened):
    data = values((40, 30, 20), "i2")
    path = write(tmp_path / "a.nii.gz", data)
    volume = opened(path)
    places = list(boxes((20, 30, 40), 40))
    with ThreadPoolExecutor(4) as pool:
        for box, found in zip(places, pool.map(lambda box: volume.read(box, 0, 0), places), strict=True):
            np.testing.assert_array_equal(found, data.T[box])
    monkeypatch.setattr(volume_bytes, "_indexed", lambda path, spacing: None)
    assert_reads(opened(path), data.T)


def test_memory_does_not_grow_with_a_packed_volume(tmp_path):
    """384 MB unpacked; slices are read forwards and backwards."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 768))
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(tmp_path / "a.nii.gz", "wb", compresslevel=1) as out:
        out.write(header.binaryblock + b"\0" * 4)
        for z in range(768):
            out.write(np.full((512, 512), z, np.int16).tobytes())
    code = (
        "import resource, sys\n"
        "from seggeo.config import Reading\n"
        "from seggeo.io.volume_detect import open_volume_file\n"
        "volume = open_volume_file(sys.argv[1], Reading())\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for z in [*range(0, 768, 8), *range(767, 0, -191)]:\n"
        "    assert (volume.read((slice(z, z + 1), slice(0, 512), slice(0, 512)), 0, 0) == z).all()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", code, tmp_path / "a.nii.gz"], check=True, capture_output=True, text=True)
    assert int(grown.stdout) < 64 * 1024


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
def test_real_volumes_read_as_with_nibabel(tmp_path, opened):
    path = SHARED / "volumes" / "ct_pelvis" / "ct.nii.gz"
    assert_reads(opened(path), np.asarray(nibabel.load(path).dataobj).T)
    with zipfile.ZipFile(SHARED / "volumes" / "hippocampus_mri_train.zip") as members:
        for name in members.namelist()[:4]:
            path = tmp_path / name.replace("/", "_")
            path.write_bytes(members.read(name))
            image, volume = nibabel.load(path), opened(path)
            assert_reads(volume, np.asarray(image.dataobj).T, count=3)
            np.testing.assert_allclose(np.array(volume.facts.matrix)[:, [2, 1, 0, 3]], image.affine[:3], atol=1e-6)

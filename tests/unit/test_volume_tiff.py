"""Stacks in TIFF files, read as tifffile reads them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from support_volumes_read import SHARED, assert_reads, boxes, closing_volumes, read_or_refuse

from seggeo.errors import SourceError
from seggeo.geometry import Placement
from seggeo.io.volume_detect import volume_kind

RNG = np.random.default_rng(5)
LAYOUTS = {
    "raw": {},
    "one-strip": {"compression": "zlib", "rowsperstrip": 40},
    "strips": {"compression": "zlib", "rowsperstrip": 7, "predictor": True},
    "raw-tiles": {"tile": (16, 32)},
    "tiles": {"tile": (16, 16), "compression": "zlib", "predictor": True},
    "lzw": {"compression": "lzw", "rowsperstrip": 16},
    "zstd": {"compression": "zstd", "tile": (32, 16)},
}


def values(shape, dtype="u2"):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return RNG.normal(0, 100, shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


@pytest.fixture
def opened():
    with closing_volumes() as opener:
        yield opener


def spacing(volume):
    return Placement(matrix=volume.facts.matrix).spacing


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("dtype", "byteorder"), [("u1", "<"), ("u2", ">"), ("i2", "<"), ("u4", ">"), ("f4", ">"), ("f8", "<")])
def test_every_type_and_layout_reads_as_with_tifffile(tmp_path, layout, dtype, byteorder, opened):
    data = values((6, 40, 50), dtype)
    path, bigtiff = tmp_path / "a.tif", dtype in ("u4", "f4")
    tifffile.imwrite(path, data, metadata={"axes": "ZYX"}, byteorder=byteorder, bigtiff=bigtiff, **LAYOUTS[layout])

    volume = opened(path)
    assert_reads(volume, tifffile.imread(path), count=5)
    np.testing.assert_array_equal(tifffile.imread(path), data)
    assert volume.facts.axes == ("z", "y", "x")
    assert volume.facts.warnings == ()


@pytest.mark.parametrize("kind", ["ome", "imagej"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("axes", "shape"),
    [("TZCYX", (2, 3, 4, 17, 18)), ("ZCYX", (3, 4, 17, 18)), ("TZYX", (2, 4, 17, 18)), ("ZYX", (4, 17, 18)),
     ("TYX", (5, 17, 18)), ("TCYX", (5, 2, 17, 18))],
)  # fmt: skip
def test_every_set_of_axes(tmp_path, kind, packed, axes, shape, opened):
    data = values(shape)
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    tifffile.imwrite(path, data, imagej=kind == "imagej", metadata={"axes": axes}, compression="zlib" if packed else None)

    volume = opened(path)
    full = data.reshape([dict(zip(axes, shape, strict=True)).get(a, 1) for a in "TZCYX"])
    if "Z" not in axes:
        assert (volume.facts.axes, volume.facts.times) == (("t", "y", "x"), 1)
        full = full.transpose(1, 0, 2, 3, 4)
    else:
        assert (volume.facts.axes, volume.facts.times) == (("z", "y", "x"), full.shape[0])
    assert volume.facts.kind == {"ome": "OME-TIFF", "imagej": "ImageJ TIFF"}[kind]
    for t in range(full.shape[0]):
        for c in range(full.shape[2]):
            assert_reads(volume, full[t, :, c], time=t, channel=c, count=2)


def test_ome_says_sizes_units_and_channels(tmp_path, opened):
    metadata = {
        "axes": "ZCYX", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5, "PhysicalSizeZ": 0.002,
        "PhysicalSizeZUnit": "mm", "Channel": {"Name": ["DAPI", "actin"]},
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", values((3, 2, 17, 18)), metadata=metadata)

    volume = opened(tmp_path / "a.ome.tif")
    assert volume.facts.channels == ("DAPI", "actin")
    assert volume.facts.unit == "um"
    np.testing.assert_allclose(spacing(volume), (2.0, 0.5, 0.25))
    np.testing.assert_allclose(Placement(matrix=volume.facts.matrix).world([[1, 2, 3]]), [[0.75, 1.0, 2.0]])


@pytest.mark.parametrize(
    ("unit", "told", "expected"),
    [("um", {"spacing": 2.0}, ("um", (2.0, 0.25, 0.5))), ("micron", {"spacing": -2.0}, ("um", (2.0, 0.25, 0.5))),
     ("mm", {"spacing": 1.5}, ("um", (1500.0, 250.0, 500.0))), ("\\u00B5m", {"spacing": 2.0}, ("um", (2.0, 0.25, 0.5))),
     ("pixel", {"spacing": 2.0}, ("px", (1.0, 1.0, 1.0))), ("um", {}, ("um", (0.25, 0.25, 0.5)))],
)  # fmt: skip
def test_imagej_says_sizes_in_its_unit(tmp_path, unit, told, expected, opened):
    metadata = {"axes": "ZYX", "unit": unit, **told}
    tifffile.imwrite(tmp_path / "a.tif", values((3, 17, 18)), imagej=True, resolution=(2, 4), metadata=metadata)

    volume = opened(tmp_path / "a.tif")
    assert volume.facts.unit == expected[0]
    np.testing.assert_allclose(spacing(volume), expected[1])
    assert [("distance of its slices" in text) for text in volume.facts.warnings] == [True] * (not told)


def test_pages_that_nothing_describes_are_slices_and_the_user_is_told(tmp_path, opened):
    data = values((5, 20, 30))
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for page in data:
            out.write(page, metadata=None, contiguous=False, compression="zlib")

    volume = opened(tmp_path / "a.tif")
    assert len(volume.facts.warnings) == 1
    assert "5 pages" in volume.facts.warnings[0]
    assert_reads(volume, data)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 7, "compression": "lzw"}])
def test_slices_of_colours(tmp_path, planar, options, opened):
    data = values((4, 20, 30, 3), "u1")
    stored = data if planar == "contig" else np.ascontiguousarray(data.transpose(0, 3, 1, 2))
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for page in stored:
            out.write(page, photometric="rgb", planarconfig=planar, metadata=None, contiguous=False, **options)

    volume = opened(tmp_path / "a.tif")
    assert (volume.facts.channels, volume.facts.is_rgb) == (("red", "green", "blue"), True)
    for c in range(3):
        assert_reads(volume, data[..., c], channel=c, count=4)


def test_jpeg_tiles_and_opacity(tmp_path, opened):
    data = np.repeat(np.repeat(values((3, 8, 8, 3), "u1"), 8, axis=1), 8, axis=2)
    tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", tile=(32, 32), compression="jpeg", metadata={"axes": "ZYXS"})
    expected = tifffile.imread(tmp_path / "a.tif")
    volume = opened(tmp_path / "a.tif")
    for c in range(3):
        assert_reads(volume, expected[..., c], channel=c, count=3)
    rgba = values((3, 20, 30, 4), "u1")
    tifffile.imwrite(tmp_path / "b.tif", rgba, photometric="rgb", extrasamples=["unassalpha"], metadata={"axes": "ZYXS"})
    volume = opened(tmp_path / "b.tif")
    assert volume.facts.channels == ("red", "green", "blue")
    assert_reads(volume, rgba[..., 2], channel=2)


def test_imagej_stacks_whose_pages_have_no_directories(tmp_path, opened):
    """ImageJ writes one directory and then all planes, once a file passes 4 GB."""
    data = values((6, 20, 30))
    tifffile.imwrite(tmp_path / "a.tif", data, metadata={"axes": "ZYX"}, truncate=True)

    assert_reads(opened(tmp_path / "a.tif"), data)


def test_threads_read_the_same(tmp_path, opened):
    data = values((6, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", data, metadata={"axes": "ZYX"}, **LAYOUTS["tiles"])
    volume, places = opened(tmp_path / "a.tif"), list(boxes(data.shape, 40))
    with ThreadPoolExecutor(4) as pool:
        for box, found in zip(places, pool.map(lambda box: volume.read(box, 0, 0), places), strict=True):
            np.testing.assert_array_equal(found, data[box])


def test_blocks_that_were_never_written_are_known_to_be_empty(tmp_path, opened):
    data = values((2, 64, 64))
    tiles = [data[z, r : r + 32, c : c + 32] for z in range(2) for r in (0, 32) for c in (0, 32)]
    kept = [t if i in (1, 6) else b"" for i, t in enumerate(t.tobytes() for t in tiles)]
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        out.write(iter(kept), shape=data.shape, dtype=data.dtype, tile=(32, 32), compression=None, metadata={"axes": "ZYX"})

    volume = opened(tmp_path / "a.tif")
    assert volume.is_empty((slice(0, 1), slice(0, 64), slice(0, 32)))
    assert not volume.is_empty((slice(0, 1), slice(0, 64), slice(0, 33)))
    assert not volume.is_empty((slice(0, 2), slice(32, 64), slice(0, 32)))
    expected = np.zeros_like(data)
    expected[0, :32, 32:], expected[1, 32:, :32] = data[0, :32, 32:], data[1, 32:, :32]
    assert_reads(volume, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_off_anywhere_is_refused_or_read_right(tmp_path, layout):
    data = values((4, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", data, metadata={"axes": "ZYX"}, photometric="minisblack", **LAYOUTS[layout])
    whole = (tmp_path / "a.tif").read_bytes()
    for place in [0, 4, 8, 100, *RNG.integers(0, len(whole), 25).tolist(), len(whole) - 1]:
        (tmp_path / "b.tif").write_bytes(whole[:place])
        found = read_or_refuse(tmp_path / "b.tif")
        # What lies behind the last voxel may be lost, as long as the directories are whole.
        assert found is None or np.array_equal(found, data), place


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_random_damage_of_the_directories_ends_in_voxels_or_a_refusal(tmp_path, kind):
    data = values((4, 16, 16), "u1")
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    tifffile.imwrite(path, data, imagej=kind == "imagej", metadata={"axes": "ZYX"}, compression="zlib")
    whole = bytearray(path.read_bytes())
    refused = 0
    for _ in range(120):
        broken = whole.copy()
        for place in RNG.integers(0, len(broken), 6).tolist():
            broken[place] = int(RNG.integers(0, 256))
        path.write_bytes(broken)
        refused += read_or_refuse(path) is None
    assert refused > 0


def test_planes_that_are_not_in_the_file_are_refused_unless_gaps_are_allowed(tmp_path, opened):
    data = values((4, 16, 16))
    tifffile.imwrite(tmp_path / "a.ome.tif", data, metadata={"axes": "ZYX"}, compression="zlib")
    text = (tmp_path / "a.ome.tif").read_bytes().replace(b'PlaneCount="4"', b'PlaneCount="3"')
    (tmp_path / "b.ome.tif").write_bytes(text)

    with pytest.raises(SourceError, match="lacks 1 of its 4 planes"):
        opened(tmp_path / "b.ome.tif")
    volume = opened(tmp_path / "b.ome.tif", allow_gaps=True)
    assert volume.facts.missing == {3}
    assert_reads(volume, np.concatenate([data[:3], np.zeros_like(data[:1])]))


def test_blocks_too_large_to_decode_are_refused(tmp_path, opened):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, shape=(2, 20000, 8000), dtype=np.uint16, metadata={"axes": "ZYX"}, rowsperstrip=20000)
    volume = opened(path)
    assert not volume.read((slice(1, 2), slice(19999, 20000), slice(0, 8000)), 0, 0).any()
    assert volume.facts.chunk == (1, 1, 8000)
    with tifffile.TiffWriter(path) as out:
        shape = (2, 16384, 8208)
        out.write(iter([b"", b""]), shape=shape, dtype="u2", tile=shape[1:], compression="zlib", metadata={"axes": "ZYX"})
    with pytest.raises(SourceError, match="blocks of 256 MiB"):
        opened(path)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
def test_the_real_ovule_reads_as_with_tifffile(opened):
    for name in ("ovule_nuclei_1135.ome.tif", "ovule_nuclei_1135_label.ome.tif"):
        path = SHARED / "microscopy3d" / name
        volume = opened(path)
        assert_reads(volume, tifffile.imread(path))
        np.testing.assert_allclose(spacing(volume), (0.28371836501901143, 0.12678642066720086, 0.12678642066720086))
        assert volume_kind(str(path)) == "tiff"

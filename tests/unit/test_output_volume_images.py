"""Label volumes as OME-TIFF and as folders of masks: other readers find the ids, the axes and the sizes."""

import struct
import tracemalloc
from itertools import permutations

import numpy as np
import pytest
import tifffile
from PIL import Image
from support_results import empty_result, result_of
from support_volume import VolumeResult, blobs, objects_in, placement, slice_objects, volume_of

from seggeo.geometry import Frame
from seggeo.output.masks import _name, is_ours, write_masks
from seggeo.output.ome_tiff import write_ome_tiff
from seggeo.protocols import SinkOptions

SHAPES = [(17, 530, 600), (3, 40, 50), (1, 700, 16), (5, 1, 1), (2, 512, 1024)]


def frame_of(shape, spacing=(2.0, 0.5, 0.25), **fields):
    place = placement(spacing)
    return Frame(depth=shape[0], height=shape[1], width=shape[2], unit="um", spacing=spacing, placement=place, **fields)


def tiff(labels, frame, path, **options):
    return write_ome_tiff(volume_of(labels, frame, **options), path, SinkOptions())


def masks(labels, path, frame=None, **options):
    return write_masks(volume_of(labels, frame, **options), path, SinkOptions())


@pytest.mark.parametrize("shape", SHAPES)
def test_tifffile_reads_slices_rows_and_columns(shape, tmp_path):
    labels = blobs(1, shape)
    path = tiff(labels, frame_of(shape), tmp_path / "l.ome.tif", batch=7)
    with tifffile.TiffFile(path) as file:
        (series,) = file.series
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert file.is_ome
        assert not file.is_bigtiff
        assert len(file.pages) == shape[0]
        assert series.keyframe.is_tiled
        assert all(min(page.databytecounts) > 0 for page in file.pages)
        assert "".join(axis for axis in series.get_axes(squeeze=False) if axis in "XYZ") == "ZYX"
        assert series.dtype == np.uint16
        assert np.array_equal(series.asarray(squeeze=False).reshape(shape), labels)
    assert (pixels["SizeZ"], pixels["SizeT"], pixels["Type"]) == (shape[0], 1, "uint16")
    assert [pixels[f"PhysicalSize{axis}"] for axis in "ZYX"] == [2.0, 0.5, 0.25]
    assert {pixels[f"PhysicalSize{axis}Unit"] for axis in "ZYX"} == {"µm"}
    assert np.array_equal(tifffile.imread(path).reshape(shape), labels)


def test_frames_in_time_are_time(tmp_path):
    labels = blobs(2, (7, 40, 50))
    path = tiff(labels, frame_of(labels.shape, is_series=True), tmp_path / "l.ome.tif")
    with tifffile.TiffFile(path) as file:
        assert file.series[0].axes == "TYX"
        assert "PhysicalSizeZ" not in file.ome_metadata
        assert np.array_equal(file.asarray(), labels)


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_a_volume_sliced_along_another_axis_lies_on_its_input(axes, tmp_path):
    labels = blobs(3, (20, 90, 300))
    straight = tiff(labels, frame_of(labels.shape), tmp_path / "a.ome.tif")
    work = labels.transpose(axes)
    step = tuple((2.0, 0.5, 0.25)[axis] for axis in axes)
    matrix = np.array([[0, 0, 0.25, 0], [0, 0.5, 0, 0], [2.0, 0, 0, 0]])[:, [*axes, 3]]
    frame = Frame(
        depth=work.shape[0], height=work.shape[1], width=work.shape[2], unit="um", spacing=step,
        placement=placement(axes=axes, matrix=matrix),
    )  # fmt: skip
    with tifffile.TiffFile(tiff(work, frame, tmp_path / "b.ome.tif")) as ours, tifffile.TiffFile(straight) as theirs:
        assert np.array_equal(ours.asarray(), theirs.asarray())
        sizes = [tifffile.xml2dict(f.ome_metadata)["OME"]["Image"]["Pixels"]["PhysicalSizeZ"] for f in (ours, theirs)]
    assert sizes == [2.0, 2.0]


def test_a_file_that_may_pass_4_gib_is_a_bigtiff_and_large_ids_have_32_bits(tmp_path):
    frame = Frame(depth=10, height=8192, width=8192, placement=placement())
    one = slice_objects(np.full((30, 20), 65_536), 0)
    result = VolumeResult(frame, lambda z: objects_in(one.instances.shift(5000, 7000, z), one.id), 65_536)
    path = write_ome_tiff(result, tmp_path / "l.ome.tif", SinkOptions())
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff
        assert file.series[0].shape == (10, 8192, 8192)
        plane = file.pages[9].asarray()
    assert plane.dtype == np.uint32
    assert plane[5000:5030, 7000:7020].min() == 65_536
    assert (plane > 0).sum() == 600
    assert path.stat().st_size < 10 * 256 * 1200


@pytest.mark.parametrize("shape", SHAPES)
def test_every_slice_is_an_image_of_its_ids(shape, tmp_path):
    labels = blobs(4, shape)
    path = masks(labels, tmp_path / "n_masks", batch=3)
    files = sorted(path.iterdir())
    assert [file.name for file in files] == [f"z{z:04d}.png" for z in range(shape[0])]
    for file, expected in zip(files, labels, strict=True):
        with Image.open(file) as image:
            assert image.mode == "I;16"
            assert np.array_equal(np.asarray(image), expected)


def test_more_than_65535_objects_are_tiff_and_frames_are_called_so(tmp_path):
    labels = blobs(5, (4, 600, 70)) + np.uint32(65_530) * (blobs(5, (4, 600, 70)) > 0)
    path = masks(labels, tmp_path / "n_masks", frame_of(labels.shape, is_series=True))
    assert [file.name for file in sorted(path.iterdir())] == [f"t{z:04d}.tif" for z in range(4)]
    found = np.stack([tifffile.imread(file) for file in sorted(path.iterdir())])
    assert found.dtype == np.uint32
    assert np.array_equal(found, labels)
    with Image.open(path / "t0001.tif") as image:
        assert np.array_equal(np.asarray(image), labels[1])
    assert is_ours(path)


def test_names_sort_beyond_10000_slices():
    frame = Frame(depth=10_001, height=1, width=1)
    names = [_name(z, frame, np.dtype(np.uint16)) for z in (0, 9, 9999, 10_000)]
    assert names == sorted(names) == ["z00000.png", "z00009.png", "z09999.png", "z10000.png"]


def test_a_folder_is_replaced_as_a_whole_and_only_where_it_is_ours(tmp_path):
    path = masks(blobs(6, (9, 20, 30)), tmp_path / "n_masks")
    assert is_ours(path)
    masks(blobs(7, (4, 20, 30)), path)
    assert [p.name for p in tmp_path.iterdir()] == ["n_masks"]
    assert len(list(path.iterdir())) == 4

    with Image.open(path / "z0002.png") as image:
        painted = np.asarray(image) + 1
    Image.fromarray(painted.astype(np.uint16)).save(path / "z0002.png")
    assert not is_ours(path), "somebody painted in it"
    masks(blobs(7, (4, 20, 30)), path)
    (path / "notes.txt").write_text("mine")
    assert not is_ours(path)
    (tmp_path / "empty").mkdir()
    assert not is_ours(tmp_path / "empty")
    assert not is_ours(tmp_path / "absent")
    (tmp_path / "tif").mkdir()
    tifffile.imwrite(tmp_path / "tif" / "z0000.tif", painted)
    assert not is_ours(tmp_path / "tif")
    (tmp_path / "tif" / "z0000.tif").write_bytes(b"")
    assert not is_ours(tmp_path / "tif")


@pytest.mark.parametrize("write", [tiff, lambda labels, frame, path, **options: masks(labels, path, frame, **options)])
def test_bytes_repeat_and_nothing_else_is_left(write, tmp_path):
    labels = blobs(8, (6, 600, 90))
    first, second = (write(labels, frame_of(labels.shape), tmp_path / f"{n}", batch=n) for n in (2, 500))
    files = [sorted(p.rglob("*")) if p.is_dir() else [p] for p in (first, second)]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "500"]


def test_no_objects_and_images_without_slices(tmp_path):
    blank = np.zeros((5, 600, 40), np.uint32)
    assert not tifffile.imread(tiff(blank, None, tmp_path / "l.ome.tif")).any()
    (tmp_path / "m").mkdir()
    for file in masks(blank, tmp_path / "m" / "a").iterdir():
        assert not np.asarray(Image.open(file)).any()
    plane = np.tril(np.ones((30, 40), np.int32))
    path = write_masks(result_of(plane), tmp_path / "m" / "b", SinkOptions())
    assert np.array_equal(np.asarray(Image.open(path / "z0000.png")), plane)
    path = write_masks(empty_result(Frame(height=2, width=3)), tmp_path / "m" / "c", SinkOptions())
    assert struct.unpack(">II", (path / "z0000.png").read_bytes()[16:24]) == (3, 2)


@pytest.mark.parametrize("write", [write_ome_tiff, write_masks])
def test_memory_does_not_grow_with_depth(write, tmp_path):
    plane = slice_objects(blobs(3, (1, 300, 400))[0], 0)
    peaks = []
    for depth in (16, 256):
        frame = frame_of((depth, 300, 400))
        result = VolumeResult(frame, lambda z: objects_in(plane.instances.shift(0, 0, z), plane.id), 30)
        tracemalloc.start()
        write(result, tmp_path / f"{depth}", SinkOptions())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 1e5

"""The label volume as OME-Zarr: ids only at every level, each voxel where its input has it, nothing where nothing is."""

import json
import tracemalloc
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
import zarr
from support_volume import VolumeResult, blobs, objects_in, placement, slice_objects, volume_of

from seggeo.geometry import Frame
from seggeo.output.ome_zarr import is_ours, write_ome_zarr
from seggeo.output.ome_zarr_volume import volume_levels
from seggeo.protocols import SinkOptions

SHAPE = (70, 530, 600)
STEPS = [(2.0, 0.5, 0.25), (0.5, 0.5, 0.5), (0.2, 0.5, 0.5), (1.0, 1.0, 1.0)]


def frame_of(shape, spacing=(1.0, 1.0, 1.0), **fields):
    placed = placement(spacing, **fields.pop("place", {}))
    return Frame(
        depth=shape[0], height=shape[1], width=shape[2], unit=fields.pop("unit", "um"), spacing=placed.spacing,
        placement=placed, **fields,
    )  # fmt: skip


def written(labels, frame, path, **options):
    return write_ome_zarr(volume_of(labels, frame, **options), path, SinkOptions())


def attributes(group):
    return json.loads((group / ".zattrs").read_text(encoding="utf-8"))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def check_volume(folder, axes="zyx"):
    """Hold a group's `multiscales` to OME-NGFF 0.4; arrays, scales and translations of its levels, largest first."""
    (volume,) = attributes(folder)["multiscales"]
    assert volume["version"] == "0.4"
    assert "".join(axis["name"] for axis in volume["axes"]) == axes
    assert [axis["type"] for axis in volume["axes"]] == ["time" if a == "t" else "space" for a in axes]
    group = zarr.open_group(folder, mode="r")
    arrays, scales, shifts = [], [], []
    for data in volume["datasets"]:
        first, second = data["coordinateTransformations"]
        assert (first["type"], second["type"]) == ("scale", "translation")
        arrays.append(group[data["path"]])
        scales.append(np.array(first["scale"]))
        shifts.append(np.array(second["translation"]))
        assert len(first["scale"]) == len(second["translation"]) == 3
        assert min(first["scale"]) > 0
    assert all(a.dtype == np.uint32 and a.ndim == 3 for a in arrays)
    assert all(b.shape <= a.shape for a, b in pairwise(arrays))
    return arrays, scales, shifts


def mode_halved(volume, deeper):
    """Rival: every block of voxels by itself; background stands where fewer than two of its voxels have an id."""
    steps = (deeper, 2, 2)
    padded = np.pad(volume, [(0, -n % s) for n, s in zip(volume.shape, steps, strict=True)])
    d, h, w = (n // s for n, s in zip(padded.shape, steps, strict=True))
    cells = padded.reshape(d, deeper, h, 2, w, 2).transpose(0, 2, 4, 1, 3, 5).reshape(d, h, w, -1)
    half = np.zeros((d, h, w), np.uint32)
    for place in np.argwhere((cells > 0).sum(axis=-1) > 1):
        ids = [v for v in cells[tuple(place)].tolist() if v]
        half[tuple(place)] = max(ids, key=lambda v: (ids.count(v), -ids.index(v)))
    return half


@pytest.mark.parametrize("spacing", STEPS)
@pytest.mark.parametrize("shape", [(9, 30, 530), (5, 530, 40)])
def test_every_level_is_the_mode_of_the_one_below_it(shape, spacing, tmp_path):
    labels = blobs(1, shape, 400)
    noise = np.random.default_rng(0).integers(0, 5, shape)
    labels[:, 490:, :], labels[:, :, 490:] = noise[:, 490:, :], noise[:, :, 490:]  # across blocks and chunks
    path = written(labels, frame_of(labels.shape, spacing), tmp_path / "l.ome.zarr")
    arrays, _, _ = check_volume(path / "labels" / "objects")

    assert np.array_equal(arrays[0][:], labels)
    assert len(arrays) == 3
    for below, above in pairwise(arrays):
        assert np.array_equal(above[:], mode_halved(below[:], 2 if above.shape[0] < below.shape[0] else 1))
        assert set(np.unique(above[:])) <= set(np.unique(labels))


def test_thin_things_stay_at_every_level(tmp_path):
    labels = np.zeros((64, 80, 600), np.uint32)
    labels[10, 7, :], labels[:, 61, 303], labels[33, :, :] = 1, 2, 3
    arrays, _, _ = check_volume(written(labels, frame_of(labels.shape), tmp_path / "l.ome.zarr") / "labels" / "objects")
    assert [array.shape for array in arrays] == [(64, 80, 600), (32, 40, 300), (16, 20, 150)]
    for array in arrays:
        found = array[:]
        assert ((found == 1).any(axis=(0, 1))).all()
        assert ((found == 2).any(axis=(1, 2)) | (found == 3).any(axis=(1, 2))).all()
        assert (found == 3).any(axis=0).mean() > 0.99


@pytest.mark.parametrize(
    ("spacing", "depths"),
    [((2.0, 0.5, 0.5), [100, 100, 100, 50]), ((0.5, 0.5, 0.5), [100, 50, 25, 13]), ((0.6, 0.5, 0.4), [100, 50, 25, 13])],
)
def test_steps_of_all_axes_draw_level(spacing, depths):
    levels = volume_levels((100, 2000, 1500), spacing, is_series=False)
    assert [level.shape[0] for level in levels] == depths
    assert [level.shape[0] for level in volume_levels((100, 2000, 1500), spacing, is_series=True)] == [100] * 4
    assert volume_levels((1000, 256, 9), spacing, is_series=False)[-1].shape == (1000, 256, 9)
    apart = [np.log2(np.array(level.step) * spacing) for level in levels]
    assert np.ptp(apart[-1]) <= np.ptp(apart[0]) + 1e-9


def test_centres_of_voxels_lie_in_the_world_where_the_placement_has_them(tmp_path):
    matrix = [[0, 0, 0.25, -7], [0, 0.5, 0, 8], [0.5, 0, 0, 90]]
    frame = frame_of(SHAPE, place={"matrix": matrix})
    path = written(np.zeros(SHAPE, np.uint32), frame, tmp_path / "l.ome.zarr")
    arrays, scales, shifts = check_volume(path / "labels" / "objects")
    index = np.array([3, 4, 5])
    for array, scale, shift in zip(arrays, scales, shifts, strict=True):
        step = np.round(scale / scales[0])
        x, y, z = frame.placement.world([(index + 0.5) * step - 0.5])[0]
        assert shift + index * scale == pytest.approx([z, y, x])
        assert tuple(-(-np.array(SHAPE) // step)) == array.shape
    (volume,) = attributes(path)["multiscales"]
    assert all(axis["unit"] == "micrometer" for axis in volume["axes"])
    assert attributes(path)["seggeo"]["placement"]["matrix"] == matrix


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_a_volume_sliced_along_another_axis_lies_on_its_input(axes, tmp_path):
    labels = blobs(4, (20, 90, 300))
    straight = written(labels, frame_of(labels.shape, (2.0, 0.5, 0.25)), tmp_path / "a.ome.zarr")
    matrix = np.array([[0, 0, 0.25, 0], [0, 0.5, 0, 0], [2.0, 0, 0, 0]])[:, [*axes, 3]]
    work = labels.transpose(axes)
    turned = written(work, frame_of(work.shape, place={"axes": axes, "matrix": matrix}), tmp_path / "b.ome.zarr")
    for name, data in contents(straight / "labels").items():
        assert contents(turned / "labels")[name] == data


def test_frames_in_time_are_all_kept_and_are_chunks_of_their_own(tmp_path):
    labels = blobs(5, (6, 300, 520))
    path = written(labels, frame_of(labels.shape, (1, 0.5, 0.5), is_series=True), tmp_path / "l.ome.zarr")
    arrays, scales, _ = check_volume(path / "labels" / "objects", axes="tyx")
    assert [array.shape for array in arrays] == [(6, 300, 520), (6, 150, 260), (6, 75, 130)]
    assert [scale[0] for scale in scales] == [1, 1, 1]
    assert all(array.chunks[0] == 1 for array in arrays)
    assert np.array_equal(arrays[0][:], labels)


def test_it_is_an_image_with_labels_and_empty_chunks_are_absent(tmp_path):
    labels = np.zeros((80, 530, 600), np.uint32)
    labels[40:44, 300:320, 500:520] = 70_000
    path = written(labels, frame_of(labels.shape), tmp_path / "l.ome.zarr")
    objects = path / "labels" / "objects"
    chunks = [name for name in contents(objects) if not Path(name).name.startswith(".")]

    assert chunks == ["0/1/1/1", "0/1/1/2", "1/0/0/0", "1/0/0/1", "2/0/0/0"]
    assert attributes(path / "labels") == {"labels": ["objects"]}
    assert attributes(objects)["image-label"] == {"version": "0.4", "source": {"image": "../../"}}
    for image, label in zip(check_volume(path)[0], check_volume(objects)[0], strict=True):
        assert image.path == f"labels/objects/{label.path}"
        assert image[:].max() == label[:].max() == 70_000
    assert is_ours(path)


@pytest.mark.parametrize("shape", [(1, 20, 30), (1, 600, 20), (3, 1, 1), (40, 256, 257)])
def test_one_slice_small_volumes_and_no_objects(shape, tmp_path):
    labels = blobs(6, shape)
    arrays, _, _ = check_volume(written(labels, frame_of(shape), tmp_path / "a.ome.zarr"))
    assert np.array_equal(arrays[0][:], labels)
    blank = written(np.zeros_like(labels), frame_of(shape, unit="px"), tmp_path / "b.ome.zarr")
    assert not any(array[:].any() for array in check_volume(blank)[0])
    assert sum(map(len, contents(blank).values())) < 8000


def test_bytes_repeat(tmp_path):
    labels = blobs(7, (40, 30, 300))
    first, second = (written(labels, None, tmp_path / f"{n}.ome.zarr", batch=n) for n in (3, 1000))
    assert contents(first) == contents(second)


def test_memory_does_not_grow_with_depth(tmp_path):
    plane = slice_objects(blobs(3, (1, 200, 300))[0], 0)

    def peak(depth):
        result = VolumeResult(frame_of((depth, 200, 300)), lambda z: objects_in(plane.instances.shift(0, 0, z), plane.id), 30)
        tracemalloc.start()
        write_ome_zarr(result, tmp_path / f"{depth}.ome.zarr", SinkOptions())
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    shallow, deep = peak(32), peak(128)
    assert deep < 1.1 * shallow

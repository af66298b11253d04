"""Label volumes are drawn as they are, in any order of axes, and in a memory that does not grow with their depth."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_volume import VolumeResult, blobs, objects_in, placement, slice_objects, volume_of

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output.volume_labels import FileGrid, bands, drawn_volume, filed, id_type, narrowed, slices

U32 = np.dtype(np.uint32)


def whole(result, scratch, kind=U32):
    shape = FileGrid.of(result.frame).shape
    return np.stack(list(slices(filed(result, scratch), shape, kind)))


@pytest.mark.parametrize("shape", [(20, 40, 530), (9, 530, 30)])
@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_a_volume_sliced_along_any_axis_comes_back_in_the_order_of_its_file(axes, shape, tmp_path):
    stored = blobs(1, shape, 60)
    work = stored.transpose(axes)  # z, row and col run along these axes of the file
    step = (2.0, 0.5, 0.25)
    matrix = np.array([[0, 0, 0.25, 7], [0, 0.5, 0, 8], [2, 0, 0, 9]], float)
    frame = Frame(
        depth=work.shape[0], height=work.shape[1], width=work.shape[2], spacing=tuple(step[a] for a in axes),
        placement=placement(axes=axes, matrix=matrix[:, [*axes, 3]]),
    )  # fmt: skip
    grid = FileGrid.of(frame)

    assert grid.shape == stored.shape
    assert grid.spacing == step
    assert np.array_equal(grid.matrix, matrix)
    assert np.array_equal(whole(volume_of(work, frame, batch=7), tmp_path), stored)
    assert not list(tmp_path.iterdir())


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.tuples(st.integers(1, 6), st.integers(1, 700), st.integers(1, 700)), st.integers(1, 40))
def test_bands_and_slices_hold_the_same_voxels(tmp_path_factory, seed, shape, batch):
    labels = blobs(seed, shape, 12)
    result = volume_of(labels, batch=batch)
    rows = list(bands(drawn_volume(result), shape, U32))

    assert all(len(band) <= 512 and band.shape[1] == shape[2] for band in rows)
    assert np.array_equal(np.concatenate(rows).reshape(shape), labels)
    assert np.array_equal(whole(result, tmp_path_factory.mktemp("s")), labels)


def test_slices_without_objects_are_blank_wherever_they_are(tmp_path):
    labels = np.zeros((9, 600, 40), np.uint32)
    labels[3, 560:590, 5:9], labels[6, 0:3, 30:40] = 1, 2
    assert np.array_equal(whole(volume_of(labels), tmp_path), labels)
    assert not whole(volume_of(np.zeros_like(labels)), tmp_path).any()


def test_the_smaller_cross_section_lies_on_top_and_ids_need_no_order_within_a_slice(tmp_path):
    masks = np.zeros((2, 3, 40, 50), bool)
    masks[0, :, 5:35, 5:45], masks[1, :, 1:20, 20:30] = True, True
    ids = np.array([7, 3])

    def slice_of(z):
        return objects_in(Instances.from_masks(masks[:, z]).shift(0, 0, z), ids)

    frame = Frame(depth=3, height=40, width=50)
    expected = np.where(masks[1], 3, np.where(masks[0], 7, 0))
    assert np.array_equal(whole(VolumeResult(frame, slice_of, 7, exclusive=False), tmp_path), expected)


def test_ids_have_16_bits_where_they_fit_and_are_never_cut():
    labels = np.ones((1, 2, 2), np.uint32)
    assert id_type(volume_of(labels, count=65_535)) == np.uint16
    assert id_type(volume_of(labels, count=65_536)) == np.uint32
    assert narrowed(np.array([65_535], np.uint32), np.dtype(np.uint16)).dtype == np.uint16
    with pytest.raises(OutputError, match="65536"):
        narrowed(np.array([65_536], np.uint32), np.dtype(np.uint16))


@pytest.mark.parametrize(("axes", "turning"), [((0, 1, 2), 0), ((2, 0, 1), 1 << 25)])
def test_memory_does_not_grow_with_depth(axes, turning, tmp_path):
    deep, flat = (peak(depth, axes, tmp_path) for depth in (128, 16))
    assert deep < 1.1 * flat + turning


def peak(depth, axes, scratch):
    frame = Frame(depth=depth, height=400, width=500, placement=placement(axes=axes))
    plane = slice_objects(blobs(3, (1, 400, 500))[0], 0)
    result = VolumeResult(frame, lambda z: objects_in(plane.instances.shift(0, 0, z), plane.id), 30)
    shape = FileGrid.of(frame).shape
    tracemalloc.start()
    for _ in bands(filed(result, scratch), shape, U32):
        pass
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return top

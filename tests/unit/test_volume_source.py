"""`VolumeSource`: what it reads is what numpy's slicing of the whole volume gives, along any axis."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support_dicom import Shape, write_series

from seggeo.config import Reading
from seggeo.errors import ConfigError, GeometryError, SeggeoWarning
from seggeo.geometry import Window
from seggeo.io.volume import OVERVIEW_SLICES, VolumeSource, open_volume

SHAPE = (11, 37, 29)
AXES = ("z", "y", "x")


def values(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)


def write_zarr(path: Path, data: NDArray[Any], axes: str = "zyx", *, chunk: int = 8, layers: int = 8) -> str:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    chunks = tuple(min(layers if name == "z" else chunk, n) for n, name in zip(data.shape, axes, strict=True))
    array = group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=chunks, fill_value=0)
    array[:] = data
    kinds = {"t": "time", "c": "channel"}
    group.attrs["multiscales"] = [{
        "version": "0.4", "axes": [{"name": name, "type": kinds.get(name, "space")} for name in axes],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * len(axes)}]}],
    }]  # fmt: skip
    return str(path)


def write_nifti(path: Path, data: NDArray[Any]) -> str:
    nibabel.save(nibabel.Nifti1Image(data.T, np.eye(4)), path)
    return str(path)


def opened(path: str, *, native: bool = True, **reading: Any) -> VolumeSource:
    return open_volume(path, Reading(**reading), native=native)


def sliced(data: NDArray[Any], axis: str) -> NDArray[Any]:
    """The volume as `(z, row, col)` of the work grid."""
    return np.moveaxis(data, AXES.index(axis), 0)


def windows(draw: Any, shape: tuple[int, ...]) -> tuple[int, Window]:
    z = draw(st.integers(0, shape[0] - 1))
    row, col = (draw(st.integers(0, n - 1)) for n in shape[1:])
    height, width = draw(st.integers(1, shape[1] - row)), draw(st.integers(1, shape[2] - col))
    return z, Window(row=row, col=col, height=height, width=width)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same voxels in files whose blocks differ."""
    folder = tmp_path_factory.mktemp("files")
    tifffile.imwrite(folder / "stack.tif", values(), imagej=True, metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"})
    write_series(folder / "ct", values(dtype="int16"))
    return {
        "nifti": write_nifti(folder / "a.nii", values()), "packed": write_nifti(folder / "a.nii.gz", values()),
        "zarr": write_zarr(folder / "a.ome.zarr", values()), "tiff": str(folder / "stack.tif"), "dicom": str(folder / "ct"),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["nifti", "packed", "zarr", "tiff", "dicom"])
@pytest.mark.parametrize("axis", AXES)
def test_a_read_is_a_slice_of_the_whole(files: dict[str, str], kind: str, axis: str):
    expected = sliced(values(), axis)
    rng = np.random.default_rng(7)
    with opened(files[kind], axis=axis) as source:
        assert (source.frame.depth, source.frame.height, source.frame.width) == expected.shape
        for _ in range(12):
            z, row, col = (int(rng.integers(0, n)) for n in expected.shape)
            high, wide = (int(rng.integers(1, n - low + 1)) for n, low in ((expected.shape[1], row), (expected.shape[2], col)))
            window = Window(row=row, col=col, height=high, width=wide)
            pixels = source.read(window, z)
            assert np.array_equal(pixels.data[..., 0], expected[z][window.slices()])
            assert pixels.valid.all()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_neighbours_are_the_slices_before_and_after_and_the_ends_repeat(files: dict[str, str], data: st.DataObject):
    axis, reach = data.draw(st.sampled_from(AXES)), data.draw(st.integers(1, 3))
    expected = sliced(values(), axis)
    z, window = windows(data.draw, expected.shape)
    with opened(files["zarr"], axis=axis, neighbours=reach) as source:
        pixels = source.read(window, z)
        bands = source.bands

    near = np.clip(np.arange(z - reach, z + reach + 1), 0, len(expected) - 1)
    assert np.array_equal(pixels.data, expected[near][:, *window.slices()].transpose(1, 2, 0))
    assert bands[reach] == "gray"
    assert bands[0] == f"gray z-{reach}"


def test_channels_are_read_as_they_are_named(tmp_path: Path):
    data = values(3, (3, *SHAPE))
    path = write_zarr(tmp_path / "c.ome.zarr", data, "czyx")

    with opened(path) as every:
        assert np.array_equal(every.read(every.frame.window, 4).data, data[:, 4].transpose(1, 2, 0))
    with opened(path, channel=("3", "1")) as two:
        assert np.array_equal(two.read(two.frame.window, 4).data, data[[2, 0], 4].transpose(1, 2, 0))
    with opened(path, channel=("2",), neighbours=1, native=False) as shown:
        assert np.array_equal(shown.read(shown.frame.window, 0).data, data[1, [0, 0, 1]].transpose(1, 2, 0))
    with pytest.raises(ConfigError, match="neighbours"):
        opened(path, channel=("2",), neighbours=2, native=False)


def test_one_channel_is_shown_gray(files: dict[str, str]):
    with opened(files["nifti"], native=False) as source:
        data = source.read(source.frame.window, 5).data
    assert np.array_equal(data, np.repeat(values()[5][..., None], 3, axis=2))


@pytest.mark.parametrize("axis", AXES)
def test_nan_and_nodata_are_no_data(tmp_path: Path, axis: str):
    data = values(5, dtype="float32")
    data[np.random.default_rng(1).random(SHAPE) < 0.2] = np.nan
    path = write_nifti(tmp_path / "nan.nii", data)
    expected = sliced(data, axis)

    with opened(path, axis=axis, nodata=7.0) as source:
        for z in range(source.frame.depth):
            pixels = source.read(source.frame.window, z)
            assert np.array_equal(pixels.valid, np.isfinite(expected[z]) & (expected[z] != 7))


@pytest.mark.parametrize("axis", AXES)
def test_a_slice_that_was_lost_is_no_data_whichever_way_it_is_cut(tmp_path: Path, axis: str):
    gone = [3, 4, 9]
    write_series(tmp_path / "ct", values(dtype="int16"), Shape(), skip=gone)
    there = np.ones(SHAPE, bool)
    there[gone] = False
    expected, holds = sliced(np.where(there, values(), 0), axis), sliced(there, axis)

    with pytest.warns(SeggeoWarning, match="3 of 11 slices are missing"):
        source = opened(str(tmp_path / "ct"), axis=axis, allow_gaps=True)
    with source:
        for z in range(source.frame.depth):
            pixels = source.read(source.frame.window, z)
            assert np.array_equal(pixels.valid, holds[z])
            assert np.array_equal(pixels.data[..., 0][holds[z]], expected[z][holds[z]])
            assert source.is_empty(source.frame.window, z) == (axis == "z" and z in gone)
        if axis == "z":
            assert not set(gone) & set(source.overview_slices())


def test_a_lost_slice_shows_the_slice_itself_as_its_neighbour(tmp_path: Path):
    write_series(tmp_path / "ct", values(dtype="int16"), Shape(), skip=[5])

    with pytest.warns(SeggeoWarning, match="1 of 11"):
        source = opened(str(tmp_path / "ct"), neighbours=1, allow_gaps=True)
    with source:
        pixels = source.read(source.frame.window, 4)

    assert np.array_equal(pixels.data, values(dtype="int16")[[3, 4, 4]].transpose(1, 2, 0))
    assert pixels.valid.all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_empty_was_never_written_and_what_was_written_is_never_called_so(sparse: str, data: st.DataObject):
    axis = data.draw(st.sampled_from(AXES))
    expected = sliced(holes(), axis)
    z, window = windows(data.draw, expected.shape)
    with opened(sparse, axis=axis) as source:
        is_empty = source.is_empty(window, z)
        assert np.array_equal(source.read(window, z).data[..., 0], expected[z][window.slices()])
    chunks = sliced(np.kron(FILLED, np.ones((8, 8, 8), bool)), axis)
    assert is_empty == (not chunks[z][window.slices()].any())


FILLED = np.random.default_rng(2).random((5, 4, 6)) < 0.2


def holes() -> NDArray[Any]:
    shape = tuple(8 * n for n in FILLED.shape)
    return values(9, shape, "uint8") * np.kron(FILLED, np.ones((8, 8, 8), np.uint8)) + 0


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("sparse") / "s.ome.zarr"
    write_zarr(path, holes())
    for place in np.argwhere(~FILLED):  # in case the library writes chunks of the fill value
        (path / "0" / ".".join(map(str, place))).unlink(missing_ok=True)
        (path / "0" / "/".join(map(str, place))).unlink(missing_ok=True)
    return str(path)


def test_the_overview_of_a_sparse_volume_counts_only_what_was_written(tmp_path: Path):
    filled = np.zeros((10, 2, 2), bool)
    filled[[1, 1, 4, 7], [0, 1, 1, 0], [0, 1, 0, 0]] = True
    written = np.kron(filled, np.ones((4, 256, 256), bool))
    data = np.where(written, values(6, written.shape, "uint8") + 1, 0).astype(np.uint8)
    path = write_zarr(tmp_path / "s.ome.zarr", data, chunk=256, layers=4)

    with opened(path) as source:
        overview, slices = source.overview(4096), source.overview_slices()

    assert slices == [z for z in range(40) if written[z].any()]
    rows = [np.concatenate([written[z] for z in slices[i : i + 4]], axis=1) for i in (0, 4, 8)]
    assert np.array_equal(overview.valid, np.concatenate(rows))
    assert np.array_equal(overview.data[..., 0] > 0, overview.valid)


def test_a_volume_that_nobody_wrote_is_zeros_and_data(tmp_path: Path):
    with opened(write_zarr(tmp_path / "s.ome.zarr", np.zeros(SHAPE, np.uint8))) as source:
        assert source.is_empty(source.frame.window, 3)
        assert source.read(source.frame.window, 3).valid.all()
        overview = source.overview(100)
    assert overview.valid.all()
    assert not overview.data.any()


@pytest.mark.parametrize("axis", AXES)
def test_the_overview_is_slices_side_by_side_each_decimated(files: dict[str, str], axis: str):
    data = values(4, (40, 70, 50))
    path = files["nifti"].replace("a.nii", f"deep_{axis}.nii")
    write_nifti(Path(path), data)
    expected = sliced(data, axis)

    with opened(path, axis=axis) as source:
        overview, slices = source.overview(120), source.overview_slices()

    assert len(slices) == OVERVIEW_SLICES
    assert slices == sorted(set(slices))
    assert min(np.diff(slices)) >= len(expected) // OVERVIEW_SLICES
    step = -(-max(expected.shape[1:]) // 30)
    rows = [np.concatenate([expected[z][::step, ::step] for z in slices[i : i + 4]], axis=1) for i in range(0, 16, 4)]
    assert np.array_equal(overview.data[..., 0], np.concatenate(rows))
    assert overview.valid.all()
    assert max(overview.valid.shape) <= 120


def test_a_few_slices_are_all_shown(files: dict[str, str]):
    with opened(files["nifti"]) as source:
        assert source.overview_slices() == list(range(11))
        shown = source.slice_overview(6, 20)
    assert np.array_equal(shown.data[..., 0], values()[6, ::2, ::2])


@pytest.mark.parametrize("kind", ["packed", "zarr", "tiff", "dicom"])
def test_a_pickled_source_is_opened_again(files: dict[str, str], kind: str):
    with opened(files[kind], axis="y", neighbours=1) as source, pickle.loads(pickle.dumps(source)) as other:
        assert other.frame == source.frame
        assert np.array_equal(other.read(other.frame.window, 3).data, source.read(source.frame.window, 3).data)
        assert other.fingerprint() == source.fingerprint()


@pytest.mark.parametrize("kind", ["packed", "zarr", "tiff", "dicom"])
def test_threads_read_the_same(files: dict[str, str], kind: str):
    with opened(files[kind], axis="x") as source, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda z: source.read(source.frame.window, z % 29).data[..., 0], range(116)))
    for z, data in enumerate(read):
        assert np.array_equal(data, sliced(values(), "x")[z % 29])


def test_outside_is_refused(files: dict[str, str]):
    with opened(files["nifti"]) as source:
        for window, z in ((source.frame.window, 11), (source.frame.window, -1), (Window(row=30, col=0, height=8, width=5), 0)):
            with pytest.raises(GeometryError):
                source.read(window, z)

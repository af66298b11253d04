"""Label rasters as runs: equal to the array they hold, whatever the dtype, the blocks and the windows they are read in."""

import numpy as np
import pytest
from affine import Affine
from rasterio.crs import CRS
from support_annotations import blobs, utm_frame, whole_masks
from support_io import noise, write

from seggeo.errors import SourceError
from seggeo.geometry import Frame
from seggeo.io import annotations_raster
from seggeo.io.annotations import read_annotations

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


def assert_holds(found, labels):
    ids = np.unique(labels[labels > 0])
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(whole_masks(found.instances, *labels.shape), labels == ids[:, None, None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_are_those_of_the_array_in_every_integer_type(tmp_path, dtype):
    labels = blobs(70, 90, seed=1, kind=dtype)
    labels[labels == 1] = np.iinfo(dtype).max if dtype != "uint64" else np.iinfo(np.int64).max

    found = read_annotations(tmp_path / write(tmp_path / "l.tif", labels[None]))

    assert_holds(found, labels)
    assert found.exclusive
    assert not found.scored
    assert found.classes == ("object",)
    assert (found.instances.score == 1).all()
    assert not found.crowd.any()


@pytest.mark.parametrize("layout", [{"tiled": True, "blockxsize": 16, "blockysize": 16}, {"blockysize": 1}, {}])
@pytest.mark.parametrize("window_px", [16 * 16, 16 * 40, 10**6])
def test_objects_that_lie_in_several_windows_are_one(tmp_path, monkeypatch, layout, window_px):
    monkeypatch.setattr(annotations_raster, "_WINDOW_PX", window_px)
    monkeypatch.setattr(annotations_raster, "_TAKEN", 3)
    labels = blobs(75, 53, seed=2) % 9

    assert_holds(read_annotations(tmp_path / write(tmp_path / "l.tif", labels[None], **layout)), labels)


def test_random_noise_survives_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations_raster, "_WINDOW_PX", 16 * 16)
    labels = np.maximum(noise((1, 40, 60), "int8")[0], -1)

    found = read_annotations(tmp_path / write(tmp_path / "l.tif", labels[None], tiled=True, blockxsize=16, blockysize=16))

    assert_holds(found, labels)


def test_png_and_an_empty_raster(tmp_path):
    labels = blobs(50, 40, seed=3, kind="uint16")
    png = read_annotations(tmp_path / write(tmp_path / "l.png", labels[None], geo=False, driver="PNG"))
    empty = read_annotations(tmp_path / write(tmp_path / "e.tif", np.zeros((1, 30, 20), np.uint8)))

    assert_holds(png, labels)
    assert len(empty) == 0
    assert (empty.frame.height, empty.frame.width) == (30, 20)


def test_a_nodata_value_is_background(tmp_path):
    labels = blobs(50, 40, seed=3, kind="uint16")
    painted = np.where(labels == 0, np.uint16(65535), labels)

    assert_holds(read_annotations(tmp_path / write(tmp_path / "l.tif", painted[None], nodata=65535)), labels)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((3, 20, 20), np.uint8), "3 bands"),
        (np.zeros((1, 20, 20), np.float32), "float32"),
        (np.full((1, 20, 20), 2**63 + 5, np.uint64), "above"),
    ],
)
def test_what_is_no_label_raster_is_refused(tmp_path, data, said):
    with pytest.raises(SourceError, match=said):
        read_annotations(tmp_path / write(tmp_path / "l.tif", data))


def test_a_frame_of_another_size_or_place_is_refused(tmp_path):
    path = tmp_path / write(tmp_path / "l.tif", blobs(50, 40, seed=3)[None])
    good = utm_frame(50, 40)
    moved = Frame(height=50, width=40, transform=good.transform @ Affine.translation(2, 0), crs=good.crs)
    other = Frame(height=50, width=40, transform=good.transform, crs=CRS.from_epsg(3857).to_wkt())

    assert read_annotations(path, good).frame is good
    with pytest.raises(SourceError, match="50 x 40 pixels .* image 40 x 50"):
        read_annotations(path, utm_frame(40, 50))
    with pytest.raises(SourceError, match=r"up to 2\.0 px"):
        read_annotations(path, moved)
    with pytest.raises(SourceError, match="CRS is WGS 84 / UTM zone 33N"):
        read_annotations(path, other)


def test_labels_without_a_position_fit_an_image_with_one(tmp_path):
    labels = blobs(50, 40, seed=3, kind="uint16")
    path = tmp_path / write(tmp_path / "l.png", labels[None], geo=False, driver="PNG")

    assert_holds(read_annotations(path, utm_frame(50, 40)), labels)


def test_several_negative_values_are_refused(tmp_path):
    """One may be background; several were objects that would be lost."""
    labels = np.zeros((20, 30), np.int32)
    labels[2:5, 3:9], labels[8:12, 3:9] = 4, -1
    write(tmp_path / "one.tif", labels[None])
    assert_holds(read_annotations(tmp_path / "one.tif"), labels)

    labels[15:18, 20:25] = -2
    write(tmp_path / "two.tif", labels[None])
    with pytest.raises(SourceError, match="negative ids, -2 to -1"):
        read_annotations(tmp_path / "two.tif")


def test_what_is_no_label_file_at_all_is_refused(tmp_path):
    text = tmp_path / "l.txt"
    text.write_text("1 2 3")

    with pytest.raises(SourceError, match="no labels that seggeo reads"):
        read_annotations(text)
    with pytest.raises(SourceError, match="does not exist"):
        read_annotations(tmp_path / "none.tif")

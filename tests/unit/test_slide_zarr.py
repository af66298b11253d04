"""OME-Zarr folders, read as zarr reads them."""

import json

import numpy as np
import pytest
import zarr
from support_slides import halved, open_native, windows, write_zarr

from seggeo.errors import SourceError
from seggeo.io.slide import is_slide

PLANES = np.random.default_rng(1).integers(0, 4000, (3, 303, 406)).astype(np.uint16)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_read_as_with_zarr(tmp_path, version):
    path = write_zarr(tmp_path / "a.zarr", PLANES, version=version, names=("DAPI", "CD3", "CD8"))
    array = zarr.open_array(path / "0", mode="r")

    assert is_slide(str(path))
    with open_native(path, channels=("CD8", "DAPI")) as source:
        assert source.describe()["driver"] == f"OME-Zarr {version}"
        assert source.frame.spacing == (1.0, 0.5, 0.5)
        for window in windows(source, 150, 140):
            expected = np.asarray(array[:, *window.slices()])[[2, 0]].transpose(1, 2, 0)
            np.testing.assert_array_equal(source.read(window).data, expected)
    with open_native(path, work_mpp=2.0) as source:
        assert source.frame.level == 2
        np.testing.assert_array_equal(source.read(source.frame.window).data[..., 1], halved(PLANES[1], 4))


def test_channels_without_names_get_numbers(tmp_path):
    with open_native(write_zarr(tmp_path / "a.zarr", PLANES)) as source:
        assert source.bands == ("band 1", "band 2", "band 3")
        assert source.fingerprint()["size"] > 0


def change(path, **values):
    text = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
    text["multiscales"][0] |= values
    (path / ".zattrs").write_text(json.dumps(text), encoding="utf-8")


@pytest.mark.parametrize(
    ("values", "why"),
    [({"axes": [{"name": "z"}, {"name": "y"}, {"name": "x"}]}, "3 z-slices"),
     ({"axes": [{"name": "t"}, {"name": "y"}, {"name": "x"}]}, "3 time points"),
     ({"axes": [{"name": "c"}, {"name": "z"}, {"name": "t"}]}, "holds no image"),
     ({"datasets": [{"path": "../../secret"}]}, "outside it"),
     ({"datasets": [{"path": "7"}]}, "cannot be read"),
     ({"datasets": []}, "cannot be read"),
     ({"datasets": None}, "cannot be read")],
)  # fmt: skip
def test_what_is_not_one_plane_or_damaged_is_refused(tmp_path, values, why):
    path = write_zarr(tmp_path / "a.zarr", PLANES)
    change(path, **values)

    with pytest.raises(SourceError, match=why):
        open_native(path)


def test_a_group_without_an_image_and_an_ordinary_folder_are_refused(tmp_path):
    zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=2).attrs["plate"] = {}
    (tmp_path / "folder").mkdir()

    with pytest.raises(SourceError, match="it is a plate"):
        open_native(tmp_path / "g.zarr")
    assert not is_slide(str(tmp_path / "folder"))
    with pytest.raises(SourceError, match="cannot be read"):
        open_native(tmp_path / "folder")


def test_a_damaged_chunk_fails_alone(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", PLANES)
    chunk = next(p for p in sorted((path / "0").rglob("*")) if p.is_file() and p.name in ("0.0.0", "0"))
    chunk.write_bytes(b"x" * 50)

    with open_native(path) as source:
        first, *_, last = windows(source, 100, 200)
        with pytest.raises(SourceError, match="rows 0-"):
            source.read(first)
        np.testing.assert_array_equal(source.read(last).data, PLANES[:, *last.slices()].transpose(1, 2, 0))


@pytest.mark.parametrize(("dtype", "colours"), [(np.uint8, True), (np.uint16, False)])
def test_three_unnamed_channels_drawn_red_green_and_blue_are_a_camera_s(tmp_path, dtype, colours):
    path = write_zarr(tmp_path / "a.zarr", (PLANES >> 4).astype(dtype), names=("", "", ""))
    text = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
    for channel, colour in zip(text["omero"]["channels"], ("FF0000", "00FF00", "0000FF"), strict=True):
        channel["color"] = colour
    (path / ".zattrs").write_text(json.dumps(text), encoding="utf-8")

    with open_native(path) as source:
        assert source.is_brightfield == colours

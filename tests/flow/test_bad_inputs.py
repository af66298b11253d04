"""Rasters, areas, weights and outputs that are wrong in some way, through the command: exit code, one message, nothing made.

The unit tests of each part try many variants; here is one case of each kind, all the way.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from support_flow import ORACLE, PLAIN, SMALL, below, call, scene, seggeo, write_model
from support_flow import write_picture as picture
from support_io import noise, write
from support_models import make_maskrcnn_weights
from support_sam import make_sam_weights

Make = Callable[[Path], list[str]]
CASES: dict[str, tuple[Make, int, str]] = {}


def case(code: int, says: str) -> Callable[[Make], Make]:
    """Register a function that lays files into a folder and returns the arguments that must be refused."""

    def register(make: Make) -> Make:
        CASES[make.__name__] = (make, code, says)
        return make

    return register


@case(3, "near names there: scene.tif")
def missing(folder: Path) -> list[str]:
    picture(folder / "scene.tif", scene(shape=(40, 40)))
    return ["scnee.tif"]


@case(3, "folder")
def a_folder(folder: Path) -> list[str]:
    (folder / "a").mkdir()
    return ["a"]


@case(3, "pipe")
def a_pipe(folder: Path) -> list[str]:
    os.mkfifo(folder / "a.tif")
    return ["a.tif"]


@case(3, "device")
def a_device(folder: Path) -> list[str]:
    return ["/dev/zero"]


@case(3, "symbolic links")
def a_loop_of_links(folder: Path) -> list[str]:
    os.symlink("a.tif", folder / "a.tif")
    return ["a.tif"]


@case(3, "0 bytes")
def empty(folder: Path) -> list[str]:
    (folder / "a.tif").touch()
    return ["a.tif"]


@case(3, "web page")
def a_web_page(folder: Path) -> list[str]:
    (folder / "a.tif").write_text("<!DOCTYPE html><html>quota exceeded</html>")
    return ["a.tif"]


@case(3, "JSON")
def an_error_of_a_server(folder: Path) -> list[str]:
    (folder / "a.tif").write_text('{"error": "no such bucket"}')
    return ["a.tif"]


@case(3, "a.tif")
def half_a_tiff(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 200, 200)), tiled=True, blockxsize=64, blockysize=64)
    data = (folder / "a.tif").read_bytes()
    (folder / "a.tif").write_bytes(data[: len(data) // 2])
    return ["a.tif"]


@case(3, "a.tif")
def a_header_alone(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 200, 200)))
    (folder / "a.tif").write_bytes((folder / "a.tif").read_bytes()[:8])
    return ["a.tif"]


def _tiff(tags: list[tuple[int, int, int]]) -> bytes:
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 200) + b"\0" * 192 + struct.pack("<H", len(tags)) + body + b"\0" * 4


@case(3, "MiB")
def a_decompression_bomb(folder: Path) -> list[str]:
    tags = [(256, 4, 20000), (257, 4, 20000), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    (folder / "a.tif").write_bytes(_tiff([*tags, (322, 4, 20000), (323, 4, 20000), (324, 4, 8), (325, 4, 100)]))
    return ["a.tif"]


@case(3, "a.tif")
def no_width(folder: Path) -> list[str]:
    tags = [(256, 4, 0), (257, 4, 5), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 5), (279, 4, 5)]
    (folder / "a.tif").write_bytes(_tiff(tags))
    return ["a.tif"]


@case(3, "limit is 1000")
def more_pixels_than_allowed(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", "--max-pixels", "1000"]


@case(3, "complex")
def complex_numbers(folder: Path) -> list[str]:
    write(folder / "a.tif", np.ones((1, 64, 64), "complex64"))
    return ["a.tif"]


@case(2, "--bands")
def four_bands_without_names(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((4, 64, 64)), photometric="minisblack", alpha="no")
    return ["a.tif"]


@case(2, "no band 9")
def a_band_that_is_not_there(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", "--bands", "9,1,2"]


@case(3, "control points")
def control_points_only(folder: Path) -> list[str]:
    points = [GroundControlPoint(row=r, col=c, x=10 + c / 100, y=50 - r / 100) for r, c in ((0, 0), (0, 60), (60, 0), (60, 60))]
    write(folder / "a.tif", noise((3, 64, 64)), geo=False, gcps=points, crs="EPSG:4326")
    return ["a.tif"]


@case(3, "RPC")
def rational_polynomials_only(folder: Path) -> list[str]:
    axes = {f"{axis}_{part}": 1.0 for axis in ("height", "lat", "long", "line", "samp") for part in ("off", "scale")}
    curves = {f"{axis}_{part}_coeff": [1.0] + [0.0] * 19 for axis in ("line", "samp") for part in ("num", "den")}
    write(folder / "a.tif", noise((3, 64, 64)), geo=False, rpcs=RPC(err_bias=None, err_rand=None, **axes, **curves))
    return ["a.tif"]


@case(2, "2 images")
def two_images_in_one_file(folder: Path) -> list[str]:
    import tifffile

    with tifffile.TiffWriter(folder / "a.tif") as out:
        for side in (64, 32):
            out.write(noise((side, side, 3)), photometric="rgb", metadata=None)
    return ["a.tif"]


@case(2, "no georeference")
def a_gsd_without_georeference(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)), geo=False)
    return ["a.tif", "--gsd", "0.5"]


@case(2, "one pixel")
def a_gsd_beyond_the_image(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", "--gsd", "1e9"]


@case(2, "no extent")
def rows_without_extent(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)), transform=rasterio.Affine(1, 0, 5, 1, 0, 5))
    return ["a.tif"]


@case(3, "does not exist")
def no_aoi(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", "--aoi", "none.gpkg"]


@case(2, "AOI")
def an_aoi_that_is_a_web_page(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    (folder / "area.geojson").write_text("<html>")
    return ["a.tif", "--aoi", "area.geojson"]


@case(2, "no polygons")
def an_aoi_of_points(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    gpd.GeoDataFrame(geometry=[shapely.Point(500000, 5200000)], crs="EPSG:32633").to_file(folder / "area.gpkg")
    return ["a.tif", "--aoi", "area.gpkg"]


@case(2, "AOI")
def an_aoi_elsewhere(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 9, 9)], crs="EPSG:32633").to_file(folder / "area.gpkg")
    return ["a.tif", "--aoi", "area.gpkg"]


@case(6, "web page")
def weights_that_are_a_web_page(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    (folder / "w.pth").write_text("<!DOCTYPE html><title>Google Drive - Quota exceeded</title>")
    return ["a.tif", "--model", "maskrcnn", "--weights", "w.pth"]


@case(6, "truncated")
def half_of_the_weights(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    data = make_sam_weights(folder / "w.safetensors").read_bytes()
    (folder / "w.safetensors").write_bytes(data[: len(data) // 2])
    return ["a.tif", "--model", "sam", "--weights", "w.safetensors"]


@case(6, "run code")
def a_malicious_pickle(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    torch.save({"model": {"w": torch.ones(2), "evil": _Canary(str(folder / "canary"))}}, folder / "w.pth")
    return ["a.tif", "--model", "maskrcnn", "--weights", "w.pth"]


class _Canary:
    """Makes a folder when an unsafe loader opens it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


@case(6, "w.safetensors")
def weights_of_another_model(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    make_sam_weights(folder / "w.safetensors")
    return ["a.tif", "--model", "maskrcnn", "--weights", "w.safetensors"]


@case(2, "class names")
def more_class_names_than_classes(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    make_maskrcnn_weights(folder / "w.safetensors", arch="mobilenet_v3_large")
    return ["a.tif", "--model", "maskrcnn", "--weights", "w.safetensors", "--set", "classes=a,b,c,d,e"]


@case(2, "takes 5 bands")
def more_bands_than_the_model_takes(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    make_maskrcnn_weights(folder / "w.safetensors", arch="mobilenet_v3_large", bands=5)
    return ["a.tif", "--model", "maskrcnn", "--weights", "w.safetensors"]


@case(6, "needs weights")
def no_weights(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", "--model", "sam"]


@case(6, "not on this machine")
def weights_that_were_not_fetched(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", "--model", "sam", "--weights", "sam_vit_b"]


@case(2, "takes no weights")
def weights_for_a_model_without_any(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", *PLAIN[:2], "--weights", "w.pth"]


@case(2, "did you mean 'min_area'")
def an_unknown_setting(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", *PLAIN[:2], "--set", "min_are=3"]


@case(2, "did you mean 'regions'")
def an_unknown_model(folder: Path) -> list[str]:
    write(folder / "a.tif", noise((3, 64, 64)))
    return ["a.tif", "--model", "region"]


@case(3, "--allow-vrt")
def a_vrt_called_tif(folder: Path) -> list[str]:
    (folder / "a.tif").write_text(_vrt("/etc/hostname"))
    return ["a.tif"]


@case(3, "outside")
def a_vrt_that_reaches_out(folder: Path) -> list[str]:
    (folder / "home").mkdir()
    write(folder / "secret.tif", noise((1, 64, 64)))
    (folder / "home" / "a.vrt").write_text(_vrt("../secret.tif"))
    return ["home/a.vrt", "--allow-vrt"]


@case(3, "/vsi")
def a_virtual_path(folder: Path) -> list[str]:
    return ["/vsimem/a.tif"]


def _vrt(source: str) -> str:
    return (
        '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )


@pytest.mark.parametrize("name", CASES)
def test_refused_with_one_message_and_nothing_made(tmp_path: Path, name: str):
    make, code, says = CASES[name]
    arguments = make(tmp_path)
    before = below(tmp_path)

    ran = call("segment", *arguments, *SMALL, "-o", "out", cwd=tmp_path, SEGGEO_CACHE=str(tmp_path / "cache"))

    assert ran.code == code, ran.err
    assert says in "\n".join(ran.refusal()), ran.err
    assert ran.out == ""
    assert below(tmp_path) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device that the test wants missing")
@pytest.mark.parametrize("model", ["sam", "maskrcnn"])
def test_a_device_that_is_not_there(tmp_path: Path, model: str):
    write(tmp_path / "a.tif", noise((3, 64, 64)))
    make_sam_weights(tmp_path / "sam.safetensors")
    make_maskrcnn_weights(tmp_path / "maskrcnn.safetensors", arch="mobilenet_v3_large")

    ran = call("segment", "a.tif", "--model", model, "--weights", f"{model}.safetensors", "--device", "cuda", cwd=tmp_path)

    assert ran.code == 7
    ran.refusal()


def test_a_name_that_is_not_utf8(tmp_path: Path):
    write(tmp_path / "a.tif", noise((3, 64, 64)))
    os.rename(tmp_path / "a.tif", os.fsencode(tmp_path) + b"/caf\xe9.tif")

    ran = seggeo("segment", os.fsdecode(b"caf\xe9.tif"), *PLAIN[:2], "-o", "out", cwd=tmp_path)

    assert ran.code == 3
    assert "UTF-8" in ran.refusal()[0]
    assert not (tmp_path / "out").exists()


def test_a_model_file_that_changes_the_input_is_found_out(tmp_path: Path):
    write(tmp_path / "a.tif", noise((1, 200, 200), "uint8"), compress="deflate")
    change = "        open('a.tif', 'ab').write(b'x')\n        return"
    write_model(tmp_path, ORACLE.replace("        return", change))

    ran = call("segment", "a.tif", "--model", "oracle.py:Oracle", *SMALL, cwd=tmp_path)

    assert ran.code == 3
    assert "changed" in ran.refusal()[0]
    assert not (tmp_path / "a_objects.gpkg").exists()


def test_half_a_png_of_which_no_tile_can_be_read(tmp_path: Path):
    write(tmp_path / "a.png", noise((3, 200, 200)), driver="PNG", geo=False)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])

    ran = call("segment", "a.png", *PLAIN, "-o", "out", cwd=tmp_path)

    assert ran.code == 3
    assert "no tile" in ran.refusal()[0]
    assert {path for path in below(tmp_path) if not path.startswith("out/a.seggeo")} == {"a.png", "out"}

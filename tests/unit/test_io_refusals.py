"""Every input that is refused: the right kind and exit code, one line that says what, and canaries left alone."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from support_io import UTM, noise, open_native, open_rgb, whole, write

from seggeo.errors import ConfigError, SeggeoError, SourceError
from seggeo.geometry import Window
from seggeo.io import opening as opening_module

TILED = {"tiled": True, "blockxsize": 32, "blockysize": 32}


def refused(kind: type[SeggeoError], path: object, **reading: Any) -> SeggeoError:
    """The refusal of a path, checked for its form."""
    with pytest.raises(kind) as caught:
        open_rgb(str(path), **reading)
    error = caught.value
    assert error.exit_code == (3 if kind is SourceError else 2)
    for line in (error.what, error.why, error.mend):
        assert line
        assert "\n" not in line
    return error


def outcome(path: Path) -> SeggeoError | None:
    """What opening and reading a file ends with; anything but seggeo's own errors escapes."""
    try:
        with open_rgb(str(path)) as source:
            if source.frame.window.area < 10**6:
                source.read(source.frame.window)
    except SeggeoError as error:
        return error
    return None


def canary(path: Path) -> Path:
    """A small raster that shows when it was read: its access time is older than its change."""
    write(path, noise((3, 64, 64)))
    os.utime(path, (1_000_000, 2_000_000))
    return path


def was_read(path: Path) -> bool:
    return os.stat(path).st_atime != 1_000_000


def vrt(source: object, *, relative: int = 0, band: str = "", inner: str = "SimpleSource", extra: str = "") -> str:
    return (
        f'<VRTDataset rasterXSize="64" rasterYSize="64">{extra}<VRTRasterBand dataType="Byte" band="1" {band}>'
        f'<{inner}><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand></{inner}>'
        "</VRTRasterBand></VRTDataset>"
    )


def test_canaries_sing(tmp_path: Path):
    """The control of every canary below: reading one is noticed."""
    bird = canary(tmp_path / "c.tif")
    assert not was_read(bird)
    with rasterio.open(bird) as ds:
        ds.read()
    if not was_read(bird):
        pytest.skip("this file system keeps no access times")


def test_missing_paths_list_near_names(tmp_path: Path):
    write(tmp_path / "scene_north.tif", noise((3, 8, 8)))
    assert "scene_north.tif" in refused(SourceError, tmp_path / "scene_nort.tif").why
    assert "no folder" in refused(SourceError, tmp_path / "nowhere" / "a.tif").why
    refused(SourceError, tmp_path / "zzz")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html><body>quota exceeded", "web page"),
        (b"\xef\xbb\xbf\n<html>", "web page"),
        (b'{"error": "no access"}', "JSON"),
        (b"hello", "first bytes"),
        (b"II*\0\x08\0\0\0", "directory"),
        (b"II*\0\xff\xff\xff\x7f" + b"\0" * 50, "directory"),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"\xff\xd8\xff\xe0", ""),
    ],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, why: str):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    assert why in refused(SourceError, path).why


def test_what_is_no_file(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo.tif")
    (tmp_path / "loop.tif").symlink_to(tmp_path / "loop.tif")
    start = time.monotonic()
    assert "pipe" in refused(SourceError, tmp_path / "fifo.tif").why
    assert "folder" in refused(SourceError, tmp_path).why
    assert "device" in refused(SourceError, "/dev/zero").why
    refused(SourceError, tmp_path / "loop.tif")
    refused(SourceError, tmp_path / ("x" * 300))
    assert time.monotonic() - start < 5


def test_names_that_are_not_utf8(tmp_path: Path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.tif")
    Path(write(tmp_path / "a.tif", noise((3, 8, 8)))).rename(os.fsdecode(path))
    assert "UTF-8" in refused(SourceError, os.fsdecode(path)).what


@pytest.mark.parametrize(
    "name", ["with space.tif", "-leading.tif", "new\nline.tif", "quo'te\".tif", "a:b.tif", "ünï.tif", "x" * 250 + ".tif"]
)
def test_odd_names_are_fine(tmp_path: Path, name: str):
    data = noise((3, 8, 8))
    with open_rgb(write(tmp_path / name, data)) as source:
        np.testing.assert_array_equal(whole(source)[0], data)


@pytest.mark.parametrize("path", ["/vsicurl/http://localhost/a.tif", "/vsizip/a.zip/a.tif", "//vsimem/a.tif"])
def test_virtual_paths_are_refused(path: str):
    refused(SourceError, path)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("options", [TILED, {"blockysize": 16}, TILED | {"BIGTIFF": "YES"}])
def test_a_tiff_that_is_cut_off_is_seen_at_once(tmp_path: Path, keep: float, options: dict[str, Any]):
    path = Path(write(tmp_path / "a.tif", noise((3, 128, 128)), **options))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    error = refused(SourceError, path)
    assert "cut off" in error.what or "damaged" in error.what


def test_every_cut_of_a_small_file_is_refused(tmp_path: Path):
    path = Path(write(tmp_path / "a.tif", noise((1, 16, 16)), compress="deflate"))
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        refused(SourceError, path)


def test_flipped_bytes_of_the_directory_never_escape_as_other_errors(tmp_path: Path):
    path = Path(write(tmp_path / "a.tif", noise((3, 64, 64)), compress="deflate", **TILED))
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(8)
    for _ in range(150):
        broken = content.copy()
        for place in rng.integers(4, 400, 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        error = outcome(path)
        assert error is None or "\n" not in error.what + error.why


def test_a_damaged_block_is_refused_where_it_is_read(tmp_path: Path):
    path = Path(write(tmp_path / "a.tif", noise((1, 64, 64)), compress="deflate", **TILED))
    with open(path, "r+b") as file, tifffile.TiffFile(path) as tiff:
        file.seek(tiff.pages[0].dataoffsets[3])
        file.write(b"\xff" * 50)
    with open_native(str(path)) as source:
        assert source.read(Window(row=0, col=0, height=32, width=64)).valid.all()
        with pytest.raises(SourceError, match="rows 0-63") as refusal:
            source.read(source.frame.window)
        assert "\n" not in refusal.value.why


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(
        tmp_path / "a.tif",
        np.zeros((3, 1024, 1024), np.uint8),
        compress="deflate",
        tiled=True,
        blockxsize=1024,
        blockysize=1024,
    )
    monkeypatch.setattr(opening_module, "_MAX_BLOCK_BYTES", 3 * 2**20 - 1)
    assert "blocks of 3 MiB" in refused(SourceError, path).what
    monkeypatch.setattr(opening_module, "_MAX_BLOCK_BYTES", 3 * 2**20)
    open_rgb(path).close()
    assert "1048576" in refused(SourceError, path, max_pixels=10**6).what


def test_a_real_bomb_is_refused_without_memory(tmp_path: Path):
    """A tile of 20000 x 20000 in a few bytes: offsets point at nothing much, and nothing is decoded."""
    path = tmp_path / "a.tif"
    tags = [(256, 4, 20000), (257, 4, 20000), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1),
            (322, 4, 20000), (323, 4, 20000), (324, 4, 8), (325, 4, 100)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 200) + b"\0" * 192 + struct.pack("<H", len(tags)) + body + struct.pack("<I", 0)
    )
    assert "381 MiB" in refused(SourceError, path).what


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "complex_int16"])
def test_complex_numbers_are_refused(tmp_path: Path, dtype: str):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=9, width=9, count=3, dtype=dtype, crs="EPSG:32633", transform=UTM
    ) as out:
        out.write(np.ones((3, 9, 9), "complex64" if dtype != "complex128" else dtype))
    assert "complex" in refused(SourceError, path).what


def test_control_points_must_be_warped_first(tmp_path: Path):
    points = [GroundControlPoint(row=r, col=c, x=10 + c / 100, y=50 - r / 100) for r, c in ((0, 0), (0, 60), (60, 0), (60, 60))]
    path = write(tmp_path / "a.tif", noise((3, 64, 64)), geo=False, gcps=points, crs="EPSG:4326")
    assert "gdalwarp" in refused(SourceError, path).mend


def test_rational_polynomials_must_be_warped_first(tmp_path: Path):
    ones = [1.0] + [0.0] * 19
    axes = {f"{axis}_{part}": 1.0 for axis in ("height", "lat", "long", "line", "samp") for part in ("off", "scale")}
    curves = {f"{axis}_{part}_coeff": ones for axis in ("line", "samp") for part in ("num", "den")}
    rpc = RPC(err_bias=None, err_rand=None, **axes, **curves)
    path = write(tmp_path / "a.tif", noise((3, 64, 64)), geo=False, rpcs=rpc)
    assert "RPC" in refused(SourceError, path).why


def test_several_images_in_one_file_are_listed(tmp_path: Path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as out:
        for side in (64, 32):
            out.write(noise((side, side, 3)), photometric="rgb", metadata=None)
    error = refused(ConfigError, path)
    assert "2 images" in error.what
    assert "GTIFF_DIR:2" in error.why


def test_a_vrt_needs_permission(tmp_path: Path):
    bird = canary(tmp_path / "c.tif")
    for name in ("a.vrt", "a.tif"):
        (tmp_path / name).write_text(vrt("c.tif", relative=1))
        assert "--allow-vrt" in refused(SourceError, tmp_path / name).mend
    assert not was_read(bird)


def test_a_vrt_of_its_own_folder_is_read(tmp_path: Path):
    data = noise((3, 64, 64))
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "c.tif", data)
    (tmp_path / "a.vrt").write_text(vrt("deep/c.tif", relative=1))
    (tmp_path / "b.vrt").write_text(vrt(tmp_path / "deep" / "c.tif"))
    for name in ("a.vrt", "b.vrt"):
        with open_rgb(str(tmp_path / name), allow_vrt=True) as source:
            np.testing.assert_array_equal(whole(source)[0], data[[0, 0, 0]])


OUTWARD = ["absolute", "dots", "link", "nested", "raw", "derived", "pixel-function", "warped"]
OUTWARD += ["sub-dataset", "curl", "overview", "entity", "zip", "options"]


@pytest.mark.parametrize("kind", OUTWARD)
@pytest.mark.parametrize("name", ["a.vrt", "a.tif"])
def test_a_vrt_that_reaches_out_is_refused(tmp_path: Path, kind: str, name: str):
    home = tmp_path / "home"
    home.mkdir()
    bird = canary(tmp_path / "c.tif")
    canary(home / "inside.tif")
    (home / "link.tif").symlink_to(bird)
    (home / "inner.vrt").write_text(vrt(bird))
    texts = {
        "absolute": vrt(bird),
        "dots": vrt("../c.tif", relative=1),
        "link": vrt("link.tif", relative=1),
        "nested": vrt("inner.vrt", relative=1),
        "raw": vrt("inside.tif", relative=1, band='subClass="VRTRawRasterBand"'),
        "derived": vrt(
            "inside.tif",
            relative=1,
            band='subClass="VRTDerivedRasterBand"',
            extra="<PixelFunctionType>sqrt</PixelFunctionType>",
        ),
        "pixel-function": vrt("inside.tif", relative=1, extra="<PixelFunctionCode>import os</PixelFunctionCode>"),
        "warped": vrt(
            "inside.tif", relative=1, extra=f"<GDALWarpOptions><SourceDataset>{bird}</SourceDataset></GDALWarpOptions>"
        ),
        "sub-dataset": vrt(f"GTIFF_DIR:1:{bird}"),
        "curl": vrt("/vsicurl/http://127.0.0.1:9/c.tif"),
        "zip": vrt("/vsizip/c.zip/c.tif"),
        "overview": vrt("inside.tif", relative=1, extra=f"<Overview><SourceFilename>{bird}</SourceFilename></Overview>"),
        "entity": f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{bird}">]>' + vrt("inside.tif", relative=1),
        "options": vrt("inside.tif", relative=1, inner="SimpleSource", extra="<OpenOptions><OOI key='a'>b</OOI></OpenOptions>"),
    }
    (home / name).write_text(texts[kind])
    refused(SourceError, home / name, allow_vrt=True)
    assert not was_read(bird)


@pytest.mark.parametrize("side", [".ovr", ".msk", ".aux.xml"])
def test_side_files_that_reach_out_are_refused(tmp_path: Path, side: str):
    bird = canary(tmp_path / "c.tif")
    home = tmp_path / "home"
    home.mkdir()
    path = write(home / "a.tif", noise((3, 64, 64)))
    metadata = f'<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">{bird}</MDI></Metadata></PAMDataset>'
    Path(path + side).write_text(metadata if side == ".aux.xml" else vrt(bird))
    assert "side file" in refused(SourceError, path).why
    assert not was_read(bird)


def test_overviews_named_inside_a_tiff_are_refused(tmp_path: Path):
    bird = canary(tmp_path / "c.tif")
    path = write(tmp_path / "a.tif", noise((3, 64, 64)))
    with rasterio.open(path, "r+") as ds:
        ds.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(bird))
    os.utime(bird, (1_000_000, 2_000_000))
    refused(SourceError, path)
    assert not was_read(bird)


def test_a_fingerprint_notices_a_replaced_file(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 64, 64)))
    with open_rgb(path) as source:
        first = source.fingerprint()
        assert source.fingerprint() == first
        write(tmp_path / "b.tif", noise((3, 64, 64)) // 2)
        os.replace(tmp_path / "b.tif", path)
        assert source.fingerprint() != first


def test_a_gsd_beyond_the_pixel_limit_is_refused(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 64, 64)))
    assert "limit" in refused(ConfigError, path, gsd=0.0001, max_pixels=10**6).why


def test_addresses_lose_their_secrets_in_messages():
    with pytest.raises(SourceError) as refusal:
        open_rgb("http://user:secret@127.0.0.1:9/a.tif?token=secret")
    assert "secret" not in str(refusal.value)
    assert "http://127.0.0.1:9/a.tif" in refusal.value.what

"""Windows equal rasterio's bit for bit, whatever the format, layout and dtype."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from support_io import SHARED, needs_shared, noise, open_native, open_rgb, random_windows, rival, whole, write

from seggeo.config import Reading
from seggeo.errors import ConfigError, GeometryError
from seggeo.geometry import Window
from seggeo.io import levels as levels_module
from seggeo.io import open_raster
from seggeo.protocols import Source

TILED = {"tiled": True, "blockxsize": 64, "blockysize": 32}
LAYOUTS = {
    "tiled-deflate": TILED | {"compress": "deflate", "interleave": "pixel"},
    "tiled-zstd-band": TILED | {"compress": "zstd", "interleave": "band"},
    "tiled-lzw-predictor": TILED | {"compress": "lzw", "predictor": 2},
    "strips": {"blockysize": 7},
    "one-strip": {"blockysize": 150, "compress": "deflate"},
    "bigtiff": TILED | {"BIGTIFF": "YES"},
    "big-endian": {"ENDIANNESS": "BIG"},
}
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"]


def assert_equals_rasterio(path: str, count: int = 12) -> None:
    with open_native(path) as source:
        for window in random_windows(*source.frame.window.shape, count):
            pixels = source.read(window)
            data, valid = rival(path, window)
            np.testing.assert_array_equal(pixels.data.transpose(2, 0, 1), data)
            np.testing.assert_array_equal(pixels.valid, valid)
            assert pixels.data.dtype == data.dtype
            assert pixels.valid.dtype == np.bool_


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_as_rasterio_does(tmp_path: Path, layout: str):
    assert_equals_rasterio(write(tmp_path / "a.tif", noise((3, 150, 210)), **LAYOUTS[layout]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_reads_as_rasterio_does(tmp_path: Path, dtype: str):
    assert_equals_rasterio(write(tmp_path / "a.tif", noise((2, 90, 110), dtype), **TILED), count=4)


@pytest.mark.parametrize(
    ("driver", "dtype"), [("PNG", "uint8"), ("PNG", "uint16"), ("JPEG", "uint8"), ("BMP", "uint8"), ("WEBP", "uint8")]
)
def test_pictures_read_as_rasterio_does(tmp_path: Path, driver: str, dtype: str):
    path = tmp_path / "picture"
    write(path, noise((3, 80, 130), dtype), geo=False, driver=driver)
    assert_equals_rasterio(str(path))


def test_jpeg_2000_reads_as_rasterio_does(tmp_path: Path):
    assert_equals_rasterio(write(tmp_path / "a.jp2", noise((3, 200, 260), "uint16"), driver="JP2OpenJPEG"), count=4)


def test_jpeg_in_tiff_gives_rgb(tmp_path: Path):
    smooth = np.linspace(0, 255, 128 * 128 * 3).reshape(3, 128, 128).astype(np.uint8)
    path = write(tmp_path / "a.tif", smooth, compress="jpeg", photometric="ycbcr", tiled=True, blockxsize=64, blockysize=64)
    assert_equals_rasterio(path)
    with open_rgb(path) as source:
        assert np.abs(whole(source)[0].astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("options", [{"blockysize": 3}, {"tiled": True, "blockxsize": 1040, "blockysize": 1040}])
def test_blocks_wider_than_the_cache_are_read_in_parts(
    tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(levels_module, "GDAL_CACHE_BYTES", 2**20)
    monkeypatch.setattr(levels_module, "SLAB_BYTES", 2**20)
    path = write(tmp_path / "a.tif", noise((3, 1100, 1500)), **options)
    with open_native(path) as source:
        assert source._full._slabs is not None
    assert_equals_rasterio(path)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1), (5, 7)])
def test_slim_and_tiny_images(tmp_path: Path, shape: tuple[int, int]):
    assert_equals_rasterio(write(tmp_path / "a.tif", noise((3, *shape))))


def test_blocks_beyond_4_gib(tmp_path: Path):
    path = tmp_path / "a.tif"
    side = 2**17
    options = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "SPARSE_OK": True, "BIGTIFF": "YES"}
    patch = noise((1, 512, 512))
    with rasterio.open(path, "w", driver="GTiff", height=side, width=side, count=1, dtype="uint8", crs="EPSG:32633",
                       transform=rasterio.Affine(1, 0, 5, 0, -1, 5), **options) as out:  # fmt: skip
        out.write(patch, window=rasterio.windows.Window(side - 512, side - 512, 512, 512))
    with open_native(str(path)) as source:
        last = Window(row=side - 512, col=side - 512, height=512, width=512)
        np.testing.assert_array_equal(source.read(last).data[..., 0], patch[0])
        assert source.describe()["sparse_blocks"] == 256**2 - 1


def test_a_source_is_a_source_and_travels(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 64, 64)))
    source: Source = open_rgb(path)
    with pickle.loads(pickle.dumps(source)) as copy:
        np.testing.assert_array_equal(copy.read(copy.frame.window).data, source.read(source.frame.window).data)
    source.close()


def test_threads_share_a_source(tmp_path: Path):
    path = write(tmp_path / "a.tif", noise((3, 256, 256)), **TILED, compress="deflate")
    wrong: list[Window] = []
    with open_native(path) as source:

        def work(seed: int) -> None:
            for window in random_windows(256, 256, 10, seed):
                if not np.array_equal(source.read(window).data, truth[window.slices()]):
                    wrong.append(window)

        truth = source.read(source.frame.window).data
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_windows_outside_are_refused(tmp_path: Path):
    with open_native(write(tmp_path / "a.tif", noise((1, 64, 64)))) as source:
        with pytest.raises(GeometryError):
            source.read(Window(row=0, col=0, height=65, width=64))
        with pytest.raises(GeometryError):
            source.read(source.frame.window, z=1)


def interp(*names: str) -> list[ColorInterp]:
    return [ColorInterp[name] for name in names]


@pytest.mark.parametrize(
    ("colours", "bands", "native", "expected"),
    [
        (("gray",), None, False, (1, 1, 1)),
        (("gray",), None, True, (1,)),
        (("gray", "undefined", "undefined"), None, False, (1, 2, 3)),
        (("red", "green", "blue"), None, False, (1, 2, 3)),
        (("blue", "green", "red", "undefined"), None, False, (3, 2, 1)),
        (("red", "green", "blue", "undefined"), None, False, (1, 2, 3)),
        (("red", "green", "blue", "undefined"), None, True, (1, 2, 3, 4)),
        (("red", "green", "blue", "alpha"), None, True, (1, 2, 3)),
        (("gray", "alpha"), None, False, (1, 1, 1)),
        (("gray", "undefined", "undefined", "undefined"), (4, 3, 2), False, (4, 3, 2)),
        (("gray", "undefined", "undefined", "undefined"), (4,), False, (4, 4, 4)),
        (("gray", "undefined", "undefined", "undefined"), (2, 1, 2), True, (2, 1, 2)),
    ],
)
def test_bands_are_chosen_by_colour(tmp_path: Path, colours, bands, native, expected):
    data = noise((len(colours), 40, 50))
    path = write(tmp_path / "a.tif", data, photometric="minisblack", colorinterp=interp(*colours))
    with (open_native if native else open_rgb)(path, bands=bands) as source:
        got, _ = whole(source)
        np.testing.assert_array_equal(got, data[[i - 1 for i in expected]])
        assert len(source.bands) == len(expected)


@pytest.mark.parametrize(
    ("count", "bands", "hint"),
    [
        (4, None, "--bands"),
        (2, None, "--bands"),
        (3, (1, 2), "--bands R,G,B"),
        (3, (1, 2, 4), "1 to 3"),
        (5, (1, 2, 3, 4), "R,G,B"),
    ],
)
def test_bands_are_never_guessed(tmp_path: Path, count: int, bands: tuple[int, ...] | None, hint: str):
    path = write(
        tmp_path / "a.tif",
        noise((count, 20, 20)),
        photometric="minisblack",
        colorinterp=interp("gray", *["undefined"] * (count - 1)),
    )
    with pytest.raises(ConfigError) as refusal:
        open_rgb(path, bands=bands)
    assert hint in refusal.value.mend
    assert "\n" not in refusal.value.what


def test_palettes_become_colours(tmp_path: Path):
    index = noise((1, 40, 40)) % 4
    path = tmp_path / "a.tif"
    table = np.array([(9, 8, 7), (255, 0, 0), (0, 255, 0), (1, 2, 3)], np.uint8)
    with rasterio.open(path, "w", driver="GTiff", height=40, width=40, count=1, dtype="uint8", photometric="palette",
                       crs="EPSG:32633", transform=rasterio.Affine(1, 0, 5, 0, -1, 5)) as out:  # fmt: skip
        out.write(index)
        out.write_colormap(1, {i: (*map(int, colour), 255) for i, colour in enumerate(table)})
    for opener in (open_rgb, open_native):
        with opener(str(path)) as source:
            data, valid = whole(source)
            np.testing.assert_array_equal(data, table[index[0]].transpose(2, 0, 1))
            assert valid.all()
            assert source.bands == ("red", "green", "blue")


def test_transparent_palette_entries_are_not_data(tmp_path: Path):
    index = noise((40, 40)) % 3
    image = Image.frombytes("P", (40, 40), index.tobytes())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "a.png", transparency=bytes([255, 0, 128]))
    with open_rgb(str(tmp_path / "a.png")) as source:
        data, valid = whole(source)
        np.testing.assert_array_equal(valid, index != 1)
        np.testing.assert_array_equal(data[0], np.array([10, 40, 70], np.uint8)[index])


@needs_shared
@pytest.mark.parametrize("name", ["landsat/RGB.byte.tif", "banepa/banepa_north.tif"])
def test_real_scenes_read_as_rasterio_does(name: str):
    path = str(SHARED / name)
    assert_equals_rasterio(path, count=5)
    with rasterio.open(path) as ds, open_raster(path, Reading(), native=False) as source:
        assert tuple(source.frame.transform)[:6] == tuple(ds.transform)[:6]
        assert rasterio.crs.CRS.from_wkt(source.frame.crs) == ds.crs
        assert source.bands == ("red", "green", "blue")

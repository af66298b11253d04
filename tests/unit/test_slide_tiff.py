"""Slides in TIFF files give the pixels that OpenSlide and tifffile give, block by block."""

import threading
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from support_docs import code_blocks
from support_slides import SVS, halved, jpegs, needs_svs, open_native, tiles, tissue, windows, write_ome, write_svs

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import Window
from seggeo.io.slide import open_slide
from seggeo.io.slide_blocks import BlockCache


def by_openslide(slide, window, level=0):
    factor = slide.level_downsamples[level]
    corner = round(window.col * factor), round(window.row * factor)
    return np.asarray(slide.read_region(corner, level, (window.width, window.height)))[..., :3]


def apart(a, b):
    return int(np.abs(a.astype(np.int64) - b).max())


@needs_svs
def test_a_real_slide_reads_as_with_openslide_and_tifffile():
    slide = openslide.OpenSlide(str(SVS))
    with tifffile.TiffFile(SVS) as tif, open_slide(str(SVS), Reading(), native=False) as source:
        whole = tif.pages[0].asarray()
        assert source.frame.window.shape == slide.dimensions[::-1]
        for window in windows(source, 777, 700):
            pixels = source.read(window)
            assert apart(pixels.data, by_openslide(slide, window)) == 0
            assert apart(pixels.data, whole[window.slices()]) == 0
            assert pixels.valid.all()
    slide.close()


def test_an_svs_and_its_levels_read_as_with_openslide(tmp_path):
    image = tissue(640, 960)
    path = write_svs(tmp_path / "a.svs", image)
    slide = openslide.OpenSlide(str(path))

    assert [level[::-1] for level in slide.level_dimensions] == [(640, 960), (160, 240), (40, 60)]
    for level, mpp in enumerate((0.25, 1.0, 4.0)):
        with open_native(path, work_mpp=mpp) as source:
            assert (source.frame.level, source.frame.scale) == (level, pytest.approx(mpp / 0.25))
            for window in windows(source, 300, 270):
                assert apart(source.read(window).data, by_openslide(slide, window, level)) <= 1
    slide.close()
    with open_native(path) as source:
        assert np.abs(source.read(source.frame.window).data.astype(int) - image).mean() < 2
        assert len(source.describe()["other_images"]) == 1


@pytest.mark.parametrize("compression", [33003, 33005])
def test_jpeg_2000_of_both_kinds_reads_as_with_openslide(tmp_path, compression):
    image = tissue(300, 400)
    stored = image
    if compression == 33003:  # YCbCr
        to_ycc = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
        stored = np.rint(image @ to_ycc.T + (0, 128, 128)).astype(np.uint8)
    text = "Aperio Image Library v11\r\n400x300 (256x256) J2K|MPP = 0.25"
    data = (
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(t), level=0, codecformat="j2k", mct=False) for t in tiles(stored, 256)
    )
    with tifffile.TiffWriter(tmp_path / "a.svs") as out:
        out.write(
            data, shape=image.shape, dtype=np.uint8, tile=(256, 256), compression=compression, photometric="rgb",
            description=text, metadata=None,
        )  # fmt: skip
    slide = openslide.OpenSlide(str(tmp_path / "a.svs"))

    with open_native(tmp_path / "a.svs") as source:
        data = source.read(source.frame.window).data
        assert apart(data, by_openslide(slide, source.frame.window)) <= 1
        assert apart(data, image) <= 1
    slide.close()


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 128), "compression": "lzw", "predictor": True},
        {"tile": (128, 64), "compression": "zlib", "bigtiff": True},
        {"tile": (64, 64), "compression": "zstd", "byteorder": ">"},
        {"rowsperstrip": 7},
        {"rowsperstrip": 50, "compression": "lzw", "byteorder": ">"},
        {"tile": (64, 64), "planarconfig": "separate", "photometric": "rgb"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_layout_gives_what_tifffile_gives(tmp_path, options, dtype):
    image = np.random.default_rng(2).integers(0, 250, (207, 305, 3)).astype(dtype)
    planar = options.get("planarconfig") == "separate"
    stored = image.transpose(2, 0, 1) if planar else image
    settings = {"photometric": "rgb", "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"} | options
    tifffile.imwrite(tmp_path / "a.tif", stored, **settings)

    with open_native(tmp_path / "a.tif") as source:
        assert source.bands == ("red", "green", "blue")
        for window in windows(source, 100, 90):
            np.testing.assert_array_equal(source.read(window).data, image[window.slices()])


def test_an_uncompressed_hyperstack_is_read_in_place(tmp_path):
    planes = np.random.default_rng(3).integers(0, 4000, (3, 600, 700)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", planes, imagej=True, metadata={"axes": "CYX", "Labels": ["a", "DAPI", "c"]})

    with open_native(tmp_path / "a.tif", channels=("DAPI", "a")) as source:
        assert source.describe()["driver"] == "ImageJ TIFF"
        for window in windows(source, 300, 290):
            data = source.read(window).data
            assert data.dtype.isnative
            np.testing.assert_array_equal(data, planes[[1, 0]].transpose(1, 2, 0)[window.slices()])


@pytest.mark.parametrize(("axes", "shape"), [("TCZYX", (1, 2, 1, 90, 80)), ("ZYXC", (1, 90, 80, 2)), ("YXC", (90, 80, 2))])
def test_axes_of_length_one_are_no_stack(tmp_path, axes, shape):
    data = np.random.default_rng(4).integers(0, 4000, shape).astype(np.uint16)
    if axes.endswith("C"):
        stored, axes = np.moveaxis(data, -1, 0), "C" + axes[:-1]
    else:
        stored = data
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, ome=True, photometric="minisblack", metadata={"axes": axes})
    expected = data.reshape(2, 90, 80).transpose(1, 2, 0) if len(shape) == 5 else data.reshape(90, 80, 2)

    with open_native(tmp_path / "a.ome.tif") as source:
        np.testing.assert_array_equal(source.read(source.frame.window).data, expected)


def test_levels_in_subifds_are_used_for_coarser_grids(tmp_path):
    planes = np.random.default_rng(5).integers(0, 4000, (2, 512, 640)).astype(np.uint16)
    path = write_ome(tmp_path / "a.ome.tif", planes, names=("a", "b"), mpp=0.5)

    for level, mpp in ((1, 1.0), (2, 2.0)):
        with open_native(path, work_mpp=mpp) as source:
            assert source.frame.level == level
            expected = np.stack([halved(plane, 2**level) for plane in planes], axis=2)
            np.testing.assert_array_equal(source.read(source.frame.window).data, expected)


def test_tiles_that_were_never_written_are_not_data(tmp_path):
    path = write_svs(tmp_path / "a.svs", tissue(600, 600), lost=(0, 4), factors=())

    with open_native(path) as source:
        pixels = source.read(source.frame.window)
        expected = np.ones((600, 600), bool)
        expected[:256, :256] = expected[256:512, 256:512] = False
        np.testing.assert_array_equal(pixels.valid, expected)
        assert not pixels.data[~pixels.valid].any()
        assert source.is_empty(Window(row=0, col=0, height=256, width=256))
        assert not source.is_empty(Window(row=0, col=0, height=256, width=257))
        assert source.describe()["sparse_blocks"] == 2


def test_alpha_is_what_was_scanned_and_no_channel(tmp_path):
    image = np.dstack([tissue(200, 200), np.full((200, 200), 255, np.uint8)])
    image[50:80, 60:90, 3] = 0
    tifffile.imwrite(
        tmp_path / "a.ome.tif", image, photometric="rgb", extrasamples=["unassalpha"], tile=(64, 64), ome=True
    )  # fmt: skip

    with open_native(tmp_path / "a.ome.tif") as source:
        pixels = source.read(source.frame.window)
        assert source.bands == ("red", "green", "blue")
        np.testing.assert_array_equal(pixels.data, image[..., :3])
        np.testing.assert_array_equal(pixels.valid, image[..., 3] > 0)


def test_a_plain_pyramid_is_found_by_the_shapes_of_its_pages(tmp_path):
    image = tissue(900, 1100)
    layout = {"photometric": "ycbcr", "subsampling": (2, 1), "compression": "jpeg", "metadata": None, "dtype": np.uint8}
    with tifffile.TiffWriter(tmp_path / "a.tif") as out:
        for level in (image, halved(image, 3), tissue(400, 300), halved(image, 9)):
            out.write(jpegs(level, 128), shape=level.shape, tile=(128, 128), **layout)

    with open_native(tmp_path / "a.tif") as source:
        assert [(one["height"], one["width"]) for one in source.describe()["levels"]] == [(900, 1100), (300, 366), (100, 122)]


def test_threads_read_what_one_thread_reads_and_decode_nothing_twice(tmp_path):
    image = tissue(900, 900)
    path = write_svs(tmp_path / "a.svs", image)
    with open_native(path) as source:
        alone = [source.read(window).data for window in windows(source, 400, 300)]
    with open_native(path) as source, ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda window: source.read(window).data, windows(source, 400, 300)))

    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_block_wanted_by_several_threads_is_decoded_once_and_an_error_reaches_all():
    cache, calls, gate = BlockCache(), [], threading.Event()

    def decode():
        calls.append(1)
        gate.wait(5)
        return np.zeros((2, 2, 1), np.uint8), None

    def fail():
        raise OSError("gone")

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(cache.get, "a", decode) for _ in range(3)]
        gate.set()
        found = [future.result() for future in waiting]
    assert len(calls) == 1
    assert all(one is found[0] for one in found)
    with pytest.raises(OSError, match="gone"):
        cache.get("b", fail)
    assert cache.get("b", lambda: None) is None


def test_the_cache_keeps_to_its_memory():
    cache = BlockCache(1000)
    for i in range(20):
        cache.get(i, lambda: (np.zeros((10, 10, 3), np.uint8), None))
    kept = [i for i in range(20) if cache.get(i, lambda: None) is not None]

    assert kept == [17, 18, 19]


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    (block,) = code_blocks("slides.md", "python")
    write_svs(tmp_path / "slide.svs", tissue(1100, 1100))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "slides.md", "exec"), {})

    assert capsys.readouterr().out.splitlines()[1] == "(512, 512, 3) 1.0"


def _without_tag(path, code):
    """Take a tag out of the first directory of a classic little-endian TIFF."""
    raw = bytearray(path.read_bytes())
    start = int.from_bytes(raw[4:8], "little")
    count = int.from_bytes(raw[start : start + 2], "little")
    entries = [bytes(raw[start + 2 + 12 * i : start + 14 + 12 * i]) for i in range(count)]
    kept = [entry for entry in entries if int.from_bytes(entry[:2], "little") != code]
    assert len(kept) == count - 1
    following = bytes(raw[start + 2 + 12 * count : start + 6 + 12 * count])
    block = len(kept).to_bytes(2, "little") + b"".join(kept) + following
    raw[start : start + len(block)] = block
    path.write_bytes(raw)


def test_files_as_imagej_writes_them_have_no_tag_of_compression(tmp_path):
    plane = np.arange(200 * 300, dtype=np.uint16).reshape(200, 300)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, plane, imagej=True, byteorder="<", resolution=(4, 4), metadata={"unit": "um", "axes": "YX"})
    _without_tag(path, 259)

    with open_native(path) as source:
        np.testing.assert_array_equal(source.read(source.frame.window).data[..., 0], plane)
        assert source.frame.spacing == pytest.approx((1, 0.25, 0.25))
        assert source.describe()["compression"] == "NONE"


def test_a_palette_that_rises_from_black_shows_intensities_and_any_other_is_refused(tmp_path):
    planes = np.random.default_rng(1).integers(0, 255, (2, 200, 300)).astype(np.uint8)
    ramp = np.zeros((3, 256), np.uint16)
    ramp[1] = np.arange(256) * 257
    for name, table in (("green", ramp), ("mixed", ramp[:, ::-1].copy())):
        with tifffile.TiffWriter(tmp_path / f"{name}.ome.tif", ome=True) as out:
            out.write(planes, photometric="palette", colormap=table, metadata={"axes": "CYX"}, compression="zlib")

    with open_native(tmp_path / "green.ome.tif") as source:
        np.testing.assert_array_equal(source.read(source.frame.window).data.transpose(2, 0, 1), planes)
    with pytest.raises(SourceError, match="PALETTE"):
        open_native(tmp_path / "mixed.ome.tif")

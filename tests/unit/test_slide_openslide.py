"""Formats that OpenSlide reads: where the scanned box lies, what was not scanned, and life after an error."""

import numpy as np
import openslide
import pytest
import tifffile
from support_openslide import write_mrxs, write_ndpi
from support_slides import halved, open_native, tissue, windows, write_scn

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.slide import is_slide, open_slide
from seggeo.io.slide_openslide import bounds

CORNER, CANVAS = (300, 520), (2000, 2600)


@pytest.fixture(scope="module")
def scn(tmp_path_factory):
    return write_scn(tmp_path_factory.mktemp("scn") / "a.scn", [(tissue(800, 1000), CORNER)], canvas=CANVAS, mpp=0.5)


def test_the_frame_is_the_scanned_box_and_leads_to_pixels_of_the_whole_slide(scn):
    slide = openslide.OpenSlide(str(scn))
    assert slide.dimensions == CANVAS[::-1]
    with open_slide(str(scn), Reading(), native=False) as source:
        assert is_slide(str(scn))
        assert source.frame.window.shape == (800, 1000)
        assert source.frame.spacing == pytest.approx((1.0, 0.5, 0.5))
        xs, ys = source.frame.pixel_to_world([0, 10], [0, 20])
        assert (xs.tolist(), ys.tolist()) == ([520.0, 540.0], [300.0, 310.0])
        for window in windows(source, 300, 290)[::2]:
            x, y = source.frame.pixel_to_world([window.row], [window.col])
            theirs = np.asarray(slide.read_region((int(x[0]), int(y[0])), 0, (window.width, window.height)))
            np.testing.assert_array_equal(source.read(window).data, theirs[..., :3])
    slide.close()


@pytest.mark.parametrize("mpp", [0.5, 1.0, 2.0, 3.0])
def test_places_are_those_of_the_whole_slide_at_every_mpp(scn, mpp):
    with open_native(scn, work_mpp=mpp) as source:
        xs, ys = source.frame.pixel_to_world([0, source.frame.height], [0, source.frame.width])
        assert (xs[0], ys[0]) == (520.0, 300.0)
        assert (xs[1], ys[1]) == pytest.approx((1520.0, 1100.0), abs=mpp / 0.5)
        seen = source.read(source.frame.window).data.astype(float)
    factor = int(mpp / 0.5)
    means = halved(tissue(800, 1000), factor).mean(axis=2)
    shown = seen.mean(axis=2)[: means.shape[0], : means.shape[1]]
    off = {
        (down, right): np.abs(np.roll(shown, (down, right), (0, 1)) - means)[4:-4, 4:-4].mean()
        for down in (-1, 0, 1) for right in (-1, 0, 1)
    }  # fmt: skip
    assert min(off, key=off.__getitem__) == (0, 0)


def test_what_was_not_scanned_is_not_data(tmp_path):
    areas = [(tissue(256, 512), (100, 200)), (tissue(512, 256, seed=2), (700, 600))]
    path = write_scn(tmp_path / "a.scn", areas, canvas=CANVAS, mpp=0.5)

    with open_native(path) as source:
        pixels = source.read(source.frame.window)
        expected = np.zeros((1112, 656), bool)
        expected[:256, :512] = expected[600:, 400:] = True
        assert (source.frame.transform.c, source.frame.transform.f) == (200.0, 100.0)
        np.testing.assert_array_equal(pixels.valid, expected)
        assert not pixels.data[~pixels.valid].any()


def test_a_damaged_tile_fails_alone_and_the_slide_reads_on(scn, tmp_path):
    raw = bytearray(scn.read_bytes())
    with tifffile.TiffFile(scn) as tif:
        page = tif.pages[1]
        offset, count = page.dataoffsets[5], page.databytecounts[5]
    raw[offset : offset + count] = b"x" * count
    (tmp_path / "b.scn").write_bytes(raw)

    with open_native(scn) as whole, open_native(tmp_path / "b.scn") as source:
        for window in windows(source, 200, 200) * 2:
            hit = window.row < 512 and window.col < 512
            if hit:
                with pytest.raises(SourceError, match="cannot be read at column"):
                    source.read(window)
            else:
                np.testing.assert_array_equal(source.read(window).data, whole.read(window).data)


def test_bytes_that_would_end_the_process_are_refused_before_openslide_sees_them(scn, tmp_path):
    raw = bytearray(scn.read_bytes())
    with tifffile.TiffFile(scn) as tif:
        place = tif.pages[1].tags["TileByteCounts"].valueoffset
    raw[place : place + 8] = (2**55).to_bytes(8, "little")
    (tmp_path / "b.scn").write_bytes(raw)

    with pytest.raises(SourceError, match="cut off"):
        open_native(tmp_path / "b.scn")


@pytest.mark.parametrize("kind", ["ndpi", "mrxs"])
def test_slides_of_scanners_read_as_with_openslide(tmp_path, kind):
    image = tissue(1024, 1024)
    path = (write_ndpi if kind == "ndpi" else write_mrxs)(tmp_path / f"a.{kind}", image, mpp=0.25)
    slide = openslide.OpenSlide(str(path))

    with open_slide(str(path), Reading(), native=False, work_mpp=0.5) as source, open_native(path) as whole:
        assert is_slide(str(path))
        assert (whole.mpp.row, whole.mpp.origin) == (pytest.approx(0.25), "vendor")
        seen = whole.read(whole.frame.window)
        np.testing.assert_array_equal(seen.data, np.asarray(slide.read_region((0, 0), 0, (1024, 1024)))[..., :3])
        assert np.abs(seen.data.astype(int) - image).mean() < 2
        assert source.frame.level == 1
        half = np.asarray(slide.read_region((0, 0), 1, (512, 512)))[..., :3]
        np.testing.assert_array_equal(source.read(source.frame.window).data, half)
    slide.close()


def test_properties_that_are_no_text_are_left_out(tmp_path):
    """They end OpenSlide's own `dict(slide.properties)` with a KeyError; the slide is whole."""
    path = write_ndpi(tmp_path / "a.ndpi", tissue(256, 256), mpp=0.5, properties=b"Created=2026\r\n\xff\xfeA=3\r\n")

    with open_native(path) as source:
        assert source.frame.window.shape == (256, 256)


@pytest.mark.parametrize(
    ("values", "box"),
    [({}, (0, 0, 900, 700)), ({"x": "10", "y": "20", "width": "300", "height": "400"}, (20, 10, 420, 310)),
     ({"x": "600", "y": "20", "width": "300", "height": "400"}, (20, 600, 420, 700)),
     ({"x": "10", "y": "20"}, (0, 0, 900, 700)), ({"x": "800", "y": "0", "width": "9", "height": "9"}, (0, 0, 900, 700)),
     ({"x": "a", "y": "20", "width": "300", "height": "400"}, (0, 0, 900, 700))],
)  # fmt: skip
def test_bounds_are_cut_at_the_slide_and_those_that_say_nothing_left_out(values, box):
    assert bounds({f"openslide.bounds-{key}": value for key, value in values.items()}, (700, 900)) == box

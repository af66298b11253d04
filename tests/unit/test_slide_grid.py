"""The work grid of a slide: its level, its place in the whole slide, and pixels that do not depend on the window."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from support_slides import halved, open_native, tissue, windows, write_svs, write_zarr

from seggeo.config import Reading
from seggeo.errors import ConfigError, GeometryError
from seggeo.geometry import Window
from seggeo.io.slide import open_slide
from seggeo.io.slide_blocks import BlockCache
from seggeo.io.slide_level import SlideLevel
from seggeo.io.slide_pyramid import PyramidLevel, SlideFacts


def write_levels(path, levels, *, mpp=0.25):
    """A plain tiled pyramid without losses."""
    per_cm = 1e4 / mpp
    with tifffile.TiffWriter(path) as out:
        for level in levels:
            out.write(
                level, tile=(128, 128), photometric="rgb", compression="zlib", metadata=None,
                resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


def dots(height, width, places):
    """Disks of 10 px on black, with smooth borders."""
    rows, cols = np.arange(height * 4) + 0.5, np.arange(width * 4) + 0.5
    image = np.zeros((height * 4, width * 4), np.uint8)
    for row, col in places:
        image[(rows[:, None] / 4 - row) ** 2 + (cols[None] / 4 - col) ** 2 <= 100] = 250
    return np.repeat(halved(image, 4)[..., None], 3, axis=2)


@pytest.fixture(scope="module")
def svs(tmp_path_factory):
    return write_svs(tmp_path_factory.mktemp("svs") / "a.svs", tissue(960, 1280))


@pytest.mark.parametrize(
    ("mpp", "level", "shape"),
    [(0.25, 0, (960, 1280)), (0.252, 0, (960, 1280)), (0.248, 0, (960, 1280)), (0.5, 0, (480, 640)), (0.99, 0, (243, 324)),
     (0.995, 1, (240, 320)), (1.0, 1, (240, 320)), (1.6, 1, (150, 200)), (4.0, 2, (60, 80)), (0.2, 0, (1200, 1600))],
)  # fmt: skip
def test_the_coarsest_level_that_is_fine_enough_is_taken(svs, mpp, level, shape):
    with open_native(svs, work_mpp=mpp) as source:
        assert (source.frame.level, source.frame.window.shape) == (level, shape)
        stated = source.frame.spacing[1] if mpp not in (0.252, 0.248, 0.995) else mpp
        assert stated == pytest.approx(mpp)
        assert source.frame.spacing[1] == pytest.approx(0.25 * source.frame.transform.e)


@pytest.mark.parametrize("mpp", [None, 0.37, 0.5, 1.0, 1.7])
def test_a_pixel_does_not_depend_on_the_window_that_reads_it(tmp_path, mpp):
    path = write_svs(tmp_path / "a.svs", tissue(700, 900), lost=(3,))
    with open_native(path, work_mpp=mpp) as source:
        whole = source.read(source.frame.window)
    for side, step in ((37, 31), (300, 211)):
        with open_native(path, work_mpp=mpp) as source:
            for window in windows(source, side, step)[::3]:
                pixels = source.read(window)
                np.testing.assert_array_equal(pixels.data, whole.data[window.slices()])
                np.testing.assert_array_equal(pixels.valid, whole.valid[window.slices()])


PLACES = [(40.5, 60.0), (560.25, 750.5), (300.0, 760.0), (570.0, 50.0)]


@pytest.fixture(scope="module")
def dotted(tmp_path_factory):
    """A slide of 603 x 801 px whose level is 3.9 times smaller, as if it had been resized."""
    full = dots(603, 801, PLACES)
    reduced = np.stack([_area(full[..., 0], (round(603 / 3.9), round(801 / 3.9)))] * 3, axis=2)
    return write_levels(tmp_path_factory.mktemp("dots") / "a.tif", [full, reduced])


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.9, 1.0, 1.3])
def test_objects_lie_where_they_are_also_with_factors_that_are_no_whole_numbers(dotted, mpp):
    with open_native(dotted, work_mpp=mpp) as source:
        assert source.frame.level == (mpp > 0.97)
        image = source.read(source.frame.window).data[..., 0].astype(np.float64)
        for row, col in PLACES:
            rows, cols = source.frame.world_to_pixel([col], [row])
            side = int(40 * 0.25 / mpp) + 4
            top, left = max(0, int(rows[0]) - side), max(0, int(cols[0]) - side)
            part = image[top : int(rows[0]) + side, left : int(cols[0]) + side]
            down, right = np.mgrid[: part.shape[0], : part.shape[1]]
            centre = (part * (down + 0.5)).sum() / part.sum() + top, (part * (right + 0.5)).sum() / part.sum() + left
            xs, ys = source.frame.pixel_to_world([centre[0]], [centre[1]])
            assert abs(xs[0] - col) < 0.3
            assert abs(ys[0] - row) < 0.3


def _area(plane, shape):
    """A plane averaged to `shape` at the true ratio of sizes, by integration."""
    out = plane.astype(np.float64)
    for axis in (0, 1):
        total = np.concatenate([np.zeros((1, out.shape[1 - axis])), np.cumsum(np.moveaxis(out, axis, 0), axis=0)])
        edges = np.linspace(0, out.shape[axis], shape[axis] + 1)
        low = np.minimum(edges.astype(int), out.shape[axis] - 1)
        upto = total[low] + (edges - low)[:, None] * (total[low + 1] - total[low])
        out = np.moveaxis(np.diff(upto, axis=0) / np.diff(edges)[:, None], 0, axis)
    return np.rint(out).astype(plane.dtype)


def test_stated_scales_of_an_ome_zarr_are_believed(tmp_path):
    planes = np.random.default_rng(1).integers(0, 900, (1, 403, 501)).astype(np.uint16)

    with open_native(write_zarr(tmp_path / "a.zarr", planes, mpp=0.5), work_mpp=1.0) as source:
        assert source.frame.transform.a == source.frame.transform.e == 2.0


class _Boxed:
    """A pyramid whose image lies inside a larger slide, all of it gray."""

    def __init__(self, *, origin, shape, factors):
        levels = tuple(
            PyramidLevel(shape=(shape[0] // f, shape[1] // f), downsample=(float(f), float(f)), block=(64, 64)) for f in factors
        )
        self.facts = SlideFacts(
            kind="boxed", levels=levels, dtype=np.dtype(np.uint8), channels=("red", "green", "blue"), is_rgb=True, origin=origin
        )

    def block(self, level, row, col, channels):
        rows, cols = (min(64, n - 64 * i) for n, i in zip(self.facts.levels[level].shape, (row, col), strict=True))
        valid = np.ones((rows, cols), bool)
        valid[:, : max(0, 20 - col * 64)] = False
        return np.full((rows, cols, len(channels)), 10 + level, np.uint8), valid

    def close(self):
        pass


def test_a_level_hands_on_what_its_blocks_say_was_scanned():
    level = SlideLevel(
        _Boxed(origin=(5.0, 7.0), shape=(200, 300), factors=(1,)), 0, channels=(0, 1, 2), cache=BlockCache()
    )  # fmt: skip
    data, valid = level.read(Window(row=60, col=10, height=10, width=100))

    assert data.shape == (3, 10, 100)
    assert not valid[:, :10].any()
    assert valid[:, 10:].all()


def test_the_overview_is_the_area_average_of_the_whole(tmp_path):
    image = tissue(800, 1200)
    path = write_levels(tmp_path / "a.tif", [image, halved(image, 2)])

    with open_native(path) as source:
        assert source.overview_frame(300).window.shape == (200, 300)
        np.testing.assert_allclose(source.overview(300).data, halved(image, 4), atol=1)
        assert source.overview_frame(300).transform.a == 4.0
        np.testing.assert_array_equal(source.overview(2000).data, image)
    with open_native(path, work_mpp=0.5) as source:
        np.testing.assert_array_equal(source.overview(600).data, halved(image, 2))


@pytest.mark.parametrize("mpp", [None, 0.4])
def test_threads_and_a_copy_in_another_process_see_the_same(tmp_path, mpp):
    path = write_svs(tmp_path / "a.svs", tissue(600, 700))
    with open_native(path, work_mpp=mpp) as source, pickle.loads(pickle.dumps(source)) as copy, ThreadPoolExecutor(4) as pool:
        alone = [copy.read(window).data for window in windows(copy, 200, 150)]
        together = list(pool.map(lambda window: source.read(window).data, windows(source, 200, 150)))

        assert copy.frame == source.frame
        assert copy.fingerprint() == source.fingerprint()
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_an_area_of_interest_is_given_in_pixels_of_the_whole_slide(tmp_path):
    path = write_svs(tmp_path / "a.svs", tissue(600, 700))
    for name, corner in (("in", 100), ("out", 5000)):
        ring = [[corner, 50], [corner + 200, 50], [corner + 200, 150], [corner, 150], [corner, 50]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        text = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": shape}]}
        (tmp_path / f"{name}.geojson").write_text(json.dumps(text), encoding="utf-8")

    with open_slide(str(path), Reading(aoi=tmp_path / "in.geojson"), native=True, work_mpp=0.5) as source:
        expected = np.zeros(source.frame.window.shape, bool)
        expected[25:75, 50:150] = True
        np.testing.assert_array_equal(source.read(source.frame.window).valid, expected)
        assert source.is_empty(Window(row=200, col=0, height=50, width=50))
    with pytest.raises(ConfigError, match="does not meet"):
        open_slide(str(path), Reading(aoi=tmp_path / "out.geojson"), native=True)


def test_a_value_can_mean_no_data_and_windows_outside_are_refused(tmp_path):
    image = tissue(200, 200)
    image[:50] = 7
    path = write_levels(tmp_path / "a.tif", [image])

    with open_slide(str(path), Reading(nodata=7), native=True) as source:
        np.testing.assert_array_equal(source.read(source.frame.window).valid, np.arange(200)[:, None] * np.ones(200) >= 50)
        for window, z in ((Window(row=0, col=0, height=201, width=1), 0), (source.frame.window, 1)):
            with pytest.raises(GeometryError, match="outside the slide"):
                source.read(window, z)


@pytest.mark.parametrize("mpp", [1e-4, 1e6, 0.0, float("nan")])
def test_an_mpp_that_no_grid_can_have_is_refused(tmp_path, mpp):
    path = write_levels(tmp_path / "a.tif", [tissue(200, 200)])

    with pytest.raises(ConfigError, match="work grid"):
        open_slide(str(path), Reading(max_pixels=10**8), native=True, work_mpp=mpp)

"""The preview shows every object where it is, at screen size, with an honest scale."""

import tracemalloc
from math import cos, radians

import numpy as np
import pyproj
import pytest
from affine import Affine
from PIL import Image
from rasterio.crs import CRS
from scipy import ndimage as ndi
from skimage.measure import label as components
from support_results import ListResult, empty_result, objects_of, result_of
from support_scenes import nested, random_scene, seam_scene

from seggeo.errors import OutputError
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances
from seggeo.output.preview import draw_preview
from seggeo.output.scalebar import pixel_metres, scale_bar

GREY = 90


def grey(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def drawn(path, width):
    """The picture without its footer, as integers."""
    picture = np.asarray(Image.open(path)).astype(int)
    assert picture.shape[1] == width
    paper = np.flatnonzero((picture[:, :3] > 240).all((1, 2)))
    return picture[: paper[0]] if len(paper) else picture


@pytest.mark.parametrize(("shape", "size"), [((3000, 4000), (1200, 1600)), ((100, 50), (400, 200)), ((1600, 800), (1600, 800))])
def test_the_picture_has_screen_size_and_a_footer(tmp_path, shape, size):
    path = draw_preview(empty_result(Frame(height=shape[0], width=shape[1])), grey(60, 60), tmp_path / "p.png")
    picture = Image.open(path)
    assert picture.mode == "RGB"
    assert picture.width == size[1]
    assert size[0] < picture.height < size[0] + 60
    assert (np.asarray(picture)[: size[0]] == GREY).all()
    footer = np.asarray(picture)[size[0] :]
    assert (footer.min((0, 2)) < 100).sum() > size[1] / 20


@pytest.mark.parametrize("size", [300, 1000, 3000])
def test_ink_lies_on_objects_and_their_rim_only(tmp_path, size):
    labels = components(seam_scene(0, max(size, 768)).labels[:size, :size], connectivity=1)
    path = draw_preview(result_of(labels), grey(50, 50), tmp_path / "p.png")
    scale = min(1600, 4 * size) / size
    shown = drawn(path, round(size * scale))
    at = ((np.arange(len(shown)) + 0.5) / scale).astype(int)
    on_object = labels[np.ix_(at, at)] > 0

    touched = (shown != GREY).any(axis=2)
    assert not (touched & ~ndi.binary_dilation(on_object, iterations=2)).any()
    assert not (~touched & ndi.binary_erosion(on_object, iterations=2)).any()


def test_touching_objects_are_told_apart(tmp_path):
    labels = np.zeros((200, 200), np.int32)
    labels[50:150, 50:100], labels[50:150, 100:150] = 1, 2
    shown = drawn(draw_preview(result_of(labels), grey(200, 200), tmp_path / "p.png"), 800)
    seam, inside = shown[400, 399:401], shown[400, 300]
    assert np.abs(seam[0] - seam[-1]).sum() > 100
    assert np.abs(seam - inside).sum(axis=1).min() > 60


def test_parts_stay_visible_on_their_wholes_in_any_order(tmp_path):
    chain = nested(1, (300, 300))
    frame = Frame(height=300, width=300)
    forward = ListResult(objects_of(chain, frame), frame, exclusive=False, batch=2)
    objects = objects_of(chain.take(np.arange(len(chain))[::-1]), frame)
    objects = type(objects)(
        instances=objects.instances, id=objects.id[::-1].copy(), n_tiles=objects.n_tiles, cut=objects.cut,
        touches_edge=objects.touches_edge,
    )  # fmt: skip
    backward = ListResult(objects, frame, exclusive=False, batch=3)
    pictures = [draw_preview(r, grey(9, 9), tmp_path / f"{i}.png").read_bytes() for i, r in enumerate((forward, backward))]
    assert pictures[0] == pictures[1]


def test_objects_smaller_than_a_pixel_leave_a_dot(tmp_path):
    rng = np.random.default_rng(0)
    places = rng.integers(0, 30_000, (200, 2))
    places = places[np.argsort(places[:, 0])]
    frame = Frame(height=30_000, width=30_000)
    dots = Instances.from_masks([np.ones((2, 2), bool)] * 200, origin=places)
    shown = drawn(draw_preview(ListResult(objects_of(dots, frame), frame), grey(9, 9), tmp_path / "p.png"), 1600)
    rows, cols = (places[:, 0] * 1600 // 30_000), (places[:, 1] * 1600 // 30_000)
    near = ndi.maximum_filter((shown != GREY).any(axis=2), 3)
    assert near[rows, cols].all()


def test_a_window_shows_that_part_of_image_and_objects(tmp_path):
    labels = np.zeros((400, 400), np.int32)
    labels[100:140, 200:260], labels[300:320, 10:20] = 1, 2
    image = grey(200, 200)
    image[:, 115:] = 30
    window = Window(row=80, col=180, height=100, width=100)
    shown = drawn(draw_preview(result_of(labels), image, tmp_path / "p.png", window=window), 400)
    assert (shown[5, 5] == GREY).all()
    assert (shown[5, 395] == 30).all()
    assert not (shown[82:238, 82:318] == GREY).all(axis=2).any()
    assert (shown[250:] == shown[[5]]).all()


def test_nodata_becomes_a_light_checkerboard(tmp_path):
    valid = np.ones((100, 100), bool)
    valid[:, :50] = False
    path = draw_preview(empty_result(Frame(height=1000, width=1000)), grey(100, 100), tmp_path / "p.png", valid=valid)
    shown = np.asarray(Image.open(path))[:1590]
    assert set(np.unique(shown[:, :795])) == {222, 236}
    assert (shown[:, 805:] == GREY).all()


def test_same_result_same_bytes_and_nothing_left_beside(tmp_path):
    result = result_of(random_scene("voronoi", 2))
    first = draw_preview(result, grey(99, 99), tmp_path / "a.png")
    second = draw_preview(ListResult(result.objects, result.frame, batch=7), grey(99, 99), tmp_path / "b.png")
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_a_missing_folder_is_our_error(tmp_path):
    with pytest.raises(OutputError, match="could not be written"):
        draw_preview(empty_result(Frame(height=9, width=9)), grey(9, 9), tmp_path / "no" / "p.png")


def test_memory_is_that_of_the_picture(tmp_path):
    frame = Frame(height=100_000, width=100_000)
    masks = [np.ones((300, 400), bool)] * 3000
    rng = np.random.default_rng(1)
    origin = np.stack([np.sort(rng.integers(0, 99_000, 3000)), rng.integers(0, 99_000, 3000)], axis=1)
    result = ListResult(objects_of(Instances.from_masks(masks, origin=origin), frame), frame)
    tracemalloc.start()
    draw_preview(result, grey(500, 500), tmp_path / "p.png")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def frame_in(epsg, transform):
    return Frame(height=1000, width=2000, transform=transform, crs=CRS.from_epsg(epsg).to_wkt(), unit="m")


def test_a_mercator_pixel_is_shorter_on_the_ground():
    x, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(10, 60)
    metres = pixel_metres(frame_in(3857, Affine(2, 0, x, 0, -2, y)), Window(row=0, col=0, height=1, width=1))
    assert metres == pytest.approx(2 * cos(radians(60)), rel=5e-3)


def test_degrees_shrink_towards_the_poles():
    window = Window(row=0, col=0, height=1, width=1)
    metres = pixel_metres(frame_in(4326, Affine(1e-5, 0, 179.999995, 0, -1e-5, 60)), window)
    assert metres == pytest.approx(1e-5 * 111_320 * cos(radians(60)), rel=5e-3)


@pytest.mark.parametrize(
    "transform",
    [Affine(0.3, 0, 5e5, 0, -0.3, 5e6), Affine(0.3, 0, 5e5, 0, 0.3, 5e6), Affine(0.24, 0.18, 5e5, 0.18, -0.24, 5e6)],
)
def test_the_bar_is_as_long_as_it_says(transform):
    frame = frame_in(32632, transform)
    bar = scale_bar(frame, frame.window, most=500)
    metres = pixel_metres(frame, frame.window)
    assert metres == pytest.approx(0.3, rel=1e-3)
    assert bar.text == "100 m"
    assert bar.length * metres == pytest.approx(100)
    assert 200 < bar.length <= 500


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (Frame(height=900, width=900), "200 px"),
        (Frame(height=900, width=900, unit="um", spacing=(1, 0.25, 0.25)), "50 um"),
        (Frame(height=900, width=900, unit="mm", spacing=(1, 0.5, 0.5)), "10 cm"),
        (Frame(height=900, width=900, unit="m", spacing=(1, 30.0, 30.0)), "5 km"),
    ],
)
def test_without_a_crs_the_spacing_counts(frame, text):
    assert scale_bar(frame, frame.window, most=225).text == text


@pytest.mark.parametrize("shape", [(1, 1), (4000, 3), (2, 5000)])
def test_any_shape_of_frame_gives_a_picture(tmp_path, shape):
    path = draw_preview(result_of(np.ones(shape, np.int32)), grey(1, 1), tmp_path / "p.png")
    with Image.open(path) as picture:
        assert max(picture.size) <= 1700

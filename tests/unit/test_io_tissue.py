"""Tissue: found at any resolution, never a hole where cells lie, glass never read; regions as QuPath draws them."""

import gzip
import json

import numpy as np
import pytest
import shapely
from affine import Affine
from PIL import Image
from scipy import ndimage

from seggeo.errors import ConfigError
from seggeo.geometry import Frame, Window
from seggeo.io.masked import MaskedSource
from seggeo.io.regions import drawn_tissue, read_regions
from seggeo.io.tissue import find_tissue
from seggeo.protocols import Pixels

SHAPE = (600, 800)


def frame_of(factor=10, um=0.5):
    return Frame(height=SHAPE[0] * factor, width=SHAPE[1] * factor, spacing=(1, um, um), unit="um")


def truth():
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return ((rows - 280) / 170) ** 2 + ((cols - 330) / 210) ** 2 < 1


def overview(image, valid=None):
    return Pixels(data=image, valid=np.ones(image.shape[:2], bool) if valid is None else valid)


def brightfield(seed=0, pale=False):
    """Pink tissue with nuclei, white lumens and a speck of dust, on glass that is lit unevenly."""
    rng = np.random.default_rng(seed)
    glass = np.array([240, 238, 242]) - np.linspace(0, 8, SHAPE[1])[None, :, None]
    image = np.broadcast_to(glass, (*SHAPE, 3)).copy()
    inside = truth()
    image[inside] = (226, 190, 214) if pale else (215, 150, 190)
    nuclei = inside & (ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) > 0.1)
    image[nuclei] = (200, 160, 205) if pale else (110, 70, 150)
    image[270:278, 300:310] = 241  # a vessel
    image[520:523, 700:703] = 60  # dust
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def fluorescence(seed=0):
    rng = np.random.default_rng(seed)
    cells = truth() & (ndimage.gaussian_filter(rng.normal(size=SHAPE), 3) > 0.02)
    return (rng.normal(300, 20, (*SHAPE, 1)) + 900 * cells[..., None]).clip(0).astype(np.uint16)


@pytest.mark.parametrize("image", [brightfield(0), brightfield(1), brightfield(2, pale=True), fluorescence(0), fluorescence(1)])
@pytest.mark.parametrize("factor", [4, 10])
def test_tissue_is_found_and_glass_is_not(image, factor):
    found = find_tissue(overview(image), frame_of(factor))
    inside = truth()

    assert found.kind == ("brightfield" if image.dtype == np.uint8 else "fluorescence")
    cells = inside if image.dtype == np.uint8 else image[..., 0] > 700
    assert (found.mask & cells).sum() == cells.sum(), "no cell lies outside the mask, and vessels are filled"
    body = found.body
    assert (body & inside).sum() / (body | inside).sum() > (0.95 if image.dtype == np.uint8 else 0.85)
    assert not (found.body & ~found.mask).any()
    assert not found.mask[520:523, 700:703].any(), "dust is no tissue"
    um2 = found.area(frame_of(factor))
    assert um2 == pytest.approx(body.sum() * (0.5 * factor) ** 2)


def test_a_field_of_view_is_all_tissue():
    found = find_tissue(overview(brightfield()), frame_of(1))
    assert found.kind == "all"
    assert found.mask.all()


@pytest.mark.parametrize("value", [0, 200, 255])
def test_a_blank_slide_is_all_tissue(value):
    found = find_tissue(overview(np.full((*SHAPE, 3), value, np.uint8)), frame_of())
    assert (found.kind, found.share) == ("all", 1.0)


def test_what_is_no_data_is_no_tissue():
    valid = np.ones(SHAPE, bool)
    valid[:, :330] = False
    found = find_tissue(overview(np.where(valid[..., None], brightfield(), 0).astype(np.uint8), valid), frame_of())
    assert not found.mask[~valid].any()
    assert found.mask[280, 400]


class Slide:
    """Everything white; remembers what was read."""

    def __init__(self):
        self.frame, self.bands, self.seen = frame_of(), ("r", "g", "b"), []

    def read(self, window, z=0):
        self.seen.append(window)
        return overview(np.full((*window.shape, 3), 255, np.uint8))

    def is_empty(self, window):
        return False


def test_glass_is_empty_unread_and_every_window_gets_the_same_mask():
    slide = Slide()
    masked = MaskedSource(slide, find_tissue(overview(brightfield()), slide.frame), overview(brightfield()))
    whole = masked.tissue.read(slide.frame.window)
    assert masked.is_brightfield

    rng = np.random.default_rng(0)
    for _ in range(40):
        row, col = int(rng.integers(0, 5700)), int(rng.integers(0, 7700))
        window = Window(row=row, col=col, height=int(rng.integers(1, 300)), width=int(rng.integers(1, 300)))
        np.testing.assert_array_equal(masked.read(window).valid, whole[window.slices()])
        assert masked.is_empty(window) == (not whole[window.slices()].any())
    assert masked.is_empty(Window(row=5900, col=7900, height=100, width=100))
    assert Window(row=5900, col=7900, height=100, width=100) not in slide.seen


def feature(coordinates, **properties):
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": coordinates}, "properties": properties}


SQUARE = [[[100, 200], [300, 200], [300, 600], [100, 600], [100, 200]]]


def test_regions_of_qupath_are_in_full_resolution_pixels(tmp_path):
    frame = Frame(height=500, width=400, transform=Affine(4, 0, 40, 0, 4, 80), unit="um", spacing=(1, 1, 1))
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    features = [
        feature(SQUARE, name="Left", classification={"name": "Tumor", "color": [200, 0, 0]}),
        feature(SQUARE, classification={"name": "Stroma"}), feature(SQUARE), point,
    ]  # fmt: skip
    collection = {"type": "FeatureCollection", "features": features}
    (tmp_path / "a.geojson").write_text(json.dumps(collection))
    (tmp_path / "b.json").write_text(json.dumps(features))
    (tmp_path / "c.geojson.gz").write_bytes(gzip.compress(json.dumps(collection).encode()))
    (tmp_path / "d.geojson").write_text(json.dumps(features[0]))

    for name in ("a.geojson", "b.json", "c.geojson.gz"):
        regions = read_regions(tmp_path / name, frame)
        assert [region.name for region in regions] == ["Left", "Stroma", "region 3"]
        assert shapely.bounds(regions[0].shape).tolist() == [15, 30, 65, 130]
    assert len(read_regions(tmp_path / "d.geojson", frame)) == 1

    bare = {"type": "Polygon", "coordinates": SQUARE}
    for values, count in ((bare, 1), ([bare, bare], 2), ({"type": "GeometryCollection", "geometries": [bare, point, bare]}, 2)):
        (tmp_path / "e.geojson").write_text(json.dumps(values))
        regions = read_regions(tmp_path / "e.geojson", frame)
        assert [shapely.bounds(region.shape).tolist() for region in regions] == [[15, 30, 65, 130]] * count


def test_tissue_can_be_drawn_or_given_as_an_image(tmp_path):
    frame = frame_of()
    see = overview(brightfield())
    (tmp_path / "t.geojson").write_text(json.dumps([feature(SQUARE)]))
    mask = np.zeros((60, 80), np.uint8)
    mask[20:60, 10:30] = 1
    Image.fromarray(mask).save(tmp_path / "t.png")

    drawn = drawn_tissue(tmp_path / "t.geojson", see, frame)
    given = drawn_tissue(tmp_path / "t.png", see, frame)

    assert drawn.area(frame) == pytest.approx(200 * 400 * 0.25, rel=0.1)
    assert given.area(frame) == pytest.approx(20 * 40 * 100 * 100 * 0.25)
    assert given.mask[200:600, 100:300].all()
    assert given.kind == drawn.kind == "drawn"


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.geojson", "{", "Expecting"),
        ("a.geojson", "[]", "none of its 0"),
        ("a.geojson", "3", "neither"),
        ("a.geojson", '[{"geometry": {"type": "Point", "coordinates": [0, 0]}}]', "none of its 1"),
        ("a.geojson", '[{"geometry": {"type": "Polygon", "coordinates": [[[0]]]}}]', "feature 1"),
        ("a.geojson", json.dumps([feature([[[9e5, 9e5], [9.1e5, 9e5], [9e5, 9.1e5], [9e5, 9e5]]])]), "no part"),
        ("a.geojson.gz", "no gzip", "gzip"),
        ("a.png", "no picture", "a.png"),
        ("gone.geojson", None, "gone"),
    ],
)
def test_regions_that_are_none_are_refused(tmp_path, name, text, why):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=why):
        drawn_tissue(tmp_path / name, overview(brightfield()), frame_of())

"""Threshold: components, splits, calibration and independence of the tile, against scipy and scikit-image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from contracts.segmenters import blobs, same, tile_image
from scipy import ndimage
from skimage.color import rgb2hed, rgb2hsv
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed
from support_look import look_at

from seggeo.errors import ConfigError
from seggeo.models.basins import ascend, necks
from seggeo.models.channels import CHANNELS, STAIN_MAX, channel_of, smoothed
from seggeo.models.settings import parse_settings
from seggeo.models.threshold import ThresholdSettings, calibrate, load, otsu, small_holes, split
from seggeo.protocols import ModelRequest

SAMPLE = Path(__file__).parents[2] / "sample_data"
PLAIN = {"level": 128, "polarity": "bright", "smooth": 0, "split": False, "min_area": 0, "fill_holes": 0}


def segment(image, valid=None, *, inner=False, **settings):
    model = load(ModelRequest(name="threshold", settings={**PLAIN, **settings}))
    return model.predict([tile_image(image, valid, inner=inner)])[0].instances


def gray(values):
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def paint(found, shape):
    labels = np.zeros(shape, np.int32)
    for i, ((row, col, row_stop, col_stop), mask) in enumerate(found, 1):
        labels[row:row_stop, col:col_stop][mask] = i
    return labels


def disc(shape, row, col, radius):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - row, cols - col) <= radius


def parts_of(mask, **settings):
    labels, _ = ndimage.label(mask)
    return split(labels, ThresholdSettings(**settings))


@pytest.mark.parametrize("seed", range(5))
def test_without_split_it_is_scipys_partition(seed):
    image = np.random.default_rng(seed).integers(0, 256, (70, 90, 3), np.uint8)
    labels, count = ndimage.label(channel_of(image, "gray") > 128)
    found = segment(image)
    assert len(found) == count
    assert np.array_equal(paint(found, labels.shape), labels)


@pytest.mark.parametrize("seed", range(8))
def test_otsu_divides_like_scikit_image(seed):
    rng = np.random.default_rng(seed)
    values = np.clip(np.concatenate([rng.normal(80, 15, 4000), rng.normal(150 + 8 * seed, 12, 900)]), 0, 255).astype(np.uint8)
    ours, theirs = otsu(np.bincount(values, minlength=256)), threshold_otsu(values)
    assert np.array_equal(values > ours, values > theirs)


def test_otsu_of_little_is_harmless():
    assert otsu(np.zeros(256, int)) == 255
    assert otsu(np.bincount([90] * 10, minlength=256)) == 90
    assert otsu(np.bincount([20] * 10 + [200] * 10, minlength=256)) == 110  # the middle of the gap


@pytest.mark.parametrize("image", [gray(np.full((40, 40), v)) for v in (0, 90, 255)])
@pytest.mark.parametrize("polarity", ["auto", "bright", "dark"])
def test_a_constant_image_holds_no_object(image, polarity):
    settings = calibrate(ModelRequest(name="threshold", settings={"polarity": polarity}), look_at(image))
    assert len(segment(image, **settings)) == 0


@pytest.mark.parametrize("value", [1, 77, 200, 254])
def test_even_ground_beside_nodata_holds_no_object(value):
    """Smoothing beside what is not valid rounds; even ground is not brighter than itself."""
    valid = np.zeros((120, 140), bool)
    valid[10:40, 10:50] = valid[60:110, 70:131] = True
    tile = tile_image(gray(np.where(valid, value, 0)), valid=valid)
    for polarity in ("bright", "dark"):
        for smooth in (0.7, 1.0, 3.3):
            model = load(ModelRequest(name="threshold", settings={"level": value, "polarity": polarity, "smooth": smooth}))
            assert len(model.predict([tile])[0].instances) == 0


def test_channels_equal_scikit_image():
    image = np.random.default_rng(3).integers(0, 256, (60, 50, 3), np.uint8)
    density = -np.log(1e-6)  # rgb2hed gives amounts in units of this optical density
    hed = np.clip(np.rint(rgb2hed(image) * density * 255 / STAIN_MAX), 0, 255)
    for stain, name in enumerate(("hematoxylin", "eosin", "dab")):
        assert np.abs(channel_of(image, name).astype(int) - hed[..., stain]).max() <= 1
    saturation = np.rint(rgb2hsv(image)[..., 1] * 255)
    assert np.abs(channel_of(image, "saturation").astype(int) - saturation).max() <= 1
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(channel_of(image, "gray") - luma).max() <= 0.51
    assert np.array_equal(channel_of(image, "green"), image[..., 1])


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_channel_value_depends_on_its_pixel_alone(channel):
    image = np.random.default_rng(4).integers(0, 256, (64, 61, 3), np.uint8)
    whole = channel_of(image, channel)
    assert whole.dtype == np.uint8
    assert np.array_equal(channel_of(image[7:50, 11:40], channel), whole[7:50, 11:40])


def test_smoothing_reaches_no_further_than_it_says():
    rng = np.random.default_rng(5)
    values, valid = rng.integers(0, 256, (90, 90), np.uint8), rng.random((90, 90)) > 0.2
    sigma = 1.7
    reach = int(4 * sigma + 0.5)
    whole, part = smoothed(values, valid, sigma), smoothed(values[10:80, 5:75], valid[10:80, 5:75], sigma)
    inside = slice(reach, 70 - reach)
    assert np.array_equal(part[inside, inside], whole[10:80, 5:75][inside, inside])


def test_invalid_pixels_do_not_darken_their_neighbours():
    values, valid = np.full((30, 30), 200, np.uint8), np.ones((30, 30), bool)
    values[:, :12], valid[:, :12] = 0, False
    np.testing.assert_allclose(smoothed(values, valid, 2.0)[valid], 200, rtol=1e-5)
    assert paint(segment(gray(values), valid, smooth=2.0), valid.shape)[valid].all()
    assert not paint(segment(gray(np.full((30, 30), 200)), valid), valid.shape)[~valid].any()


def test_calibration_freezes_numbers_and_keeps_what_was_set():
    image = blobs(200, 200, seed=2)
    settings = calibrate(ModelRequest(name="threshold", settings={"min_area": 5}), look_at(image))
    assert json.loads(json.dumps(settings)) == settings
    assert 70 < settings["level"] < 190
    assert (settings["polarity"], settings["min_area"]) == ("bright", 5)
    assert settings["contrast"] != ThresholdSettings().contrast
    assert load(ModelRequest(name="threshold", settings=settings)).info.settings == settings
    fixed = {"level": 40.0, "polarity": "dark", "contrast": 10.0}
    assert calibrate(ModelRequest(name="threshold", settings=fixed), look_at(image)).items() >= fixed.items()
    again = calibrate(ModelRequest(name="threshold", settings=settings), look_at(255 - image))
    assert again == settings


def test_auto_takes_the_side_with_fewer_pixels():
    image = blobs(150, 150, seed=3)
    for picture, polarity in ((image, "bright"), (255 - image, "dark")):
        assert calibrate(ModelRequest(name="threshold"), look_at(picture))["polarity"] == polarity


def test_dark_objects_are_the_bright_ones_of_the_negative():
    image = np.random.default_rng(6).integers(0, 256, (50, 50), np.uint8)
    found, mirrored = segment(gray(image), level=100), segment(gray(255 - image), level=155, polarity="dark")
    assert same(found, mirrored)


@pytest.mark.parametrize("settings", [{}, {"level": 90}, {"polarity": "dark"}])
def test_nothing_is_found_from_a_tile(settings):
    model = load(ModelRequest(name="threshold", settings=settings))
    with pytest.raises(ConfigError, match="calibrate"):
        model.predict([tile_image(blobs(40, 40, seed=1))])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"levle": 3}, "did you mean 'level'"),
        ({"level": "high"}, "a number or otsu"),
        ({"level": 300}, "0 to 255"),
        ({"split": 1}, "true or false"),
        ({"polarity": "up"}, "auto, bright, dark"),
        ({"min_area": 2.5}, "a whole number"),
        ({"min_area": -1}, "between 0 and"),
        ({"smooth": float("nan")}, "a number"),
        ({"channel": True}, "gray, red"),
        ({"contrast": 0}, "more than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_list(settings, why):
    with pytest.raises(ConfigError, match=why) as caught:
        load(ModelRequest(name="threshold", settings=settings))
    assert "level=otsu" in str(caught.value)
    assert "split=true" in str(caught.value)


def test_settings_take_whole_numbers_for_numbers():
    found = parse_settings(ThresholdSettings, {"level": 7, "min_area": 20.0}, model="threshold")
    assert (found.level, type(found.level), found.min_area, type(found.min_area)) == (7.0, float, 20, int)


def test_touching_discs_are_two_and_other_shapes_one():
    shape = (120, 160)
    two = disc(shape, 50, 50, 25) | disc(shape, 60, 92, 22)
    assert parts_of(two).max() == 2
    bar = np.zeros(shape, bool)
    bar[40:70, 10:150] = True
    ell = bar.copy()
    ell[40:115, 10:40] = True
    for mask in (disc(shape, 60, 80, 40), bar, ell, ell.T, ell[::-1, ::-1]):
        assert parts_of(mask).max() == 1
    assert parts_of(two, neck=0.2).max() == 1
    assert parts_of(two, min_distance=60).max() == 1
    assert parts_of(two, min_area=2000).max() == 1


@pytest.mark.parametrize("seed", range(4))
def test_a_rough_outline_does_not_split_a_square(seed):
    rows, cols = np.mgrid[:150, :150]
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((150, 150)), 2) * 8
    mask = ndimage.label(np.abs(rows - 75) + np.abs(cols - 75) + rough < 50)[0] == 1
    assert mask.sum() > 4000
    assert parts_of(mask).max() == 1


@pytest.mark.parametrize("seed", range(4))
def test_parts_tile_their_component_and_hang_together(seed):
    mask = blobs(120, 130, seed=seed)[..., 0] > 110
    parts = parts_of(mask, neck=0.95, min_distance=2, min_area=0)
    assert np.array_equal(parts > 0, mask)
    assert parts.max() > ndimage.label(mask)[1]
    for i in range(1, parts.max() + 1):
        assert ndimage.label(parts == i)[1] == 1


@pytest.mark.parametrize("seed", range(3))
def test_basins_agree_with_a_flooding_watershed(seed):
    """On smooth heights steepest ascent and scikit-image's flooding differ only along the borders."""
    height = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((150, 150)), 7).astype(np.float32)
    basins = ascend(height, np.ones(height.shape, bool))
    peaks = ndimage.label(height == ndimage.maximum_filter(height, footprint=ndimage.generate_binary_structure(2, 1)))[0]
    assert len(basins) == peaks.max()
    flooded = watershed(-height, peaks, connectivity=1)
    assert (flooded == basins.labels).mean() > 0.93


def test_necks_are_the_highest_passes():
    height = np.array([[5, 3, 4, 1], [5, 2, 4, 9]], np.float32)
    labels = np.array([[1, 1, 2, 3], [1, 1, 2, 3]], np.int32)
    found = necks(labels, height)
    assert found.a.tolist() == [1, 2]
    assert found.b.tolist() == [2, 3]
    assert found.height.tolist() == [3, 4]
    assert found.length.tolist() == [2, 2]


def test_an_object_is_the_same_in_every_window_that_holds_it():
    """Tile independence to the last pixel, splits and holes included: what a margin keeps from the sides is equal."""
    image = blobs(420, 420, seed=11)
    settings = {"smooth": 1.0, "split": True, "min_area": 10, "fill_holes": 60}
    whole = segment(image, **settings)
    assert len(whole) > 60
    reach = 4
    for row, col in ((0, 0), (37, 101), (150, 13), (120, 130)):
        part = segment(image[row : row + 260, col : col + 260], inner=True, **settings).shift(row, col)
        inside = [row + reach, col + reach, row + 260 - reach, col + 260 - reach]
        ours, theirs = (within(found, inside) for found in (part, whole))
        assert len(theirs) > 10
        assert ours == theirs


def within(found, bounds):
    """Box, score and mask of the components that keep away from the sides of some bounds.

    A component of several parts counts as a whole: one part's border moves when another part is cut.
    """
    box = found.box
    labels = paint(found, (420, 420))
    component, count = ndimage.label(labels > 0)
    owner = np.array([component[labels == i + 1][0] for i in range(len(found))])
    apart = (box[:, 0] > bounds[0]) & (box[:, 1] > bounds[1]) & (box[:, 2] < bounds[2]) & (box[:, 3] < bounds[3])
    whole = np.ones(count + 1, bool)
    whole[owner[~apart]] = False
    keep = np.flatnonzero(whole[owner])
    return {(*found.box[i].tolist(), float(found.score[i]), found.mask(i).tobytes()) for i in keep}


def test_only_small_closed_holes_are_filled():
    mask = np.ones((40, 40), bool)
    mask[5:8, 5:8] = False  # 9 px
    mask[20:30, 20:30] = False  # 100 px
    mask[0:2, 15:17] = False  # at the side
    mask[10, 30] = mask[11, 31] = False  # two pixels that touch by a corner: one hole
    valid = np.ones_like(mask)
    valid[35, 35] = mask[35, 35] = False
    filled = small_holes(mask, valid, 9)
    assert filled[5:8, 5:8].all()
    assert filled[10, 30]
    assert filled.sum() == 9 + 2
    assert small_holes(mask, valid, 1).sum() == 0
    assert small_holes(mask, valid, 100)[20:30, 20:30].all()


def test_size_limits_spare_pieces_that_go_on_elsewhere():
    values = np.zeros((60, 60), np.uint8)
    values[0:3, 10:13] = values[30:33, 30:33] = 255
    values[40:52, 40:52] = 255
    image = gray(values)
    assert segment(image, min_area=20).area.tolist() == [144]
    assert segment(image, min_area=20, inner=True).area.tolist() == [9, 144]
    assert segment(image, max_area=100).area.tolist() == [9, 9]


def test_score_grows_with_the_distance_from_the_level():
    values = np.zeros((30, 60), np.uint8)
    for i, value in enumerate((135, 160, 250)):
        values[10:20, 5 + 20 * i : 15 + 20 * i] = value
    score = segment(gray(values), contrast=64).score
    np.testing.assert_allclose(score, [7 / 64, 32 / 64, 1.0], rtol=1e-6)


def test_the_sample_scene_is_found_as_its_readme_says():
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(SAMPLE / "scene.tif") as file:
        image, valid = file.read().transpose(1, 2, 0), file.dataset_mask() > 0
    with rasterio.open(SAMPLE / "scene_truth.tif") as file:
        truth = file.read(1)
    rows = (line.split(",") for line in (SAMPLE / "scene_classes.csv").read_text().splitlines()[1:])
    truth[np.isin(truth, [int(i) for i, name, _ in rows if name in ("lake", "river")])] = 0
    overview = look_at(image[::4, ::4], valid[::4, ::4])
    settings = calibrate(ModelRequest(name="threshold"), overview)
    found = load(ModelRequest(name="threshold", settings=settings)).predict([tile_image(image, valid)])[0].instances
    labels = paint(found, truth.shape)
    assert not labels[~valid].any()
    area, true_area = np.bincount(labels.ravel()), np.bincount(truth.ravel())
    shared = np.bincount(truth.ravel().astype(np.int64) * len(area) + labels.ravel(), minlength=len(true_area) * len(area))
    shared = shared.reshape(len(true_area), len(area))[1:, 1:]
    iou = shared / np.maximum(true_area[1:, None] + area[None, 1:] - shared, 1)
    f1 = 2 * (iou > 0.5).sum() / ((true_area[1:] > 0).sum() + len(found))
    assert f1 > 0.94
    assert iou[iou > 0.5].mean() > 0.87

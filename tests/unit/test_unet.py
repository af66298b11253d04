"""The U-Net segmenter: objects do not depend on the tile, weights say what they need, sizes are settled once."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import ndimage
from support_unet import save_network, toy_network, whole_tile

from seggeo.config import Reading
from seggeo.errors import ConfigError, ModelError
from seggeo.geometry import Frame, Window
from seggeo.models.bundled import find_bundled
from seggeo.models.preferences import preferred
from seggeo.models.unet import calibrate, load
from seggeo.models.unet_arch import FOLD
from seggeo.models.unet_settings import UNetCard, UNetSettings, read_card
from seggeo.models.unet_size import Sized, choose_scale, diameter_of, is_needless, look_at, weigh
from seggeo.models.weights import load_state
from seggeo.protocols import ModelRequest, TileImage

LOOSE = {"scale": "1", "foreground": 0.5, "min_score": 0.0, "min_area": 4.0}


def textured(seed: int, shape=(330, 410)):
    """Blobs of light that a random network finds something in."""
    noise = np.random.default_rng(seed).normal(size=(*shape, 3))
    smooth = ndimage.gaussian_filter(noise, (4, 4, 0))
    return np.clip(128 + 900 * smooth, 0, 255).astype(np.uint8)


def request(tmp_path, model=None, settings=LOOSE, **card):
    return ModelRequest(
        name="unet", weights=save_network(model or toy_network(), tmp_path / "toy.safetensors", **card), settings=settings
    )


def test_weights_of_half_precision_predict_the_same_wherever_they_are_loaded(tmp_path):
    path = save_network(toy_network(), tmp_path / "half.safetensors", half=True)
    image = textured(1)
    asked = ModelRequest(name="unet", weights=path, settings=LOOSE)
    first, second = (load(asked).predict([whole_tile(image)])[0] for _ in range(2))

    assert len(first.instances) > 5
    assert np.array_equal(first.instances.runs, second.instances.runs)
    assert not first.capped


def test_instances_are_exclusive_and_scored(tmp_path):
    found = load(request(tmp_path)).predict([whole_tile(textured(2))])[0].instances
    painted = np.zeros((330, 410), int)
    for i in range(len(found)):
        row, col, row_stop, col_stop = found.box[i]
        painted[row:row_stop, col:col_stop] += found.mask(i)

    assert painted.max() == 1
    assert ((found.score > 0.5) & (found.score <= 1)).all()


def test_no_object_where_there_is_no_data(tmp_path):
    valid = np.ones((330, 410), bool)
    valid[:, 150:260] = False
    found = load(request(tmp_path)).predict([whole_tile(textured(3), valid)])[0].instances

    assert len(found)
    for i in range(len(found)):
        row, col, row_stop, col_stop = found.box[i]
        assert not (found.mask(i) & ~valid[row:row_stop, col:col_stop]).any()


def cells(seed: int, shape=(420, 520), count=140):
    """Bright discs of 7 to 12 px radius on dark, noisy ground; some touch."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    light = np.zeros(shape)
    for _ in range(count):
        y, x, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(7, 12)
        light = np.maximum(light, rng.uniform(0.5, 1) * ((yy - y) ** 2 + (xx - x) ** 2 < r * r))
    light = ndimage.gaussian_filter(light, 0.8) * 200 + rng.normal(20, 6, shape)
    return np.clip(light, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


@pytest.mark.parametrize("scale", ["1", "1/2", "2"])
def test_a_tile_with_its_context_finds_the_whole_images_objects(scale):
    """Every object of the whole image that lies well inside a tile is found there pixel by pixel."""
    bundled = find_bundled("nuclei")
    model = load(ModelRequest(name="unet", weights=bundled.path, settings={"scale": scale}))
    image = cells(4)
    whole = model.predict([whole_tile(image)])[0].instances
    frame = Window(row=0, col=0, height=420, width=520)
    window = Window(row=100, col=150, height=224, width=224)
    extent = model.info.extent(window, within=frame)
    tile = replace(whole_tile(image[window.slices()]).tile, core=window, window=window)
    part = model.predict([TileImage(image=image[extent.slices()], valid=np.ones(extent.shape, bool), tile=tile, extent=extent)])
    found = {tuple(box): mask.tobytes() for box, mask in shapes(part[0].instances.shift(window.row, window.col, 0))}
    inner = [
        (box, mask) for box, mask in shapes(whole)
        if box[0] > 100 and box[1] > 150 and box[2] < 324 and box[3] < 374 and max(box[2] - box[0], box[3] - box[1]) < 24
    ]  # fmt: skip

    assert len(inner) >= 10
    assert all(found.get(box) == mask.tobytes() for box, mask in inner)


def shapes(instances):
    return [(tuple(int(v) for v in instances.box[i]), instances.mask(i)) for i in range(len(instances))]


def test_any_number_of_bands_and_classes(tmp_path):
    network = toy_network(bands=5, classes=3)
    image = np.random.default_rng(0).integers(0, 4000, (200, 220, 5)).astype(np.uint16)
    limits = {"low": "0,0,0,0,0", "high": "4000,4000,4000,4000,4000"}
    model = load(request(tmp_path, network, {**LOOSE, "foreground": 0.3, **limits}))
    found = model.predict([whole_tile(image)])[0].instances

    assert model.info.native
    assert model.info.channels == 5
    assert len(found)
    assert set(found.label) <= {0, 1, 2}


def test_other_bands_need_their_limits(tmp_path):
    with pytest.raises(ConfigError, match="5 bands"):
        load(request(tmp_path, toy_network(bands=5), {**LOOSE, "low": "0,0"}))


def test_weights_are_needed_and_must_be_a_unets(tmp_path):
    with pytest.raises(ModelError, match="needs weights"):
        load(ModelRequest(name="unet"))
    path = save_network(toy_network(), tmp_path / "a.safetensors")
    state, metadata = load_state(path)
    with pytest.raises(ModelError, match="not a U-Net"):
        read_card({"seggeo": {"model": "maskrcnn"}}, path)
    card = read_card(metadata, path)
    assert card.shape.widths == (16, 16, 32, 128)
    assert len(state) > 20


@pytest.mark.parametrize(
    ("name", "value"), [("scale", "3/7"), ("scale", "big"), ("flips", 3), ("foreground", 1.0), ("join", -1.0), ("colour", 1),
     ("smooth", -1.0), ("smooth", 9.0), ("smooth", float("nan")), ("min_area", float("inf"))],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(tmp_path, name, value):
    with pytest.raises(ConfigError):
        load(request(tmp_path, settings={**LOOSE, name: value}))


CARD = UNetCard(
    shape=toy_network().shape, classes=("a",), diameter=20.0, diameters=(10.0, 40.0), object_um=8.0
)  # fmt: skip
PIXELS = Frame(height=100, width=100)


def test_what_is_known_settles_the_scale():
    metres = replace(PIXELS, spacing=(1.0, 0.1, 0.1), unit="m")

    assert choose_scale(CARD, UNetSettings(scale="1/3"), PIXELS)[0] == Fraction(1, 3)
    assert choose_scale(CARD, UNetSettings(diameter=41.0), PIXELS)[0] == Fraction(1, 2)
    assert choose_scale(CARD, UNetSettings(mpp=0.8), PIXELS)[0] == 2
    assert choose_scale(CARD, UNetSettings(), PIXELS) is None
    assert choose_scale(replace(CARD, gsd=0.3), UNetSettings(), metres)[0] == Fraction(1, 3)
    assert choose_scale(replace(CARD, diameter=0.0), UNetSettings(), PIXELS)[0] == 1


def test_the_surest_look_at_objects_of_a_fitting_size_counts():
    def seen(scale, diameter, surety, count=20):
        return Sized(scale=Fraction(scale), diameter=diameter, count=count, surety=surety)

    assert weigh(CARD, [seen(1, 60, 0.9), seen("1/2", 62, 0.88), seen(2, 20, 0.8)]).scale == Fraction(1, 2)
    assert weigh(CARD, [seen(1, 9, 0.85), seen("1/2", 15, 0.8), seen(2, 8, 0.93)]).scale == 2
    assert weigh(CARD, [seen(1, 25, 0.92), seen("1/2", 26, 0.9), seen(2, 19, 0.91)]).scale == 1
    assert weigh(CARD, [seen(1, 25, 0.8, count=2), seen(2, 6, 0.6, count=900)]).scale == 1


def test_no_look_is_taken_where_objects_would_be_too_large_or_too_small():
    """CARD takes 10 to 40 px."""
    sure = Sized(scale=Fraction(1), diameter=24.0, count=20, surety=0.9)

    assert is_needless(CARD, [sure], Fraction(2))
    assert is_needless(CARD, [sure], Fraction(1, 4))
    assert not is_needless(CARD, [replace(sure, diameter=18.0)], Fraction(2))
    assert not is_needless(CARD, [replace(sure, diameter=48.0)], Fraction(1, 2))
    assert not is_needless(CARD, [replace(sure, surety=0.8)], Fraction(2))
    assert not is_needless(CARD, [replace(sure, count=2)], Fraction(2))
    assert not is_needless(CARD, [replace(sure, scale=Fraction(1, 2))], Fraction(2))
    assert not is_needless(CARD, [], Fraction(2))


def test_diameter_of_objects_is_that_of_the_area_not_of_the_crumbs():
    discs = [np.pi * 100] * 20
    assert diameter_of([*discs, *([4] * 200)]) == pytest.approx(20)
    assert diameter_of([]) == 0


def test_look_at_leaves_out_what_a_window_cuts(tmp_path):
    model = load(request(tmp_path))
    window = whole_tile(textured(5, (160, 160)))
    found = model.predict([window])[0].instances
    cut = (found.box[:, :2] == 0).any(axis=1) | (found.box[:, 2:] == 160).any(axis=1)
    seen = look_at(model, [window], Fraction(1))

    assert cut.any()
    assert seen.count == (~cut).sum()


class Looking:
    """A look at an image in memory."""

    def __init__(self, image, frame=PIXELS):
        self.frame, self.bands, self._tile = frame, ("1",) * image.shape[2], whole_tile(image)

    @property
    def overview(self):
        return self._tile

    def windows(self, side, count):
        return [self._tile]


def test_calibration_gives_a_scale_that_is_one_of_the_settings(tmp_path):
    asked = request(tmp_path, settings={}, diameter=20.0, diameters=(10.0, 40.0))
    found = calibrate(asked, Looking(textured(6, (200, 200))))

    assert Fraction(found["scale"]) > 0
    assert found["sized"]
    assert load(replace(asked, settings=found)).info.settings["scale"] == found["scale"]


def test_an_image_without_a_window_to_look_at_is_taken_as_it_is(tmp_path):
    """All of it is without data, or what there is lies where nobody looked."""
    looking = Looking(np.zeros((90, 90, 3), np.uint8))
    looking.windows = lambda side, count: []
    found = calibrate(request(tmp_path, settings={}, diameter=20.0, diameters=(10.0, 40.0)), looking)

    assert found["scale"] == "1"
    assert "no window" in found["sized"]


@pytest.mark.parametrize("channel", range(4))
def test_nan_in_the_network_is_an_error_and_not_an_empty_tile(tmp_path, channel):
    model = toy_network()
    with torch.no_grad():
        model.head.bias.view(-1, FOLD**2)[channel, 0] = float("nan")

    with pytest.raises(ModelError, match="NaN or infinite"):
        load(request(tmp_path, model)).predict([whole_tile(textured(3, (96, 96)))])


@pytest.mark.parametrize("smooth", [0.0, 0.1, 8.0])
def test_votes_gathered_little_or_much_find_objects(tmp_path, smooth):
    found = load(request(tmp_path, settings={**LOOSE, "smooth": smooth})).predict([whole_tile(textured(1))])[0].instances

    assert len(found) >= 3
    assert len(found.box) == len(np.unique(found.box, axis=0))


def test_calibration_finds_the_values_of_bands_that_are_not_rgb(tmp_path):
    image = np.random.default_rng(0).integers(100, 3000, (120, 120, 4)).astype(np.uint16)
    found = calibrate(request(tmp_path, toy_network(bands=4), settings={}), Looking(image))
    low, high = ([float(v) for v in found[name].split(",")] for name in ("low", "high"))

    np.testing.assert_allclose(low, np.percentile(image.reshape(-1, 4), 2, axis=0))
    np.testing.assert_allclose(high, np.percentile(image.reshape(-1, 4), 98, axis=0))


def test_weights_say_how_their_images_are_read_unless_the_user_does(tmp_path):
    path = save_network(toy_network(), tmp_path / "toy.safetensors", stretch="percent:1,99", bands=(3, 2, 1))

    assert preferred(Reading(), path) == Reading(stretch="percent:1,99", bands=(3, 2, 1))
    assert preferred(Reading(stretch="none", bands=(1, 1, 1)), path) == Reading(stretch="none", bands=(1, 1, 1))
    assert preferred(Reading(), None) == Reading()

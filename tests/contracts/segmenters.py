"""What every segmenter must keep: subclass `SegmenterContract` as `Test...` and give it a `segmenter` fixture.

    class TestMine(SegmenterContract):
        @pytest.fixture
        def segmenter(self):
            return load(ModelRequest(name="mine", settings={...}))

Override `bands`, `dtype` or `min_side` for models that take other images.
"""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from seggeo import rle
from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.profiling import Clock, recording, span
from seggeo.protocols import ModelInfo, ModelRequest, Prediction, Segmenter, TileImage
from seggeo.tiling import Tile, TileGrid


def blobs(height: int, width: int, *, seed: int, bands: int = 3) -> NDArray[np.uint8]:
    """Bright spots on a darker ground with a little noise, `(height, width, bands)`."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal((height, width)), min(6.0, max(1.0, min(height, width) / 8)))
    ground = 70 + 120 * (field > field.std() * 0.7)
    tint = np.linspace(0, 12, bands)
    return np.clip(ground[..., None] + tint + rng.normal(0, 4, (height, width, bands)), 0, 255).astype(np.uint8)


def tile_image(image: NDArray, valid: NDArray[np.bool_] | None = None, *, inner: bool = False) -> TileImage:
    """A tile of one array: the whole image, or (`inner`) one that goes on beyond all four sides."""
    height, width = image.shape[:2]
    if inner:
        halo = max(1, min(height, width) // 8)
        window = Window(row=1000, col=1000, height=height, width=width)
        core = Window.from_bounds(1000 + halo, 1000 + halo, 1000 + height - halo, 1000 + width - halo)
        tile = Tile(index=17, z=0, row=3, col=3, core=core, window=window)
    else:
        tile = TileGrid(height=height, width=width, tile=max(height, width, 4), halo=1)[0]
    return TileImage(image=image, valid=np.ones((height, width), bool) if valid is None else valid, tile=tile)


def same(one: Instances, two: Instances) -> bool:
    """True when every array is equal, to the last bit."""
    return all(np.array_equal(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(Instances))


class SegmenterContract:
    """The laws; collected only through subclasses."""

    bands = 3
    dtype = np.uint8
    min_side = 1
    """Smallest side of an image the model accepts."""

    @pytest.fixture
    def segmenter(self) -> Segmenter:
        raise NotImplementedError("give the segmenter to test")

    def image(self, height: int = 96, width: int = 80, *, seed: int = 1) -> NDArray:
        return blobs(height, width, seed=seed, bands=self.bands).astype(self.dtype)

    def test_info_is_frozen_and_plain(self, segmenter):
        info = segmenter.info
        assert isinstance(info, ModelInfo)
        assert info.name
        assert len(set(info.classes)) == len(info.classes) > 0
        with pytest.raises(dataclasses.FrozenInstanceError):
            info.name = "other"

    def test_settings_are_json_and_the_request_pickles(self, segmenter):
        settings = dict(segmenter.info.settings)
        assert json.loads(json.dumps(settings, allow_nan=False)) == settings
        request = ModelRequest(name=segmenter.info.name, settings=settings)
        assert pickle.loads(pickle.dumps(request)) == request

    def test_no_tiles_give_no_predictions(self, segmenter):
        assert segmenter.predict([]) == []

    def test_a_profile_changes_nothing_and_knows_what_is_encoding(self, segmenter):
        tile, clock = tile_image(self.image()), Clock()
        (plain,) = segmenter.predict([tile])
        with recording(clock), span("model"):
            (profiled,) = segmenter.predict([tile])
        spent = clock.take()

        assert same(plain.instances, profiled.instances)
        assert spent.seconds["model"] > 0
        assert spent.seconds["encode"] > 0
        assert set(spent.seconds) == {"model", "encode", "other"}

    def test_one_prediction_for_each_tile_in_order(self, segmenter):
        tiles = [tile_image(self.image(seed=s), inner=s % 2 == 0) for s in range(3)]
        together = segmenter.predict(tiles)
        assert all(isinstance(p, Prediction) for p in together)
        for tile, found in zip(tiles, together, strict=True):
            assert same(segmenter.predict([tile])[0].instances, found.instances)

    def test_it_remembers_nothing(self, segmenter):
        first, second = tile_image(self.image(seed=4)), tile_image(self.image(seed=5))
        before = segmenter.predict([first])[0].instances
        segmenter.predict([second, second])
        assert same(segmenter.predict([first])[0].instances, before)
        forward, backward = segmenter.predict([first, second]), segmenter.predict([second, first])
        for one, two in zip(forward, reversed(backward), strict=True):
            assert same(one.instances, two.instances)

    def test_it_leaves_its_input_alone(self, segmenter):
        tile = tile_image(self.image(seed=6))
        image, valid = tile.image.copy(), tile.valid.copy()
        tile.image.setflags(write=False)
        tile.valid.setflags(write=False)
        segmenter.predict([tile])
        assert np.array_equal(tile.image, image)
        assert np.array_equal(tile.valid, valid)

    def test_a_band_first_view_is_read_like_a_copy(self, segmenter):
        image = self.image(seed=7)
        view = np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0)
        copied, viewed = segmenter.predict([tile_image(image), tile_image(view)])
        assert same(copied.instances, viewed.instances)

    @pytest.mark.parametrize("inner", [False, True])
    def test_instances_are_in_the_tile_and_well_formed(self, segmenter, inner):
        tiles = [tile_image(self.image(seed=s), inner=inner) for s in (8, 9)]
        for tile, prediction in zip(tiles, segmenter.predict(tiles), strict=True):
            self.check(segmenter.info, tile, prediction.instances)

    def test_a_constant_image_is_no_trouble(self, segmenter):
        for value in (0, 255):
            tile = tile_image(np.full_like(self.image(), value))
            self.check(segmenter.info, tile, segmenter.predict([tile])[0].instances)

    def test_an_image_without_valid_pixels_gives_well_formed_instances(self, segmenter):
        image = np.zeros_like(self.image())
        tile = tile_image(image, np.zeros(image.shape[:2], bool))
        self.check(segmenter.info, tile, segmenter.predict([tile])[0].instances)

    def test_invalid_pixels_are_no_trouble(self, segmenter):
        image = self.image(seed=10)
        valid = np.arange(image.shape[1])[None, :] > np.arange(image.shape[0])[:, None] * 0.5
        tile = tile_image(np.where(valid[..., None], image, 0), valid)
        self.check(segmenter.info, tile, segmenter.predict([tile])[0].instances)

    @pytest.mark.parametrize("shape", [(1, 37), (37, 1), (1, 1), (2, 3)])
    def test_slivers_are_no_trouble(self, segmenter, shape):
        height, width = (max(side, self.min_side) for side in shape)
        tile = tile_image(self.image(height, width, seed=11))
        self.check(segmenter.info, tile, segmenter.predict([tile])[0].instances)

    def check(self, info: ModelInfo, tile: TileImage, found: Instances) -> None:
        """The instances of one tile are what the rest of the pipeline takes for granted."""
        height, width = tile.image.shape[:2]
        box = found.box
        assert (box[:, :2] >= 0).all()
        assert (box[:, 2] <= height).all()
        assert (box[:, 3] <= width).all()
        assert not found.z.any()
        assert ((found.label >= 0) & (found.label < len(info.classes))).all()
        assert ((found.score >= 0) & (found.score <= 1)).all()  # False for NaN
        painted = np.zeros((height, width), int)
        for (row, col, row_stop, col_stop), mask in found:
            assert mask[0].any()
            assert mask[-1].any()
            assert mask[:, 0].any()
            assert mask[:, -1].any()
            painted[row:row_stop, col:col_stop] += mask
        if info.exclusive:
            assert painted.max(initial=0) <= 1
        runs, start, tight = rle.spans_to_runs(rle.normalise(found.spans()), len(found))
        assert np.array_equal(runs, found.runs)
        assert np.array_equal(start, found.start)
        assert np.array_equal(tight, found.box)

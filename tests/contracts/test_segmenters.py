"""The conformance laws of `segmenters.py` for the models that need no weights, and for a user's own."""

from __future__ import annotations

import numpy as np
import pytest
from contracts.segmenters import SegmenterContract

from seggeo.models import regions, threshold
from seggeo.models.custom import load_custom
from seggeo.protocols import ModelRequest

CODE = """
import numpy as np
from scipy import ndimage
from seggeo.instances import Instances

def components(tile, level):
    return ndimage.label(tile[..., 0] > level)[0]

class Labels:
    exclusive = True
    def __init__(self, level=128):
        self.level = level
    def predict(self, tiles):
        return [components(tile, self.level) for tile in tiles]

class Masks(Labels):
    exclusive = False
    classes = ("bright", "brighter")
    def predict(self, tiles):
        out = []
        for tile in tiles:
            tile += 0  # a user may write into what is handed out
            masks = np.stack([tile[..., 0] > self.level, tile[..., 1] > self.level + 20])
            out.append({"masks": masks, "scores": [0.5, 0.25], "labels": [0, 1]})
        return out

class Made(Labels):
    def predict(self, tiles):
        return [Instances.from_labels(components(tile, self.level), score=0.75) for tile in tiles]

class Native(Labels):
    native = True
"""


class TestThreshold(SegmenterContract):
    @pytest.fixture(params=[{}, {"split": False, "smooth": 0, "fill_holes": 0}, {"polarity": "dark", "channel": "saturation"}])
    def segmenter(self, request):
        return threshold.load(ModelRequest(name="threshold", settings={"level": 128, "polarity": "bright", **request.param}))


class TestRegions(SegmenterContract):
    @pytest.fixture(params=[{}, {"scale": 60, "min_area": 0, "compactness": 0}])
    def segmenter(self, request):
        return regions.load(ModelRequest(name="regions", settings=request.param))


class TestCustom(SegmenterContract):
    @pytest.fixture(params=["Labels", "Masks", "Made"])
    def segmenter(self, request, tmp_path):
        return custom(tmp_path, request.param)


class TestCustomNative(SegmenterContract):
    bands = 5
    dtype = np.uint16

    @pytest.fixture
    def segmenter(self, tmp_path):
        return custom(tmp_path, "Native")


def custom(folder, name):
    (folder / "my_model.py").write_text(CODE)
    spec = f"{folder / 'my_model.py'}:{name}"
    return load_custom(spec, ModelRequest(name=spec, settings={"level": 120}))

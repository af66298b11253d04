"""Models found by name, and the shape of what an entry point names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from seggeo import plugins
from seggeo.errors import ConfigError
from seggeo.models.custom import Custom
from seggeo.models.regions import Regions
from seggeo.models.threshold import Threshold
from seggeo.protocols import ModelRequest


def test_the_models_of_the_package_are_offered_in_order():
    names = list(plugins.available("seggeo.segmenters"))
    assert names == sorted(names)
    assert {"maskrcnn", "sam", "threshold", "regions"} <= set(names)


@pytest.mark.parametrize(("name", "kind"), [("threshold", Threshold), ("regions", Regions)])
def test_a_name_leads_to_a_factory(name, kind):
    factory = plugins.load("seggeo.segmenters", name)
    segmenter = factory(ModelRequest(name=name))
    assert isinstance(segmenter, kind)
    assert segmenter.info.name == name


def test_only_models_that_learn_from_the_overview_carry_calibrate():
    assert callable(plugins.load("seggeo.segmenters", "threshold").calibrate)
    assert not hasattr(plugins.load("seggeo.segmenters", "regions"), "calibrate")
    assert not hasattr(Custom, "calibrate")


def test_a_wrong_name_is_answered_with_the_right_one():
    with pytest.raises(ConfigError, match="did you mean 'threshold'") as caught:
        plugins.load("seggeo.segmenters", "treshold")
    assert "regions" in caught.value.why


def test_listing_plugins_imports_none_of_them():
    code = "import sys; from seggeo import plugins; plugins.available('seggeo.segmenters'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "rasterio", "scipy", "skimage", "seggeo.models.threshold"} & set(loaded)

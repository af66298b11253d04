"""Settings come from defaults, the weights file and the user, in that order, and wrong ones are named."""

from __future__ import annotations

import json

import pytest

from seggeo.errors import ConfigError
from seggeo.models.maskrcnn_settings import DetectorSettings, anchor_sizes, complete, read_settings


def test_the_user_beats_the_file_and_the_file_beats_the_default():
    settings = read_settings({"score": 0.3, "nms": 0.4, "licence": "CC0"}, {"score": 0.7})

    assert (settings.score, settings.nms, settings.mask_threshold) == (0.7, 0.4, 0.5)


@pytest.mark.parametrize("value", ["8,16,32,64,128", [8, 16, 32, 64, 128], "8, 16,32.0,64,128,"])
def test_lists_may_be_json_or_text(value):
    assert read_settings({}, {"anchors": value}).anchors == (8.0, 16.0, 32.0, 64.0, 128.0)
    assert read_settings({}, {"classes": "roof,pool"}).classes == ("roof", "pool")
    assert read_settings({}, {"mean": 0.5}).mean == (0.5,)
    assert read_settings({}, {"detections": "300"}).detections == 300


def test_an_unknown_setting_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no setting called 'scores'") as caught:
        read_settings({}, {"scores": 0.5})

    assert "mask_threshold" in caught.value.why
    assert "score=" in caught.value.mend


@pytest.mark.parametrize(
    "chosen",
    [
        {"score": 1.5},
        {"score": "high"},
        {"score": float("nan")},
        {"detections": 0},
        {"detections": 2.5},
        {"std": "0.2,0,0.2"},
        {"anchors": "8,big"},
        {"min_area": float("inf")},
        {"scale": -1},
        {"aspect_ratios": []},
        {"mean": [None]},
        {"score": [0.5]},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_is_refused_by_name(chosen):
    with pytest.raises(ConfigError, match=next(iter(chosen))):
        read_settings({}, chosen)


def test_three_bands_get_imagenets_normalisation_and_others_must_say():
    assert complete(DetectorSettings(), bands=3, classes=2).mean == (0.485, 0.456, 0.406)
    with pytest.raises(ConfigError, match="0 values of mean for a model of 4 bands"):
        complete(DetectorSettings(), bands=4, classes=2)
    with pytest.raises(ConfigError, match="2 values of std"):
        complete(DetectorSettings(mean=(0.5,) * 3, std=(0.2,) * 2), bands=3, classes=2)


def test_classes_have_names_without_background():
    assert complete(DetectorSettings(), bands=3, classes=2).classes == ("object",)
    assert complete(DetectorSettings(), bands=3, classes=4).classes == ("class_1", "class_2", "class_3")
    coco = complete(DetectorSettings(), bands=3, classes=91).classes
    assert (len(coco), coco[0], coco[-1]) == (90, "person", "toothbrush")
    with pytest.raises(ConfigError, match="1 class names for a model of 2 classes"):
        complete(DetectorSettings(classes=("roof",)), bands=3, classes=3)


def test_anchors_fit_the_network_or_are_refused():
    one_each = DetectorSettings(anchors=(8.0, 16.0, 32.0, 64.0, 128.0))
    assert anchor_sizes(one_each, anchors=3, levels=5) == ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,))
    assert anchor_sizes(one_each, anchors=15, levels=3) == ((8.0, 16.0, 32.0, 64.0, 128.0),) * 3
    assert anchor_sizes(DetectorSettings(anchors=((8.0, 12.0), (30.0, 40.0))), anchors=6, levels=2) == (
        (8.0, 12.0),
        (30.0, 40.0),
    )
    with pytest.raises(ConfigError, match="do not fit") as caught:
        anchor_sizes(DetectorSettings(anchors=(8.0, 16.0)), anchors=3, levels=5)
    assert "5 pyramid levels with 3 anchors" in caught.value.why
    assert "anchors=8,16,32,64,128" in caught.value.mend


def test_settings_are_plain_json():
    settings = read_settings({}, {"anchors": [[8, 12], [16, 24]]})

    assert json.loads(json.dumps(settings.to_json())) == settings.to_json()
    assert settings.to_json()["anchors"] == [[8.0, 12.0], [16.0, 24.0]]

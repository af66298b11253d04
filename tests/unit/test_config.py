"""Settings: one flat name for each value, checked where it is made."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from seggeo.config import Execution, Merge, Output, Reading, Settings, Tiling, field_names, settings_from, to_json
from seggeo.errors import ConfigError

RECORDS = (Reading, Tiling, Merge, Output, Settings, Execution)


def test_nothing_given_means_defaults():
    assert settings_from({}) == (Settings(), Execution())


def test_every_value_lands_in_its_record():
    values = {
        "model": "sam", "weights": Path("w.pth"), "set": {"points": 8}, "bands": (3, 2, 1), "gsd": 0.3, "tile": 512,
        "overlap": 64, "match_iou": 0.4, "min_area": 9,
        "format": ("gpkg", "cog"), "simplify": 0.5, "workers": 2, "device": "cpu",
        "overwrite": True,
    }  # fmt: skip
    settings, execution = settings_from(values)

    assert (settings.model, settings.weights, settings.set) == ("sam", Path("w.pth"), {"points": 8})
    assert settings.reading == Reading(bands=(3, 2, 1), gsd=0.3)
    assert settings.tiling == Tiling(tile=512, overlap=64)
    assert settings.merge == Merge(match_iou=0.4, min_area=9)
    assert settings.output == Output(format=("gpkg", "cog"), simplify=0.5)
    assert execution == Execution(workers=2, device="cpu", overwrite=True)


def test_no_two_records_share_a_name():
    names = [name for record in RECORDS for name in field_names(record)]

    assert len(names) == len(set(names))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown setting tiles") as caught:
        settings_from({"tiles": 512})

    assert "tile" in caught.value.why
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile": 8}, {"overlap": 3}, {"overlap": 0}, {"overlap": -2}, {"match_iou": 0.0}, {"match_iou": 1.0},
        {"match_iou": float("nan")}, {"bands": ()}, {"bands": (0, 1)}, {"gsd": 0.0}, {"gsd": -1.0}, {"gsd": float("nan")},
        {"format": ()}, {"simplify": -1.0}, {"simplify": float("nan")}, {"workers": -1}, {"batch": -1},
        {"diameter": 0.0}, {"diameter": float("inf")}, {"mpp": -0.5}, {"mpp": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_values_that_cannot_be_obeyed_are_refused_in_three_lines(wrong):
    with pytest.raises(ConfigError) as caught:
        settings_from(wrong)

    assert all((caught.value.what, caught.value.why, caught.value.mend))
    assert len(str(caught.value).splitlines()) == 3


def test_settings_become_plain_json():
    settings, _ = settings_from(
        {"weights": Path("a") / "w.pth", "bands": (1, 2), "aoi": Path("roi.gpkg"), "set": {"k": [1, 2]}}
    )
    values = json.loads(json.dumps(to_json(settings)))

    assert values["weights"] == str(Path("a") / "w.pth")
    assert values["reading"]["bands"] == [1, 2]
    assert values["reading"]["aoi"] == "roi.gpkg"
    assert values["set"] == {"k": [1, 2]}


def test_field_names_leave_nested_records_out():
    assert field_names(Settings) == ("model", "weights", "set", "diameter")
    assert field_names(Merge) == tuple(f.name for f in fields(Merge))

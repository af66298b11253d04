"""Settings: one flat name for each value, checked where it is made."""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from seggeo.config import Execution, Merge, Output, Reading, Settings, Tiling, field_names, settings_from, to_json
from seggeo.errors import ConfigError
from seggeo.evaluation.options import Options, options_from

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


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"aoi": "x.gpkg", "regions": "r.json", "weights": "w.pth"},
         {"aoi": Path("x.gpkg"), "regions": Path("r.json"), "weights": Path("w.pth")}),
        ({"format": "gpkg"}, {"format": ("gpkg",)}), ({"format": ["cog", "gpkg"]}, {"format": ("cog", "gpkg")}),
        ({"channel": "DAPI"}, {"channel": ("DAPI",)}), ({"channel": [2, "CD3"]}, {"channel": ("2", "CD3")}),
        ({"tile": np.int64(64)}, {"tile": 64}), ({"tile": "64"}, {"tile": 64}), ({"tile": 64.0}, {"tile": 64}),
        ({"bands": 1}, {"bands": (1,)}), ({"bands": np.array([3, 1])}, {"bands": (3, 1)}),
        ({"simplify": "0.5m"}, {"simplify": 0.5}), ({"smooth": "auto"}, {"smooth": None}), ({"gsd": "0.5"}, {"gsd": 0.5}),
        ({"gsd": np.float32(0.5)}, {"gsd": 0.5}), ({"nodata": "-9"}, {"nodata": -9.0}),
        ({"spacing": "2,1,1"}, {"spacing": (2.0, 1.0, 1.0)}),
        ({"set": "a=1"}, {"set": {"a": 1}}),
        ({"set": {"a": np.int64(3), "b": (np.float32(0.5),)}}, {"set": {"a": 3, "b": [0.5]}}),
        ({"model": Path("m.py:M"), "tissue": Path("t.png")}, {"model": "m.py:M", "tissue": "t.png"}),
        ({"preview": np.True_, "work": "w"}, {"preview": True, "work": Path("w")}), ({"gsd": None, "bands": None}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_written_in_python_means_what_it_means_on_the_command_line(given, meant):
    found = settings_from(given)

    assert found == settings_from(meant)
    assert json.dumps([to_json(record) for record in found]) == json.dumps([to_json(record) for record in settings_from(meant)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"tile": 64.5}, {"tile": True}, {"tile": None, "overlap": "x"}, {"device": None}, {"preview": "no"},
        {"preview": Path("p")},
        {"stretch": (0, 255)}, {"window": 3}, {"model": len}, {"set": {"a": object}}, {"set": None}, {"channel": [1.5]},
        {"nodata": [0]},
        {"aoi": 3}, {"simplify": None}, {"stretch": "a\nb", "window": 4},
    ],
    ids=str,
)  # fmt: skip
def test_values_of_another_type_are_refused_in_three_lines(wrong):
    with pytest.raises(ConfigError) as caught:
        settings_from(wrong)

    assert len(str(caught.value).splitlines()) == 3


def test_options_of_an_evaluation_are_converted_too():
    assert options_from({"thresholds": 0.5}).thresholds == options_from({"thresholds": "0.5"}).thresholds == (0.5,)
    assert options_from({"thresholds": np.array([0.75, 0.5]), "run": "r"}) == Options(thresholds=(0.5, 0.75), run=Path("r"))
    with pytest.raises(ConfigError, match="seggeo evaluate --help"):
        options_from({"thresholds": "many"})


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

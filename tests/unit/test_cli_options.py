"""Options, settings records and TOML keys are one list of names; values of any source become their field's type."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from seggeo.cli import options
from seggeo.cli.segment import segment
from seggeo.config import Execution, Merge, Output, Reading, Settings, Tiling, converted, field_names, settings_from
from seggeo.errors import ConfigError

RECORDS = (Reading, Tiling, Merge, Output, Execution, Settings)


def convert(name: str, value: Any) -> Any:
    return converted({name: value})[name]


def test_options_fields_and_toml_keys_are_one_list():
    parameters = set(inspect.signature(segment).parameters) - options.NOT_SETTINGS

    assert parameters == {name for record in RECORDS for name in field_names(record)}
    assert parameters == set(options.defaults())


def test_every_option_has_its_parameters_name_a_variable_and_a_help():
    hints = inspect.get_annotations(segment, eval_str=True)
    for name, hint in hints.items():
        declared = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, typer.models.OptionInfo)]
        for option in declared:
            names = [str(part).split("/")[0] for part in (option.default, *(option.param_decls or ()))]
            assert f"--{name.removesuffix('_').replace('_', '-')}" in names
            assert option.help.endswith(".")
            if name not in options.NOT_SETTINGS - {"nested", "time_limit"}:
                assert option.envvar == f"SEGGEO_{name.upper()}"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("bands", "3,2,1", (3, 2, 1)), ("bands", [3, 2, 1], (3, 2, 1)), ("bands", 4, (4,)), ("bands", "4", (4,)),
        ("format", ["gpkg,cog", "gpkg"], ("gpkg", "cog")), ("format", "fgb", ("fgb",)),
        ("simplify", "0.5m", 0.5), ("simplify", 2, 2.0), ("simplify", " 1 ", 1.0),
        ("max_pixels", "4e12", 4 * 10**12), ("max_pixels", 5.0, 5), ("tile", 512, 512), ("tile", "512", 512),
        ("diameter", "30", 30.0), ("mpp", 1, 1.0),
        ("gsd", "0.3", 0.3), ("gsd", 1, 1.0), ("preview", False, False), ("aoi", "a.gpkg", Path("a.gpkg")),
        ("work", Path("w"), Path("w")), ("model", "sam", "sam"),
        ("set", ["a=1", 'b="x"', "c=x", "d=[1,2]", "e=true", "f=a=b"],
         {"a": 1, "b": "x", "c": "x", "d": [1, 2], "e": True, "f": "a=b"}),
        ("set", {"a": 1}, {"a": 1}), ("set", "a=1", {"a": 1}),
    ],
)  # fmt: skip
def test_values_become_their_fields_type(name: str, value: Any, wanted: Any):
    found = convert(name, value)

    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bands", ""), ("bands", "1,,2"), ("bands", "red"), ("bands", 1.5), ("format", 3), ("format", [3]),
        ("simplify", "wide"),
        ("max_pixels", "nan"), ("max_pixels", "inf"), ("tile", "big"), ("tile", 1.5), ("tile", True), ("tile", [1]),
        ("gsd", [1]), ("gsd", {"a": 1}), ("preview", "no"), ("preview", 1), ("aoi", 3), ("model", 3), ("set", ["a"]),
        ("set", ["=1"]), ("workers", 1.5), ("min_score", "high"),
    ],
)  # fmt: skip
def test_values_of_another_kind_are_refused_by_name(name: str, value: Any):
    with pytest.raises(ConfigError) as caught:
        convert(name, value)

    assert f"--{name.replace('_', '-')}" in caught.value.what
    assert "\n" not in str(caught.value.why)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tilee = 3", "did you mean tile"), ("out = 'x'", "unknown setting out"), ("tile = ", "cannot be read"),
        ("tile = 3\ntile = 4", "cannot be read"), ("[tiling]\ntile = 3", "unknown setting tiling"),
    ],
)  # fmt: skip
def test_configuration_files_that_cannot_be_obeyed(tmp_path: Path, text: str, says: str):
    path = tmp_path / "job.toml"
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        options._read_toml(path)

    assert says in str(caught.value)
    assert "job.toml" in caught.value.what


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_files_that_are_no_text(tmp_path: Path, content: bytes | None):
    path = tmp_path / "job.toml"
    path.write_bytes(content) if content else path.mkdir()

    with pytest.raises(ConfigError):
        options._read_toml(path)


def test_defaults_make_the_default_records():
    assert settings_from(options.defaults()) == (Settings(), Execution())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("55m", 3300), ("3h", 10800), ("1h30m", 5400), ("2d", 172800), ("02:59:00", 10740),
     ("10:30", 37800), ("1-00:00:30", 86430), ("0.5s", 0.5)],
)  # fmt: skip
def test_durations(text: str, seconds: float):
    assert options.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "5 minutes", "1:2", "0h", "h"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ConfigError, match="time-limit"):
        options.duration(text)

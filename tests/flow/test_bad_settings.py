"""Settings that cannot be, and how refusals and bugs are told, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support_flow import PLAIN, below, call
from support_io import noise, write


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gsd", "inf"], "GSD"), (["--simplify", "nan"], "simplify"), (["--simplify", "inf"], "simplify"),
        (["--max-pixels", "nan"], "max-pixels"), (["--bands", "1,,2"], "bands"), (["--bands", "0"], "bands"),
        (["--stretch", "wide"], "stretch"), (["--set", "=1"], "set"), (["--overlap", "3"], "overlap"),
        (["--overlap", "100"], "overlap"), (["--tile", "3"], "tile"), (["--match-iou", "0"], "match-iou"),
        (["--min-area", "-1"], "min-area"), (["--min-score", "nan"], "min-score"), (["--min-score", "2"], "min-score"),
        (["--workers", "-1"], "workers"), (["--device", "tpu"], "tpu"), (["--config", "none.toml"], "none.toml"),
        (["--nested", "flat"], "nested"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(tmp_path: Path, arguments: list[str], says: str):
    write(tmp_path / "a.tif", noise((3, 64, 64)))

    ran = call("segment", "a.tif", *PLAIN, *arguments, cwd=tmp_path)

    assert ran.code == 2, ran.err
    assert says in ran.refusal()[0]
    assert below(tmp_path) == {"a.tif"}


def test_a_bug_is_called_a_bug_and_debug_shows_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "a.tif", noise((3, 64, 64)))
    monkeypatch.setattr("seggeo.run.segment.make_plan", lambda *_: 1 / 0)

    ran = call("segment", "a.tif", cwd=tmp_path)

    assert ran.code == 1
    assert ran.refusal()[1] == "  why: this is a bug in seggeo"
    with pytest.raises(ZeroDivisionError):
        call("--debug", "segment", "a.tif", cwd=tmp_path)


def test_no_memory_is_a_matter_of_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def greedy(*_: object) -> None:
        raise MemoryError

    write(tmp_path / "a.tif", noise((3, 64, 64)))
    monkeypatch.setattr("seggeo.run.segment.make_plan", greedy)

    ran = call("segment", "a.tif", cwd=tmp_path)

    assert ran.code == 7
    assert "--tile" in ran.refusal()[2]


def test_debug_tells_where_a_refusal_comes_from(tmp_path: Path):
    ran = call("--debug", "segment", "none.tif", cwd=tmp_path)

    assert ran.code == 3
    assert ran.err.endswith("fix: check the path\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "nope"), (["segment"], "INPUT"), (["segment", "a.tif", "--tilee", "3"], "--tilee"), (["--nope"], "--nope"),
        (["segment", "a.tif", "--tile", "abc"], "--tile"), (["count-cells", "a.tif"], "--out"),
    ],
)  # fmt: skip
def test_a_command_line_that_cannot_be_read_is_refused_as_everything_is(tmp_path: Path, arguments: list[str], says: str):
    ran = call(*arguments, cwd=tmp_path)
    as_json = call("--log-format", "json", *arguments, cwd=tmp_path)

    assert (ran.code, as_json.code) == (2, 2)
    assert says in ran.refusal()[0]
    assert "--help" in ran.refusal()[2]
    assert says in json.loads(as_json.err)["message"]


def test_a_variable_that_cannot_be_read_is_named(tmp_path: Path):
    ran = call("segment", "a.tif", cwd=tmp_path, SEGGEO_TILE="abc")

    assert ran.code == 2
    assert "SEGGEO_TILE" in ran.refusal()[0]


@pytest.mark.parametrize("arguments", [[], ["models"]], ids=str)
def test_no_command_is_answered_with_the_help(tmp_path: Path, arguments: list[str]):
    ran = call(*arguments, cwd=tmp_path)

    assert "Usage:" in ran.err + ran.out
    assert "error: " not in ran.err


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_that_is_missing_is_a_missing_input(tmp_path: Path, made: bool):
    if made:
        (tmp_path / "none").mkdir()
    write(tmp_path / "a.tif", noise((1, 64, 64)))
    for arguments in (["run", "none"], ["merge", "none"], ["status", "none"], ["evaluate", "a.tif", "a.tif", "--run", "none"]):
        ran = call(*arguments, cwd=tmp_path)

        assert ran.code == 3, arguments
        assert "--work" not in ran.refusal()[2]


def test_a_name_with_a_newline_is_segmented_and_told_on_one_line(tmp_path: Path):
    write(tmp_path / "new\nline.tif", noise((1, 64, 64)))

    ran = call("segment", "new\nline.tif", *PLAIN, "--no-preview", "-o", "out.d/", cwd=tmp_path)
    missing = call("segment", "no\nline.tif", cwd=tmp_path)

    assert ran.code == 0, ran.err
    assert [path.suffix for path in (tmp_path / "out.d").glob("new_line_*_objects.gpkg")] == [".gpkg"]
    assert missing.code == 3
    assert "no\\nline.tif does not exist" in missing.refusal()[0]


def test_a_separator_at_the_end_means_a_folder_now_and_when_a_plan_is_merged(tmp_path: Path):
    write(tmp_path / "a.tif", noise((1, 64, 64)))

    codes = [
        call("plan", "segment", "a.tif", *PLAIN, "--no-preview", "-o", "run.tif/", "--job", "job", cwd=tmp_path).code,
        call("run", "job", cwd=tmp_path).code, call("merge", "job", cwd=tmp_path).code,
    ]  # fmt: skip

    assert codes == [0, 0, 0]
    assert (tmp_path / "run.tif" / "a_objects.gpkg").is_file()

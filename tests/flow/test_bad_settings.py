"""Settings that cannot be, and how refusals and bugs are told, through the command."""

from __future__ import annotations

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

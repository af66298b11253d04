"""Which inputs a command line means, and what each one's outputs are called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seggeo.cli.inputs import expand
from seggeo.errors import ConfigError
from seggeo.run.plan import input_name, public_name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.tif", "a.tif", "[x].tif", "deep/a.tif", "deep/c.png", "A.TIF"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_globs_come_in_order_and_leave_out_folders():
    assert [name for name, _ in expand(["*.tif"])] == ["[x].tif", "a.tif", "b.tif"]
    assert [name for name, _ in expand(["**/*.png"])] == ["deep/c.png"]


def test_a_file_that_is_there_is_no_pattern():
    assert expand(["[x].tif"]) == [("[x].tif", "[x]")]


def test_one_file_by_several_names_counts_once(folder: Path):
    os.symlink("a.tif", folder / "link.tif")

    assert expand(["a.tif", "./a.tif", str(folder / "a.tif"), "link.tif", "deep/../a.tif", "?.tif"]) == [
        ("a.tif", "a"), ("b.tif", "b"),
    ]  # fmt: skip


def test_equal_names_are_told_apart_the_same_way_each_time():
    first = expand(["a.tif", "deep/a.tif", "A.TIF"])

    assert len({stem.casefold() for _, stem in first}) == 3
    assert first == expand(["a.tif", "deep/a.tif", "A.TIF"])
    assert dict(first)["a.tif"] == dict(expand(["deep/a.tif", "a.tif"]))["a.tif"]


def test_addresses_are_no_patterns():
    assert expand(["https://host/x.tif?a=[1]"]) == [("https://host/x.tif?a=[1]", "x")]


@pytest.mark.parametrize("pattern", ["*.jp2", "nothing/*", "dee?"])
def test_a_pattern_without_files(pattern: str):
    with pytest.raises(ConfigError, match="matches no file"):
        expand([pattern])


def test_what_is_missing_or_a_loop_is_left_to_the_reader(folder: Path):
    os.symlink("loop.tif", folder / "loop.tif")

    assert expand(["none.tif", "loop.tif"]) == [("none.tif", "none"), ("loop.tif", "loop")]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.c.tif", "b.c"), ("https://h/p/x.tif?sig=1", "x"), ("s3://bucket/x.tif", "x"), ("what?.tif", "what?"),
        (".hidden", ".hidden"), ("/", "image"), ("a.nii.gz", "a"), ("a.ome.tif", "a"), ("b/A.OME.zarr/", "A"),
        (".ome.tif", ".ome"),
    ],
)  # fmt: skip
def test_names_of_inputs(path: str, name: str):
    assert input_name(path) == name


def test_long_names_are_cut_and_stay_apart():
    long = ["é" * 120 + ending + ".tif" for ending in ("a", "b")]

    names = [input_name(path) for path in long]

    assert len(set(names)) == 2
    assert all(len(name.encode()) < 180 for name in names)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host:81/a.tif?token=1#x", "https://host:81/a.tif"), ("s3://bucket/a.tif", "s3://bucket/a.tif"),
        ("a?b@c.tif", "a?b@c.tif"), ("--tile", "--tile"),
    ],
)  # fmt: skip
def test_addresses_are_shown_without_secrets(address: str, shown: str):
    assert public_name(address) == shown

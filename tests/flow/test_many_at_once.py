"""Eight processes that do the same job on the same output at a time: it is whole, and nobody but them need know."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support_faults import NOTHING, Fault, Faults, contents, shim
from support_flow import Ran, scene, write_picture

TILES = ("--model", "threshold", "--tile", "96", "--overlap", "32", "--workers", "1", "-q")
JOB = ("scene.tif", *TILES, "-f", "gpkg,cog,ome-zarr", "--no-preview", "-o", "out")
COMMANDS = {"segment": ("segment", *JOB), "merge": ("merge", "job", "-q")}
LOCKS = {"locks": NOTHING, "locks that are void": Fault(locks_are_void=True)}


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A warm process that forks many at a time."""
    made = Faults(shim(tmp_path_factory.mktemp("shim")))
    yield made
    made.close()


@pytest.fixture(scope="module")
def templates(faults: Faults, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By command: a folder as it is before it, and in `after` beside it what one process leaves."""
    made = {}
    for name, command in COMMANDS.items():
        place = tmp_path_factory.mktemp(name)
        before, folder = place / "before", place / "place"
        folder.mkdir()
        write_picture(folder / "scene.tif", scene("snakes", 4, (200, 220)))
        for first in [("plan", "segment", *JOB, "--job", "job"), ("run", "job", "-q")] if name == "merge" else []:
            assert faults.run(*first, cwd=folder).code == 0
        shutil.copytree(folder, before)
        assert faults.run(*command, cwd=folder).code == 0
        shutil.copytree(folder, place / "after")
        made[name] = before
    return made


@pytest.mark.parametrize(
    ("name", "locks", "rounds"),
    [
        ("segment", "locks", 5),
        ("merge", "locks that are void", 5),
        *(pytest.param(name, locks, 50, marks=pytest.mark.slow) for name in COMMANDS for locks in LOCKS),
    ],
)
def test_eight_at_once(faults: Faults, templates: dict[str, Path], name: str, locks: str, rounds: int):
    rng = random.Random(f"{name}{rounds}")
    before = templates[name]
    after, folder, codes = before.with_name("after"), before.with_name("place"), []
    for number in range(rounds):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        longest = rng.choice([0.0, 0.2, 1.0])

        ended = faults.together(
            *COMMANDS[name], cwd=folder, delays_s=[rng.uniform(0, longest) for _ in range(8)], fault=LOCKS[locks]
        )

        for one in ended:
            assert one.code in (0, 8), (number, one.err)
            if one.code == 8:
                Ran(code=one.code, out=one.out, err=one.err).refusal()
        codes += [one.code for one in ended]
        assert 0 in [one.code for one in ended], number
        assert contents(folder) == contents(after), number
    print(f"\n{name}, {locks}: {rounds} rounds, {codes.count(0)} ended 0, {codes.count(8)} ended 8")

"""Every call that writes is made to fail: outputs are whole or absent, one message says why, the next run mends it."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support_faults import Ended, Fault, Faults, contents, mounted, shim
from support_flow import ORACLE, Ran, scene, write_labels, write_model

ORACLE_TILES = (
    "--model", "oracle.py:Oracle", "--tile", "96", "--overlap", "32", "--workers", "1", "--no-check-space", "-q"
)  # fmt: skip
SIZED = ORACLE.replace("    def predict", "    def __init__(self, mpp=None):\n        pass\n\n    def predict")
MAPS = ("scene.tif", *ORACLE_TILES, "--no-preview", "-f", "gpkg,fgb,parquet,geojson,cog")
PICTURE = ("scene.tif", *ORACLE_TILES, "-f", "cog")
LABELS = ("scene.tif", "--model", "threshold", *ORACLE_TILES[2:], "--no-preview", "-f", "cog")
CELLS = ("cells.tif", *ORACLE_TILES, "--mpp", "0.5", "--no-preview", "-f", "cells,cells-csv,qupath,ome-tiff,ome-zarr")
PLANNED = ("-o", "out", "--job", "job", "--shards", "2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A command, and those that come before it."""

    before: tuple[tuple[str, ...], ...] = ()
    command: tuple[str, ...]


CASES = {
    "maps": Case(command=("segment", *MAPS, "-o", "out")),
    "cells": Case(command=("segment", *CELLS, "-o", "out")),
    "preview": Case(command=("segment", *PICTURE, "-o", "out")),
    "plan": Case(command=("plan", "segment", *LABELS, *PLANNED)),
    "run": Case(before=(("plan", "segment", *LABELS, *PLANNED),), command=("run", "job", "--part", "1/2", "-q")),
    "merge": Case(before=(("plan", "segment", *LABELS, *PLANNED), ("run", "job", "-q")), command=("merge", "job", "-q")),
}  # fmt: skip


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A warm process in which any call that writes can be made to fail."""
    made = Faults(shim(tmp_path_factory.mktemp("shim")))
    yield made
    made.close()


@dataclass(slots=True, kw_only=True)
class Stage:
    """One case: its folder as it is before the command, and what the undisturbed command leaves."""

    faults: Faults
    case: Case
    folder: Path
    template: Path
    clean: dict[str, str]
    calls: int
    """That the undisturbed command makes."""

    def fresh(self) -> None:
        """The folder as it is before the command."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder)

    def fails(self, fault: Fault) -> Ended:
        """The command with a fault in a fresh folder, and then without; checks all that must hold."""
        self.fresh()
        ended = self.faults.run(*self.case.command, cwd=self.folder, fault=fault)
        check_failed(ended, self)
        after = self.faults.run(*self.case.command, cwd=self.folder)
        assert after.code == 0, (fault, after.err)
        assert contents(self.folder) == self.clean, fault
        return ended


def stage(faults: Faults, case: Case, folder: Path) -> Stage:
    """A case made ready in `folder`."""
    template, place = folder / "template", folder / "place"
    place.mkdir()
    small = scene("discs", 4, (130, 140))
    write_labels(place / "scene.tif", small)
    write_labels(place / "cells.tif", small, crs=None, transform=None)
    write_model(place, SIZED)
    for command in case.before:
        ended = faults.run(*command, cwd=place)
        assert ended.code == 0, ended.err
    place.rename(template)
    made = Stage(faults=faults, case=case, folder=place, template=template, clean={}, calls=0)
    for _ in range(2):  # the first warms the process up and compiles the model
        made.fresh()
        ended = faults.run(*case.command, cwd=place)
        assert ended.code == 0, ended.err
    made.clean, made.calls = contents(place), ended.calls
    return made


def check_failed(ended: Ended, at: Stage) -> None:
    """What must hold after any fault: an honest end, and only whole files under final names."""
    there = contents(at.folder)
    assert ended.code in (0, 5, 7), (ended.code, ended.err)
    if ended.code == 0:
        assert there == at.clean, "it said that all is well"
    else:
        Ran(code=ended.code, out=ended.out, err=ended.err).refusal()
    for name, digest in there.items():
        assert not digest or digest == at.clean.get(name) or name.endswith(".begun") or "/merged/" in name, f"{name} is torn"
        assert not name.endswith((".writing", ".copying", ".replaced")), f"{name} was left behind"


def kinds(stage: Stage) -> list[Fault]:
    """Every call once with an error that passes, and every fifth one as a disk that is full from then on."""
    once = [Fault(at=k, error=errno.EIO) for k in range(1, stage.calls + 1)]
    full = [Fault(at=k, error=errno.ENOSPC, stays=True) for k in range(1, stage.calls + 1, 5)]
    return once + full


@pytest.mark.parametrize("name", CASES)
def test_some_calls_that_write_fail(faults: Faults, tmp_path: Path, name: str):
    made = stage(faults, CASES[name], tmp_path)

    ended = [made.fails(fault) for fault in random.Random(name).sample(kinds(made), 2 if name in ("maps", "cells") else 1)]

    assert all(one.calls > 0 for one in ended)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_call_that_writes_fails(faults: Faults, tmp_path: Path, name: str):
    made = stage(faults, CASES[name], tmp_path)

    bad, codes = [], []
    for fault in kinds(made):
        try:
            codes.append(made.fails(fault).code)
        except AssertionError as error:
            bad.append(f"{fault}: {error}")

    print(f"\n{name}: {len(codes)} faults, {codes.count(5)} ended 5, {codes.count(7)} ended 7, {codes.count(0)} did no harm")
    assert not bad, "\n".join(bad)
    assert codes.count(0) < len(codes) / 2


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["maps", "cells"])
def test_a_limit_on_the_size_of_files(faults: Faults, tmp_path: Path, name: str, count: int):
    made = stage(faults, CASES[name], tmp_path)
    largest = max(path.stat().st_size for path in (made.folder / "out").rglob("*") if path.is_file())
    rng = random.Random(f"{name}{count}")

    ended = [made.fails(Fault(file_bytes=int(largest ** rng.uniform(0.5, 0.99)))) for _ in range(count)]

    assert {one.code for one in ended} == {7}


@pytest.mark.parametrize("count", [1, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["maps", "cells"])
def test_a_disk_of_one_megabyte_that_fills(faults: Faults, tmp_path: Path, name: str, count: int):
    made = stage(faults, CASES[name], tmp_path)
    made.folder.rename(tmp_path / "whole")
    needed = sum(path.stat().st_size for path in (tmp_path / "whole" / "out").rglob("*") if path.is_file())
    rng, codes = random.Random(f"{name}{count}"), []
    with mounted(made.folder, "-t", "tmpfs", "-o", "size=1m", "seggeo"):
        for _ in range(count):
            _empty(made.folder)
            shutil.copytree(made.template, made.folder, dirs_exist_ok=True)
            free = rng.randrange(4096, needed)
            (made.folder / "ballast").write_bytes(bytes(shutil.disk_usage(made.folder).free - free))
            ended = faults.run(*made.case.command, cwd=made.folder)
            (made.folder / "ballast").unlink()
            check_failed(ended, made)
            codes.append(ended.code)
            after = faults.run(*made.case.command, cwd=made.folder)
            assert after.code == 0, after.err
            assert contents(made.folder) == made.clean

    assert set(codes) <= {0, 7}
    assert codes.count(7) > count / 2


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _as_new(made: Stage) -> None:
    """Nothing yet: the folder that is read-only is the one to write into."""


def _as_done(made: Stage) -> None:
    """The command has run before."""
    ended = made.faults.run(*made.case.command, cwd=made.folder)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("maps", _as_new),
        ("merge", _as_done),
        *(pytest.param(name, before, marks=pytest.mark.slow) for name in CASES for before in (_as_new, _as_done)),
    ],
)
def test_a_disk_that_may_not_be_written(faults: Faults, tmp_path: Path, name: str, before: Callable[[Stage], None]):
    made = stage(faults, CASES[name], tmp_path)
    made.fresh()
    before(made)
    made.folder.rename(tmp_path / "source")
    there = contents(tmp_path / "source")
    with mounted(made.folder, "--bind", "-o", "ro", str(tmp_path / "source")):
        ended = faults.run(*made.case.command, cwd=made.folder)

    assert contents(tmp_path / "source") == there
    if ended.code == 0:
        assert there == made.clean
    else:
        assert ended.code == 5, ended.err
        Ran(code=ended.code, out=ended.out, err=ended.err).refusal()

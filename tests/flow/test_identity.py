"""Equal jobs write equal bytes: any number of workers, any order of parts, run again or in one go."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from support_flow import FORMATS, ORACLE, SMALL, digests, scene, seggeo, succeed, write_labels, write_model, write_picture

from seggeo.config import settings_from
from seggeo.run.execute import pending, run_parts
from seggeo.run.part import Recipe
from seggeo.run.plan import make_plan
from seggeo.store import RunStore

JOB = ("segment", "scene.tif", "--model", "threshold", "-f", ",".join(FORMATS), *SMALL[:4])
SETTINGS = {"model": "threshold", "format": FORMATS, "tile": 128, "overlap": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture and its undisturbed result in `one`, made by one worker in this process."""
    folder = tmp_path_factory.mktemp("identity")
    write_picture(folder / "scene.tif", scene("snakes", 2, (420, 520)))
    succeed(*JOB, "-o", "one", "--workers", "1", cwd=folder)
    assert len(digests(folder / "one")) == len(FORMATS) + 2
    return folder


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_workers_do_not_matter(folder: Path, workers: int):
    ran = seggeo(*JOB, "-o", f"by{workers}", "--workers", str(workers), cwd=folder)

    assert ran.code == 0, ran.err
    assert digests(folder / f"by{workers}") == digests(folder / "one")
    assert _parts(folder / f"by{workers}") == _parts(folder / "one")


def test_a_process_of_its_own_does_not_matter(folder: Path):
    seggeo(*JOB, "-o", "own", "--workers", "1", cwd=folder, PYTHONHASHSEED="7", TZ="Asia/Kathmandu", LC_ALL="C")

    assert digests(folder / "own") == digests(folder / "one")


def test_the_order_of_parts_does_not_matter(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    settings, execution = settings_from({**SETTINGS, "workers": 1})
    plan = make_plan("scene.tif", settings, execution)
    store = RunStore(folder / "back" / "scene.seggeo")
    store.open(plan.job)
    parts = list(range(len(plan.job.parts)))
    assert len(parts) > 5
    recipe = Recipe(path="scene.tif", reading=settings.reading, job=plan.job, request=plan.request, threads=1)
    for _ in run_parts(recipe, store.folder, parts[::-2], workers=1):
        pass
    todo, done = pending(store, range(len(parts)))
    assert (len(todo), len(done)) == (len(parts[1::2]) if len(parts) % 2 else len(parts[::2]), len(parts[::-2]))
    for _ in run_parts(recipe, store.folder, todo[::-1], workers=1, segmenter=plan.segmenter):
        pass

    succeed(*JOB, "-o", "back", "--workers", "1", cwd=folder)

    assert digests(folder / "back") == digests(folder / "one")
    assert _parts(folder / "back") == _parts(folder / "one")


def test_a_damaged_part_is_made_anew(folder: Path):
    succeed(*JOB, "-o", "hurt", "--workers", "1", cwd=folder)
    made = digests(folder / "hurt")
    parts = sorted((folder / "hurt" / "scene.seggeo").rglob("*.part"))
    data = bytearray(parts[3].read_bytes())
    data[len(data) // 2] ^= 0x10
    parts[3].write_bytes(data)
    parts[4].write_bytes(parts[4].read_bytes()[:-7])
    parts[5].unlink()

    succeed(*JOB, "-o", "hurt", "--workers", "1", "--overwrite", cwd=folder)

    assert digests(folder / "hurt") == made
    assert _parts(folder / "hurt") == _parts(folder / "one")


def test_where_the_input_lies_does_not_matter(tmp_path: Path):
    write_model(tmp_path, ORACLE)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write_labels(tmp_path / name / "scene.tif", scene("discs", 3, (200, 200)))
        model = ("--model", str(tmp_path / "oracle.py") + ":Oracle")
        succeed("segment", f"{name}/scene.tif", *model, "-o", f"{name}/out", "-f", "gpkg,cog", *SMALL, cwd=tmp_path)

    assert digests(tmp_path / "here" / "out") == digests(tmp_path / "there" / "out")


def _parts(folder: Path) -> dict[str, str]:
    paths = (folder / "scene.seggeo").rglob("*.part")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

"""Damaged images, weights and job files: no hang, no crash, and no success where the pixels could not be read."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support_faults import Ended, Faults, contents
from support_flow import Ran, scene, write_model, write_picture
from support_mutations import IMAGES, make_weights, mutated, readings

SEEN = '''
import numpy as np


class Seen:
    """Finds nothing; keeps what it was shown."""

    native = True
    wants_places = True

    def __init__(self, mpp=None):
        pass

    def predict(self, tiles, places):
        for tile, place in zip(tiles, places):
            window = place.window
            np.savez(f"seen/{place.index}.npz", pixels=tile, place=[window.row, window.col])
        return [tile[:, :, 0].astype("int32") * 0 for tile in tiles]
'''
TILES = ("--tile", "96", "--overlap", "32", "--workers", "1", "--no-preview", "-q")
LONGEST_S = 10.0
"""CPU seconds; by the clock more, since machines are shared."""
REFUSALS = (2, 3, 4, 6, 7)
LEFT_IN_MEMORY = 16
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. 'rasterio._env.log_error':pytest.PytestUnraisableExceptionWarning"
)  # rasterio cannot decode what libtiff says of some damaged tags; here it is the rival that reads them


@pytest.fixture(scope="module")
def warm() -> Iterator[Faults]:
    """A warm process, so that a crash is that of its child."""
    made = Faults(None)
    yield made
    made.close()


def ran(warm: Faults, *args: str, cwd: Path, what: str) -> Ended:
    """A command that must end, by itself, and say properly why if it must."""
    ended = warm.run(*args, cwd=cwd, timeout_s=12 * LONGEST_S)
    assert ended.code >= 0, f"{what}: killed by signal {-ended.code}: {ended.err[-500:]}"
    assert ended.cpu_s <= LONGEST_S, f"{what}: {ended.cpu_s:.1f} s"
    assert "bug in seggeo" not in ended.err, f"{what}: {ended.err}"
    if ended.code:
        Ran(code=ended.code, out=ended.out, err=ended.err).refusal()
    return ended


def images(warm: Faults, folder: Path, kind: str, count: int) -> Counter[int]:
    """Mutations of one kind of image; what the runs ended with."""
    name, make = IMAGES[kind]
    write_model(folder, SEEN, "seen.py")
    make(folder / "whole")
    (folder / "whole").rename(folder / name)
    data, rng, codes = (folder / name).read_bytes(), random.Random(f"{kind}{count}"), Counter[int]()
    for number in range(-1, count):
        what, changed = mutated(data, rng) if number >= 0 else ("whole", data)
        (folder / name).write_bytes(changed)
        for old in ("seen", "out"):
            shutil.rmtree(folder / old, ignore_errors=True)
        (folder / "seen").mkdir()
        ended = ran(warm, "segment", name, "--model", "seen.py:Seen", *TILES, "-o", "out", cwd=folder, what=f"{kind} {what}")
        assert ended.code in (0, *REFUSALS), f"{kind} {what}: {ended.code} {ended.err}"
        if ended.code == 0:
            check_seen(folder, readings(folder / name), f"{kind} {what}")
        assert number >= 0 or ended.code == 0, ended.err
        codes[ended.code] += number >= 0
    return codes


def check_seen(folder: Path, rivals: list[np.ndarray | None], what: str) -> None:
    """What the model was shown is what somebody else reads.

    Where a deflated block lies about its length tifffile refuses it; libtiff says nothing and leaves a few bytes of the block
    as they were in memory, so that rasterio itself may read them in two ways.
    """
    by_rasterio, by_tifffile = rivals
    assert any(rival is not None for rival in rivals), f"{what}: it ended well, and nobody else can read the pixels"
    shown = [np.load(path) for path in sorted((folder / "seen").glob("*.npz"))]
    loose = 0 if by_tifffile is not None else LEFT_IN_MEMORY
    checks = [(by_rasterio, loose), (by_tifffile, 0)]
    fits = [
        all(agrees(one["pixels"], one["place"], rival, most) for one in shown) for rival, most in checks if rival is not None
    ]
    assert any(fits), f"{what}: other pixels"


def agrees(pixels: np.ndarray, place: np.ndarray, rival: np.ndarray, most: int) -> bool:
    """Whether a tile `(h, w, c)` is a part of an image `(c, h, w)`, all its bands or some, but for `most` values a band."""
    (row, col), (height, width) = place, pixels.shape[:2]
    there = rival[:, row : row + height, col : col + width]
    return there.shape[1:] == (height, width) and all(
        any(differing(pixels[:, :, band], one) <= most for one in there) for band in range(pixels.shape[2])
    )


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """Values that differ; NaN is NaN."""
    return int((~((a == b) | ((a != a) & (b != b)))).sum())


def job_files(warm: Faults, folder: Path, count: int) -> Counter[int]:
    """Mutations of what a planned and predicted batch consists of; what its merges ended with."""
    (folder / "place").mkdir()
    place, template = folder / "place", folder / "template"
    write_picture(place / "scene.tif", scene("discs", 4, (200, 220)))
    plan = ("plan", "segment", "scene.tif", "--model", "threshold", *TILES, "-f", "cog", "-o", "out", "--job", "job")
    for command in (plan, ("run", "job", "-q")):
        assert ran(warm, *command, cwd=place, what="whole").code == 0
    shutil.copytree(place, template)
    assert ran(warm, "merge", "job", "-q", cwd=place, what="whole").code == 0
    clean = contents(place / "out")
    files = sorted(path.relative_to(template) for path in (template / "job").rglob("*") if path.is_file())
    files = [path for path in files if path.suffix in (".json", ".bin", ".part")]
    assert {path.name for path in files} >= {"batch.json", "parts.bin", "job.json", "task.json", "000003.part"}
    rng, codes = random.Random(f"job{count}"), Counter[int]()
    for _ in range(count):
        shutil.rmtree(place)
        shutil.copytree(template, place)
        path = rng.choice(files)
        how, changed = mutated((place / path).read_bytes(), rng)
        what = f"{path} {how}"
        (place / path).write_bytes(changed)
        merged = ran(warm, "merge", "job", "-q", cwd=place, what=what)
        codes[merged.code] += 1
        if merged.code == 0:
            assert contents(place / "out") == clean, f"{what}: another result"
        elif path.suffix == ".part":
            assert ran(warm, "run", "job", "-q", cwd=place, what=what).code == 0
            assert ran(warm, "merge", "job", "-q", cwd=place, what=what).code == 0
            assert contents(place / "out") == clean, f"{what}: another result"
        assert merged.code in (0, 1, *REFUSALS), f"{what}: {merged.err}"
    return codes


def weights(warm: Faults, folder: Path, count: int) -> Counter[int]:
    """Mutations of a weights file; what the runs ended with."""
    make_weights(folder / "w.safetensors")
    IMAGES["tiled"][1](folder / "a.tif")
    data, rng, codes = (folder / "w.safetensors").read_bytes(), random.Random(f"weights{count}"), Counter[int]()
    for number in range(-1, count):
        what, changed = mutated(data, rng) if number >= 0 else ("whole", data)
        (folder / "w.safetensors").write_bytes(changed)
        shutil.rmtree(folder / "out", ignore_errors=True)
        command = ("segment", "a.tif", "--model", "unet", "--weights", "w.safetensors", "--device", "cpu", *TILES, "-o", "out")
        ended = ran(warm, *command, cwd=folder, what=f"weights {what}")
        assert ended.code in (0, 4, 6), f"weights {what}: {ended.code} {ended.err}"
        assert number >= 0 or ended.code == 0, ended.err
        codes[ended.code] += number >= 0
    return codes


@pytest.mark.parametrize("count", [8, pytest.param(250, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images(warm: Faults, tmp_path: Path, kind: str, count: int):
    codes = images(warm, tmp_path, kind, count)

    print(f"\n{kind}: {count} mutations ended {dict(codes)}")
    assert codes.total() == count


@pytest.mark.parametrize("count", [8, pytest.param(350, marks=pytest.mark.slow)])
def test_damaged_job_files(warm: Faults, tmp_path: Path, count: int):
    codes = job_files(warm, tmp_path, count)

    print(f"\njob files: {count} mutations ended {dict(codes)}")
    assert codes.total() == count


@pytest.mark.parametrize("count", [4, pytest.param(150, marks=pytest.mark.slow)])
def test_damaged_weights(warm: Faults, tmp_path: Path, count: int):
    codes = weights(warm, tmp_path, count)

    print(f"\nweights: {count} mutations ended {dict(codes)}")
    assert codes.total() == count

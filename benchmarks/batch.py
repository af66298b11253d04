"""What a batch costs beside its predictions: planning a million tiles, and giving the command of a finished run again.

    python benchmarks/batch.py [--side 1000] [--finished 316]

The image is a sparse tiled TIFF, 200 of whose blocks hold noise, and the model answers at once with nothing, or ends the
process that calls it when it should not be called at all. Whole commands are measured, Python's start and all imports
included: CPU seconds of the process, seconds by the clock, and the most memory it held. Compared with limits: 10 s, 300 MiB
and 20 000 files for the plan of a million tiles, 5 s for the second time. pyogrio imports geopandas where that is installed,
40 MiB that seggeo does not use; the plan is measured with and without.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

TILE, OVERLAP, BLOCK = 128, 16, 512
MODEL = """
import os


class Stub:
    native = True

    def predict(self, tiles):
        if "NO_CALLS" in os.environ:
            os._exit(99)
        return [tile[:, :, 0].astype("int32") * 0 for tile in tiles]
"""
OPTIONS = ("--model", "stub.py:Stub", "--tile", str(TILE), "--overlap", str(OVERLAP), "--no-preview", "-q")


def make_image(path: Path, side: int) -> None:
    """A sparse raster of `side` x `side` tiles."""
    size = (TILE - OVERLAP) * (side - 1) + TILE
    rng = np.random.default_rng(1)
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8", "tiled": True}
    place = {"crs": "EPSG:32633", "transform": Affine(0.5, 0, 500000, 0, -0.5, 5200000)}
    layout = {"blockxsize": BLOCK, "blockysize": BLOCK, "SPARSE_OK": True, "BIGTIFF": "YES"}
    with rasterio.open(path, "w", **profile, **place, **layout) as image:
        for row, col in rng.integers(0, max(1, size // BLOCK), (200, 2)) * BLOCK:
            window = ((row, min(row + BLOCK, size)), (col, min(col + BLOCK, size)))
            shape = [int(stop - start) for start, stop in window]
            image.write(rng.integers(0, 255, shape, dtype="uint8"), 1, window=window)


def measure(*args: str, cwd: Path, **env: str) -> tuple[float, float, float]:
    """CPU seconds, seconds and MiB of a command."""
    command = [str(Path(sys.executable).with_name("seggeo")), *args]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **env})
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss / 1024


def show(what: str, found: tuple[float, float, float], limit: str) -> None:
    print(f"{what:<44} {found[0]:8.2f} {found[1]:8.2f} {found[2]:8.0f}   {limit}", flush=True)


def without(folder: Path, *packages: str) -> str:
    """A search path on which some packages cannot be imported."""
    for name in packages:
        (folder / "blocked" / name).mkdir(parents=True)
        (folder / "blocked" / name / "__init__.py").write_text("raise ImportError('left out of this measurement')\n")
    return os.pathsep.join([str(folder / "blocked"), *filter(None, [os.environ.get("PYTHONPATH")])])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1000, help="tiles along a side of the image that is planned")
    parser.add_argument("--finished", type=int, default=316, help="tiles along a side of the image that is run twice")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "stub.py").write_text(MODEL)
        make_image(folder / "plan.tif", options.side)
        make_image(folder / "run.tif", options.finished)
        print(f"{'':<44} {'CPU s':>8} {'s':>8} {'MiB':>8}   limit")
        plan = ("plan", "segment", "plan.tif", *OPTIONS, "-o", "out")
        million = f"{options.side**2:,} tiles".replace(",", " ")
        show(f"plan {million}", measure(*plan, "--job", "job", cwd=folder), "10 s")
        bare = without(folder, "geopandas", "pandas")
        show("  without geopandas", measure(*plan, "--job", "bare", cwd=folder, PYTHONPATH=bare), "10 s, 300 MiB")
        print(f"  {sum(path.is_file() for path in (folder / 'job').rglob('*'))} files (limit 20 000)")
        show(f"run one of 1000 shards of {million}", measure("run", "job", "--part", "500/1000", "-q", cwd=folder), "")
        show(f"status of {million}", measure("status", "job", "--json", cwd=folder), "")
        job = ("segment", "run.tif", *OPTIONS, "-o", "out", "--workers", "1")
        tiles = f"{options.finished**2:,} tiles".replace(",", " ")
        show(f"segment {tiles}", measure(*job, cwd=folder), "")
        show("  the same command again, the model not called", measure(*job, cwd=folder, NO_CALLS="1"), "5 s")


if __name__ == "__main__":
    main()

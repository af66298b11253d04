"""What Dask costs a tile: a model that does nothing, one process by itself beside one Dask worker of this machine.

    python benchmarks/dask_overhead.py [--tiles 100000] [--turns 2]

Both predict the same parts of 64 tiles with the same code into folders of their own, in this order, A B A B; the lower
figure of each counts. Wall seconds begin when the first part is done, so that starting a worker, told apart, is not in
them; CPU seconds are those of all processes, but for scheduler and worker before the first part. B - A over the tiles is
what Dask costs. Target: at most 0.3 ms a tile.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from math import isqrt
from pathlib import Path

import numpy as np
import psutil

from seggeo.config import settings_from
from seggeo.run.dask_cluster import crew_of
from seggeo.run.execute import run_parts
from seggeo.run.part import PartReport, Recipe
from seggeo.run.plan import Plan, make_plan
from seggeo.store import RunStore

STUB = '''
import numpy as np


class Stub:
    """Finds nothing, at once."""

    native, tile, overlap = True, 32, 2

    def predict(self, tiles):
        return [np.zeros(tile.shape[:2], np.int32) for tile in tiles]
'''


def write_image(path: Path, side: int) -> None:
    import rasterio
    from rasterio.transform import from_origin

    profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": "uint8", "tiled": True}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=from_origin(5e5, 5e6, 0.3, 0.3)) as out:
        out.write(np.random.default_rng(1).integers(1, 255, (1, side, side), dtype=np.uint8))


def cpu_seconds() -> float:
    """Of this process and all its living children."""
    me = psutil.Process()
    return sum(sum(p.cpu_times()[:2]) for p in [me, *me.children(recursive=True)])


def measured(plan: Plan, path: Path, folder: Path, dask: str | None) -> tuple[float, float, float]:
    """Seconds to the first part, and wall and CPU seconds from there to the last."""
    store = RunStore(folder)
    store.open(plan.job)
    recipe = Recipe(path=str(path), reading=plan.settings.reading, job=plan.job, request=plan.request, threads=1)
    crew = crew_of(dask, memory_bytes=1 << 30, folder=folder)
    began = time.monotonic()
    reports: Iterator[PartReport] = run_parts(recipe, folder, list(range(len(plan.job.parts))), workers=1, crew=crew)
    next(reports)
    first, cpu, wall = time.monotonic(), cpu_seconds(), 0.0
    done, spent = 1, 0.0
    for _ in reports:
        done += 1
        if done == len(plan.job.parts):  # before the workers end, and their account with them
            wall, spent = time.monotonic() - first, cpu_seconds() - cpu
    return first - began, wall, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=2)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name), Path(name) / "scene.tif"
        (folder / "stub.py").write_text(STUB)
        write_image(path, 30 * (isqrt(asked.tiles - 1) + 1) + 2)
        settings, execution = settings_from({"model": f"{folder}/stub.py:Stub"})
        plan = make_plan(str(path), settings, execution)
        tiles = len(plan.job.grid)
        print(f"{tiles} tiles in {len(plan.job.parts)} parts; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        runs = {
            (way, turn): measured(plan, path, folder / f"{way}{turn}", dask)
            for turn in range(asked.turns) for way, dask in (("A", None), ("B", "local:1"))
        }  # fmt: skip
    best = {way: [min(runs[way, turn][i] for turn in range(asked.turns)) for i in range(3)] for way in "AB"}
    print(f"{'':28s}{'start s':>10s}{'wall s':>10s}{'CPU s':>10s}")
    for way, words in (("A", "A one process"), ("B", "B one Dask worker, local:1")):
        print(f"{words:28s}" + "".join(f"{value:10.2f}" for value in best[way]))
    wall, cpu = ((best["B"][i] - best["A"][i]) / tiles * 1e3 for i in (1, 2))
    print(f"Dask: {wall:.3f} ms wall, {cpu:.3f} ms CPU a tile (target <= 0.3)")


if __name__ == "__main__":
    main()

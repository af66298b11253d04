"""Peak memory and time of the whole command over the depth of a volume: sparse OME-Zarr stacks, 8 to 64 GB nominal.

    python benchmarks/volume_memory.py [--gigabytes 8 64] [--formats auto ome-zarr] [--workers 1] [--share 0.005]

A stack holds uint8 slices of 4096 x 4096 in chunks of 32 x 512 x 512, most of which were never written; clumps of balls lie in
half a percent of the chunks, or in `--share`, in proportion to the depth. Every row is one `seggeo segment STACK --model
threshold` in a process group of its own, with default outputs (a mask for each slice, labels, a table, montage and report) or
with labels alone. Peak RSS is the largest sum over the whole process tree, sampled ten times a second, and never less than the
system's own account of the largest process. Targets: at most 1.5 GB, and the largest within 10 % of the smallest that fills the
cache of decoded chunks, which is 256 MB or 32 chunks: 8 GB have so many at a share of 0.04, 64 GB at 0.005.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

SIDE = 4096
CHUNK = (32, 512, 512)
CELL, RADIUS = 32, (5.0, 11.0)
"""Balls lie in cells of this side, one each, so that none touches another."""


def make_stack(path: Path, gigabytes: float, share: float, seed: int = 0) -> tuple[int, int]:
    """Write a sparse stack; its depth and how many balls it holds."""
    depth = max(CHUNK[0], round(gigabytes * 1e9 / SIDE**2 / CHUNK[0]) * CHUNK[0])
    group = zarr.open_group(path, mode="w", zarr_format=2)
    data = group.create_array(
        "0",
        shape=(depth, SIDE, SIDE),
        chunks=CHUNK,
        dtype="uint8",
        fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    scale = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    ]
    rng = np.random.default_rng(seed)
    grid = tuple(n // c for n, c in zip((depth, SIDE, SIDE), CHUNK, strict=True))
    count, balls = max(1, round(share * np.prod(grid))), 0
    for place in rng.choice(int(np.prod(grid)), count, replace=False):
        corner = [int(i) * c for i, c in zip(np.unravel_index(place, grid), CHUNK, strict=True)]
        block, found = _balls(rng)
        data[tuple(slice(a, a + c) for a, c in zip(corner, CHUNK, strict=True))] = block
        balls += found
    return depth, balls


def _balls(rng: np.random.Generator) -> tuple[Any, int]:
    """A chunk with a ball in most of its cells."""
    block = rng.integers(1, 16, CHUNK, dtype=np.uint8)
    z, y, x = np.ogrid[:CELL, :CELL, :CELL]
    found = 0
    for row in range(0, CHUNK[1], CELL):
        for col in range(0, CHUNK[2], CELL):
            if rng.random() < 0.3:
                continue
            radius = rng.uniform(*RADIUS)
            middle = rng.uniform(radius + 1, CELL - radius - 1, 3)
            inside = (z - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2 <= radius**2
            block[:, row : row + CELL, col : col + CELL][inside] = rng.integers(120, 240)
            found += 1
    return block, found


def measure(stack: Path, out: Path, formats: str, workers: int) -> dict[str, float]:
    """Peak RSS (MB) of the process tree, seconds and objects of one run of the command."""
    code = "import sys; from seggeo.cli.app import main; sys.argv[0] = 'seggeo'; main()"
    command = [
        sys.executable, "-c", code, "segment", str(stack), "-o", str(out), "-f", formats, "--model", "threshold",
        "--workers", str(workers), "--max-pixels", "100000000000", "--no-check-space", "--json", "-q",
    ]  # fmt: skip
    began = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    peak, ended = [0.0], threading.Event()
    watcher = threading.Thread(target=_watch, args=(child.pid, peak, ended))
    watcher.start()
    assert child.stdout is not None
    printed = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    ended.set()
    watcher.join()
    if status:
        sys.exit(f"seggeo ended with {os.waitstatus_to_exitcode(status)}")
    summary = json.loads(printed)
    return {
        "rss": max(peak[0], usage.ru_maxrss / 1024), "cpu": usage.ru_utime + usage.ru_stime,
        "wall": time.monotonic() - began, "objects": summary["objects"], "tiles": summary["tiles"],
        "empty": summary["empty_tiles"], "disk": sum(f.stat().st_blocks for f in out.rglob("*") if f.is_file()) * 512 / 1e6,
    }  # fmt: skip


def _watch(pid: int, peak: list[float], ended: threading.Event) -> None:
    root = psutil.Process(pid)
    while not ended.wait(0.1):
        with contextlib.suppress(psutil.Error):
            peak[0] = max(peak[0], sum(_rss(p) for p in (root, *root.children(recursive=True))) / 2**20)


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[8, 64])
    parser.add_argument("--formats", nargs="+", default=["auto", "ome-zarr"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--share", type=float, default=0.005, help="of the chunks that hold something")
    asked = parser.parse_args()
    print(
        f"{'GB':>4s}{'formats':>10s}{'slices':>8s}{'tiles':>8s}{'empty':>8s}{'balls':>8s}{'objects':>9s}{'CPU s':>8s}"
        f"{'wall s':>8s}{'disk MB':>9s}{'peak RSS MB':>13s}"
    )
    peaks: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for size in asked.gigabytes:
            stack = Path(name) / f"stack{size:g}.ome.zarr"
            depth, balls = make_stack(stack, size, asked.share)
            for formats in asked.formats:
                out = Path(name) / "out"
                row = measure(stack, out, formats, asked.workers)
                shutil.rmtree(out)
                peaks.setdefault(formats, []).append(row["rss"])
                print(
                    f"{size:4g}{formats:>10s}{depth:8d}{row['tiles']:8d}{row['empty']:8d}{balls:8d}{row['objects']:9d}"
                    f"{row['cpu']:8.0f}{row['wall']:8.0f}{row['disk']:9.0f}{row['rss']:13.0f}",
                    flush=True,
                )
            shutil.rmtree(stack)
    for formats, found in peaks.items():
        print(
            f"{formats}: largest over smallest peak {max(found) / min(found):.3f} (target <= 1.10), "
            f"highest {max(found):.0f} MB (target <= 1536)"
        )


if __name__ == "__main__":
    main()

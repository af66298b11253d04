"""Scoring a million predicted objects against a million true ones, and what a dense table of all pairs would cost.

Truth: discs of 8 to 12 px radius on a grid of 24 px. Prediction: the same, moved by up to 2 px, 2 px wider or narrower, 5 %
left out, 3 % told in two halves. Every figure is from a process of its own, one thread; peak RSS is that process's VmHWM.

(a) A million by a million: from `Instances` in memory, and from two label GeoTIFFs (24 000 x 24 000 px, tiled, deflate) with
    the whole report: PQ, AP at ten thresholds, AJI, AJI+, splits, merges, COCO's AP (in memory, where there are scores).
(b) Ten thousand by ten thousand: ours beside the dense way of StarDist, Cellpose and HoVer-Net (a table of every true with
    every predicted label, then an assignment over all of it), here in numpy and scipy; both give the same numbers. What the
    dense table of a million would need follows from its size.

Run: python benchmarks/evaluate.py [--objects 1000000] [--dense 10000]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.api import evaluate
from seggeo.evaluation.objects import ObjectSet
from seggeo.instances import Instances
from seggeo.rle import Spans, normalise

STEP, BLOCK_ROWS = 24, 480
"""Distance of centres, px; rows of a strip of the raster, a whole number of rows of objects."""
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def discs(side: int, rows: range, *, predicted: bool) -> tuple[Spans, NDArray[np.int64]]:
    """Row intervals of the objects in some rows of the grid, and the id of each."""
    spans, ids = [], []
    for line in rows:
        rng = np.random.default_rng([7, line])
        col = np.arange(side) * STEP + STEP / 2
        row, radius = np.full(side, line * STEP + STEP / 2), rng.uniform(8, 11.5, side)
        is_split = np.zeros(side, bool)
        keep = np.ones(side, bool)
        if predicted:
            row, col = row + rng.uniform(-2, 2, side), col + rng.uniform(-2, 2, side)
            radius = np.minimum(radius + rng.uniform(-2, 2, side), 11.5)
            keep, is_split = rng.random(side) > 0.05, rng.random(side) < 0.03
        y = np.arange(max(0, line * STEP - 4), min(side * STEP, (line + 1) * STEP + 4))
        half = np.sqrt(np.maximum(radius[:, None] ** 2 - (y[None] + 0.5 - row[:, None]) ** 2, 0))
        start, stop = (np.rint(col[:, None] + sign * half).clip(0, side * STEP).astype(np.int64) for sign in (-1, 1))
        which, at = np.nonzero((half > 0) & (stop > start) & keep[:, None])
        lower = is_split[which] & (y[at] > row[which])
        owner = (line * side + which) * 2 + lower
        spans.append(np.stack([owner, y[at], start[which, at], stop[which, at]]))
    owner, y, start, stop = np.concatenate(spans, axis=1)
    ids, position = np.unique(owner, return_inverse=True)
    return Spans(owner=position.astype(np.int64), row=y, start=start, stop=stop), ids + 1


def instances(side: int, *, predicted: bool) -> ObjectSet:
    from seggeo.instances import concat

    batches, ids = [], []
    for first in range(0, side, 50):
        spans, found = discs(side, range(first, min(first + 50, side)), predicted=predicted)
        score = np.random.default_rng([3, first]).random(len(found))
        batches.append(Instances.from_spans(normalise(spans), score=score, label=0))
        ids.append(found)
    whole = concat(batches)
    return ObjectSet(
        instances=whole, ids=np.concatenate(ids), classes=("object",), scored=predicted, ignored=np.zeros(len(whole), bool)
    )


def write(path: Path, side: int, *, predicted: bool) -> None:
    """The same as a label raster; where predictions overlap, the later one has the pixel."""
    import rasterio
    from rasterio.windows import Window

    size = side * STEP
    profile = {
        "driver": "GTiff", "height": size, "width": size, "count": 1, "dtype": "uint32", "tiled": True, "blockxsize": 480,
        "blockysize": BLOCK_ROWS, "compress": "deflate", "zlevel": 1, "predictor": 2, "crs": "EPSG:32632",
        "transform": rasterio.Affine(0.3, 0, 400_000, 0, -0.3, 5_200_000),
    }  # fmt: skip
    lines = BLOCK_ROWS // STEP
    with rasterio.open(path, "w", **profile) as raster:
        for top in range(0, size, BLOCK_ROWS):
            height = min(BLOCK_ROWS, size - top)
            first = top // STEP
            spans, ids = discs(side, range(max(0, first - 1), min(side, first + lines + 1)), predicted=predicted)
            mine = spans.clip(top, 0, top + height, size)
            raster.write(paint(mine, ids, top, (height, size)), 1, window=Window(0, top, size, height))


def paint(spans: Spans, ids: NDArray[np.int64], top: int, shape: tuple[int, int]) -> NDArray[np.uint32]:
    length = spans.stop - spans.start
    pixel = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    flat = np.zeros(shape[0] * shape[1], np.uint32)
    flat[np.repeat((spans.row - top) * shape[1] + spans.start, length) + pixel] = np.repeat(ids[spans.owner], length)
    return flat.reshape(shape)


def dense(pred: NDArray[np.int64], truth: NDArray[np.int64]) -> list[tuple[int, float]]:
    """True positives and PQ at ten thresholds from a table of all pairs, as published implementations do it."""
    from scipy.optimize import linear_sum_assignment

    t, p = (np.unique(side, return_inverse=True)[1].ravel() for side in (truth, pred))
    table = np.bincount(t * (p.max() + 1) + p, minlength=(t.max() + 1) * (p.max() + 1)).reshape(t.max() + 1, -1)
    union = table.sum(axis=1, keepdims=True) + table.sum(axis=0, keepdims=True) - table
    iou = (table / union)[1:, 1:]
    found = []
    for threshold in THRESHOLDS:
        rows, cols = linear_sum_assignment(-(iou >= threshold).astype(float) - iou / (2 * min(iou.shape)))
        hit = iou[rows, cols][iou[rows, cols] >= threshold]
        found.append((len(hit), float(2 * hit.sum() / sum(iou.shape))))
    return found


def measure(what: str, side: int, folder: Path) -> dict[str, Any]:
    """One measurement, in this process."""
    if what == "memory":
        sides: list[Any] = [instances(side, predicted=predicted) for predicted in (True, False)]
    elif what == "files":
        sides = [folder / f"{name}.tif" for name in ("pred", "truth")]
    else:
        size = side * STEP
        sides = [paint(*discs(side, range(side), predicted=p), 0, (size, size)).astype(np.int64) for p in (True, False)]
    wall, cpu = time.perf_counter(), time.process_time()
    if what == "dense":
        scores = dense(*sides)
    else:
        result = evaluate(*sides)
        scores = [(at.tp, at.pq) for at in result.pooled.at]
    facts = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "scores": scores, "peak": peak()}
    return facts if what == "dense" else {**facts, "true": result.pooled.n_true, "pred": result.pooled.n_pred}


def peak() -> float:
    """Peak resident memory of this process, GB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def in_process(what: str, side: int, folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", what, "--side", str(side), "--folder", str(folder)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--dense", type=int, default=10_000)
    parser.add_argument("--measure")
    parser.add_argument("--side", type=int)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.side, given.folder)))
        return
    large, small = round(given.objects**0.5), round(given.dense**0.5)
    print(f"{'':34s}{'wall s':>9s}{'CPU s':>9s}{'peak GB':>9s}{'PQ':>9s}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, kind in ((folder / "pred.tif", True), (folder / "truth.tif", False)):
            write(side, large, predicted=kind)
        rows = [("memory", large), ("files", large), ("labels", small), ("dense", small)]
        found = {what: show(what, side, in_process(what, side, folder)) for what, side in rows}
    ours, theirs = found["labels"], found["dense"]
    assert np.allclose(ours["scores"], theirs["scores"], rtol=1e-9), "the two ways disagree"
    print(f"dense over sparse, {small**2:,} objects: {theirs['cpu'] / ours['cpu']:.0f} x CPU, same scores to 1e-9")
    print(f"a dense table of {large**2:,} x {large**2:,} would hold {large**4 * 8 / 1e12:,.0f} TB")


def show(what: str, side: int, facts: dict[str, Any]) -> dict[str, Any]:
    names = {"memory": "ours, Instances", "files": "ours, two GeoTIFFs", "labels": "ours, arrays", "dense": "dense table"}
    line = f"{names[what]:22s}{side**2:>10,d}  {facts['wall']:>9.2f}{facts['cpu']:>9.2f}{facts['peak']:>9.2f}"
    print(f"{line}{facts['scores'][0][1]:>9.4f}", flush=True)
    return facts


if __name__ == "__main__":
    main()

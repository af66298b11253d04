"""Merging per-tile masks into objects, against the usual tools: CPU seconds of the merge alone, every tool in one run.

(a) Rivals: what a perfect model reports for every tile of 1024 px, overlap 128 px, is merged by seggeo (its keep rule and
    the sweep), by SAHI's GREEDYNMM (boxes, intersection over the smaller above one half: its default) and by the script
    many people write (shapely STRtree, connected components, union). Building each tool's own input objects is not counted.
    *clean*: objects at least 1 px apart; *touching*: neighbours share sides and every second reading is 1 px too large.
    "wide whole": objects wider than a tile that came back once and with all their area.
(b) Growth: seggeo alone, from masks in memory.
(c) Memory: seggeo from part files on disk through merging, numbering and writing GeoPackage and label COG in a fresh
    process; peak RSS is that process's VmHWM.

Each measurement is a process of its own, one after the other, one thread each.

Run: python benchmarks/merge.py [--rivals 125000] [--growth 125000 1000000 3000000] [--memory 1000000 3000000]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scenes
from numpy.typing import NDArray

from seggeo.instances import Instances, concat
from seggeo.merge.readings import owned
from seggeo.merge.sweep import sweep
from seggeo.tiling import PartGrid, TileGrid

TILE, OVERLAP = 1024, 128
Found = list[scenes.Fragments]
ERRORS = f"{'count error':>13s}{'wide whole':>13s}"
Facts = dict[str, Any]


def parts_of(scene: scenes.Scene) -> PartGrid:
    height, width = scene.shape
    return PartGrid(grid=TileGrid(height=height, width=width, tile=TILE, halo=OVERLAP // 2))


def in_parts(scene: scenes.Scene, parts: PartGrid) -> Iterator[tuple[int, Found]]:
    """The fragments of each part, in order, holding one row of parts at a time."""
    waiting: dict[int, Found] = {}
    last = {parts.tiles(part)[-1].index: part for part in range(len(parts))}
    for found in scenes.fragments(scene, tile=TILE, overlap=OVERLAP):
        part = parts.part_of(found.tile)
        waiting.setdefault(part, []).append(found)
        if found.tile.index in last:
            yield part, waiting.pop(part)


def kept(found: Found, grid: TileGrid) -> tuple[Instances, NDArray[np.int64]]:
    """What the tiles of one part may speak for, in scene pixels, and the tile of each."""
    batches = []
    for tile, instances in ((f.tile, f.instances) for f in found):
        batches.append(instances.take(owned(instances, tile, grid)).shift(tile.window.row, tile.window.col))
    tiles = np.repeat([f.tile.index for f in found], [len(b) for b in batches]).astype(np.int64)
    return concat(batches), tiles


def merge_ours(scene: scenes.Scene) -> Facts:
    parts = parts_of(scene)
    data = list(in_parts(scene, parts))
    began = time.process_time()
    reported = ((part, *kept(found, parts.grid)) for part, found in data)
    # Enlarged readings overlap their neighbours in the same tile: no exclusive model does that.
    merged = list(sweep(reported, parts, exclusive=not scene.touch))
    seconds = time.process_time() - began
    box = np.concatenate([m.instances.box for m in merged])
    area = np.concatenate([m.instances.area for m in merged])
    readings = sum(len(f.instances) for _, found in data for f in found)
    return {"cpu": seconds, "readings": readings, **judge(scene, box, area)}


def rings(scene: scenes.Scene) -> tuple[list[NDArray[np.int32]], list[float]]:
    """Outlines of all fragments that a polygon tool can hold, and their scores."""
    outlines, scores = [], []
    for found in scenes.fragments(scene, tile=TILE, overlap=OVERLAP):
        for ring, score in zip(scenes.contours(found), found.instances.score, strict=True):
            if ring is not None:
                outlines.append(ring)
                scores.append(float(score))
    return outlines, scores


def merge_sahi(scene: scenes.Scene) -> Facts:
    import cv2
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction

    outlines, scores = rings(scene)
    shape = list(scene.shape)
    predictions = [
        ObjectPrediction(
            bbox=[*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()], category_id=0, category_name="object", score=score,
            segmentation=[ring.ravel().tolist()], shift_amount=[0, 0], full_shape=shape,
        )
        for ring, score in zip(outlines, scores, strict=True)
    ]  # fmt: skip
    merge = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=False)
    began = time.process_time()
    merged = merge(predictions)
    seconds = time.process_time() - began
    boxes, areas = [], []
    for prediction in merged:
        pieces = [np.rint(np.array(s, float).reshape(-1, 2)).astype(np.int32) for s in prediction.mask.segmentation]
        left, top, right, bottom = prediction.bbox.to_xyxy()
        boxes.append((top, left, bottom, right))
        areas.append(sum(cv2.contourArea(piece) for piece in pieces))
    return {"cpu": seconds, "readings": len(outlines), **judge(scene, np.array(boxes), np.array(areas))}


def merge_shapely(scene: scenes.Scene) -> Facts:
    import shapely
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    outlines, _ = rings(scene)
    polygons = shapely.polygons([shapely.linearrings(ring) for ring in outlines])
    count = len(polygons)
    began = time.process_time()
    a, b = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    n, group = connected_components(coo_matrix((np.ones(len(a), bool), (a, b)), shape=(count, count)), directed=False)
    order = np.argsort(group, kind="stable")
    first = np.searchsorted(group[order], np.arange(n + 1))
    merged = [
        polygons[order[i]] if j - i == 1 else shapely.union_all(polygons[order[i:j]])
        for i, j in zip(first, first[1:], strict=False)
    ]  # fmt: skip
    seconds = time.process_time() - began
    left, top, right, bottom = shapely.bounds(merged).T
    box = np.stack([top, left, bottom, right], axis=1)
    return {"cpu": seconds, "readings": count, **judge(scene, box, shapely.area(merged))}


def judge(scene: scenes.Scene, box: NDArray[Any], area: NDArray[Any]) -> Facts:
    """Objects, count error, and objects wider than a tile that came back once and with all their area (to 5 %)."""
    truth, whole = scenes.truth_areas(scene), 0
    wide = np.argwhere(scene.kind == scenes._ELLIPSE)
    for row, col in wide:
        top, left = row * scenes.CELL, col * scenes.CELL
        mine = (box[:, 0] >= top - 2) & (box[:, 2] <= top + scenes.CELL + 2)
        mine &= (box[:, 1] >= left - 2) & (box[:, 3] <= left + scenes.CELL + 2)
        full = truth[scene.first[row * scene.kind.shape[1] + col] - 1]
        whole += int(mine.sum() == 1 and abs(area[mine][0] / full - 1) < 0.05)
    return {"truth": scene.count, "objects": len(area), "error": len(area) - scene.count, "wide": len(wide), "whole": whole}


def store_parts(scene: scenes.Scene, folder: Path) -> Facts:
    """Write the part files that a run of a perfect model would leave."""
    from seggeo.store import Part, RunStore

    parts, store, readings = parts_of(scene), RunStore(folder), 0
    for number, found in in_parts(scene, parts):
        instances, tile = kept(found, parts.grid)
        store.save(Part(part=number, instances=instances, tile=tile, notes={"failures": []}))
        readings += len(instances)
    return {"readings": readings, "megabytes": sum(p.stat().st_size for p in folder.rglob("*.part")) / 1e6}


def stream(scene: scenes.Scene, folder: Path) -> Facts:
    """Merge stored parts and write GeoPackage and label COG."""
    from affine import Affine
    from pyproj import CRS

    from seggeo.config import Merge, Output, to_json
    from seggeo.geometry import Frame
    from seggeo.job import Job
    from seggeo.run.finish import merge_parts, write_outputs
    from seggeo.run.naming import places
    from seggeo.store import RunStore

    height, width = scene.shape
    transform = Affine(0.3, 0, 400_000, 0, -0.3, 5_200_000)
    frame = Frame(height=height, width=width, transform=transform, crs=CRS.from_epsg(32632).to_wkt(), unit="m")
    job = Job(
        source={"path": "scene.tif"}, reading={}, frame=frame, tile=TILE, overlap=OVERLAP, stretch=None,
        model={"name": "oracle", "exclusive": True, "classes": ["object"]}, merge=to_json(Merge()),
    )  # fmt: skip
    before, began = peak_mb(), time.process_time()
    result, tally, _ = merge_parts(job, RunStore(folder), folder / "merged", {})
    merged_peak, middle = peak_mb(), time.process_time()
    write_outputs(result, Output(format=("gpkg", "cog")), places(folder, "scene", ("gpkg", "cog"), folder))
    return {
        "merge": middle - began, "export": time.process_time() - middle, "before": before, "merged": merged_peak,
        "peak": peak_mb(), "objects": result.count, "error": result.count - scene.count, "inputs": tally.inputs,
    }  # fmt: skip


def peak_mb() -> float:
    """The process's largest resident size so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


MERGERS: dict[str, Callable[[scenes.Scene], Facts]] = {"seggeo": merge_ours, "SAHI": merge_sahi, "shapely": merge_shapely}
ON_DISK: dict[str, Callable[[scenes.Scene, Path], Facts]] = {"store": store_parts, "stream": stream}


def alone(job: str, count: int, *, touch: bool = False, folder: Path | None = None) -> Facts:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--one", job, str(count), str(int(touch)), str(folder or "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    if answer.returncode:
        sys.exit(f"{job} failed:\n{answer.stderr}")
    facts: Facts = json.loads(answer.stdout.splitlines()[-1])
    return facts


def one(job: str, count: int, touch: bool, folder: str) -> None:
    scene = scenes.dense_scene(count, touch=touch)
    facts = MERGERS[job](scene) if job in MERGERS else ON_DISK[job](scene, Path(folder))
    print(json.dumps(facts, default=float))


def errors(facts: Facts) -> str:
    return f"{facts['error']:+13d}{facts['whole']:6d} of {facts['wide']:3d}"


def compare(count: int) -> None:
    print(f"{'scene':9s}{'tool':9s}{'truth':>9s}{'readings':>10s}{'CPU s':>8s}{'x ours':>8s}{ERRORS}")
    for touch in (False, True):
        ours = 0.0
        for name in MERGERS:
            f = alone(name, count, touch=touch)
            ours = ours or f["cpu"]
            print(
                f"{'touching' if touch else 'clean':9s}{name:9s}{f['truth']:9d}{f['readings']:10d}{f['cpu']:8.2f}"
                f"{f['cpu'] / ours:8.1f}{errors(f)}",
                flush=True,
            )


def grow(counts: list[int]) -> None:
    print(f"\n{'objects':>9s}{'readings':>10s}{'CPU s':>8s}{'us/object':>11s}{'exponent':>10s}{ERRORS}")
    before: Facts = {}
    for count in counts:
        f = alone("seggeo", count)
        power = f"{math.log(f['cpu'] / before['cpu']) / math.log(f['truth'] / before['truth']):.2f}" if before else ""
        print(
            f"{f['truth']:9d}{f['readings']:10d}{f['cpu']:8.2f}{f['cpu'] / f['truth'] * 1e6:11.1f}{power:>10s}{errors(f)}",
            flush=True,
        )
        before = f


def remember(counts: list[int]) -> None:
    print(
        f"\n{'objects':>9s}{'parts MB':>10s}{'merge CPU s':>13s}{'export CPU s':>14s}{'RSS before':>12s}{'merged':>8s}"
        f"{'peak MB':>9s}{'count error':>13s}"
    )
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            stored = alone("store", count, folder=Path(name))
            f = alone("stream", count, folder=Path(name))
        print(
            f"{f['objects']:9d}{stored['megabytes']:10.0f}{f['merge']:13.1f}{f['export']:14.1f}{f['before']:12.0f}"
            f"{f['merged']:8.0f}{f['peak']:9.0f}{f['error']:+13d}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", type=int, nargs="*", default=[125_000])
    parser.add_argument("--growth", type=int, nargs="*", default=[125_000, 1_000_000, 3_000_000])
    parser.add_argument("--memory", type=int, nargs="*", default=[1_000_000, 3_000_000])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        job, count, touch, folder = asked.one
        one(job, int(count), bool(int(touch)), folder)
        return
    for count in asked.rivals:
        compare(count)
    if asked.growth:
        grow(asked.growth)
    if asked.memory:
        remember(asked.memory)


if __name__ == "__main__":
    main()

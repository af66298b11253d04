"""A million cells as files: time on one core and peak memory of every writer of `seggeo count-cells`, each in a fresh process.

The cells are synthetic: irregular discs of about 16 px across (8 um at 0.5 um/px) on a lattice, 64 shapes, made band by band
as they are asked for, so that what is measured is the writer. `qupath` must stay within 60 s and 1 GB for a million, and its
memory within 10 % from one million to three.

Rival, with --rival: the script that many people write (a list of features from `rasterio.features.shapes` of the label raster,
`skimage.measure.regionprops_table` for the same measurements, `json.dump` into gzip), on as many cells as it is given.

Run: python benchmarks/cells.py [--cells 1000000 3000000] [--writers qupath cells cells-csv ome-tiff ome-zarr] [--rival 20000]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from seggeo.geometry import Frame, Window
from seggeo.instances import Instances, Objects
from seggeo.protocols import SinkOptions

PITCH, SIDE = 22, 20
SUFFIX = {"qupath": ".geojson.gz", "cells": ".parquet", "cells-csv": ".csv", "ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr"}
SINKS = {
    "qupath": "seggeo.output.qupath:write_qupath", "cells": "seggeo.output.cells:write_cells",
    "cells-csv": "seggeo.output.cells:write_cells_csv", "ome-tiff": "seggeo.output.ome_tiff:write_ome_tiff",
    "ome-zarr": "seggeo.output.ome_zarr:write_ome_zarr",
}  # fmt: skip


def shapes() -> Instances:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle = np.arctan2(y, x)
    masks = []
    for _ in range(64):
        a, b, p, q = rng.normal(0, 0.6), rng.normal(0, 0.5), *rng.uniform(0, 6.3, 2)
        masks.append(np.hypot(y, x * rng.uniform(0.9, 1.25)) < 7.6 + a * np.cos(2 * angle + p) + b * np.cos(3 * angle + q))
    return Instances.from_masks(masks)


@dataclass(frozen=True, slots=True)
class Slide:
    """`side` x `side` cells; a `protocols.Result` that holds one band of them at a time."""

    side: int
    kinds: Instances = field(default_factory=shapes)
    classes: tuple[str, ...] = ("nucleus", "lymphocyte")
    provenance: Mapping[str, Any] = field(default_factory=lambda: {"tile_key": "benchmark"})
    exclusive: bool = True

    @property
    def frame(self) -> Frame:
        """Half of the full resolution, 0.5 um per pixel."""
        side = self.side * PITCH
        return Frame(
            height=side, width=side, transform=Affine(2, 0, 512, 0, 2, 256), spacing=(1.0, 0.5, 0.5), unit="um", scale=2.0
        )

    @property
    def count(self) -> int:
        """All cells."""
        return self.side**2

    def iter_objects(self) -> Iterator[Objects]:
        """Some twenty thousand at a time."""
        lines = max(20_000 // self.side, 1)
        for first in range(0, self.side, lines):
            yield self._lines(first, min(first + lines, self.side))

    def in_window(self, window: Window, z: int = 0) -> Objects:
        """Not asked for by these writers."""
        raise NotImplementedError

    def _lines(self, first: int, stop: int) -> Objects:
        rng = np.random.default_rng(first)
        rows, cols = (v.ravel() for v in np.mgrid[first:stop, : self.side])
        pick = rng.integers(0, len(self.kinds), len(rows))
        some = self.kinds.take(pick)
        shift = np.stack([rows, cols], axis=1) * PITCH + rng.integers(0, PITCH - SIDE + 1, (len(rows), 2))
        n, box = len(rows), some.box + np.tile(shift, 2).astype(np.int32)
        moved = Instances(
            box=box, z=some.z, label=(pick % 5 == 0).astype(np.int32), score=rng.random(n, dtype=np.float32),
            runs=some.runs, start=some.start,
        ).take(np.lexsort((box[:, 1], box[:, 0])))  # fmt: skip
        flags = np.zeros(n, bool)
        ids = np.arange(first * self.side + 1, first * self.side + n + 1, dtype=np.uint32)
        return Objects(instances=moved, id=ids, n_tiles=np.ones(n, np.int32), cut=flags, touches_edge=flags)


def write(name: str, count: int, path: Path) -> None:
    from importlib import import_module

    module, _, function = SINKS[name].partition(":")
    slide = Slide(round(count**0.5))
    begin = time.process_time()
    getattr(import_module(module), function)(slide, path, SinkOptions())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    facts = {"cpu": time.process_time() - begin, "peak": int(peak.split()[1]) / 1024, "size": size_of(path) / 1e6}
    print(json.dumps({**facts, "cells": slide.count}))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(p.stat().st_size for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())


def rival(count: int, path: Path) -> None:
    from rasterio.features import shapes as polygonize
    from skimage.measure import regionprops_table

    slide = Slide(round(count**0.5))
    labels = np.zeros(slide.frame.window.shape, np.int32)
    for objects in slide.iter_objects():
        for number, (box, mask) in zip(objects.id, objects.instances, strict=True):
            labels[box[0] : box[2], box[1] : box[3]][mask] = number
    begin = time.process_time()
    names = ("area", "perimeter", "eccentricity", "solidity", "axis_major_length", "axis_minor_length")
    table = regionprops_table(labels, properties=names)
    features = [
        {
            "type": "Feature", "id": str(uuid.uuid4()), "geometry": geometry,
            "properties": {
                "objectType": "detection", "measurements": {name: float(table[name][int(value) - 1]) for name in names}
            },
        }
        for geometry, value in polygonize(labels, mask=labels > 0, transform=slide.frame.transform)
    ]  # fmt: skip
    with gzip.open(path, "wt", encoding="utf-8") as out:
        json.dump({"type": "FeatureCollection", "features": features}, out)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    facts = {"cpu": time.process_time() - begin, "peak": int(peak.split()[1]) / 1024, "size": size_of(path) / 1e6}
    print(json.dumps({**facts, "cells": slide.count}))


def measure(what: str, count: int, folder: Path) -> None:
    path = folder / f"{what}{SUFFIX.get(what, '.geojson.gz')}"
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--child", what, str(count), str(path)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    facts = json.loads(child.stdout)
    wall = time.monotonic() - began
    print(
        f"{what:10s}{facts['cells']:10d}{facts['cpu']:9.1f}{wall:9.1f}{facts['cpu'] / facts['cells'] * 1e6:12.1f}"
        f"{facts['peak']:13.0f}{facts['size']:10.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, nargs="+", default=[1_000_000, 3_000_000])
    parser.add_argument("--writers", nargs="+", choices=list(SINKS), default=list(SINKS))
    parser.add_argument("--rival", type=int, default=0, help="cells for the usual script; 0 leaves it out")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        name, count, path = asked.child
        rival(int(count), Path(path)) if name == "rival" else write(name, int(count), Path(path))
        return
    print(f"{'writer':10s}{'cells':>10s}{'CPU s':>9s}{'wall s':>9s}{'us a cell':>12s}{'peak RSS MB':>13s}{'file MB':>10s}")
    with tempfile.TemporaryDirectory() as folder:
        for writer in asked.writers:
            for count in asked.cells:
                measure(writer, count, Path(folder))
        if asked.rival:
            measure("rival", asked.rival, Path(folder))


if __name__ == "__main__":
    main()

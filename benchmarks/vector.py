"""Polygons from masks, and vector files, against the usual tools; CPU seconds, A and B in turns, the best of three to five.

(a) Outlines of objects of about 25 px: `seggeo.output.polygons.outlines` against `rasterio.features.shapes` + `shapely.shape`
    on the same label raster. "arrays" starts at the runs that a merged result holds and ends at flat arrays, "WKB" ends at
    what files hold, "from raster" starts at the label raster and ends at shapely geometries as the rival does.
(b) GeoPackage and FlatGeobuf, both with spatial index: a sink's writing (its whole time less the time of the same features
    made without writing) against a bare `pyogrio.write_arrow` of the same table prepared beforehand; "whole sink" is
    everything from masks to published file.

Run: python benchmarks/vector.py [objects, default 200000]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import pyproj
import rasterio.features
import shapely
from affine import Affine

from seggeo.geometry import Frame
from seggeo.instances import Instances, Objects
from seggeo.output import wkb
from seggeo.output.features import GEOMETRY, iter_features, schema, to_arrow
from seggeo.output.polygons import outlines
from seggeo.output.vector import write_flatgeobuf, write_gpkg
from seggeo.protocols import SinkOptions


@dataclass(frozen=True, slots=True)
class Scene:
    """Irregular blobs on a lattice, as a label raster and as a merged result."""

    labels: np.ndarray
    objects: Objects
    frame: Frame
    classes: tuple[str, ...] = ("cell",)
    provenance: dict[str, Any] = field(default_factory=dict)
    exclusive: bool = True

    @property
    def count(self) -> int:
        """Objects in all."""
        return len(self.objects)

    def iter_objects(self) -> Iterator[Objects]:
        """All in one batch."""
        yield self.objects


def scene(count: int) -> Scene:
    side = int(np.ceil(np.sqrt(count)))
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-3:5, -3:5]
    kinds = [(y**2 + x**2 + rng.normal(0, 2.5, y.shape) < 9.5) | (y**2 + x**2 < 4) for _ in range(64)]
    pick = rng.integers(0, 64, (side, side))
    ids = np.arange(1, side * side + 1, dtype=np.int32).reshape(side, side)
    blocks = np.stack(kinds)[pick] * ids[:, :, None, None]
    labels = np.ascontiguousarray(blocks.transpose(0, 2, 1, 3).reshape(8 * side, 8 * side).astype(np.int32))
    frame = Frame(
        height=8 * side, width=8 * side, transform=Affine(0.5, 0, 3e5, 0, -0.5, 5.5e6), crs=pyproj.CRS(32633).to_wkt()
    )
    instances = Instances.from_labels(labels)
    n = len(instances)
    flags = np.zeros(n, bool)
    number = np.arange(1, n + 1, dtype=np.uint32)
    objects = Objects(instances=instances, id=number, n_tiles=np.ones(n, np.int32), cut=flags, touches_edge=flags)
    return Scene(labels, objects, frame)


def best(works: dict[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
    """CPU seconds of each, in turns."""
    seconds = dict.fromkeys(works, np.inf)
    for _ in range(rounds):
        for name, work in works.items():
            begin = time.process_time()
            work()
            seconds[name] = min(seconds[name], time.process_time() - begin)
    return seconds


def rasterio_shapes(labels: np.ndarray) -> list[shapely.Geometry]:
    return [shapely.geometry.shape(g) for g, _ in rasterio.features.shapes(labels, mask=labels > 0, connectivity=4)]


def bench_polygons(what: Scene) -> None:
    instances = what.objects.instances
    works = {
        "rasterio + shapely": lambda: rasterio_shapes(what.labels),
        "seggeo, arrays": lambda: outlines(instances),
        "seggeo, WKB": lambda: wkb.multipolygons(outlines(instances)),
        "seggeo, from raster": lambda: outlines(Instances.from_labels(what.labels)).to_shapely(),
    }
    seconds = best(works)
    theirs = sum(g.area for g in rasterio_shapes(what.labels))
    same = theirs == float(shapely.area(outlines(instances).to_shapely()).sum())
    print(f"(a) outlines of {what.count} objects, {instances.area.mean():.1f} px each; areas equal: {same}")
    for name, s in seconds.items():
        print(f"    {name:22s} {s:8.2f} CPU s {what.count / s / 1e3:9.0f} k/s {seconds['rasterio + shapely'] / s:7.1f} x")


def bench_writing(what: Scene, folder: Path) -> None:
    fields = schema(what.frame)
    table = pa.Table.from_batches([to_arrow(f, what.classes, fields) for f in iter_features(what)])

    def bare(driver: str, name: str) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        how = {"layer": "objects", "geometry_name": GEOMETRY, "geometry_type": "MultiPolygon", "crs": what.frame.crs}
        pyogrio.write_arrow(table, path, driver=driver, layer_options={"SPATIAL_INDEX": "YES"}, **how)

    def prepare() -> None:
        for features in iter_features(what):
            to_arrow(features, what.classes, fields)

    print(f"(b) files of {what.count} objects with spatial index, CPU s")
    for kind, driver, sink in (("gpkg", "GPKG", write_gpkg), ("fgb", "FlatGeobuf", write_flatgeobuf)):
        works = {
            "bare": lambda driver=driver, kind=kind: bare(driver, f"bare.{kind}"),
            "prepare": prepare,
            "sink": lambda sink=sink, kind=kind: sink(what, folder / f"ours.{kind}", SinkOptions()),
        }
        s = best(works, rounds=5)
        write = s["sink"] - s["prepare"]
        print(
            f"    {driver:10s} bare {s['bare']:6.2f}  sink: outlines + sizes + table {s['prepare']:6.2f}, writing {write:6.2f}"
            f"  writing {s['bare'] / write:5.2f} x bare, whole sink {s['bare'] / s['sink']:5.2f} x bare"
        )


def main() -> None:
    what = scene(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
    bench_polygons(what)
    with tempfile.TemporaryDirectory() as folder:
        bench_writing(what, Path(folder))


if __name__ == "__main__":
    main()

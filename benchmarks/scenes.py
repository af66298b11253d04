"""Truth scenes for the other benchmarks: a hundred thousand to millions of instances, made on demand, never held whole.

A scene is a grid of square cells of 1600 px; each is a pure function of (seed, row, column): rows of convex blobs 12 to
62 px across, at least 1 px apart; or, one cell in about twenty thousand instances, a single ellipse 1100 to 1500 px
across, wider than a tile; or nothing. A cell is kept as row intervals (half a megabyte), two rows of cells at a time.

* `dense_scene(125_000)`: cells side by side until there are that many instances; `touch=True` makes octagons that share
  sides with their neighbours, and a tile reports every second fragment 1 px larger on all sides.
* `sparse_scene(path, 16)`: a 16-gigapixel GeoTIFF of truth ids, one cell in fifty filled, all other blocks left out.
* `fragments(scene)`: what a perfect model reports tile by tile; `contours(...)`: the same as polygons, for the peers.

Run by hand for the sizes: `python benchmarks/scenes.py 125000 1000000`
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.rle import Spans, concat_spans, labels_to_spans, normalise
from seggeo.tiling import Tile, TileGrid

CELL = 1600
_HEIGHTS = np.array([12, 20, 32, 48, 62])
_EMPTY, _BLOBS, _ELLIPSE = 0, 1, 2
_PER_ELLIPSE = 20_000
_MOST_CELLS = 96
"""Cells kept at once; two rows of cells of the largest scene fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A grid of cells, what each holds and the ids of its instances."""

    seed: int
    touch: bool
    kind: NDArray[np.uint8]
    """What each cell holds, `(rows, cols)`."""
    first: NDArray[np.int64]
    """Id of the first instance of each cell, row by row, and one past the last of all; ids start at 1."""

    @property
    def count(self) -> int:
        """Instances in the scene."""
        return int(self.first[-1]) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, px."""
        return self.kind.shape[0] * CELL, self.kind.shape[1] * CELL


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragments:
    """What a perfect model reports for one tile."""

    tile: Tile
    instances: Instances
    """In tile pixels; score is 0.9 x the visible fraction + 0.1 x chance."""
    truth: NDArray[np.int64]
    """True id of each."""


def dense_scene(n_instances: int, *, touch: bool = False, seed: int = 1) -> Scene:
    """A nearly square scene of at least `n_instances` instances."""
    ellipses = max(1, round(n_instances / _PER_ELLIPSE))
    cells = round(n_instances / 2880) + ellipses
    while True:
        rows = max(1, int(cells**0.5))
        cols = -(-cells // rows)
        kind = np.where(np.arange(rows * cols) < cells, _BLOBS, _EMPTY).astype(np.uint8)
        kind[np.random.default_rng(seed).choice(cells, ellipses, replace=False)] = _ELLIPSE
        scene = _scene(kind.reshape(rows, cols), touch=touch, seed=seed)
        if scene.count >= n_instances:
            return scene
        cells += max(1, cells // 100)


def empty_scene(gigapixels: float, *, filled: float = 0.02, seed: int = 1) -> Scene:
    """A square scene with instances in a share `filled` of its cells only; an ellipse in every sixteenth of these."""
    side = max(1, round((gigapixels * 1e9) ** 0.5 / CELL))
    chosen = np.random.default_rng(seed).permutation(side * side)[: max(2, round(filled * side * side))]
    kind = np.zeros(side * side, np.uint8)
    kind[chosen] = _BLOBS
    kind[chosen[::16]] = _ELLIPSE
    return _scene(kind.reshape(side, side), touch=False, seed=seed)


def sparse_scene(path: Path, gigapixels: float, seed: int = 1) -> Scene:
    """Write `empty_scene` as a tiled GeoTIFF of truth ids (uint32, nodata none) and return the scene.

    Blocks without an instance are not stored. A model that reads native pixels gets the instances back by value.
    """
    import rasterio
    from rasterio.windows import Window as RasterWindow

    scene = empty_scene(gigapixels, seed=seed)
    profile = {
        "driver": "GTiff", "height": scene.shape[0], "width": scene.shape[1], "count": 1, "dtype": "uint32", "tiled": True,
        "blockxsize": CELL // 4, "blockysize": CELL // 4, "compress": "deflate", "predictor": 2, "zlevel": 1,
        "sparse_ok": True, "bigtiff": "if_safer", "crs": "EPSG:32632",
        "transform": rasterio.Affine(0.3, 0, 400_000, 0, -0.3, 5_200_000),
    }  # fmt: skip
    with rasterio.Env(GDAL_CACHEMAX=32), rasterio.open(path, "w", **profile) as raster:
        for row, col in np.argwhere(scene.kind != _EMPTY):
            labels = _labels(scene, int(row), int(col)).astype(np.uint32)
            labels[labels > 0] += np.uint32(scene.first[row * scene.kind.shape[1] + col] - 1)
            raster.write(labels, 1, window=RasterWindow(col * CELL, row * CELL, CELL, CELL))
    return scene


def fragments(scene: Scene, *, tile: int = 1024, overlap: int = 128) -> Iterator[Fragments]:
    """The fragments of every tile in order of the grid, empty tiles too."""
    height, width = scene.shape
    for part in TileGrid(height=height, width=width, tile=tile, halo=overlap // 2):
        rng = np.random.default_rng([scene.seed, part.index])
        spans = _window_spans(scene, part.window)
        truth, owner = np.unique(spans.owner, return_inverse=True)
        spans = Spans(owner=owner.astype(np.int64), row=spans.row, start=spans.start, stop=spans.stop)
        visible = spans.areas(len(truth)) / _areas_of(scene, truth)
        if scene.touch:
            spans = _enlarge(spans, rng.random(len(truth)) < 0.5, part.window)
        score = 0.9 * visible + 0.1 * rng.random(len(truth))
        yield Fragments(tile=part, instances=Instances.from_spans(spans, score=score, label=0), truth=truth)


def truth_areas(scene: Scene) -> NDArray[np.int64]:
    """Pixels of each instance, `(scene.count,)`, by id - 1."""
    parts = [_cell(scene.seed, scene.touch, int(k), i).areas() for i, k in _cells(scene)]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def contours(found: Fragments) -> list[NDArray[np.int32] | None]:
    """Outer ring of each fragment in scene pixels, `(k, 2)` x and y; None for slivers that no polygon tool can hold."""
    import cv2

    rings: list[NDArray[np.int32] | None] = []
    for box, mask in found.instances:
        outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        ring = max(outlines, key=len)[:, 0, :]
        offset = (box[1] + found.tile.window.col, box[0] + found.tile.window.row)
        is_area = len(ring) >= 3 and cv2.contourArea(ring) > 0
        rings.append((ring + offset).astype(np.int32) if is_area else None)
    return rings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """Row intervals of one cell, sorted by instance; 8 bytes each."""

    owner: NDArray[np.uint16]
    row: NDArray[np.uint16]
    start: NDArray[np.uint16]
    stop: NDArray[np.uint16]

    def areas(self) -> NDArray[np.int64]:
        return np.bincount(self.owner, weights=self.stop - self.start).astype(np.int64)


def _scene(kind: NDArray[np.uint8], *, touch: bool, seed: int) -> Scene:
    counts = [_count(seed, int(k), i) for i, k in enumerate(kind.ravel())]
    return Scene(seed=seed, touch=touch, kind=kind, first=np.concatenate([[1], 1 + np.cumsum(counts)]).astype(np.int64))


def _cells(scene: Scene) -> Iterator[tuple[int, int]]:
    kinds = scene.kind.ravel()
    return ((int(i), int(kinds[i])) for i in np.flatnonzero(kinds))


def _count(seed: int, kind: int, index: int) -> int:
    if kind == _BLOBS:
        return int((CELL // _bands(np.random.default_rng([seed, index]))).sum())
    return int(kind == _ELLIPSE)


def _bands(rng: np.random.Generator) -> NDArray[np.int64]:
    """Heights of the rows of blobs in a cell; the last one may leave a gap."""
    heights = rng.choice(_HEIGHTS, CELL // int(_HEIGHTS.min()))
    return heights[np.cumsum(heights) <= CELL]


def _labels(scene: Scene, row: int, col: int) -> NDArray[np.uint16]:
    index = row * scene.kind.shape[1] + col
    return _draw(scene.seed, scene.touch, int(scene.kind[row, col]), index)


@lru_cache(maxsize=_MOST_CELLS)
def _cell(seed: int, touch: bool, kind: int, index: int) -> _Cell:
    spans, _ = labels_to_spans(_draw(seed, touch, kind, index))
    return _Cell(
        owner=spans.owner.astype(np.uint16), row=spans.row.astype(np.uint16),
        start=spans.start.astype(np.uint16), stop=spans.stop.astype(np.uint16),
    )  # fmt: skip


def _draw(seed: int, touch: bool, kind: int, index: int) -> NDArray[np.uint16]:
    """Ids from 1 in one cell, uint16 `(CELL, CELL)`."""
    rng = np.random.default_rng([seed, index])
    labels = np.zeros((CELL, CELL), np.uint16)
    if kind == _ELLIPSE:
        across = np.arange(CELL, dtype=np.float32) - CELL / 2 + 0.5
        labels[_egg(across[None], across[:, None], rng.uniform(550, 750, (2, 1)), rng.uniform(0, np.pi, 1), 0.0)] = 1
        return labels
    top, first = 0, 1
    for height in _bands(rng):
        number = CELL // int(height)
        down = (np.arange(height, dtype=np.float32) - height / 2 + 0.5)[:, None]
        right = np.tile(down[:, 0], number)[None]
        if touch:
            inside = abs(down) + abs(right) <= 0.9 * height
        else:
            long = rng.uniform(0.7, 1, number) * (height - 3) / 2
            radii = np.repeat([long, rng.uniform(0.6, 1, number) * long], height, axis=1)
            turn, taper = np.repeat(rng.uniform(0, np.pi, number), height), np.repeat(rng.uniform(0, 0.3, number), height)
            inside = _egg(right, down, radii, turn, taper)
        ids = np.repeat(np.arange(first, first + number), height)
        labels[top : top + height, : len(ids)] = np.where(inside, ids, 0)
        top, first = top + int(height), first + number
    return labels


def _egg(
    right: NDArray[np.float32], down: NDArray[np.float32], radii: NDArray[np.float64], turn: NDArray[np.float64],
    taper: NDArray[np.float64] | float,
) -> NDArray[np.bool_]:  # fmt: skip
    """Pixels inside turned ellipses that are broader at one end: convex, within the longer radius of their centre."""
    cos, sin = np.cos(turn).astype(np.float32), np.sin(turn).astype(np.float32)
    u, v = (right * cos + down * sin) / radii[0], (down * cos - right * sin) / radii[1]
    return np.asarray(u * u + v * v * (1 + taper * u + taper) <= 1)


def _window_spans(scene: Scene, window: Window) -> Spans:
    """All instances of a window in its pixels; `owner` is the id, ascending."""
    parts = []
    for row in range(window.row // CELL, (window.row_stop - 1) // CELL + 1):
        for col in range(window.col // CELL, (window.col_stop - 1) // CELL + 1):
            kind, index = int(scene.kind[row, col]), row * scene.kind.shape[1] + col
            if kind != _EMPTY:
                cell = _cell(scene.seed, scene.touch, kind, index)
                down, right = row * CELL - window.row, col * CELL - window.col
                spans = Spans(
                    owner=cell.owner + scene.first[index], row=cell.row.astype(np.int64) + down,
                    start=cell.start.astype(np.int64) + right, stop=cell.stop.astype(np.int64) + right,
                )  # fmt: skip
                parts.append(spans.clip(0, 0, window.height, window.width))
    return concat_spans(parts)


def _areas_of(scene: Scene, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of some instances, without drawing cells that hold none of them."""
    area, index = np.ones(len(ids), np.int64), np.searchsorted(scene.first, ids, side="right") - 1
    for i in np.unique(index):
        here = index == i
        cell = _cell(scene.seed, scene.touch, int(scene.kind.flat[i]), int(i))
        area[here] = cell.areas()[ids[here] - scene.first[i]]
    return area


def _enlarge(spans: Spans, which: NDArray[np.bool_], window: Window) -> Spans:
    """The chosen instances 1 px larger on all sides, inside the window."""
    grown = spans.take(which[spans.owner])
    shifted = [Spans(owner=grown.owner, row=grown.row + d, start=grown.start - 1, stop=grown.stop + 1) for d in (-1, 0, 1)]
    return normalise(concat_spans([spans, *shifted]).clip(0, 0, window.height, window.width))


def main(sizes: list[str]) -> None:
    print("instances  tiles  fragments   Mpx  CPU s")
    for size in sizes:
        started = time.process_time()
        scene = dense_scene(int(size))
        counts = [len(found.truth) for found in fragments(scene)]
        megapixels = scene.shape[0] * scene.shape[1] / 1e6
        seconds = time.process_time() - started
        print(f"{scene.count:9d} {len(counts):6d} {sum(counts):10d} {megapixels:5.0f} {seconds:6.1f}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["125000"])

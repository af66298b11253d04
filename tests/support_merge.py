"""Merging from a function that predicts one tile, with everything a test may want to know afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from support_scenes import oracle, paint

from seggeo.geometry import Window
from seggeo.instances import Instances, concat
from seggeo.merge.readings import owned
from seggeo.merge.resolve import Tally
from seggeo.merge.sweep import sweep
from seggeo.rle import overlaps
from seggeo.tiling import PartGrid, TileGrid

Predict = Callable[[Window], Instances]


class SizedParts(PartGrid):
    """Parts of a chosen number of tiles along a side, instead of the one that follows from the grid."""

    def __init__(self, grid: TileGrid, side: int) -> None:
        super().__init__(grid=grid)
        object.__setattr__(self, "_side", side)

    @property
    def side(self) -> int:
        return self._side


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedScene:
    """What came out of one merge, sorted by (row, col, area), and what went in."""

    instances: Instances
    n_tiles: NDArray[np.int32]
    cut: NDArray[np.bool_]
    touches_edge: NDArray[np.bool_]
    tally: Tally
    n_readings: int


def grid_of(shape: tuple[int, int], tile: int, overlap: int) -> TileGrid:
    """The grid that options --tile and --overlap make."""
    return TileGrid(height=shape[0], width=shape[1], tile=tile, halo=overlap // 2)


def merge_scene(predict: Predict, parts: PartGrid, *, exclusive: bool = True, shuffle: int | None = None) -> MergedScene:
    """Predict every tile of a grid and merge what they report.

    Args:
        predict: Tile-local instances of a window.
        parts: The grid's parts.
        exclusive: True when objects never share a pixel.
        shuffle: Seed of an order in which tiles are predicted and in which each lists its instances; None: as they come.
    """
    rng = None if shuffle is None else np.random.default_rng(shuffle)
    reported = _reported(predict, parts, rng)
    found = list(sweep(reported, parts, exclusive=exclusive))
    instances = concat([m.instances for m in found])
    order = np.lexsort((instances.label, -instances.area, instances.box[:, 1], instances.box[:, 0]))
    columns = {name: np.concatenate([getattr(m, name) for m in found])[order] for name in ("n_tiles", "cut", "touches_edge")}
    return MergedScene(
        instances=instances.take(order), tally=sum((m.tally for m in found), Tally()),
        n_readings=sum(len(tiles) for _, _, tiles in reported), **columns,
    )  # fmt: skip


def _reported(
    predict: Predict, parts: PartGrid, rng: np.random.Generator | None
) -> list[tuple[int, Instances, NDArray[np.int64]]]:
    grid = parts.grid
    order = np.arange(len(grid)) if rng is None else rng.permutation(len(grid))
    answers: dict[int, Instances] = {}
    for index in order:
        tile = grid[int(index)]
        instances = predict(tile.window)
        mine = instances.take(owned(instances, tile, grid))
        if rng is not None:
            mine = mine.take(rng.permutation(len(mine)))
        answers[int(index)] = mine.shift(tile.window.row, tile.window.col)
    return [_part(part, [(t.index, answers[t.index]) for t in parts.tiles(part)]) for part in range(len(parts))]


def _part(part: int, answers: list[tuple[int, Instances]]) -> tuple[int, Instances, NDArray[np.int64]]:
    tiles = np.repeat([index for index, _ in answers], [len(i) for _, i in answers]).astype(np.int64)
    return part, concat([instances for _, instances in answers]), tiles


def mask_set(instances: Instances) -> set[tuple[int, bytes, bytes]]:
    """Every instance as class, box and pixels: two merges agree exactly when their sets do."""
    runs = [instances.runs[first:last].tobytes() for first, last in zip(instances.start, instances.start[1:], strict=False)]
    return {(int(instances.label[i]), instances.box[i].tobytes(), runs[i]) for i in range(len(instances))}


def laminar(instances: Instances) -> Instances:
    """The instances without those that overlap an earlier one and are neither part nor whole of it."""
    spans, area = instances.spans(), instances.area
    a, b, shared = overlaps(spans, spans)
    clash = (a != b) & ((shared != np.minimum(area[a], area[b])) | (area[a] == area[b]))
    kept: list[int] = []
    for i in range(len(instances)):
        if not np.isin(b[clash & (a == i)], kept).any():
            kept.append(i)
    return instances.take(np.array(kept))


def jittered(labels: NDArray[np.int32], *, seed: int, most: int = 2, missed: float = 0.0, exclusive: bool = True) -> Predict:
    """A model that draws every piece up to `most` px too large or too small and misses some, anew in every window.

    With `exclusive` the masks of one tile never overlap, as of a model that gives a label image.
    """

    def predict(window: Window) -> Instances:
        rng = np.random.default_rng([seed, window.row, window.col])
        pieces = oracle(labels, window)
        masks, origins = [], []
        for box, mask in pieces:
            step, is_missed = int(rng.integers(-most, most + 1)), rng.random() < missed
            grown = np.pad(mask, most)
            if step:
                change = ndi.binary_dilation if step > 0 else ndi.binary_erosion
                grown = change(grown, iterations=abs(step))
            top, left = max(0, most - int(box[0])), max(0, most - int(box[1]))
            row, col = int(box[0]) - most + top, int(box[1]) - most + left
            grown = grown[top : top + window.height - row, left : left + window.width - col]
            if grown.any() and not is_missed:
                masks.append(grown)
                origins.append((row, col))
        drawn = Instances.from_masks(masks, origin=origins, score=rng.uniform(0.5, 1, len(masks)))
        return _apart(drawn, window.shape) if exclusive else drawn

    return predict


def _apart(instances: Instances, shape: tuple[int, int]) -> Instances:
    """The same masks with every shared pixel given to one of them."""
    painted = paint(instances, shape)
    ids = np.unique(painted[painted > 0]) - 1
    return replace(Instances.from_labels(painted), score=instances.score[ids])

"""Scenes whose every object is known, an oracle that reads them tile by tile, and how to score what came back.

All are numpy with scikit-image's drawing and scipy's morphology, seeded, and hold 4-connected objects only: a tile's
reading of an object is then the 4-connected components of its pixels inside the window.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi
from skimage import draw
from skimage.measure import label as components

from seggeo.geometry import Window
from seggeo.instances import Instances, concat
from seggeo.rle import Spans

Labels = NDArray[np.int32]

KINDS = ("discs", "voronoi", "snakes", "spirals", "combs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeamScene:
    """A label raster and what each of its objects is."""

    labels: Labels
    """`(size, size)`, 0 is background, objects are 1 to `len(kinds) - 1`."""
    kinds: tuple[str, ...]
    """Kind of each id; entry 0 is the background's."""


def seam_scene(seed: int, size: int = 4096) -> SeamScene:
    """Everything that breaks seam rules, in one raster.

    Two blobs wider than a quarter of the scene (its usual tile), three roads from side to side, rows of six touching
    houses, L-shaped roofs with a shed in the notch, and discs. Small things keep their size in pixels whatever `size`
    is (at least 768); their number follows the area.
    """
    rng = np.random.default_rng(seed)
    labels, kinds = np.zeros((size, size), np.int32), [""]
    scale, crowd = size / 4096, (size / 4096) ** 2
    _draw_large(labels, kinds, scale)
    for _ in range(round(60 * crowd)):
        _draw_row_houses(labels, kinds, rng)
    for _ in range(round(40 * crowd)):
        _draw_notched(labels, kinds, rng)
    for _ in range(round(900 * crowd)):
        _draw_disc(labels, kinds, rng)
    return SeamScene(labels=labels, kinds=tuple(kinds))


def oracle(
    labels: Labels, window: Window, noise: np.random.Generator | None = None, *, min_area: int | None = None
) -> Instances:
    """What a model that knows the truth reports for one tile, in tile pixels.

    Each 4-connected piece of each id is one instance with score 0.9 to 1. With `noise` a piece is dilated by 1 or 2 px
    (half of them) or eroded by 1 px (a fifth), loses 0 to 10 px at sides where the tile cuts it, and cut pieces score
    0.15 less.

    Args:
        labels: The whole scene.
        window: The tile's window.
        noise: Where the noise comes from; None for a perfect model.
        min_area: Pieces below are dropped, px; default 1, with noise 16.
    """
    return oracle_with_ids(labels, window, noise, min_area=min_area)[0]


def oracle_with_ids(
    labels: Labels, window: Window, noise: np.random.Generator | None = None, *, min_area: int | None = None
) -> tuple[Instances, NDArray[np.int64]]:
    """`oracle` and the true id of each of its instances."""
    tile = labels[window.slices()]
    pieces = Instances.from_labels(components(tile, connectivity=1))
    if noise is not None:
        least = 16 if min_area is None else min_area
        return _noisy(pieces, tile, window, labels.shape, (noise, least))
    pieces = pieces.take(pieces.area >= (min_area or 1))
    return pieces, _ids(pieces.spans(), tile)


def oracle_masks(truth: Instances, window: Window) -> Instances:
    """The pieces of overlapping masks that one tile sees, in tile pixels, in the order of `truth`."""
    parts = []
    for i in range(len(truth)):
        row, col, row_stop, col_stop = (int(v) for v in truth.box[i])
        seen = window.intersect(Window.from_bounds(row, col, row_stop, col_stop))
        if seen is not None:
            mask = truth.mask(i)[seen.slices(Window.from_bounds(row, col, row_stop, col_stop))]
            pieces = Instances.from_labels(components(mask, connectivity=1), label=int(truth.label[i]))
            parts.append(pieces.shift(seen.row - window.row, seen.col - window.col))
    return concat(parts)


def random_scene(kind: str, seed: int, shape: tuple[int, int] = (256, 256)) -> Labels:
    """A label raster of one of `KINDS`; every id is 4-connected, touching neighbours are common."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    makers: dict[str, Callable[[np.random.Generator, tuple[int, int]], Labels]] = {
        "discs": _discs, "voronoi": _voronoi, "snakes": _snakes, "spirals": _spirals, "combs": _combs,
    }  # fmt: skip
    return np.asarray(components(makers[kind](rng, shape), connectivity=1), np.int32)


def nested(seed: int, shape: tuple[int, int] = (256, 256), *, cells: int = 2) -> Instances:
    """Chains of masks, each inside the one before and at least 6 px away from its sides, up to four deep.

    Blobs lie in a grid of `cells` x `cells` and cross whatever tile borders lie there; a chain of bars crosses the whole
    image from left to right over all of them. `label` is the depth, 0 for the outermost.
    """
    rng = np.random.default_rng(seed)
    height, width = shape
    masks: list[NDArray[np.bool_]] = []
    depths: list[int] = []
    for row in range(cells):
        for col in range(cells):
            centre = (height * (row + 0.5) / cells, width * (col + 0.5) / cells)
            radii = (height / cells * rng.uniform(0.3, 0.55), width / cells * rng.uniform(0.3, 0.55))
            for depth in range(int(rng.integers(1, 5))):
                if min(radii) - 7 * depth < 3:
                    break
                masks.append(_ellipse(shape, centre, (radii[0] - 7 * depth, radii[1] - 7 * depth)))
                depths.append(depth)
    middle = int(rng.integers(height // 3, 2 * height // 3))
    for depth in range(3):
        bar = np.zeros(shape, bool)
        bar[max(0, middle - 21 + 7 * depth) : middle + 21 - 7 * depth, 7 * depth : width - 7 * depth] = True
        masks.append(bar)
        depths.append(depth)
    return Instances.from_masks(masks, label=depths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How well a label raster agrees with the truth; a match is an IoU above one half."""

    n_truth: int
    n_pred: int
    matched: int
    pq: float
    sq: float
    missed: tuple[int, ...]
    """True ids without a match, ascending."""


def panoptic_quality(truth: Labels, pred: NDArray[np.integer]) -> Quality:
    """Panoptic quality of `pred` `(h, w)` against `truth` `(h, w)`; 0 is background in both, ids need not be dense."""
    true_ids, t = np.unique(truth, return_inverse=True)
    pred_ids, p = np.unique(pred, return_inverse=True)
    t, p = t.ravel(), p.ravel()
    pair, shared = np.unique(t.astype(np.int64) * len(pred_ids) + p, return_counts=True)
    i, j = pair // len(pred_ids), pair % len(pred_ids)
    iou = shared / (np.bincount(t)[i] + np.bincount(p)[j] - shared)
    hit = (iou > 0.5) & (true_ids[i] > 0) & (pred_ids[j] > 0)
    n_truth, n_pred, matched = int((true_ids > 0).sum()), int((pred_ids > 0).sum()), int(hit.sum())
    total = float(iou[hit].sum())
    missed = np.setdiff1d(true_ids[true_ids > 0], true_ids[i[hit]])
    return Quality(
        n_truth=n_truth, n_pred=n_pred, matched=matched, missed=tuple(int(m) for m in missed),
        pq=2 * total / (n_truth + n_pred) if n_truth + n_pred else 1.0, sq=total / matched if matched else 0.0,
    )  # fmt: skip


def same_partition(a: NDArray[np.integer], b: NDArray[np.integer]) -> bool:
    """True when both rasters have the same background and objects, whatever the ids."""
    if a.shape != b.shape or not np.array_equal(a > 0, b > 0):
        return False
    pairs = np.unique(np.stack([a[a > 0], b[a > 0]]), axis=1)
    return all(len(np.unique(ids)) == pairs.shape[1] for ids in pairs)


def paint(instances: Instances, shape: tuple[int, int]) -> Labels:
    """Masks drawn into one raster as ids 1 to n, large ones first, so that parts stay visible on wholes."""
    labels = np.zeros(shape, np.int32)
    for i in np.argsort(-instances.area, kind="stable"):
        row, col, row_stop, col_stop = instances.box[i]
        labels[row:row_stop, col:col_stop][instances.mask(i)] = i + 1
    return labels


def _draw_large(labels: Labels, kinds: list[str], scale: float) -> None:
    size = labels.shape
    _put(labels, kinds, draw.disk((1300 * scale, 1300 * scale), 640 * scale, shape=size), "larger_than_tile")
    tilted = draw.ellipse(2900 * scale, 3000 * scale, 420 * scale, 900 * scale, shape=size, rotation=-np.deg2rad(20))
    _put(labels, kinds, tilted, "larger_than_tile")
    half = max(3.0, 7 * scale)
    for row in (2150, 2230, 3950):
        left, right = (row * scale, 30 * scale), ((row + 30) * scale, 4060 * scale)
        rows = [left[0] - half, right[0] - half, right[0] + half, left[0] + half]
        _put(labels, kinds, draw.polygon(rows, [left[1], right[1], right[1], left[1]], size), "road")


def _put(labels: Labels, kinds: list[str], pixels: tuple[NDArray[np.int64], NDArray[np.int64]], kind: str) -> None:
    if not (labels[pixels] > 0).any():
        labels[pixels] = len(kinds)
        kinds.append(kind)


def _draw_row_houses(labels: Labels, kinds: list[str], rng: np.random.Generator) -> None:
    row, col = rng.integers(20, len(labels) - 400, 2)
    width, height = rng.integers(28, 56), rng.integers(30, 70)
    if not (labels[row - 2 : row + height + 2, col - 2 : col + 6 * width + 2] > 0).any():
        for i in range(6):
            labels[row : row + height, col + i * width : col + (i + 1) * width] = len(kinds)
            kinds.append("row_house")


def _draw_notched(labels: Labels, kinds: list[str], rng: np.random.Generator) -> None:
    row, col = rng.integers(20, len(labels) - 220, 2)
    side = int(rng.integers(80, 180))
    wall = side // 4
    if not (labels[row - 2 : row + side + 2, col - 2 : col + side + 2] > 0).any():
        labels[row : row + side, col : col + wall] = len(kinds)
        labels[row + side - wall : row + side, col : col + side] = len(kinds)
        labels[row + 10 : row + 10 + wall, col + wall + 12 : col + 2 * wall + 12] = len(kinds) + 1
        kinds.extend(("l_shape", "in_notch"))


def _draw_disc(labels: Labels, kinds: list[str], rng: np.random.Generator) -> None:
    row, col = rng.integers(30, len(labels) - 30, 2)
    radius = int(rng.integers(6, 24))
    around = labels[row - radius - 1 : row + radius + 2, col - radius - 1 : col + radius + 2]
    if not (around > 0).any():
        rows, cols = np.ogrid[-radius - 1 : radius + 2, -radius - 1 : radius + 2]
        around[rows * rows + cols * cols <= radius * radius] = len(kinds)
        kinds.append("disc")


def _noisy(
    pieces: Instances, tile: Labels, window: Window, shape: tuple[int, int], how: tuple[np.random.Generator, int]
) -> tuple[Instances, NDArray[np.int64]]:
    rng, least = how
    inner = np.array([window.row > 0, window.col > 0, window.row_stop < shape[0], window.col_stop < shape[1]])
    sides = np.array([0, 0, *window.shape])
    masks, origins, scores, kept = [], [], [], []
    for i in range(len(pieces)):
        if pieces.area[i] < least:
            continue
        box, cut = pieces.box[i].astype(int), (pieces.box[i] == sides) & inner
        mask, top_left = _perturb(pieces.mask(i), box, window.shape, cut, rng)
        if mask.sum() >= least:
            masks.append(mask)
            origins.append(top_left)
            scores.append(0.9 + 0.09 * rng.random() - 0.15 * bool(cut.any()))
            kept.append(i)
    ids = _ids(pieces.spans(), tile)
    return Instances.from_masks(masks, score=scores, origin=origins), ids[kept]


def _perturb(
    mask: NDArray[np.bool_], box: NDArray[np.int64], shape: tuple[int, int], cut: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    pad, dice = 3, rng.random()
    grown = np.pad(mask, pad)
    if dice < 0.5:
        grown = ndi.binary_dilation(grown, iterations=1 if dice < 0.25 else 2)
    elif dice < 0.7 and min(mask.shape) > 8:
        grown = ndi.binary_erosion(grown)
    row, col = int(box[0]) - pad, int(box[1]) - pad
    lost = np.where(cut, rng.integers(0, 11, 4), 0)
    top, left = max(0, -row) + lost[0], max(0, -col) + lost[1]
    bottom, right = min(grown.shape[0], shape[0] - row) - lost[2], min(grown.shape[1], shape[1] - col) - lost[3]
    if bottom - top < 3 or right - left < 3:
        return np.zeros((1, 1), bool), (0, 0)
    return grown[top:bottom, left:right], (row + top, col + left)


def _ids(spans: Spans, tile: Labels) -> NDArray[np.int64]:
    first = np.searchsorted(spans.owner, np.arange(spans.owner[-1] + 1 if len(spans) else 0))
    return tile[spans.row[first], spans.start[first]].astype(np.int64)


def _discs(rng: np.random.Generator, shape: tuple[int, int]) -> Labels:
    labels = np.zeros(shape, np.int32)
    largest = max(4, min(shape) // 3)
    for i in range(1, 2 + shape[0] * shape[1] // 900):
        radius = rng.uniform(1.5, largest if rng.random() < 0.1 else largest / 4)
        centre = (rng.uniform(0, shape[0]), rng.uniform(0, shape[1]))
        labels[draw.disk(centre, radius, shape=shape)] = i
    return labels


def _voronoi(rng: np.random.Generator, shape: tuple[int, int]) -> Labels:
    count = int(rng.integers(4, 5 + shape[0] * shape[1] // 400))
    seeds = np.zeros(shape, np.int32)
    seeds[rng.integers(0, shape[0], count), rng.integers(0, shape[1], count)] = np.arange(1, count + 1)
    rows, cols = ndi.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return np.asarray(seeds[rows, cols], np.int32)


def _snakes(rng: np.random.Generator, shape: tuple[int, int]) -> Labels:
    labels = np.zeros(shape, np.int32)
    for i in range(1, int(rng.integers(4, 14))):
        steps = int(rng.integers(30, 2 * max(shape)))
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.18, steps))
        rows = rng.uniform(0, shape[0]) + np.cumsum(np.sin(heading))
        cols = rng.uniform(0, shape[1]) + np.cumsum(np.cos(heading))
        thick = int(rng.integers(1, 5))
        for down in range(thick):
            for right in range(thick):
                r, c = np.floor(rows).astype(int) + down, np.floor(cols).astype(int) + right
                inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
                labels[r[inside], c[inside]] = i
    return labels


def _spirals(rng: np.random.Generator, shape: tuple[int, int]) -> Labels:
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    down, right = rows - shape[0] * rng.uniform(0.3, 0.7), cols - shape[1] * rng.uniform(0.3, 0.7)
    radius, angle = np.hypot(down, right), np.arctan2(down, right)
    arms, thick = int(rng.integers(2, 5)), rng.uniform(4, 14)
    turn = (radius / (arms * thick) - angle / (2 * np.pi) * rng.choice([-1, 1])) % 1
    labels = 1 + np.floor(turn * arms).astype(np.int32)
    labels[(labels == arms) & (rng.random() < 0.5)] = 0
    labels[radius < thick] = arms + 1
    return np.asarray(labels, np.int32)


def _combs(rng: np.random.Generator, shape: tuple[int, int]) -> Labels:
    labels = np.zeros(shape, np.int32)
    count = int(rng.integers(1, 4))
    edges = np.linspace(0, shape[0], count + 1).astype(int)
    for i, (top, bottom) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        spine, tooth = int(rng.integers(2, 6)), int(rng.integers(2, 9))
        period, gap = 2 * tooth + int(rng.integers(0, 3)), int(rng.integers(0, 3))
        phase = np.arange(shape[1]) % period
        field = labels[top:bottom]
        field[: -spine - gap or None, phase < tooth] = 2 * i + 1
        field[spine + gap :, (phase >= tooth) & (phase < 2 * tooth)] = 2 * i + 2
        field[:spine], field[-spine:] = 2 * i + 1, 2 * i + 2
    return np.ascontiguousarray(labels.T) if rng.random() < 0.5 and shape[0] == shape[1] else labels


def _ellipse(shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[draw.ellipse(*centre, *radii, shape=shape)] = True
    return mask

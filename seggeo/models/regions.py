"""A scene cut into regions of like colour, for object-based analysis: no weights, every valid pixel in one region.

1. `gradient`: how fast the colours change, after a Gaussian of `smooth` px.
2. `ascend` on its negative: every pixel flows to the nearest quiet spot; tens of thousands of small basins.
3. `fuse`: rounds in which every two regions that are each other's most similar neighbour become one, while they
   differ by less than `scale`; all pairs of a round at once, so that no order is chosen.
4. Regions under `min_area` join their most similar neighbour.

Nothing is global: a quiet spot depends on the pixels a few sigmas around it and a fusion on the neighbours, so that
two tiles agree except near the windows' sides. Similarity is the difference of mean colours, whatever the size: a
lake cut by a window stays as much a lake as a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from seggeo.instances import Instances
from seggeo.models.basins import Labels, ascend, necks
from seggeo.models.channels import smoothed
from seggeo.models.settings import bad_setting, parse_settings, to_values
from seggeo.profiling import span
from seggeo.protocols import ModelInfo, ModelRequest, Prediction, TileImage

NAME = "regions"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSettings:
    """What `--set` may change."""

    scale: float = 16.0
    """Neighbours whose mean colours differ by less become one, gray values 0-255; more gives larger regions."""
    smooth: float = 1.5
    """Sigma of the Gaussian before the gradient, px."""
    min_area: int = 100
    """Smaller regions join their most similar neighbour, px."""
    compactness: float = 0.5
    """How much a long common border speaks for joining, 0 (colour alone) to 1; more gives rounder regions."""

    def __post_init__(self) -> None:
        limits = {"scale": (0.0, 255.0), "smooth": (0.3, 50.0), "min_area": (0, 1e12), "compactness": (0.0, 1.0)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                why = f"lies between {least:g} and {most:g}"
                raise bad_setting(type(self), name, getattr(self, name), model=NAME, why=why)


def load(request: ModelRequest) -> Regions:
    """The segmenter of a request.

    Raises:
        ConfigError: A setting it does not know or cannot use.
    """
    return Regions(parse_settings(RegionSettings, request.settings, model=NAME))


class Regions:
    """Segmenter of scenes into regions; together they cover the valid pixels once.

    A region's score is how it stands out: the colour difference to its neighbours (mean over its border) against that
    plus its own spread, 0 to 1; 1 for a region without neighbours.
    """

    def __init__(self, settings: RegionSettings) -> None:
        self.settings = settings
        self.info = ModelInfo(
            name=NAME, classes=("region",), channels=3, exclusive=True, settings=to_values(settings), memory_bytes=300 * 1024**2
        )

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """The regions of each tile."""
        return [Prediction(instances=self._one(tile)) for tile in tiles]

    def _one(self, tile: TileImage) -> Instances:
        settings = self.settings
        if not tile.valid.any():
            return Instances.empty()
        basins = ascend(-gradient(tile.image, tile.valid, settings.smooth), tile.valid).labels
        graph, region = fuse(graph_of(tile.image, basins), settings)
        labels = region[basins]
        keep = graph.area >= settings.min_area
        keep |= np.isin(np.arange(len(graph.area)), _at_sides(labels) - 1)
        number = np.concatenate([[0], np.where(keep, np.cumsum(keep), 0)])
        with span("encode"):
            return replace(Instances.from_labels(number[labels]), score=distinctness(graph)[keep])


def gradient(image: NDArray[np.uint8], valid: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Length of the colour gradient, gray values per pixel, over all bands, `(h, w)`."""
    total = np.zeros(valid.shape, np.float32)
    for band in range(image.shape[2]):
        values = smoothed(np.ascontiguousarray(image[..., band]), valid, sigma)
        for axis in (0, 1):
            if values.shape[axis] > 1:
                total += np.gradient(values, axis=axis) ** 2
    return np.sqrt(total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Regions (0 to n - 1, in scan order of their first basins) and the borders between them."""

    area: NDArray[np.int64]
    """Pixels, `(n,)`."""
    total: NDArray[np.int64]
    """Sum of the gray values per band, `(n, c)`."""
    squares: NDArray[np.int64]
    """Sum of their squares, `(n, c)`."""
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    """The two sides of each border, `a < b`, `(m,)`."""
    length: NDArray[np.int64]
    """Pairs of pixels that meet there, `(m,)`."""

    @property
    def perimeter(self) -> NDArray[np.int64]:
        """Length of each region's borders, `(n,)`."""
        count = len(self.area)
        return np.bincount(self.a, self.length, count).astype(np.int64) + np.bincount(self.b, self.length, count).astype(
            np.int64
        )

    @property
    def difference(self) -> NDArray[np.float64]:
        """Root mean square difference of mean colours across each border, `(m,)`."""
        mean = self.total / self.area[:, None]
        distance: NDArray[np.float64] = np.sqrt(((mean[self.a] - mean[self.b]) ** 2).mean(axis=1))
        return distance


def graph_of(image: NDArray[np.uint8], labels: Labels) -> Graph:
    """Colours and borders of labels 1 to n; label i is region i - 1."""
    owner, count = labels.ravel(), int(labels.max(initial=0)) + 1
    bands = [image[..., band].ravel().astype(np.float64) for band in range(image.shape[2])]

    # Integers in float64 sums are exact, so that no order of summing shows.
    def sums(values: list[NDArray[np.float64]]) -> NDArray[np.int64]:
        return np.stack([np.bincount(owner, v, count)[1:] for v in values], axis=1).astype(np.int64)

    borders = necks(labels)
    return Graph(
        area=np.bincount(owner, minlength=count)[1:], total=sums(bands), squares=sums([v * v for v in bands]),
        a=borders.a - 1, b=borders.b - 1, length=borders.length,
    )  # fmt: skip


def fuse(graph: Graph, settings: RegionSettings) -> tuple[Graph, Labels]:
    """The regions that remain, and the new label of each old label, `(n + 1,)`, 0 for 0."""
    region = np.arange(len(graph.area))
    while len(graph.a):
        cost = graph.difference * (1 - settings.compactness * _common_border(graph))
        best = _best(graph, cost)
        mutual = (best[graph.a] == np.arange(len(graph.a))) & (best[graph.b] == np.arange(len(graph.a)))
        pairs = np.flatnonzero(mutual & (cost < settings.scale))
        if not len(pairs):
            small = graph.area < settings.min_area
            pairs = np.unique(best[small & (best >= 0)])
            if not len(pairs):
                break
        graph, group = _contract(graph, pairs)
        region = group[region]
    return graph, np.concatenate([[0], region + 1]).astype(np.int32)


def _common_border(graph: Graph) -> NDArray[np.float64]:
    """Share of the smaller perimeter that a border makes up, `(m,)`."""
    perimeter = graph.perimeter
    share: NDArray[np.float64] = graph.length / np.minimum(perimeter[graph.a], perimeter[graph.b])
    return share


def _best(graph: Graph, cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """The cheapest border of each region, `(n,)`, -1 where it has none; ties go to the neighbour first in scan order."""
    count = len(graph.area)
    sides = ((graph.a, graph.b), (graph.b, graph.a))
    least, partner, best = np.full(count, np.inf), np.full(count, count), np.full(count, -1)
    for side, _ in sides:
        np.minimum.at(least, side, cost)
    for side, other in sides:
        is_least = cost == least[side]
        np.minimum.at(partner, side[is_least], other[is_least])
    for side, other in sides:
        chosen = np.flatnonzero((cost == least[side]) & (other == partner[side]))
        best[side[chosen]] = chosen
    return best


def _contract(graph: Graph, pairs: NDArray[np.int64]) -> tuple[Graph, NDArray[np.int64]]:
    """The graph with the regions on both sides of the given borders made one, and the new number of each region."""
    count = len(graph.area)
    links = coo_array((np.ones(len(pairs), bool), (graph.a[pairs], graph.b[pairs])), shape=(count, count))
    found, group = connected_components(links, directed=False)
    first = np.full(found, count)
    np.minimum.at(first, group, np.arange(count))
    rank = np.empty(found, np.int64)
    rank[np.argsort(first)] = np.arange(found)
    group = rank[group]
    one, two = group[graph.a], group[graph.b]
    apart = one != two
    keys = np.minimum(one, two)[apart] * found + np.maximum(one, two)[apart]
    kept, inverse = np.unique(keys, return_inverse=True)

    def summed(values: NDArray[np.int64]) -> NDArray[np.int64]:
        out = np.zeros((found, *values.shape[1:]), np.int64)
        np.add.at(out, group, values)
        return out

    return Graph(
        area=summed(graph.area), total=summed(graph.total), squares=summed(graph.squares), a=kept // found, b=kept % found,
        length=np.bincount(inverse, graph.length[apart], len(kept)).astype(np.int64),
    ), group  # fmt: skip


def distinctness(graph: Graph) -> NDArray[np.float32]:
    """Score of each region, `(n,)`; see `Regions`."""
    count, perimeter = len(graph.area), graph.perimeter
    across = graph.difference * graph.length
    outside = (np.bincount(graph.a, across, count) + np.bincount(graph.b, across, count)) / np.maximum(perimeter, 1)
    mean = graph.total / graph.area[:, None]
    spread = np.sqrt(np.maximum(graph.squares / graph.area[:, None] - mean**2, 0).mean(axis=1))
    score = np.divide(outside, outside + spread, out=np.zeros(count), where=outside + spread > 0)
    return np.where(perimeter == 0, 1.0, score).astype(np.float32)


def _at_sides(labels: Labels) -> Labels:
    """Labels that touch a side of the window; there the true size is unknown."""
    sides: Labels = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return sides

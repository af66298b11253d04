"""From links to groups: readings of one object, and never two that one tile told apart.

Connected readings are one group unless a tile reported two of them as different objects, which it did when one of the
two was whole or they touch. Pieces that are both cut, and apart, may belong together: a bend or a comb outside the
window. Only components with two readings of one tile need a closer look, link by link, best first.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from seggeo.instances import Instances
from seggeo.merge.match import Pairs
from seggeo.merge.readings import IntArray, Readings
from seggeo.rle import Spans, concat_spans, overlaps

RUNS_AT_ONCE = 1 << 20
"""Runs unpacked in one go when pieces are compared; bounds memory where one object fills the image."""


def components(count: int, pairs: Pairs) -> IntArray:
    """Component number of each of `count` readings under the linked pairs."""
    a, b = pairs.a[pairs.linked], pairs.b[pairs.linked]
    graph = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def group(pool: Readings, component: IntArray, pairs: Pairs, margin: int) -> IntArray:
    """Group number of each reading: its component, or a part of it where a tile told readings apart.

    Args:
        pool: Readings of closed components.
        component: Component of each, `(n,)`.
        pairs: Links among them.
        margin: Depth up to which a reading may be cut.
    """
    view = np.unique(component * (int(pool.tile.max(initial=0)) + 1) + pool.tile, return_inverse=True)[1]
    crowded = np.bincount(view)[view] > 1
    doubtful = np.unique(component[crowded])
    if not len(doubtful):
        return component
    groups = component.copy()
    fresh = int(component.max()) + 1
    in_doubt = np.isin(component, doubtful)
    links = pairs.take(pairs.linked & in_doubt[pairs.a])
    # Nested masks that look alike in a strip tie: larger with larger, or part and whole would change places.
    size = pool.area[links.a] + pool.area[links.b]
    best_first = np.lexsort((pool.key[links.b], pool.key[links.a], -size, -links.iou))
    members = np.flatnonzero(in_doubt)
    forest = _Forest(members, pool, margin)
    several = np.flatnonzero(crowded)
    for i, j in zip(*touching(pool.instances.take(several), view[several]), strict=True):
        forest.foes[int(several[i])].add(int(several[j]))
    for a, b in zip(links.a[best_first].tolist(), links.b[best_first].tolist(), strict=True):
        forest.link(a, b)
    groups[members] = fresh + np.array([forest.root(m) for m in members.tolist()])
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


class _Forest:
    """Union-find that refuses to join readings one tile told apart.

    Every tree knows its readings, their tiles, the tiles that saw one of them whole, and its foes: readings that touch
    one of its own in the same tile. So one look at sets settles a link, however many pieces a tile saw of an object.
    """

    def __init__(self, members: IntArray, pool: Readings, margin: int) -> None:
        tiles, whole = pool.tile[members].tolist(), (pool.depth[members] > margin).tolist()
        names = members.tolist()
        self._parent = {m: m for m in names}
        self._readings = {m: {m} for m in names}
        self._tiles = {m: {t} for m, t in zip(names, tiles, strict=True)}
        self._whole = {m: {t} if w else set() for m, t, w in zip(names, tiles, whole, strict=True)}
        self.foes: dict[int, set[int]] = {m: set() for m in names}

    def root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def link(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a == b or self._told_apart(a, b):
            return
        if len(self._readings[a]) < len(self._readings[b]):
            a, b = b, a
        self._parent[b] = a
        for facts in (self._readings, self._tiles, self._whole, self.foes):
            facts[a] |= facts.pop(b)

    def _told_apart(self, a: int, b: int) -> bool:
        seen_whole = not (self._whole[a].isdisjoint(self._tiles[b]) and self._whole[b].isdisjoint(self._tiles[a]))
        return seen_whole or not self.foes[a].isdisjoint(self._readings[b])


def touching(instances: Instances, view: IntArray) -> tuple[IntArray, IntArray]:
    """Every pair (i, j), both ways round, of one view's masks that share a pixel or have neighbouring ones (4-connected).

    Args:
        instances: Masks in one frame.
        view: What each was seen in, `(n,)`; masks of different views do not meet.
    """
    order = np.argsort(view, kind="stable")
    ranked = view[order]
    runs_before = np.cumsum(np.diff(instances.start)[order]) - np.diff(instances.start)[order]
    lot = runs_before[np.searchsorted(ranked, ranked)] // RUNS_AT_ONCE
    found = [np.zeros((2, 0), np.int64)]
    for number in np.unique(lot):
        some = order[lot == number]
        found.append(some[_touching(instances.take(some).spans(), view[some])])
    i, j = np.concatenate(found, axis=1)
    return i, j


def _touching(spans: Spans, view: IntArray) -> IntArray:
    # Views are laid out one below the other, with rows between them, so that only masks of one view can meet.
    rank = np.unique(view, return_inverse=True)[1]
    row = spans.row + rank[spans.owner] * (int(spans.row.max()) + 3)
    here = Spans(owner=spans.owner, row=row, start=spans.start, stop=spans.stop)
    around = [Spans(owner=spans.owner, row=row, start=spans.start - 1, stop=spans.stop + 1)]
    around += [Spans(owner=spans.owner, row=row + step, start=spans.start, stop=spans.stop) for step in (-1, 1)]
    i, j, _ = overlaps(concat_spans(around), here)
    return np.stack([i[i != j], j[i != j]])

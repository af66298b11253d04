"""Objects of a result in batches that fit in memory whatever the masks are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from seggeo.instances import Objects

CHUNK = 120_000
"""Row intervals handled at once: about 15 MB with all that is derived from them."""


def bounded(batches: Iterable[Objects]) -> Iterator[Objects]:
    """The same objects in the same order, at most about `CHUNK` row intervals in each batch.

    A single object with more stays in one piece.
    """
    for objects in batches:
        box = objects.instances.box
        weight = np.cumsum(box[:, 2] - box[:, 0] + np.diff(objects.instances.start) // 2)  # bounds the row intervals
        cuts = [0, *(np.flatnonzero(np.diff(weight // CHUNK)) + 1), len(objects)]
        for first, last in zip(cuts[:-1], cuts[1:], strict=True):
            if last > first:
                yield _slice(objects, slice(int(first), int(last)))


def _slice(objects: Objects, which: slice) -> Objects:
    return Objects(
        instances=objects.instances.take(which), id=objects.id[which], n_tiles=objects.n_tiles[which],
        cut=objects.cut[which], touches_edge=objects.touches_edge[which],
    )  # fmt: skip

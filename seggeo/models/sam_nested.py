"""Masks inside masks: keep them all, one level of them, or cut them into a partition. Computed on row intervals.

A mask lies *in* another when at least `INSIDE` of its pixels do. Masks are visited one by one and compared with those
already kept, so that whatever is dropped is represented by a mask that stays.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seggeo import rle
from seggeo.errors import ConfigError
from seggeo.instances import Instances
from seggeo.rle import Spans

Nested = Literal["all", "whole", "part", "flat"]

INSIDE = 0.95


def apply_nested(masks: Instances, rule: Nested) -> Instances:
    """The masks of one image that a rule leaves, in their order.

    Args:
        masks: Masks of one slice, which may overlap.
        rule: `all` keeps every mask; `whole` drops masks that lie in a larger one; `part` drops masks that a smaller
            one lies in; `flat` gives every pixel to the smallest mask that holds it and drops masks left without any.

    Raises:
        ConfigError: No such rule.
    """
    if rule == "all" or not len(masks):
        return masks
    if rule == "flat":
        return _partition(masks)
    if rule not in ("whole", "part"):
        raise ConfigError(what=f"nested={rule!r}", why="known are all, whole, part and flat", mend="use --set nested=all")
    return masks.take(_one_level(masks, largest_first=rule == "whole"))


def _rank(masks: Instances) -> NDArray[np.int64]:
    """Place of each mask from small to large; of equals the one with the higher score, then the first, is smaller."""
    order = np.lexsort((np.arange(len(masks)), -masks.score, masks.area))
    rank = np.empty(len(masks), np.int64)
    rank[order] = np.arange(len(masks))
    return rank


def _pairs(masks: Instances, spans: Spans) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Overlapping masks `(smaller, larger, shared pixels)`, each pair once."""
    i, j, shared = rle.overlaps(spans, spans)
    rank = _rank(masks)
    once = rank[i] < rank[j]
    return i[once], j[once], shared[once]


def _one_level(masks: Instances, *, largest_first: bool) -> NDArray[np.bool_]:
    inner, outer, shared = _pairs(masks, masks.spans())
    inside = shared >= INSIDE * masks.area[inner]
    inner, outer = inner[inside], outer[inside]
    # The pairs in which a mask would be dropped, found by the mask that would go.
    gone, stays = (inner, outer) if largest_first else (outer, inner)
    order = np.argsort(gone, kind="stable")
    gone, stays = gone[order], stays[order]
    first, stop = np.searchsorted(gone, np.arange(len(masks))), np.searchsorted(gone, np.arange(len(masks)), side="right")
    keep = np.zeros(len(masks), bool)
    visit = np.argsort(_rank(masks))
    for i in visit[::-1] if largest_first else visit:
        keep[i] = not keep[stays[first[i] : stop[i]]].any()
    return keep


def _partition(masks: Instances) -> Instances:
    spans = masks.spans()
    inner, outer, _ = _pairs(masks, spans)
    first = np.searchsorted(spans.owner, np.arange(len(masks) + 1))
    lengths = np.diff(first)[inner]
    # The spans of each inner mask, once for every mask they are cut out of.
    offset = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    holes = spans.take(np.repeat(first[:-1][inner], lengths) + offset)
    cut = Spans(owner=np.repeat(outer, lengths), row=holes.row, start=holes.start, stop=holes.stop)
    left, _ = masks.with_spans(rle.subtract(spans, cut))
    return left

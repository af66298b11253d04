"""Instances: many masks as a struct of arrays, and the merged objects made of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seggeo import rle
from seggeo.errors import GeometryError
from seggeo.rle import Spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """`n` masks; each is run-length encoded inside its own tight box, never in a full frame.

    Pixel coordinates are those of the tile straight after prediction and of the work grid once stored.
    """

    box: NDArray[np.int32]
    """Half-open `(row, col, row_stop, col_stop)`, `(n, 4)`."""
    z: NDArray[np.int32]
    """Slice of each mask, `(n,)`; 0 in a 2-D image."""
    label: NDArray[np.int32]
    """Class index, `(n,)`; 0-based into the model's class names."""
    score: NDArray[np.float32]
    """Model confidence 0 to 1, `(n,)`."""
    runs: NDArray[np.uint32]
    """Run lengths of all masks, row by row in the box, background first, `(R,)`."""
    start: NDArray[np.int64]
    """Where each mask's runs begin in `runs`, `(n + 1,)`."""

    def __post_init__(self) -> None:
        n = len(self.score)
        if self.box.shape != (n, 4) or len(self.z) != n or len(self.label) != n or len(self.start) != n + 1:
            raise GeometryError(
                what=f"{n} scores, boxes of shape {self.box.shape}, {len(self.label)} labels, {len(self.start)} run starts",
                why="n instances need (n, 4) boxes, n labels, n scores, n slices and n + 1 run starts",
                mend="build them with Instances.from_masks, from_labels or from_spans",
            )

    def __len__(self) -> int:
        return len(self.score)

    @classmethod
    def empty(cls) -> Instances:
        """No instances."""
        return cls.from_spans(rle.concat_spans([]), score=(), label=())

    @classmethod
    def from_spans(cls, spans: Spans, *, score: ArrayLike, label: ArrayLike, z: ArrayLike = 0) -> Instances:
        """Instances of sorted spans; owners run from 0 to n - 1 and each has at least one pixel.

        Args:
            spans: Sorted by (owner, row, start), not touching: `rle.normalise` makes them so.
            score: `(n,)`; its length is the number of instances.
            label: `(n,)` class indices.
            z: One slice or `(n,)`.
        """
        scores = np.asarray(score, np.float32)
        count = len(scores)
        runs, first, box = rle.spans_to_runs(spans, count)
        return cls(
            box=box, runs=runs, start=first, score=scores,
            label=np.broadcast_to(np.asarray(label, np.int32), (count,)).copy(),
            z=np.broadcast_to(np.asarray(z, np.int32), (count,)).copy(),
        )  # fmt: skip

    @classmethod
    def from_labels(cls, labels: NDArray[np.integer], *, score: float = 1.0, label: int = 0) -> Instances:
        """One instance for every positive value of an integer image `(h, w)`, in ascending order of value."""
        spans, ids = rle.labels_to_spans(np.asarray(labels))
        return cls.from_spans(spans, score=np.full(len(ids), score, np.float32), label=np.full(len(ids), label))

    @classmethod
    def from_masks(
        cls, masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_], *, score: ArrayLike | None = None,
        label: ArrayLike | None = None, origin: ArrayLike | None = None,
    ) -> Instances:  # fmt: skip
        """Instances of boolean masks; masks without a pixel are left out.

        Args:
            masks: `n` arrays `(h, w)`, of one size or each its own.
            score: `(n,)`, default 1.
            label: `(n,)`, default 0.
            origin: `(n, 2)` row and column of each array's first pixel, default 0, 0.
        """
        count = len(masks)
        scores = np.ones(count, np.float32) if score is None else np.asarray(score, np.float32).reshape(count)
        labels = np.zeros(count, np.int32) if label is None else np.asarray(label, np.int32).reshape(count)
        origins = np.zeros((count, 2), np.int64) if origin is None else np.asarray(origin, np.int64).reshape(count, 2)
        parts: list[Spans] = []
        kept: list[int] = []
        for i, mask in enumerate(masks):
            spans, ids = rle.labels_to_spans(np.asarray(mask, bool).view(np.uint8))
            if len(ids):
                row, col = origins[i]
                parts.append(
                    Spans(owner=spans.owner + len(kept), row=spans.row + row, start=spans.start + col, stop=spans.stop + col)
                )
                kept.append(i)
        return cls.from_spans(rle.concat_spans(parts), score=scores[kept], label=labels[kept])

    @property
    def area(self) -> NDArray[np.int64]:
        """Pixels of each mask, `(n,)`."""
        position = np.arange(len(self.runs)) - np.repeat(self.start[:-1], np.diff(self.start))
        ends = np.concatenate([[0], np.cumsum(np.where(position & 1 == 1, self.runs, 0), dtype=np.int64)])
        return np.asarray(ends[self.start[1:]] - ends[self.start[:-1]], np.int64)

    def spans(self) -> Spans:
        """Row intervals of all masks; `owner` is the position in this batch."""
        return rle.runs_to_spans(self.runs, self.start, self.box)

    def mask(self, i: int) -> NDArray[np.bool_]:
        """Mask `i` as booleans of the size of its box."""
        row, col, row_stop, col_stop = (int(v) for v in self.box[i])
        return rle.decode(self.runs[self.start[i] : self.start[i + 1]], row_stop - row, col_stop - col)

    def take(self, which: NDArray[np.bool_] | NDArray[np.integer] | slice) -> Instances:
        """The picked instances, in that order."""
        index = np.arange(len(self))[which]
        lengths = np.diff(self.start)[index]
        first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        gather = np.arange(first[-1]) + np.repeat(self.start[:-1][index] - first[:-1], lengths)
        return Instances(
            box=self.box[index], z=self.z[index], label=self.label[index], score=self.score[index],
            runs=self.runs[gather], start=first,
        )  # fmt: skip

    def shift(self, rows: int, cols: int, z: int = 0) -> Instances:
        """The same masks moved down by `rows`, right by `cols` and on by `z` slices."""
        return replace(self, box=self.box + np.array([rows, cols, rows, cols], np.int32), z=self.z + np.int32(z))

    def clip(self, row: int, col: int, row_stop: int, col_stop: int) -> tuple[Instances, NDArray[np.int64]]:
        """Masks cut to half-open bounds, and the positions of those that kept a pixel."""
        return self.with_spans(self.spans().clip(row, col, row_stop, col_stop))

    def with_spans(self, spans: Spans) -> tuple[Instances, NDArray[np.int64]]:
        """These instances with other pixels, `spans.owner` naming them; those left without are dropped.

        Returns:
            The instances and their positions in this batch.
        """
        kept, owner = np.unique(spans.owner, return_inverse=True)
        new = replace_owner(spans, owner.astype(np.int64))
        return Instances.from_spans(new, score=self.score[kept], label=self.label[kept], z=self.z[kept]), kept

    def __iter__(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
        return ((self.box[i], self.mask(i)) for i in range(len(self)))


def replace_owner(spans: Spans, owner: NDArray[np.int64]) -> Spans:
    """The same row intervals with other owners."""
    return Spans(owner=owner, row=spans.row, start=spans.start, stop=spans.stop)


def concat(batches: Sequence[Instances]) -> Instances:
    """All instances of several batches, in order."""
    if not batches:
        return Instances.empty()
    offsets = np.cumsum([0] + [len(b.runs) for b in batches])
    starts = [b.start[:-1] + o for b, o in zip(batches, offsets, strict=False)]
    return Instances(
        box=np.concatenate([b.box for b in batches]), z=np.concatenate([b.z for b in batches]),
        label=np.concatenate([b.label for b in batches]), score=np.concatenate([b.score for b in batches]),
        runs=np.concatenate([b.runs for b in batches]), start=np.concatenate([*starts, offsets[-1:]]).astype(np.int64),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """A batch of merged objects, in ascending order of id."""

    instances: Instances
    """Masks in work-grid pixels."""
    id: NDArray[np.uint32]
    """1-based, from the position of the box: (z, row, col, area); equal in every output."""
    n_tiles: NDArray[np.int32]
    """Tiles that reported the object."""
    cut: NDArray[np.bool_]
    """True where no tile saw the object whole and its mask was joined from pieces or stayed cut."""
    touches_edge: NDArray[np.bool_]
    """True where the mask touches the image's edge, so that its true size is unknown."""

    def __len__(self) -> int:
        return len(self.id)

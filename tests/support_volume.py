"""Results of volumes made in memory: label volumes as objects that come slice by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support_results import PROVENANCE, take

from seggeo.geometry import Frame, Placement, Window, matrix_of
from seggeo.instances import Instances, Objects
from seggeo.rle import labels_to_spans


@dataclass(frozen=True, slots=True)
class VolumeResult:
    """A `protocols.Result` of a volume; a slice's objects are made when it is asked for, `batch` at a time."""

    frame: Frame
    slice_of: Callable[[int], Objects]
    count: int
    classes: tuple[str, ...] = ("object",)
    provenance: Mapping[str, Any] = field(default_factory=lambda: dict(PROVENANCE))
    exclusive: bool = True
    linking: Mapping[str, Any] = field(default_factory=dict)
    batch: int = 1000

    def iter_objects(self) -> Iterator[Objects]:
        for z in range(self.frame.depth):
            objects = self.slice_of(z)
            for first in range(0, len(objects), self.batch):
                yield take(objects, np.arange(first, min(first + self.batch, len(objects))))

    def in_window(self, window: Window, z: int = 0) -> Objects:
        objects = self.slice_of(z)
        box = objects.instances.box
        meets = (box[:, 0] < window.row_stop) & (box[:, 2] > window.row)
        meets &= (box[:, 1] < window.col_stop) & (box[:, 3] > window.col)
        return take(objects, np.flatnonzero(meets))


def volume_of(labels: NDArray[np.integer], frame: Frame | None = None, **options: Any) -> VolumeResult:
    """The result whose label volume `(z, row, col)` this is; ids are its positive values."""
    depth, height, width = labels.shape
    frame = frame or Frame(depth=depth, height=height, width=width, placement=placement())
    count = options.pop("count", int(labels.max(initial=0)))
    return VolumeResult(frame, lambda z: slice_objects(labels[z], z), count, **options)


def slice_objects(labels: NDArray[np.integer], z: int) -> Objects:
    """Cross-sections of one slice in order of first row, as bands of rows give them."""
    spans, ids = labels_to_spans(labels)
    instances = Instances.from_spans(spans, score=np.full(len(ids), 0.5, np.float32), label=np.zeros(len(ids), int), z=z)
    order = np.argsort(instances.box[:, 0], kind="stable")
    return objects_in(instances.take(order), ids[order])


def objects_in(instances: Instances, ids: NDArray[np.integer]) -> Objects:
    """Instances as objects of these ids."""
    none = np.zeros(len(ids), bool)
    return Objects(
        instances=instances, id=ids.astype(np.uint32), n_tiles=np.ones(len(ids), np.int32), cut=none, touches_edge=none
    )


def placement(
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), axes: tuple[int, int, int] = (0, 1, 2), **fields: Any
) -> Placement:
    """A placement along the world's axes, z, row and col along z, y and x, unless a matrix is given."""
    z, row, col = spacing
    matrix = fields.pop("matrix", [[0, 0, col, 0], [0, row, 0, 0], [z, 0, 0, 0]])
    return Placement(matrix=matrix_of(matrix), axes=axes, **fields)


def blobs(seed: int, shape: tuple[int, int, int], count: int = 30) -> NDArray[np.uint32]:
    """Boxes of many sizes, some of them one voxel thin, that never overlap since the later cover the earlier."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    for value in range(1, count + 1):
        size = [int(rng.integers(1, max(2, n // 2))) for n in shape]
        low = [int(rng.integers(0, n - s + 1)) for n, s in zip(shape, size, strict=True)]
        labels[tuple(slice(a, a + s) for a, s in zip(low, size, strict=True))] = value
    return labels

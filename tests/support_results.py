"""Merged results made in memory, for tests of everything that writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Frame, Window
from seggeo.instances import Instances, Objects

PROVENANCE = {"command": "seggeo segment scene.tif", "seggeo": "0.1.0", "model": {"name": "toy"}}


@dataclass(frozen=True, slots=True)
class ListResult:
    """A `protocols.Result` whose objects lie in memory; `iter_objects` gives `batch` of them at a time."""

    objects: Objects
    frame: Frame
    classes: tuple[str, ...] = ("object",)
    provenance: Mapping[str, Any] = field(default_factory=lambda: dict(PROVENANCE))
    exclusive: bool = True
    batch: int = 1000

    @property
    def count(self) -> int:
        return len(self.objects)

    def iter_objects(self) -> Iterator[Objects]:
        for first in range(0, self.count, self.batch):
            yield take(self.objects, np.arange(first, min(first + self.batch, self.count)))

    def in_window(self, window: Window, z: int = 0) -> Objects:
        box = self.objects.instances.box
        meets = (box[:, 0] < window.row_stop) & (box[:, 2] > window.row)
        meets &= (box[:, 1] < window.col_stop) & (box[:, 3] > window.col)
        return take(self.objects, np.flatnonzero(meets & (self.objects.instances.z == z)))


def take(objects: Objects, which: NDArray[np.integer]) -> Objects:
    """The picked objects, in that order."""
    return Objects(
        instances=objects.instances.take(which), id=objects.id[which], n_tiles=objects.n_tiles[which],
        cut=objects.cut[which], touches_edge=objects.touches_edge[which],
    )  # fmt: skip


def objects_of(instances: Instances, frame: Frame) -> Objects:
    """Objects with ids 1 to n in the order given; made-up tile counts, edge contact as it is."""
    box, n = instances.box, len(instances)
    edge = (box[:, :2] == 0).any(axis=1) | (box[:, 2] == frame.height) | (box[:, 3] == frame.width)
    ids = np.arange(1, n + 1, dtype=np.uint32)
    return Objects(instances=instances, id=ids, n_tiles=(ids % 3 + 1).astype(np.int32), cut=ids % 5 == 0, touches_edge=edge)


def result_of(labels: NDArray[np.integer], frame: Frame | None = None, **fields: Any) -> ListResult:
    """The result whose objects are the positive values of an integer image, classes dealt out in turn."""
    frame = Frame(height=labels.shape[0], width=labels.shape[1]) if frame is None else frame
    plain = Instances.from_labels(labels)
    count = len(plain)
    rng = np.random.default_rng(5)
    classes = len(fields.get("classes", ("object",)))
    instances = Instances.from_spans(plain.spans(), score=rng.random(count, dtype=np.float32), label=np.arange(count) % classes)
    return ListResult(objects_of(instances, frame), frame, **fields)


def empty_result(frame: Frame, **fields: Any) -> ListResult:
    """A result that found nothing."""
    return ListResult(objects_of(Instances.empty(), frame), frame, **fields)

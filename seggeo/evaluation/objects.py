"""What is compared: the objects of one image, predicted or true, with their names and classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from seggeo.errors import GeometryError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.io.annotations_record import check_no_negative_ids
from seggeo.rle import labels_to_spans

ONE_CLASS = ("object",)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectSet:
    """All objects of one image from one side of a comparison."""

    instances: Instances
    """Masks in pixels of `frame`; label is an index into `classes`."""
    ids: NDArray[np.int64]
    """Id of each object as its file names it, `(n,)`."""
    classes: tuple[str, ...]
    scored: bool
    """True where scores are a model's; False where they are only filled in."""
    ignored: NDArray[np.bool_]
    """True for regions that are neither a miss nor a place for false alarms (COCO's crowds), `(n,)`."""
    frame: Frame | None = None
    """The grid of the pixels; None when nobody knows."""

    def __post_init__(self) -> None:
        n = len(self.instances)
        if len(self.ids) != n or len(self.ignored) != n:
            raise GeometryError(
                what=f"{n} objects with {len(self.ids)} ids and {len(self.ignored)} ignore flags",
                why="every object has one of each",
                mend="build the set with objects_of",
            )
        if n and (self.instances.z != 0).any():
            raise GeometryError(
                what=f"objects in {len(np.unique(self.instances.z))} slices of a volume",
                why="evaluate compares one image with one image",
                mend="give the label volume, a file or an array (z, row, col)",
            )
        if n and not 0 <= int(self.instances.label.min()) <= int(self.instances.label.max()) < len(self.classes):
            raise GeometryError(
                what=f"class indices up to {self.instances.label.max()} and {len(self.classes)} class names",
                why="labels count from 0 into the class names",
                mend="give a name for every class",
            )

    def __len__(self) -> int:
        return len(self.ids)


def objects_of(
    given: Instances | NDArray[np.integer], *, classes: tuple[str, ...] = ONE_CLASS, scored: bool = False,
    ignored: ArrayLike | None = None,
) -> ObjectSet:  # fmt: skip
    """The object set of instances in memory, or of a label image `(h, w)` with 0 and below as background.

    Args:
        given: Instances are numbered from 1; objects of a label image keep their values as ids.
        classes: Name of each class index.
        scored: True when the scores of the instances mean something.
        ignored: `(n,)`, True for regions to leave out of the count; default none.
    """
    frame = None
    if isinstance(given, Instances):
        instances, ids = given, np.arange(1, len(given) + 1, dtype=np.int64)
    else:
        if given.ndim != 2 or not np.issubdtype(given.dtype, np.integer):
            raise GeometryError(
                what=f"an array of shape {given.shape} and type {given.dtype}",
                why="a label image has two axes and integers",
                mend="pass one slice, labels.astype('int32')",
            )
        check_no_negative_ids(given, "the label image")
        spans, ids = labels_to_spans(given)
        instances = Instances.from_spans(spans, score=np.ones(len(ids), np.float32), label=0)
        frame = Frame(height=given.shape[0], width=given.shape[1]) if given.size else None
    flags = np.zeros(len(ids), bool) if ignored is None else np.asarray(ignored, bool)
    return ObjectSet(instances=instances, ids=ids, classes=classes, scored=scored, ignored=flags, frame=frame)

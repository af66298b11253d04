"""What a user's model returned for one tile, checked and turned into a `Prediction`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ModelError, SeggeoWarning
from seggeo.instances import Instances
from seggeo.protocols import ModelInfo, Prediction

KEYS = ("masks", "scores", "labels")


def to_instances(result: Any, shape: tuple[int, int], index: int, info: ModelInfo, *, is_stated: bool) -> Prediction:
    """The prediction that a result stands for.

    Args:
        result: An `Instances`, a `Prediction`, a label image or a dict of masks.
        shape: Height and width of the tile.
        index: Place of the tile in the batch, for messages.
        info: The model's.
        is_stated: The model itself says whether masks are exclusive.

    Raises:
        ModelError: Anything that does not fit; the message names the tile.
    """
    check = _Check(name=info.name, index=index, shape=shape, classes=info.classes)
    capped = False
    if isinstance(result, Prediction):
        result, capped = result.instances, result.capped
    if isinstance(result, Instances):
        found = check.instances(result)
    elif isinstance(result, Mapping):
        found = check.masks(result)
    elif hasattr(result, "__array__"):
        return Prediction(instances=check.label_image(np.asarray(result)))
    else:
        raise check.refuse(f"a {type(result).__name__}", "return an Instances, a label image (h, w) or a dict of masks")
    if info.exclusive:
        found = _flat(found, shape, check, is_stated=is_stated)
    return Prediction(instances=found, capped=capped)


class _Check:
    """The rules for one tile; every method returns Instances or raises."""

    def __init__(self, *, name: str, index: int, shape: tuple[int, int], classes: tuple[str, ...]) -> None:
        self.name, self.index, self.shape, self.classes = name, index, shape, classes

    def refuse(self, found: str, mend: str) -> ModelError:
        height, width = self.shape
        return ModelError(
            what=f"{self.name}.predict gave {found} for tile {self.index} of its batch",
            why=f"the tile has {height} x {width} px and the model {len(self.classes)} class(es): {', '.join(self.classes)}",
            mend=mend,
        )

    def label_image(self, labels: NDArray[Any]) -> Instances:
        if labels.shape != self.shape:
            raise self.refuse(f"a label image of shape {labels.shape}", "return one value per pixel, shape (h, w) of the tile")
        if labels.dtype == bool:
            raise self.refuse(
                "a boolean image", "number its objects with scipy.ndimage.label(mask)[0], or return a dict of masks"
            )
        if not np.issubdtype(labels.dtype, np.integer):
            raise self.refuse(f"a label image of {labels.dtype}", "return integers, 0 for background: labels.astype('int32')")
        if labels.size and labels.min() < 0:
            raise self.refuse(
                f"a label image with the value {labels.min()}", "use 0 for background and 1, 2, 3 ... for objects"
            )
        return Instances.from_labels(labels)

    def masks(self, result: Mapping[str, Any]) -> Instances:
        unknown = [str(key) for key in result if key not in KEYS]
        if unknown or "masks" not in result:
            raise self.refuse(
                f"a dict with the keys {', '.join(map(str, result)) or 'none'}", f"use masks, and perhaps {KEYS[1:]}"
            )
        try:
            masks = np.asarray(result["masks"])
        except ValueError as error:
            raise self.refuse("masks of different shapes", "return one boolean array (n, h, w)") from error
        if masks.shape[:1] == (0,):
            masks = np.zeros((0, *self.shape), bool)
        if masks.ndim != 3 or masks.shape[1:] != self.shape:
            raise self.refuse(f"masks of shape {masks.shape}", "return one boolean array (n, h, w)")
        if masks.dtype != bool:
            raise self.refuse(f"masks of {masks.dtype}", "decide which pixels belong: masks > 0.5")
        count = len(masks)
        scores = self.scores(np.ones(count) if result.get("scores") is None else np.asarray(result["scores"]), count)
        labels = self.labels(np.zeros(count, int) if result.get("labels") is None else np.asarray(result["labels"]), count)
        return Instances.from_masks(masks, score=scores, label=labels)

    def instances(self, found: Instances) -> Instances:
        self.scores(found.score, len(found))
        self.labels(found.label, len(found))
        box, (height, width) = found.box, self.shape
        if (box[:, :2] < 0).any() or (box[:, 2] > height).any() or (box[:, 3] > width).any():
            raise self.refuse("an instance outside the tile", "give boxes in pixels of the tile, from 0, 0 at its upper left")
        if found.z.any():
            raise self.refuse(f"an instance in slice {found.z.max()}", "leave z at 0: the pipeline knows the slice")
        return found

    def scores(self, scores: NDArray[Any], count: int) -> NDArray[Any]:
        if scores.shape != (count,) or scores.dtype.kind not in "fiu":
            raise self.refuse(
                f"scores of shape {scores.shape} and {scores.dtype} for {count} masks", "return one number per mask"
            )
        wrong = ~((scores >= 0) & (scores <= 1))
        if wrong.any():
            raise self.refuse(
                f"a score of {scores[wrong][0]}", "scores lie between 0 and 1; map them there, for instance by a sigmoid"
            )
        return scores

    def labels(self, labels: NDArray[Any], count: int) -> NDArray[Any]:
        if labels.shape != (count,) or (count and labels.dtype.kind not in "iu"):
            raise self.refuse(
                f"labels of shape {labels.shape} and {labels.dtype} for {count} masks", "return one integer per mask"
            )
        wrong = (labels < 0) | (labels >= len(self.classes))
        if wrong.any():
            raise self.refuse(
                f"a label of {labels[wrong][0]}", "labels count from 0 into classes; name every class on the model"
            )
        return labels


def _flat(found: Instances, shape: tuple[int, int], check: _Check, *, is_stated: bool) -> Instances:
    """The instances with every pixel given to the highest score, then to the first; those left without are dropped."""
    painted = np.zeros(shape, np.int32)
    for i in np.lexsort((-np.arange(len(found)), found.score)):
        row, col, row_stop, col_stop = found.box[i]
        painted[row:row_stop, col:col_stop][found.mask(i)] = i + 1
    if np.count_nonzero(painted) == found.area.sum():
        return found
    if is_stated:
        raise check.refuse(
            "masks that overlap, although exclusive is True", "say exclusive = False on the model, or cut them apart"
        )
    warnings.warn(
        f"{check.name} gave masks that overlap; they were painted flat, the higher score on top. "
        "Say exclusive = False on the model to keep them as they are.",
        SeggeoWarning,
        stacklevel=2,
    )
    kept = np.unique(painted)
    kept = kept[kept > 0] - 1
    return replace(Instances.from_labels(painted), score=found.score[kept], label=found.label[kept])

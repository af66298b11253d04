"""Rivals of the evaluation: dense tables of every true with every predicted object, written from the published definitions.

StarDist's and pycocotools' own code is called where it is installed; HoVer-Net's metrics are in no package, so PQ, AJI and
AJI+ are written here from their papers: everything dense, one table for all, one assignment over all of it.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from seggeo.evaluation.objects import ObjectSet, objects_of
from seggeo.instances import Instances

Labels = NDArray[np.int64]


def boxes_image(rng: np.random.Generator, size: int = 48, most: int = 40) -> Labels:
    """Rectangles over each other: pieces, slivers, objects of one pixel, now and then nothing at all."""
    labels = np.zeros((size, size), np.int64)
    for i in range(rng.integers(0, most)):
        row, col = rng.integers(0, size, 2)
        height, width = rng.integers(1, 14, 2)
        labels[row : row + height, col : col + width] = i + 1
    return labels


def poor_copy(rng: np.random.Generator, labels: Labels) -> Labels:
    """A prediction of these labels: moved, some lost, some fused, some cut, pixels eaten."""
    found = np.roll(labels, rng.integers(-2, 3, 2), (0, 1))
    ids = np.unique(found)[1:]
    lost = ids[rng.random(len(ids)) < 0.1]
    found[np.isin(found, lost)] = 0
    if len(ids) > 2:
        found[found == ids[0]] = ids[1]
    if len(ids) > 3:
        rows, cols = np.nonzero(found == ids[3])
        lower = rows > rows.mean() if len(rows) else rows
        found[rows[lower > 0], cols[lower > 0]] = labels.max() + 1
    found[rng.random(found.shape) < 0.05] = 0
    return found


def label_pairs(count: int, seed: int) -> list[tuple[Labels, Labels]]:
    """Truths and predictions, empty ones too."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        truth = boxes_image(rng)
        pairs.append((truth, poor_copy(rng, truth) if i % 3 else boxes_image(rng)))
    empty = np.zeros((48, 48), np.int64)
    return [*pairs, (empty, empty), (boxes_image(rng), empty), (empty, boxes_image(rng) + 1)]


def contingency(truth: Labels, pred: Labels) -> tuple[Labels, Labels]:
    """Shared and united pixels of every true with every predicted object, `(n, m)`."""
    (t, i), (p, j) = (np.unique(np.append(0, side), return_inverse=True) for side in (truth, pred))
    table = np.zeros((len(t), len(p)), np.int64)
    np.add.at(table, (i[1:], j[1:]), 1)
    return table[1:, 1:], table.sum(axis=1)[1:, None] + table.sum(axis=0)[None, 1:] - table[1:, 1:]


def iou_table(truth: Labels, pred: Labels) -> NDArray[np.float64]:
    shared, union = contingency(truth, pred)
    return shared / np.maximum(union, 1)


def dense_pq(truth: Labels, pred: Labels) -> tuple[float, float, float, int]:
    """PQ, SQ, RQ and true positives: Kirillov et al. 2019, equation 1, pairs with IoU > 0.5."""
    iou = iou_table(truth, pred)
    hits = iou[iou > 0.5]
    n, m = iou.shape
    rq = len(hits) / (len(hits) + (m - len(hits)) / 2 + (n - len(hits)) / 2) if n + m else np.nan
    sq = hits.mean() if len(hits) else np.nan
    return (hits.sum() / ((n + m) / 2) if n + m else np.nan), sq, rq, len(hits)


def dense_matches(truth: Labels, pred: Labels, threshold: float) -> tuple[int, float]:
    """Most pairs with at least the threshold, and the largest sum of their IoU, by one assignment over everything."""
    iou = iou_table(truth, pred)
    rows, cols = linear_sum_assignment(np.where(iou >= threshold, min(iou.shape) + iou, 0), maximize=True)
    hits = iou[rows, cols][iou[rows, cols] >= threshold]
    return len(hits), float(hits.sum())


def dense_aji(truth: Labels, pred: Labels) -> float:
    """Aggregated Jaccard index (Kumar et al. 2017): each true object with its best prediction, which may serve again."""
    shared, union = contingency(truth, pred)
    iou = shared / np.maximum(union, 1)
    best = iou.argmax(axis=1) if iou.size else np.zeros(iou.shape[0], int)
    rows = np.flatnonzero(iou.max(axis=1) > 0) if iou.size else np.zeros(0, int)
    return _aggregated(truth, pred, shared, union, (rows, best[rows]))


def dense_aji_plus(truth: Labels, pred: Labels) -> float:
    """AJI+ (Graham et al. 2019): one to one, by the assignment with the largest sum of IoU."""
    shared, union = contingency(truth, pred)
    iou = shared / np.maximum(union, 1)
    rows, cols = linear_sum_assignment(iou, maximize=True)
    touching = iou[rows, cols] > 0
    return _aggregated(truth, pred, shared, union, (rows[touching], cols[touching]))


def _aggregated(truth: Labels, pred: Labels, shared: Labels, union: Labels, pairs: tuple[Labels, Labels]) -> float:
    areas = [np.unique(side[side > 0], return_counts=True)[1] for side in (truth, pred)]
    alone = [np.delete(area, np.unique(used)).sum() for area, used in zip(areas, pairs, strict=True)]
    whole = union[pairs].sum() + sum(alone)
    return float(shared[pairs].sum() / whole) if whole else float("nan")


CLASSES = ("a", "b", "c")


def scored_images(seed: int, count: int = 3, size: int = 150) -> tuple[list[ObjectSet], list[ObjectSet]]:
    """Predictions and truths with everything that makes average precision hard.

    Masks over each other, duplicates, equal scores, three classes, crowds, sizes on both sides of COCO's limits, empty images.
    """
    rng = np.random.default_rng(seed)
    preds, truths = [], []
    for _ in range(count):
        true = _masks(rng, int(rng.integers(0, 12)), size)
        copies = [
            np.roll(m, rng.integers(-2, 3, 2), (0, 1)) for m in true if rng.random() < 0.8 for _ in range(rng.integers(1, 3))
        ]
        found = copies + _masks(rng, int(rng.integers(0, 5)), size)
        score = (rng.integers(1, 20, len(found)) / 20).astype(np.float32)
        for masks, kind in ((found, preds), (true, truths)):
            label = rng.integers(0, len(CLASSES), len(masks))
            made = (
                Instances.from_masks(masks, score=score if kind is preds else None, label=label) if masks else Instances.empty()
            )
            crowd = None if kind is preds else rng.random(len(masks)) < 0.15
            kind.append(objects_of(made, classes=CLASSES, scored=kind is preds, ignored=crowd))
    return preds, truths


def _masks(rng: np.random.Generator, count: int, size: int) -> list[NDArray[np.bool_]]:
    masks = []
    for _ in range(count):
        mask = np.zeros((size, size), bool)
        row, col = rng.integers(0, size - 2, 2)
        height, width = rng.integers(2, rng.choice([6, 20, 50, 110]), 2)
        mask[row : row + height, col : col + width] = True
        masks.append(mask)
    return masks


def pycocotools_ap(preds: list[ObjectSet], truths: list[ObjectSet], size: int = 150) -> list[float]:
    """AP, AP50, AP75, AP small, medium and large of pycocotools, without a limit of detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": i + 1, "height": size, "width": size, "file_name": str(i)} for i in range(len(truths))]
    annotations = [a for i, side in enumerate(truths) for a in _annotations(side, i + 1, size)]
    results = [a for i, side in enumerate(preds) for a in _annotations(side, i + 1, size)]
    for number, annotation in enumerate(annotations):
        annotation["id"] = number + 1
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
        truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "segm")
        judge.params.maxDets = [1, 10, 10**6]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., 2]  # thresholds, recalls, classes, sizes
    chosen = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *(precision[..., k] for k in (1, 2, 3))]
    return [float(part[part > -1].mean()) if (part > -1).any() else float("nan") for part in chosen]


def _annotations(objects: ObjectSet, image: int, size: int) -> list[dict[str, Any]]:
    from pycocotools import mask as coco_mask

    found = []
    for i, (box, mask) in enumerate(objects.instances):
        whole = np.zeros((size, size), np.uint8, order="F")
        whole[box[0] : box[2], box[1] : box[3]] = mask
        found.append(
            {
                "image_id": image, "category_id": int(objects.instances.label[i]) + 1, "segmentation": coco_mask.encode(whole),
                "area": int(mask.sum()), "iscrowd": int(objects.ignored[i]), "score": float(objects.instances.score[i]),
            }
        )  # fmt: skip
    return found

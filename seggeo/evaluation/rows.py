"""One row per object, true and predicted: what became of it, and with which partner."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.aggregate import pieces_of_pred, pieces_of_truth
from seggeo.evaluation.objects import ObjectSet
from seggeo.evaluation.pairs import Pairs
from seggeo.evaluation.tally import Scope, false_alarms
from seggeo.files import publishing
from seggeo.rle import IntArray

HIT, MISS, FALSE_ALARM, IGNORED = 0, 1, 2, 3
OUTCOMES = ("hit", "miss", "false alarm", "ignored")
NOBODY = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The objects of one side of one image; arrays `(n,)` in the order of its set."""

    side: str
    """`truth` or `pred`."""
    classes: tuple[str, ...]
    scored: bool
    id: IntArray
    label: NDArray[np.int32]
    score: NDArray[np.float32]
    area: IntArray
    """px."""
    box: NDArray[np.int32]
    outcome: NDArray[np.uint8]
    """Position in `OUTCOMES`; a hit is a pair with IoU above one half, whatever the classes."""
    partner: IntArray
    """Id of the other object of the pair, -1 without one."""
    iou: NDArray[np.float32]
    """IoU with the partner; without one, the best with any object of the other side."""
    pieces: IntArray
    """Objects of the other side that are pieces of this one: two or more are a split (truth) or a merge (pred)."""
    near_seam: NDArray[np.bool_] | None
    """None when no run was named."""
    slices: IntArray | None = None
    """First slice of each object and one past its last, `(n, 2)`; None for images. Areas of a volume are in voxels."""

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What rows tell of the objects of one side, whatever their masks are; arrays `(n,)`."""

    classes: tuple[str, ...]
    scored: bool
    id: IntArray
    label: NDArray[np.int32]
    score: NDArray[np.float32]
    box: NDArray[np.int32]
    ignored: NDArray[np.bool_]
    slices: IntArray | None = None


def listing_of(objects: ObjectSet) -> Listing:
    """The listing of the objects of an image."""
    own = objects.instances
    return Listing(
        classes=objects.classes, scored=objects.scored, id=objects.ids, label=own.label, score=own.score, box=own.box,
        ignored=objects.ignored,
    )  # fmt: skip


def rows_of(truth: Listing, pred: Listing, scope: Scope, matched: IntArray) -> tuple[Rows, Rows]:
    """Rows of both sides after matching all classes together.

    Args:
        truth, pred: The sets compared.
        scope: All their objects.
        matched: Positions of the matched pairs in `scope.pairs`.
    """
    pairs = scope.pairs
    truth_outcome = np.where(truth.ignored, IGNORED, MISS).astype(np.uint8)
    truth_outcome[pairs.truth[matched]] = HIT
    pred_outcome = np.where(false_alarms(scope, matched), FALSE_ALARM, IGNORED).astype(np.uint8)
    pred_outcome[pairs.pred[matched]] = HIT
    partner_of_truth, partner_of_pred = np.full(len(truth.id), NOBODY), np.full(len(pred.id), NOBODY)
    partner_of_truth[pairs.truth[matched]] = pred.id[pairs.pred[matched]]
    partner_of_pred[pairs.pred[matched]] = truth.id[pairs.truth[matched]]
    truth_iou, pred_iou = _ious(pairs, matched)
    near = (None, None) if scope.strata == 1 else (scope.truth_stratum == 1, scope.pred_stratum == 1)
    return (
        _rows("truth", truth, pairs.truth_area, truth_outcome, (partner_of_truth, truth_iou, pieces_of_truth(pairs), near[0])),
        _rows("pred", pred, pairs.pred_area, pred_outcome, (partner_of_pred, pred_iou, pieces_of_pred(pairs), near[1])),
    )


_Rest = tuple[IntArray, NDArray[np.float32], IntArray, "NDArray[np.bool_] | None"]


def _rows(side: str, objects: Listing, area: IntArray, outcome: NDArray[np.uint8], rest: _Rest) -> Rows:
    return Rows(
        side=side, classes=objects.classes, scored=objects.scored, id=objects.id, label=objects.label,
        score=objects.score, area=area, box=objects.box, outcome=outcome, partner=rest[0], iou=rest[1], pieces=rest[2],
        near_seam=rest[3], slices=objects.slices,
    )  # fmt: skip


def _ious(pairs: Pairs, matched: IntArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """IoU of each object with its partner, or the best one."""
    iou = pairs.iou
    truth, pred = np.zeros(len(pairs.truth_area)), np.zeros(len(pairs.pred_area))
    np.maximum.at(truth, pairs.truth, iou)
    np.maximum.at(pred, pairs.pred, iou)
    truth[pairs.truth[matched]] = iou[matched]
    pred[pairs.pred[matched]] = iou[matched]
    return truth.astype(np.float32), pred.astype(np.float32)


def write_csv(path: Path, images: Iterable[tuple[str, tuple[Rows, Rows]]]) -> Path:
    """Write a row for every object of every image; the columns are listed in docs/evaluation.md.

    Raises:
        OutputError: The file cannot be written.
    """
    from pyarrow import csv

    with publishing(path) as temporary:
        writer = None
        for name, sides in images:
            for rows in sides:
                table = _table(name, rows)
                writer = writer or csv.CSVWriter(str(temporary), table.schema)
                writer.write_table(table)
        if writer is not None:
            writer.close()
        else:
            temporary.write_text("", encoding="utf-8")
    return path


def _table(name: str, rows: Rows):  # type: ignore[no-untyped-def]  # noqa: ANN202 - pyarrow has no types
    import pyarrow as pa

    n = len(rows)

    def named(codes: NDArray[np.integer], names: tuple[str, ...]) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names, pa.string())).cast(pa.string())

    own = {
        "image": named(np.zeros(n, np.int32), (name,)), "side": named(np.zeros(n, np.int32), (rows.side,)),
        "id": rows.id, "class": named(rows.label, rows.classes),
        "score": pa.array(rows.score) if rows.scored else pa.nulls(n, pa.float32()),
    }  # fmt: skip
    place = {"row": (rows.box[:, 0] + rows.box[:, 2]) / 2, "col": (rows.box[:, 1] + rows.box[:, 3]) / 2}
    fate = {
        "outcome": named(rows.outcome, OUTCOMES), "partner": pa.array(rows.partner, mask=rows.partner == NOBODY),
        "iou": rows.iou, "pieces": rows.pieces,
    }  # fmt: skip
    if rows.slices is not None:
        first, stop = rows.slices.T
        return pa.table({**own, "voxels": rows.area, "first_slice": first, "last_slice": stop - 1, **place, **fate})
    seam = pa.nulls(n, pa.bool_()) if rows.near_seam is None else pa.array(rows.near_seam)
    return pa.table({**own, "area_px": rows.area, **place, **fate, "near_seam": seam})

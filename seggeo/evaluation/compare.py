"""One image against its truth: pairs once, then tallies, per class, per stratum, for average precision and row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.evaluation.coco import Detections, detections
from seggeo.evaluation.matching import match
from seggeo.evaluation.objects import ObjectSet
from seggeo.evaluation.pairs import Pairs, find_pairs
from seggeo.evaluation.rows import Rows, listing_of, rows_of
from seggeo.evaluation.seams import near_seams
from seggeo.evaluation.tally import PQ_IOU, Tally, make_scope, tallies
from seggeo.geometry import Frame
from seggeo.tiling import TileGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one image adds to a report."""

    name: str
    group: str | None
    strata: tuple[Tally, ...]
    """All objects: one tally, or interior and near a seam."""
    classes: Mapping[str, Tally]
    """By name of the class, pairs within a class only."""
    detections: Mapping[str | None, Detections]
    """By name of the class, and under None for all classes together; empty without scores."""
    rows: tuple[Rows, Rows]
    """Of the truth and of the prediction."""

    @property
    def whole(self) -> Tally:
        """All objects, wherever they lie."""
        return self.strata[0] if len(self.strata) == 1 else self.strata[0] + self.strata[1]


def compare(
    pred: ObjectSet, truth: ObjectSet, thresholds: Sequence[float], *, name: str = "", group: str | None = None,
    grid: TileGrid | None = None,
) -> Comparison:  # fmt: skip
    """Compare the objects of one image.

    Args:
        pred: Predicted.
        truth: True.
        thresholds: Least IoU of a match, ascending.
        name: What the image is called in the report.
        group: Its group.
        grid: Tiles of the run that predicted; near and far from their seams are then told apart.

    Raises:
        SourceError: The two do not lie on one grid.
    """
    check_grids(pred.frame, truth.frame, name)
    pairs = find_pairs(truth.instances, pred.instances)
    strata = None
    if grid is not None:
        strata = near_seams(truth.instances, grid).astype(np.int64), near_seams(pred.instances, grid).astype(np.int64)
    everything = np.ones(len(truth), bool), np.ones(len(pred), bool)
    scope = make_scope(pairs, truth.ignored, *everything, strata)
    rows = rows_of(listing_of(truth), listing_of(pred), scope, match(scope.pairs, PQ_IOU, strict=True))
    whole = tuple(tallies(scope, thresholds))
    comparison = Comparison(
        name=name, group=group, strata=whole, classes={}, detections=_detections(pairs, pred, truth), rows=rows
    )
    return replace(comparison, classes=_per_class(comparison.whole, pairs, pred, truth, thresholds))


def check_grids(pred: Frame | None, truth: Frame | None, name: str = "") -> None:
    """Refuse two sets of pixels that are not of one image.

    Raises:
        SourceError: Sizes differ, or both are on the map and not at one place.
    """
    if pred is None or truth is None:
        return
    where = f" of {name}" if name else ""
    if (pred.height, pred.width) != (truth.height, truth.width):
        raise SourceError(
            what=f"prediction and truth{where} are not of one size",
            why=f"they have {pred.height} x {pred.width} and {truth.height} x {truth.width} px (rows x columns)",
            mend="predict at full resolution, or give the prediction as a vector file: it is drawn on the truth's grid",
        )
    if pred.crs is None or truth.crs is None:
        return
    if pred.crs != truth.crs and not _same_crs(pred.crs, truth.crs):
        raise SourceError(
            what=f"prediction and truth{where} have different coordinate systems",
            why="label rasters are compared pixel by pixel and never resampled",
            mend="bring one onto the grid of the other: gdalwarp -r near -t_srs ... -te ... -ts ...",
        )
    apart = _apart(pred, truth)
    if apart > 0.01:
        raise SourceError(
            what=f"prediction and truth{where} do not lie at one place",
            why=f"their corners are up to {apart:.3g} px apart",
            mend="bring one onto the grid of the other: gdalwarp -r near -te ... -ts ...",
        )


def _same_crs(a: str, b: str) -> bool:
    from pyproj import CRS

    return bool(CRS.from_wkt(a).equals(CRS.from_wkt(b), ignore_axis_order=True))


def _apart(pred: Frame, truth: Frame) -> float:
    """Largest distance of the four corners, in pixels of the truth."""
    rows, cols = np.array([0, 0, truth.height, truth.height]), np.array([0, truth.width, 0, truth.width])
    there = truth.world_to_pixel(*pred.pixel_to_world(rows, cols))
    return float(max(np.abs(there[0] - rows).max(), np.abs(there[1] - cols).max()))


def _members(objects: ObjectSet, name: str) -> NDArray[np.bool_]:
    """True for the objects of a class, by its name."""
    index = [i for i, own in enumerate(objects.classes) if own == name]
    return np.isin(objects.instances.label, index)


def _names(pred: ObjectSet, truth: ObjectSet) -> list[str]:
    return list(dict.fromkeys((*truth.classes, *pred.classes)))


def _per_class(whole: Tally, pairs: Pairs, pred: ObjectSet, truth: ObjectSet, thresholds: Sequence[float]) -> dict[str, Tally]:
    names = _names(pred, truth)
    if len(names) == 1:
        return {names[0]: whole}
    same = pairs.take(_codes(truth, names)[pairs.truth] == _codes(pred, names)[pairs.pred])
    return {
        name: tallies(make_scope(same, truth.ignored, _members(truth, name), _members(pred, name)), thresholds)[0]
        for name in names
    }


def _codes(objects: ObjectSet, names: list[str]) -> NDArray[np.int64]:
    """Position of each object's class in `names`."""
    return np.array([names.index(own) for own in objects.classes], np.int64)[objects.instances.label]


def _detections(pairs: Pairs, pred: ObjectSet, truth: ObjectSet) -> dict[str | None, Detections]:
    if not pred.scored and len(pred):
        return {}
    score, crowd = pred.instances.score, truth.ignored
    names = _names(pred, truth)
    everything = detections(pairs, np.arange(len(truth)), np.arange(len(pred)), score, crowd)
    if len(names) == 1:
        return {None: everything, names[0]: everything}
    found: dict[str | None, Detections] = {None: everything}
    for name in names:
        mine = _members(truth, name), _members(pred, name)
        within = pairs.take(mine[0][pairs.truth] & mine[1][pairs.pred])
        found[name] = detections(within, np.flatnonzero(mine[0]), np.flatnonzero(mine[1]), score, crowd)
    return found

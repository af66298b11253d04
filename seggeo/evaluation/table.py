"""The report as lines for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isnan

from seggeo.evaluation.report import Evaluation
from seggeo.evaluation.scores import Scores
from seggeo.evaluation.volume_scores import VolumeScores

_COLUMNS = ("true", "pred", "PQ", "SQ", "RQ", "mAP", "AP50", "F1@50", "AJI", "AJI+", "count", "splits", "merges")
_NAME = 24
_MOST_IMAGES = 40


def lines(evaluation: Evaluation) -> Iterator[str]:
    """The table, then what each figure means where that is not plain."""
    many = len(evaluation.images) > 1
    yield _row("", _COLUMNS)
    yield _scores_row("all objects", evaluation.pooled)
    for name, group in evaluation.groups.items():
        yield _scores_row(f"  {name} ({group.images})", group.pooled)
    for name, scores in evaluation.seams.items():
        yield _scores_row({"near": "  near a seam", "interior": "  away from seams"}[name], scores)
    for name, scores in evaluation.classes.items():
        yield _scores_row(f"  class {name}", scores)
    if many:
        yield _mean_row("mean over images", evaluation.mean)
        for name, group in evaluation.groups.items():
            yield _mean_row(f"  {name} ({group.images})", group.mean)
    if evaluation.classes:
        yield _mean_row("mean over classes", evaluation.class_mean)
    if many and len(evaluation.images) <= _MOST_IMAGES:
        yield ""
        yield from (_scores_row(image.name, image.scores) for image in evaluation.images)
    yield ""
    yield from _thresholds(evaluation.pooled)
    yield from _coco(evaluation)
    if evaluation.along_z is not None:
        yield from _along_z(evaluation.along_z, evaluation.pooled)
    yield from (f"note: {note}" for note in evaluation.notes)


def _scores_row(name: str, s: Scores) -> str:
    at = s.near(0.5)
    ap, f1 = (at.ap, at.f1) if at else (float("nan"), float("nan"))
    ratios = [_ratio(v) for v in (s.pq, s.sq, s.rq, s.mean_ap, ap, f1, s.aji, s.aji_plus)]
    return _row(name, (str(s.n_true), str(s.n_pred), *ratios, _percent(s.count_error), str(s.splits), str(s.merges)))


def _mean_row(name: str, mean: Mapping[str, float]) -> str:
    names = ("pq", "sq", "rq", "mean_ap", "ap@0.5", "f1@0.5", "aji", "aji_plus")
    ratios = [_ratio(mean.get(key, float("nan"))) for key in names]
    error = mean.get("abs_count_error")
    return _row(name, ("", "", *ratios, "" if error is None else _percent(error).replace("+", "|") + "|", "", ""))


def _thresholds(s: Scores) -> Iterator[str]:
    yield f"{'IoU':>6s}{'precision':>11s}{'recall':>9s}{'F1':>9s}{'AP':>9s}{'tp':>10s}{'fp':>10s}{'fn':>10s}"
    for at in s.at:
        ratios = f"{_ratio(at.precision):>11s}{_ratio(at.recall):>9s}{_ratio(at.f1):>9s}{_ratio(at.ap):>9s}"
        yield f"{at.iou:>6.2f}{ratios}{at.tp:>10d}{at.fp:>10d}{at.fn:>10d}"


def _coco(evaluation: Evaluation) -> Iterator[str]:
    coco = evaluation.coco
    if coco is not None:
        sizes = f"small {_ratio(coco.ap_small)}, medium {_ratio(coco.ap_medium)}, large {_ratio(coco.ap_large)}"
        yield f"COCO AP from scores: {_ratio(coco.ap)} (AP50 {_ratio(coco.ap50)}, AP75 {_ratio(coco.ap75)}; {sizes})"


def _along_z(z: VolumeScores, whole: Scores) -> Iterator[str]:
    yield ""
    yield f"in voxels; along z over {z.slices} slices:"
    yield f"  slices of an object   true {_number(z.slices_true)}, predicted {_number(z.slices_pred)}"
    yield (
        f"  PQ                    slice by slice {_ratio(z.slice_pq)} (SQ {_ratio(z.slice_sq)}, RQ {_ratio(z.slice_rq)}), "
        + (f"linked {_ratio(whole.pq)}")
    )
    yield f"  linking               {z.splits} true objects split along z, {z.merges} predictions merge several along z"
    pieces = f"in several pieces: {z.loose_ids} and {z.loose_ids_true}"
    yield f"  ids in several places {z.reused_ids} predicted, {z.reused_ids_true} true ({pieces})"
    yield f"  SEG                   {_ratio(z.seg)}"
    yield f"  VI                    {_ratio(z.vi_split)} bits of splits, {_ratio(z.vi_merge)} of merges"
    parts = f"precision {_ratio(z.rand_precision)}, recall {_ratio(z.rand_recall)}"
    yield f"  adapted Rand error    {_ratio(z.rand_error)} ({parts})"


def _number(value: float) -> str:
    return "-" if isnan(value) else f"{value:.1f}"


def _row(name: str, cells: tuple[str, ...]) -> str:
    shown = name if len(name) < _NAME else f"{name[: _NAME - 4]}..."
    return f"{shown:<{_NAME}s}" + "".join(f"{cell:>{9 if i < 2 else 8}s}" for i, cell in enumerate(cells))


def _ratio(value: float) -> str:
    return "-" if isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "-" if isnan(value) else f"{100 * value:+.1f}%"

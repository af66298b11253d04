"""The whole of an evaluation in one record: built image by image, turned into JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from seggeo.evaluation.coco import CocoScores, Detections, average_precision
from seggeo.evaluation.compare import Comparison
from seggeo.evaluation.objects import ObjectSet
from seggeo.evaluation.rows import Rows
from seggeo.evaluation.scores import Scores, mean_over_classes, means_of, scores_of
from seggeo.evaluation.tally import Tally, nothing
from seggeo.evaluation.volume import VolumeComparison
from seggeo.evaluation.volume_scores import VolumeScores, volume_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScores:
    """One image of a data set."""

    name: str
    group: str | None
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Images of one kind."""

    images: int
    pooled: Scores
    """From sums over the images."""
    mean: Mapping[str, float]
    """Means over the images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The image with the most errors, for a picture of them."""

    name: str
    pred: ObjectSet
    truth: ObjectSet
    rows: tuple[Rows, Rows]
    """Of truth and prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeResult:
    """What one volume of a data set has and no image."""

    scores: VolumeScores
    pq_by_slice: tuple[float, ...]
    """Panoptic quality of the cross-sections of each slice; NaN where neither side has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a result is."""

    thresholds: tuple[float, ...]
    pooled: Scores
    """All images together: tp, fp and fn are summed first."""
    mean: Mapping[str, float]
    """Means over images of every ratio."""
    classes: Mapping[str, Scores]
    """By class, pooled, matches within a class only; empty when there is one class, or none that both sides name."""
    class_mean: Mapping[str, float]
    """Means over these classes."""
    groups: Mapping[str, Group]
    """By group of images; empty without groups."""
    seams: Mapping[str, Scores]
    """`near` and `interior`, which add up to `pooled`; empty without a run."""
    coco: CocoScores | None
    """Average precision from scores; None when the prediction has none."""
    images: tuple[ImageScores, ...]
    notes: tuple[str, ...]
    """What a reader of the figures must know."""
    rows: Mapping[str, tuple[Rows, Rows]]
    """By image: a row for every object of truth and prediction."""
    shown: Shown | None
    """None when there was no image. Of volumes it is the slice with the most errors."""
    along_z: VolumeScores | None = None
    """Of all volumes together; None for images, and otherwise whatever counts pixels counts voxels."""
    volumes: Mapping[str, VolumeResult] = field(default_factory=dict)
    """By name; empty for images."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; NaN, a ratio of nothing to nothing, is null."""
        values = {
            "images": len(self.images), "thresholds": list(self.thresholds), "pooled": _scores(self.pooled),
            "mean": dict(self.mean), "classes": {name: _scores(s) for name, s in self.classes.items()},
            "class_mean": dict(self.class_mean),
            "groups": {
                name: {"images": g.images, "pooled": _scores(g.pooled), "mean": dict(g.mean)} for name, g in self.groups.items()
            },
            "seams": {name: _scores(s) for name, s in self.seams.items()},
            "coco": None if self.coco is None else asdict(self.coco),
            "per_image": [{"name": i.name, "group": i.group, **_scores(i.scores), **self._of(i.name)} for i in self.images],
            "notes": list(self.notes),
        }  # fmt: skip
        if self.along_z is not None:
            values |= {"unit": "voxels", "along_z": asdict(self.along_z)}
        plain: dict[str, Any] = _without_nan(values)
        return plain

    def _of(self, name: str) -> dict[str, Any]:
        found = self.volumes.get(name)
        return {} if found is None else {"along_z": asdict(found.scores), "pq_by_slice": list(found.pq_by_slice)}


def _scores(scores: Scores) -> dict[str, Any]:
    values = asdict(scores)
    values["thresholds"] = values.pop("at")
    return values


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _volume_result(found: VolumeComparison) -> VolumeResult:
    return VolumeResult(scores=volume_scores(found.tally), pq_by_slice=tuple(s.pq for s in found.sections))


@dataclass(slots=True)
class Collector:
    """Sums over images; `finish` makes the report of them."""

    thresholds: tuple[float, ...]
    comparisons: list[Comparison] = field(default_factory=list)
    names: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))
    """Classes of predictions and of truths."""
    scored: int = 0
    """Images whose predictions have scores."""
    unscored: int = 0
    """Images with predictions that have none."""
    notes: dict[str, None] = field(default_factory=dict)
    shown: Shown | None = None
    errors: int = -1
    """Misses and false alarms of the image shown."""
    volumes: list[VolumeComparison] = field(default_factory=list)

    def add(self, comparison: Comparison, pred: ObjectSet, truth: ObjectSet, remarks: Iterable[str]) -> None:
        """Take in one image."""
        self.comparisons.append(comparison)
        self.names[0].update(pred.classes)
        self.names[1].update(truth.classes)
        self.scored += pred.scored
        self.unscored += not pred.scored and len(pred) > 0
        self.notes.update(dict.fromkeys(remarks))
        errors = int(comparison.whole.fp[0] + comparison.whole.fn[0])
        if errors > self.errors:
            self.errors = errors
            self.shown = Shown(name=comparison.name, pred=pred, truth=truth, rows=comparison.rows)

    def add_volume(self, found: VolumeComparison, remarks: Iterable[str]) -> None:
        """Take in one volume."""
        own = found.objects
        self.comparisons.append(own)
        self.volumes.append(found)
        for names in self.names:
            names.update(own.classes)
        self.unscored += own.whole.n_pred > 0
        self.notes.update(dict.fromkeys(remarks))
        errors = int(own.whole.fp[0] + own.whole.fn[0])
        if errors > self.errors:
            self.errors = errors
            worst = found.worst
            self.shown = Shown(name=f"{own.name}, slice {worst.z}", pred=worst.pred, truth=worst.truth, rows=worst.rows)

    def finish(self) -> Evaluation:
        """The report."""
        images = tuple(
            ImageScores(name=c.name, group=c.group, scores=scores_of(c.whole, self.thresholds)) for c in self.comparisons
        )
        classes = self._classes()
        return Evaluation(
            thresholds=self.thresholds, pooled=self._pooled([c.whole for c in self.comparisons]),
            mean=means_of([i.scores for i in images]), classes=classes, class_mean=mean_over_classes(classes),
            groups=self._groups(images), seams=self._seams(), coco=self._coco(), images=images, notes=tuple(self.notes),
            rows={c.name: c.rows for c in self.comparisons}, shown=self.shown, along_z=self._along_z(),
            volumes={v.objects.name: _volume_result(v) for v in self.volumes},
        )  # fmt: skip

    def _along_z(self) -> VolumeScores | None:
        if not self.volumes:
            return None
        first, *rest = (v.tally for v in self.volumes)
        return volume_scores(sum(rest, start=first))

    def _pooled(self, parts: Iterable[Tally]) -> Scores:
        return scores_of(sum(parts, start=nothing(len(self.thresholds))), self.thresholds)

    @property
    def _by_class(self) -> bool:
        """Whether classes are told apart: several of them, and both sides use the same names for some."""
        pred, truth = self.names
        return len(pred | truth) > 1 and bool(pred & truth)

    def _classes(self) -> dict[str, Scores]:
        pred, truth = self.names
        if not self._by_class:
            if len(pred | truth) > 1:
                names = f"{', '.join(sorted(pred))} | {', '.join(sorted(truth))}"
                self.notes[f"no class name in common ({names}): classes are not told apart"] = None
            return {}
        return {
            name: self._pooled(c.classes[name] for c in self.comparisons if name in c.classes) for name in sorted(pred | truth)
        }

    def _groups(self, images: Sequence[ImageScores]) -> dict[str, Group]:
        found = {}
        for group in sorted({i.group for i in images if i.group is not None}):
            mine = [c.whole for c in self.comparisons if c.group == group]
            mean = means_of([i.scores for i in images if i.group == group])
            found[group] = Group(images=len(mine), pooled=self._pooled(mine), mean=mean)
        return found

    def _seams(self) -> dict[str, Scores]:
        strata = [c.strata for c in self.comparisons]
        if not strata or any(len(s) == 1 for s in strata):
            return {}
        return {name: self._pooled(s[i] for s in strata) for i, name in ((1, "near"), (0, "interior"))}

    def _coco(self) -> CocoScores | None:
        if self.unscored or not self.scored:
            return None
        names: Sequence[str | None] = sorted(self.names[0] | self.names[1]) if self._by_class else [None]
        classes: list[list[Detections]] = [
            [c.detections[name] for c in self.comparisons if name in c.detections] for name in names
        ]
        return average_precision(classes)

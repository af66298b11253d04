"""How good a network is on scenes it never learnt from: predicted by the segmenter that users run, scored by `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
from numpy.typing import NDArray

from seggeo.evaluation.api import evaluate
from seggeo.evaluation.objects import ObjectSet, objects_of
from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.protocols import Segmenter, TileImage
from seggeo.tiling import Tile
from seggeo.train.scenes import Scene

WINDOW = 1024
"""Side of the windows that large scenes are judged in, px."""
MOST_WINDOWS = 24
"""Of all scenes together that are large."""
MOST_SLICES = 60
"""Of all volumes together."""
_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One judged window, for the picture."""

    name: str
    """Of its scene."""
    image: NDArray[np.uint8]
    """`(h, w, 3)`."""
    truth: Instances
    found: Instances


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Scores of a network."""

    metrics: Mapping[str, float | None]
    """Pooled over all windows: pq, ap50, ap (mean .5 to .95), f1, sq, count_error, whatever the classes; with several
    classes also pq_classes, the mean PQ of those that occur, matched within a class only. None where undefined."""
    kinds: Mapping[str, Mapping[str, float | None]]
    """The same by kind of image."""
    shown: tuple[Shown, ...]


def judge(segmenter: Segmenter, scenes: Sequence[Scene], *, raw: bool = False) -> Judgement:
    """Scores of a segmenter on the areas of scenes.

    Args:
        segmenter: Ready to predict.
        scenes: With objects; large ones are sampled by at most `MOST_WINDOWS` windows in all, slices by `MOST_SLICES`.
        raw: The segmenter takes the file's own values.
    """
    pairs: list[tuple[str, ObjectSet, ObjectSet]] = []
    shown: list[Shown] = []
    every = max(1, len(_thinned(scenes)) // _SHOWN)
    for number, (scene, window) in enumerate(_windows(_thinned(scenes))):
        crop = scene.crop(window, raw=raw)
        own = Window(row=0, col=0, height=window.height, width=window.width)
        tile = TileImage(image=crop.image, valid=crop.valid, tile=Tile(index=0, z=0, row=0, col=0, core=own, window=own))
        found = segmenter.predict([tile])[0].instances
        labels = np.where(crop.valid, crop.labels, 0)  # what lies in unlabelled places is neither right nor wrong
        truth = replace(Instances.from_labels(labels), label=crop.classes[_present(labels)])
        pairs.append((scene.kind, _objects(found, scene, scored=True), _objects(truth, scene, scored=False)))
        if number % every == 0 and len(shown) < _SHOWN:
            image = crop.image if not raw else scene.crop(window).image
            bands = [image.shape[2] // 2] * 3 if scene.view.reading.neighbours else [0, -2, -1]  # a slice without neighbours
            shown.append(Shown(name=scene.name, image=np.ascontiguousarray(image[..., bands]), truth=truth, found=found))
    kinds = sorted({kind for kind, _, _ in pairs if kind})
    return Judgement(
        metrics=_metrics(pairs), kinds={k: _metrics([p for p in pairs if p[0] == k]) for k in kinds}, shown=tuple(shown)
    )


def _thinned(scenes: Sequence[Scene]) -> list[Scene]:
    """Images, and of the slices of volumes some, spread evenly: neighbours are much alike."""
    slices = [scene for scene in scenes if scene.volume]
    step = max(1, -(-len(slices) // MOST_SLICES))
    return [scene for scene in scenes if not scene.volume] + slices[::step]


def _windows(scenes: Sequence[Scene]) -> Iterator[tuple[Scene, Window]]:
    """Whole areas of small scenes; of large ones some windows, spread evenly."""
    large: list[tuple[Scene, Window]] = []
    for scene in scenes:
        for area in scene.areas:
            if area.area <= WINDOW * WINDOW * 2:
                yield scene, area
            else:
                large += [(scene, part) for part in _parts(area)]
    step = max(1, -(-len(large) // MOST_WINDOWS))
    yield from large[::step]


def _parts(area: Window) -> list[Window]:
    rows = range(area.row, max(area.row + 1, area.row_stop - WINDOW // 2), WINDOW)
    cols = range(area.col, max(area.col + 1, area.col_stop - WINDOW // 2), WINDOW)
    return [
        Window.from_bounds(r, c, min(r + WINDOW, area.row_stop), min(c + WINDOW, area.col_stop)) for r in rows for c in cols
    ]


def _present(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Positions, in a crop's classes, of the ids that still have a pixel."""
    ids = np.unique(labels)
    return (ids[ids > 0] - 1).astype(np.int64)


def _objects(instances: Instances, scene: Scene, *, scored: bool) -> ObjectSet:
    return objects_of(instances, classes=scene.classes, scored=scored)


def _metrics(pairs: Sequence[tuple[str, ObjectSet, ObjectSet]]) -> dict[str, float | None]:
    evaluation = evaluate([p for _, p, _ in pairs], [t for _, _, t in pairs])
    scores = evaluation.pooled
    half = scores.near(0.5)
    values = {
        "pq": scores.pq, "ap50": half.ap if half else float("nan"), "ap": scores.mean_ap, "f1": scores.rq, "sq": scores.sq,
        "count_error": scores.count_error,
    }  # fmt: skip
    if evaluation.classes:
        values["pq_classes"] = evaluation.class_mean["pq"]
    return {name: None if isnan(value) else round(value, 4) for name, value in values.items()}

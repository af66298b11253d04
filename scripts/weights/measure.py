"""Figures and pictures of a model card: segment the images of a manifest as a user would, and score them by kind.

    python scripts/weights/measure.py MANIFEST.csv MODEL OUT [--set key=value ...]

MANIFEST is one that `nuclei_data.py` or `overhead_data.py` wrote; its rows with split `val` are measured. MODEL is what
`--model` takes, a bundled name too, or a file of weights. OUT gets a label raster of every image, `scores.json` and
`worst.png`: the windows with the most errors of each kind, hits outlined green, misses blue, false alarms red. The table is
printed as Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image

import seggeo
from seggeo.config import Reading
from seggeo.io import apply_stretch, fit_stretch, open_raster
from seggeo.io.annotations import read_annotations
from seggeo.train.crops import paint

GREEN, BLUE, RED = (60, 220, 90), (60, 130, 255), (255, 60, 50)
SIDE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One image."""

    kind: str
    image: Path
    found: NDArray[np.int32]
    truth: NDArray[np.int32]


def measure(row: dict[str, str], model: str, out: Path, settings: dict[str, Any]) -> Measured:
    image = Path(row["image"])
    what = {"weights": Path(model)} if model.endswith(".safetensors") else {"model": model}
    summary = seggeo.segment(
        image, out / f"{image.stem}_labels.tif", set=settings, preview=False, workers=1, overwrite=True, **what
    )  # fmt: skip
    with rasterio.open(next(iter(summary["outputs"].values()))) as source:
        found = source.read(1).astype(np.int32)
    source = open_raster(str(image), Reading(), native=True)
    frame = source.frame
    source.close()
    truth = read_annotations(Path(row["labels"]), frame).instances
    labels = paint(truth, (0, 0, frame.height, frame.width)).labels
    return Measured(kind=row["kind"], image=image, found=found, truth=labels)


def table(measured: list[Measured]) -> dict[str, Any]:
    scores = {}
    print("| kind | images | objects | AP50 | PQ | SQ | F1 | count error | mean AP |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in sorted({m.kind for m in measured}):
        mine = [m for m in measured if m.kind == kind]
        pooled = seggeo.evaluate([m.found for m in mine], [m.truth for m in mine]).pooled
        half = pooled.near(0.5)
        assert half is not None
        scores[kind] = {
            "images": len(mine), "objects": pooled.n_true, "ap50": half.ap, "pq": pooled.pq, "sq": pooled.sq, "f1": pooled.rq,
            "count_error": pooled.count_error, "mean_ap": pooled.mean_ap,
        }  # fmt: skip
        numbers = " | ".join(f"{scores[kind][name]:.3f}" for name in ("ap50", "pq", "sq", "f1"))
        print(f"| {kind} | {len(mine)} | {pooled.n_true} | {numbers} | {pooled.count_error:+.1%} | {pooled.mean_ap:.3f} |")
    return scores


def worst(measured: list[Measured], path: Path) -> None:
    """The three images of each kind with the most errors, a window of each."""
    rows = []
    for kind in sorted({m.kind for m in measured}):
        mine = sorted((m for m in measured if m.kind == kind), key=_errors, reverse=True)[:3]
        panels = [_panel(m) for m in mine]
        panels += [np.zeros((SIDE, SIDE, 3), np.uint8)] * (3 - len(panels))
        rows.append(np.hstack(panels))
    Image.fromarray(np.vstack(rows)).save(path)


def _errors(m: Measured) -> int:
    pooled = seggeo.evaluate(m.found, m.truth).pooled
    return pooled.fp + pooled.fn


def _panel(m: Measured) -> NDArray[np.uint8]:
    source = open_raster(str(m.image), Reading(), native=False)
    window = source.frame.window
    pixels = source.read(window)
    image = apply_stretch(fit_stretch(pixels, "percent:1,99.8"), pixels).copy()
    source.close()
    hits, missed, wrong = _sorted(m)
    for labels, ids, colour in ((m.truth, missed, BLUE), (m.found, wrong, RED), (m.found, hits, GREEN)):
        shown = np.where(np.isin(labels, list(ids)), labels, 0)
        edge = (shown != np.roll(shown, 1, 0)) | (shown != np.roll(shown, 1, 1))
        image[edge & (shown > 0)] = colour
    bad = np.isin(m.truth, list(missed)) | np.isin(m.found, list(wrong))
    rows, cols = np.nonzero(bad)
    row = int(np.clip(np.median(rows) - SIDE / 2, 0, max(0, image.shape[0] - SIDE))) if len(rows) else 0
    col = int(np.clip(np.median(cols) - SIDE / 2, 0, max(0, image.shape[1] - SIDE))) if len(cols) else 0
    panel = np.zeros((SIDE, SIDE, 3), np.uint8)
    part = image[row : row + SIDE, col : col + SIDE]
    panel[: part.shape[0], : part.shape[1]] = part
    return panel


def _sorted(m: Measured) -> tuple[set[int], set[int], set[int]]:
    """Ids of found objects that match, of true ones that are missed, and of found ones that match nothing."""
    pair, count = np.unique(np.stack([m.truth.ravel(), m.found.ravel()]), axis=1, return_counts=True)
    areas = np.bincount(m.truth.ravel()), np.bincount(m.found.ravel())
    hit = {
        (int(t), int(f)) for (t, f), n in zip(pair.T, count, strict=True)
        if t and f and n / (areas[0][t] + areas[1][f] - n) > 0.5
    }  # fmt: skip
    true, found = set(np.unique(m.truth)) - {0}, set(np.unique(m.found)) - {0}
    return {f for _, f in hit}, true - {t for t, _ in hit}, found - {f for _, f in hit}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {name: _value(text) for name, text in (pair.split("=") for pair in args.set)}
    with args.manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    start = time.process_time()
    measured = [measure(row, args.model, args.out, settings) for row in rows]
    seconds = time.process_time() - start
    scores = table(measured)
    (args.out / "scores.json").write_text(json.dumps(scores, indent=1), encoding="utf-8")
    worst(measured, args.out / "worst.png")
    print(f"\n{seconds:.0f} CPU s, {sum(m.truth.size for m in measured) / 1e6:.1f} Mpx")


if __name__ == "__main__":
    main()

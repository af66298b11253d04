"""One table: seggeo, the bare networks, segment-anything's own generator and SAHI, in one run, with versions.

    python benchmarks/table.py [--points 16] [--times 2] [--json rows.json] [--figure performance.svg]

Three jobs, one thread each, every row a process of its own:

    SAM ViT-B, everything mode on one tile of 1024 px   bare encoder and decoder; stock generator; seggeo's generator
    Mask R-CNN R50-FPN on a scene of 1856 x 1856 px      bare network on our windows; SAHI with torchvision's model; seggeo
    `nuclei` U-Net on a scene of 4096 x 4096 px          bare network on our windows; seggeo

Weights are seeded but for `nuclei`. Of SAM the CPU seconds are those of the tile, without loading (`benchmarks/sam.py`); of
the others those of whole processes, imports and loading included (`benchmarks/overhead.py`). SAHI has tiles, overlap and
limits of ours, one detection cap for every tile as well, and merges with its default, GREEDYNMM.
`--figure` draws the ratios. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import overhead

HERE = Path(__file__).resolve().parent
PACKAGES = ("torch", "torchvision", "segment-anything", "sahi", "seggeo")
INKS = {"bare network": "#8c8c8c", "stock": "#e69f00", "seggeo": "#0072b2"}
"""Of Okabe and Ito's palette, which colour-blind readers can tell apart."""

SAHI = """
import json, sys
import numpy as np, torch
torch.set_num_threads(1); torch.set_grad_enabled(False)
from safetensors.torch import load_file
from torchvision.models import detection
from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction
from sahi.utils.cv import get_bbox_from_coco_segmentation, get_coco_segmentation_from_bool_mask
task = json.load(open(sys.argv[1]))
network = getattr(detection, task["network"])(weights=None, weights_backbone=None, **task["limits"]).eval()
network.load_state_dict(load_file(task["weights"]))
plain = network.forward


def without_specks(images):
    answers = plain(images)
    for one in answers:  # SAHI ends with an error at a mask that its own polygons lose, as noise has some
        polygons = [get_coco_segmentation_from_bool_mask(mask) for mask in (one["masks"][:, 0] > 0.5).numpy()]
        keep = torch.tensor([get_bbox_from_coco_segmentation(p) is not None for p in polygons], dtype=torch.bool)
        one.update({name: values[keep] for name, values in one.items()})
    return answers


network.forward = without_specks
model = AutoDetectionModel.from_pretrained(
    model_type="torchvision", model=network, device="cpu", confidence_threshold=0.1, mask_threshold=0.5,
    category_mapping={str(i): str(i) for i in range(91)}, load_at_init=True,
)
side, share = task["windows"][0][2], task["overlap"] / task["windows"][0][2]
found = get_sliced_prediction(
    np.load(task["image"]), model, slice_height=side, slice_width=side, overlap_height_ratio=share,
    overlap_width_ratio=share, perform_standard_pred=False, verbose=0,
)
print(len(found.object_prediction_list))
"""


def sam_rows(folder: Path, points: int) -> list[dict[str, Any]]:
    """Everything mode on one tile."""
    answer = folder / "sam.json"
    overhead.spent([sys.executable, str(HERE / "sam.py"), "--points", str(points), "--json", str(answer)])
    found, title = json.loads(answer.read_text()), f"SAM ViT-B, {points} x {points} points"
    names = {"bare": "bare network", "stock": "stock generator", "ours": "seggeo"}
    return [
        row(title, name, found[way]["cpu_s"], found[way]["peak_mb"], None if way == "bare" else found[way]["masks"])
        for way, name in names.items()
    ]


def scene_rows(folder: Path, name: str, title: str, times: int, *, with_sahi: bool) -> list[dict[str, Any]]:
    """Whole processes on a scene."""
    case = overhead.CASES[name]
    weights = overhead.weights_of(name, case, folder)
    found = overhead.measured(name, case.sizes[1], weights, times, ("ours", "bare"), folder)
    rows = [row(title, "bare network", found["bare"].cpu_s, found["bare"].peak_mb, None)]
    if with_sahi:
        task = json.loads((folder / "task.json").read_text())
        (folder / "task.json").write_text(json.dumps({**task, "overlap": 192}))
        theirs = overhead.best([overhead.spent([sys.executable, "-c", SAHI, str(folder / "task.json")]) for _ in range(times)])
        rows.append(row(title, "SAHI", theirs.cpu_s, theirs.peak_mb, int(theirs.output.split()[-1])))
    return [*rows, row(title, "seggeo", found["ours"].cpu_s, found["ours"].peak_mb, found["objects"])]


def row(job: str, way: str, cpu_s: float, peak_mb: float, objects: int | None) -> dict[str, Any]:
    return {"job": job, "way": way, "cpu_s": cpu_s, "peak_mb": peak_mb, "objects": objects}


def show(rows: list[dict[str, Any]]) -> None:
    """The rows of one job."""
    bare = rows[0]["cpu_s"]
    for one in rows:
        one["ratio"] = one["cpu_s"] / bare
        objects = "-" if one["objects"] is None else one["objects"]
        print(
            f"{one['job']:30}{one['way']:18}{one['cpu_s']:>8.1f}{one['ratio']:>8.2f}{one['peak_mb']:>10.0f}{objects:>9}",
            flush=True,
        )


def machine() -> dict[str, str]:
    """What the figures were taken with."""
    names = {line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line}
    return {
        "processor": ", ".join(sorted(names)), "threads": "1", "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of CPU time over the bare network's, a group for each job."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    jobs = list(dict.fromkeys(one["job"] for one in rows))
    figure, axes = plt.subplots(len(jobs), 1, figsize=(7, 0.45 * len(rows) + 1.1), sharex=True, layout="constrained",
                                height_ratios=[sum(one["job"] == job for one in rows) for job in jobs])  # fmt: skip
    longest = max(one["ratio"] for one in rows)
    for axis, job in zip(np.atleast_1d(axes), jobs, strict=True):
        mine = [one for one in rows if one["job"] == job][::-1]
        inks = [INKS.get(one["way"], INKS["stock"]) for one in mine]
        axis.barh([one["way"] for one in mine], [one["ratio"] for one in mine], color=inks, height=0.7)
        for place, one in enumerate(mine):
            axis.text(
                one["ratio"] + 0.01 * longest,
                place,
                f"{one['ratio']:.2f}  ({one['cpu_s']:.0f} s)",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        axis.axvline(1, color="0.3", linewidth=0.8, linestyle=":")
        axis.set_title(job, loc="left", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes = np.atleast_1d(axes)
    axes[-1].set_xlim(0, 1.18 * longest)
    axes[-1].set_xlabel("CPU time over that of the bare network, one thread", fontsize=8)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=16, help="along each side of SAM's tile")
    parser.add_argument("--times", type=int, default=2, help="runs of whole processes, of which the fastest counts")
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("--figure", type=Path, help="draw the ratios, .svg or .png")
    parser.add_argument("--from-json", type=Path, help="draw rows that were written before, measure nothing")
    asked = parser.parse_args()
    written = json.loads(asked.from_json.read_text()) if asked.from_json else measured(asked.points, asked.times)
    if asked.json:
        asked.json.write_text(json.dumps(written, indent=1))
    if asked.figure:
        draw(written["rows"], asked.figure)


def measured(points: int, times: int) -> dict[str, Any]:
    """Versions and rows; printed as soon as they are known."""
    facts = machine()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"{'':30}{'':18}{'CPU s':>8}{'/ bare':>8}{'peak MB':>10}{'objects':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for job in (
            lambda: sam_rows(folder, points),
            lambda: scene_rows(folder, "maskrcnn", "Mask R-CNN R50-FPN, 1856 px", times, with_sahi=True),
            lambda: scene_rows(folder, "nuclei", "nuclei (U-Net), 4096 px", times, with_sahi=False),
        ):
            some = job()
            show(some)
            rows += some
    return {"versions": facts, "rows": rows}


if __name__ == "__main__":
    main()

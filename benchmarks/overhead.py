"""What the whole tool costs beside the networks: `seggeo segment` over a bare loop of the network, in one run.

    python benchmarks/overhead.py models [--only nuclei,maskrcnn] [--times 2]   each bundled and named model
    python benchmarks/overhead.py stub [--size 4096] [--detections 100]         per detection, beside SAHI with the same stub

`models`: bundled U-Nets with their weights; Mask R-CNN and SAM of the published sizes with seeded weights, since COCO's
and Meta's cannot be fetched offline: Mask R-CNN's class layer is scaled so that each tile reaches COCO's cap of 100
detections, SAM's are written by hand so that blobs become masks (tests/support_sam.py). `threshold` and `regions` have no
network and are left out. What the bare loop is: `benchmarks/bare.py`. Both see the very same windows, those of our run
with the context that our network asks for, in the same order, with one thread; ours also reads, decodes and stretches the
file, looks for the objects' size, merges, and writes GeoPackage, preview and provenance.

Whole processes are compared, imports and loading included in both, and beside that what each further pixel costs: the
difference between a scene and a smaller one, in which all that is paid once cancels out. `/ bare kept`: the same over a
bare loop in a process whose C library keeps freed memory, as ours makes it do (glibc's MALLOC_MMAP_MAX_ and
MALLOC_TRIM_THRESHOLD_), so that what this gives and what our own arithmetic gives can be told apart. CPU seconds of
processes that take turns, the lowest of `--times`.

`stub`: a model that answers at once with known blobs, so that what remains is the pipeline: read, encode, merge, write.
SAHI gets the same answers through its torchvision wrapper, pasted as torchvision pastes them. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
SAMPLES = HERE.parent / "sample_data"
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}

STUB = '''
import numpy as np
from seggeo import Instances


class Stub:
    """`detections` discs at fixed places of every tile."""

    name, exclusive, native = "stub", False, True

    def __init__(self, detections=100):
        self.detections = detections

    def predict(self, tiles):
        return [Instances.from_masks(**blobs(self.detections, tile.shape[:2])) for tile in tiles]


def blobs(count, shape):
    side = int(np.ceil(count**0.5))
    cell = shape[0] / side
    rng = np.random.default_rng(1)
    masks, origins = [], []
    for i in range(count):
        radius = cell * rng.uniform(0.2, 0.4)
        rows, cols = np.ogrid[-int(radius) : int(radius) + 1, -int(radius) : int(radius) + 1]
        masks.append(rows**2 + cols**2 <= radius**2)
        origins.append([int((i // side + 0.5) * cell - radius), int((i % side + 0.5) * cell - radius)])
    return {"masks": masks, "origin": origins, "score": np.linspace(0.99, 0.6, count)}
'''

SAHI = """
import sys, numpy as np, torch
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
torch.set_num_threads(1); torch.set_grad_enabled(False)
from torchvision.models.detection.roi_heads import paste_masks_in_image
path, count, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


class Stub(torch.nn.Module):
    def __init__(self):
        super().__init__()
        cells = int(np.ceil(count**0.5)); cell = side / cells
        rng = np.random.default_rng(1); boxes = []
        for i in range(count):
            r = cell * rng.uniform(0.2, 0.4); y, x = (i // cells + 0.5) * cell, (i % cells + 0.5) * cell
            boxes.append([x - r, y - r, x + r, y + r])
        self.boxes = torch.tensor(boxes, dtype=torch.float32)
        axis = torch.linspace(-1, 1, 28)
        self.masks = torch.sigmoid((0.9 - axis[:, None] ** 2 - axis[None] ** 2) * 8)[None, None].repeat(count, 1, 1, 1)

    def forward(self, images):
        return [self.answer(image.shape[-2:]) for image in images]

    def answer(self, shape):
        masks = paste_masks_in_image(self.masks, self.boxes, shape)
        labels, scores = torch.ones(count, dtype=torch.int64), torch.linspace(0.99, 0.6, count)
        return dict(boxes=self.boxes.clone(), labels=labels, scores=scores, masks=masks)


from sahi import AutoDetectionModel
from sahi.predict import get_sliced_prediction
image = np.array(Image.open(path))
model = AutoDetectionModel.from_pretrained(
    model_type="torchvision", model=Stub().eval(), device="cpu", confidence_threshold=0.5, mask_threshold=0.5,
    category_mapping={"0": "a", "1": "b"}, load_at_init=True,
)
r = get_sliced_prediction(
    image, model, slice_height=side, slice_width=side, overlap_height_ratio=0.125, overlap_width_ratio=0.125,
    perform_standard_pred=False, verbose=0,
)
print(len(r.object_prediction_list))
"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model and the scenes it is measured on."""

    family: str
    sizes: tuple[tuple[int, int], tuple[int, int]]
    """Height and width, px, of the smaller scene and of the one."""
    network: str = ""
    options: tuple[str, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)
    """What the stock network is made with."""


COCO = ("--set", "score=0.1", "--set", "detections=100", "--set", "rpn_pre=1000", "--set", "rpn_post=1000")
STOCK = {"num_classes": 91, "min_size": 1024, "max_size": 1024, "box_score_thresh": 0.1}
POINTS = ("--set", "points_per_side=16", "--set", "stability_score_thresh=0.8")
MASKRCNN = {"family": "maskrcnn", "sizes": ((1024, 1024), (1856, 1856)), "options": COCO, "limits": STOCK}
SAM = {"family": "sam", "sizes": ((1024, 1024), (1024, 1792)), "options": POINTS}
CASES = {
    "nuclei": Case(family="unet", sizes=((2048, 2048), (4096, 4096))),
    "overhead": Case(family="unet", sizes=((1024, 1024), (2048, 3072))),
    "maskrcnn": Case(network="maskrcnn_resnet50_fpn", **MASKRCNN),
    "maskrcnn_v2": Case(network="maskrcnn_resnet50_fpn_v2", **MASKRCNN),
    "sam_vit_b": Case(network="vit_b", **SAM),
    "sam_vit_l": Case(network="vit_l", **SAM),
    "sam_vit_h": Case(network="vit_h", **SAM),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a whole process."""

    cpu_s: float
    peak_mb: float
    output: str


def spent(command: list[str], **environment: str) -> Cost:
    """CPU seconds and peak memory of a process and what it started, and what it printed."""
    everything = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=everything)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), errors.seek(0)
        if process.returncode:
            sys.exit(f"{' '.join(command[:4])} failed:\n{errors.read()[-2000:]}")
        return Cost(cpu_s=usage.ru_utime + usage.ru_stime, peak_mb=usage.ru_maxrss / 1024, output=out.read())


def best(costs: list[Cost]) -> Cost:
    return min(costs, key=lambda cost: cost.cpu_s)


def mirrored(path: Path, height: int, width: int) -> NDArray[np.uint8]:
    """The picture, again and again in mirrored copies, `(height, width, 3)`; 16 bits are stretched to 8."""
    import rasterio

    with rasterio.open(path) as source:
        image = source.read([1, 2, 3] if source.count >= 3 else [1, 1, 1]).transpose(1, 2, 0)
    if image.dtype != np.uint8:
        low, high = np.percentile(image, [1, 99.8])
        image = np.clip((image.astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    pad = ((0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0))
    return np.pad(image, pad, mode="symmetric")[:height, :width]


def picture(name: str, family: str, height: int, width: int) -> NDArray[np.uint8]:
    """A scene that the model finds objects in."""
    if family == "sam":
        sys.path.insert(0, str(HERE.parent / "tests"))
        from support_sam import blob_image

        return blob_image(height, width, seed=1, step=128, fill=1.5)
    return mirrored(SAMPLES / ("nuclei.tif" if name == "nuclei" else "town.tif"), height, width)


def write_image(path: Path, image: NDArray[np.uint8], gsd: float | None = 0.4) -> None:
    """A tiled, deflated RGB GeoTIFF; `gsd` None leaves it without a place on the ground."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.transform import from_origin

    height, width = image.shape[:2]
    place = {} if gsd is None else {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, gsd, gsd)}
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=3, dtype="uint8", tiled=True, compress="deflate",
        blockxsize=512, blockysize=512, photometric="RGB", **place,
    ) as out:  # fmt: skip
        out.write(image.transpose(2, 0, 1))


def weights_of(name: str, case: Case, folder: Path) -> Path:
    """The bundled weights, or seeded ones of the published network."""
    if case.family == "unet":
        from seggeo.models.bundled import find_bundled

        bundled = find_bundled(name)
        assert bundled is not None
        return bundled.path
    if case.family == "sam":  # in another process: the peak of a child counts from what this one holds when it starts it
        path = folder / f"{name}.pth"
        spent([sys.executable, str(HERE / "sam.py"), "--one", "weights", "--network", case.network, "--weights", str(path)])
        return path
    import torch
    from safetensors.torch import save_file
    from torchvision.models import detection

    torch.manual_seed(0)
    network = getattr(detection, case.network)(weights=None, weights_backbone=None, num_classes=91)
    with torch.no_grad():
        network.roi_heads.box_predictor.cls_score.weight.mul_(40)  # else every class is as likely as any other
    save_file(network.state_dict(), folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def segment(path: Path, run: Path, *options: str) -> list[str]:
    """The command line of a run of ours; outputs and run folder lie in `run`."""
    start = "import sys; from seggeo.cli.app import main; sys.argv = ['seggeo', *sys.argv[1:]]; main()"
    return [
        sys.executable, "-c", start, "segment", str(path), "-o", f"{run}/out.gpkg", "--workers", "1", "-q", "--json",
        "--device", "cpu", *options,
    ]  # fmt: skip


def bare_task(case: Case, weights: Path, pixels: Path, run: Path) -> dict[str, Any]:
    """What the bare loop does: the windows of a run of ours, and what our network was asked for."""
    from seggeo.job import Job
    from seggeo.store import RunStore

    job = Job.from_json(RunStore(next(run.glob("*.seggeo"))).load_job_values())
    tiles = [job.grid[i] for i in range(len(job.grid))]
    windows = [tile.window for tile in tiles]
    task = {"family": case.family, "network": case.network, "weights": str(weights), "image": str(pixels)}
    if case.family == "unet":
        from seggeo.models.unet import load
        from seggeo.protocols import ModelRequest

        chosen = job.model["settings"]
        info = load(ModelRequest(name="unet", weights=weights, settings=chosen, device="cpu")).info
        windows = [info.extent(window, within=job.frame.window) for window in windows]
        task |= {"scale": chosen["scale"], "flips": chosen["flips"], "stride": info.stride}
    if case.family == "maskrcnn":
        task["limits"] = case.limits
    if case.family == "sam":
        step = 1024 / int(job.model["settings"]["points_per_side"])
        lattice = [
            [np.count_nonzero(np.arange(0.5 * step, stop, step) >= first) for first, stop in sides]
            for sides in (((t.core.row, t.core.row_stop), (t.core.col, t.core.col_stop)) for t in tiles)
        ]
        task["points"] = [int(rows * cols) for rows, cols in lattice]
    return {**task, "windows": [[w.row, w.col, w.height, w.width] for w in windows]}


def measured(
    name: str, size: tuple[int, int], weights: Path, times: int, ways: tuple[str, ...], folder: Path
) -> dict[str, Any]:
    """Ours and the bare loops on one scene, in turn."""
    case = CASES[name]
    image, scene, pixels = picture(name, case.family, *size), folder / f"{name}{size[1]}.tif", folder / "pixels.npy"
    write_image(scene, image, None if name == "nuclei" else 0.4)
    np.save(pixels, image)
    model = ["--model", name] if case.family == "unet" else ["--model", case.family, "--weights", str(weights)]
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for turn in range(times):
        run = folder / f"{name}{size[1]}_{turn}"
        costs["ours"].append(spent(segment(scene, run, *model, *case.options)))
        task = folder / "task.json"
        task.write_text(json.dumps(bare_task(case, weights, pixels, run)))
        for way in ways[1:]:
            costs[way].append(spent([sys.executable, str(HERE / "bare.py"), str(task)], **(KEEPING if way == "kept" else {})))
    summary = json.loads(costs["ours"][0].output)
    return {
        "size": f"{size[0]} x {size[1]}",
        "objects": summary["objects"],
        "tiles": summary["tiles"],
        **{w: best(c) for w, c in costs.items()},
    }


def models(names: list[str], times: int, *, quick: bool = False) -> None:
    """The table of all models, a line as soon as it is known; `quick`: of the smaller scenes, whole processes alone."""
    print(f"{'':12}{'scene, px':>12}{'tiles':>6}{'objects':>8}{'bare s':>8}{'ours s':>8}{'/ bare':>8}{'per px':>8}"
          f"{'/ bare kept':>13}{'per px':>8}{'bare MB':>9}{'ours MB':>9}")  # fmt: skip
    ways = ("ours", "bare") if quick else ("ours", "bare", "kept")
    for name in names:
        sizes = CASES[name].sizes[:1] if quick else CASES[name].sizes
        with tempfile.TemporaryDirectory() as folder:
            weights = weights_of(name, CASES[name], Path(folder))
            scenes = [measured(name, size, weights, times, ways, Path(folder)) for size in sizes]
        largest = scenes[-1]
        ours, bare = largest["ours"], largest["bare"]
        further, kept, kept_further = "-", "-", "-"
        if not quick:
            further, kept_further = (f"{slope(*scenes, way):.2f}" for way in ("bare", "kept"))
            kept = f"{ours.cpu_s / largest['kept'].cpu_s:.2f}"
        print(f"{name:12}{largest['size']:>12}{largest['tiles']:>6}{largest['objects']:>8}"
              f"{bare.cpu_s:>8.1f}{ours.cpu_s:>8.1f}{ours.cpu_s / bare.cpu_s:>8.2f}{further:>8}{kept:>13}"
              f"{kept_further:>8}{bare.peak_mb:>9.0f}{ours.peak_mb:>9.0f}", flush=True)  # fmt: skip
    print("aim: / bare and its per px <= 1.05")


def slope(small: dict[str, Any], large: dict[str, Any], way: str) -> float:
    """What further pixels cost us over what they cost the bare loop."""
    return (large["ours"].cpu_s - small["ours"].cpu_s) / (large[way].cpu_s - small[way].cpu_s)


def blocks(side: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))


def stub(folder: Path, side: int, detections: int, times: int) -> None:
    model, image = folder / "stub.py", folder / "scene.tif"
    model.write_text(STUB)
    write_image(image, blocks(side))
    options = [
        "--model",
        f"{model}:Stub",
        "--set",
        f"detections={detections}",
        "--tile",
        "1024",
        "--overlap",
        "128",
        "--no-preview",
    ]
    ours = best([spent(segment(image, folder / f"run{i}", *options)) for i in range(times)])
    empty = best([spent([sys.executable, "-c", "import sahi.predict, sahi, torch, torchvision"]) for _ in range(times)]).cpu_s
    theirs = spent([sys.executable, "-c", SAHI, str(image), str(detections), "1024"]).cpu_s - empty
    tiles = json.loads(ours.output)["tiles"]
    count = tiles * detections
    print(f"{tiles} tiles, {count} detections; SAHI's imports ({empty:.1f} s) are taken off its figure, ours are not")
    print(f"{'':16s}{'CPU s':>10s}{'ms a detection':>18s}")
    print(f"{'SAHI':16s}{theirs:10.1f}{theirs / count * 1e3:18.2f}")
    print(f"{'seggeo':16s}{ours.cpu_s:10.1f}{ours.cpu_s / count * 1e3:18.2f}   1/{theirs / ours.cpu_s:.1f} of SAHI (aim 1/10)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["models", "stub"])
    parser.add_argument("--only", default=",".join(CASES), help="models, commas between them")
    parser.add_argument("--times", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the smaller scene of each model, whole processes alone")
    parser.add_argument("--size", type=int, default=4096, help="of the stub's scene, px")
    parser.add_argument("--detections", type=int, default=100, help="of the stub, in a tile")
    asked = parser.parse_args()
    if asked.what == "models":
        return models(asked.only.split(","), asked.times, quick=asked.quick)
    with tempfile.TemporaryDirectory() as name:
        return stub(Path(name), asked.size, asked.detections, asked.times)


if __name__ == "__main__":
    main()

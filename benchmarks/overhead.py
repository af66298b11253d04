"""What the pipeline costs beside the network: CPU seconds of `seggeo segment` over a bare loop, in one run.

    python benchmarks/overhead.py maskrcnn [--size 1024] [--tile 512]   whole command / the network alone on the same tiles
    python benchmarks/overhead.py stub [--size 4096] [--detections 100] per detection, beside SAHI with the same stub

`maskrcnn`: torchvision's Mask R-CNN R50-FPN with seeded random weights, one thread. The bare loop opens the same weights
and runs transform, backbone, RPN and heads on as many tiles of the same size, without pasting a mask. Whole processes
are compared, imports and loading included in both; each twice, the lower figure counts.
`stub`: a model that answers at once with known blobs, so that what remains is the pipeline: read, encode, merge, write.
SAHI gets the same answers through its torchvision wrapper, pasted as torchvision pastes them. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

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

BARE = """
import sys, torch
from seggeo.models.maskrcnn import load
from seggeo.protocols import ModelRequest
from pathlib import Path

torch.set_num_threads(1)
weights, tiles, side = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
segmenter = load(ModelRequest(name="maskrcnn", weights=Path(weights), device="cpu"))
net = segmenter._model  # the same limits as ours, or the comparison would be of two networks
image = torch.rand(1, 3, side, side)
from torchvision.models.detection.image_list import ImageList
with torch.inference_mode():
    for _ in range(tiles):
        features = net.backbone(image)
        batch = ImageList(image, [(side, side)])
        proposals, _ = net.rpn(batch, features)
        net.roi_heads(features, proposals, [(side, side)])
"""

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


def cpu_seconds(command: list[str], times: int = 2) -> tuple[float, str]:
    """Lowest CPU seconds of a whole process and its last output."""
    best, output = float("inf"), ""
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        output = done.stdout
    return best, output


def write_image(path: Path, side: int) -> None:
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (3, side // 8, side // 8), dtype=np.uint8)
    data = np.kron(coarse, np.ones((1, 8, 8), np.uint8))
    profile = {
        "driver": "GTiff",
        "height": side,
        "width": side,
        "count": 3,
        "dtype": "uint8",
        "tiled": True,
        "compress": "deflate",
    }
    with rasterio.open(
        path, "w", **profile, blockxsize=512, blockysize=512, crs="EPSG:32633", transform=from_origin(5e5, 5e6, 0.3, 0.3)
    ) as out:
        out.write(data)


def segment(path: Path, folder: Path, *extra: str) -> list[str]:
    run = folder / f"run{time.monotonic_ns()}"
    return [
        sys.executable, "-c",
        "import sys, shutil; from seggeo.cli.app import main\n"
        f"shutil.rmtree({str(run)!r}, ignore_errors=True); sys.argv = ['seggeo', *sys.argv[1:]]; main()",
        "segment", str(path), "-o", f"{run}/out.gpkg", "--workers", "1", "-q", "--json", "--no-preview", *extra,
    ]  # fmt: skip


def maskrcnn(folder: Path, side: int, tile: int) -> None:
    import torch
    from safetensors.torch import save_file
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    net = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    weights, image = folder / "r50.safetensors", folder / "scene.tif"
    save_file(net.state_dict(), weights)
    write_image(image, side)
    ours, out = cpu_seconds(
        segment(
            image,
            folder,
            "--model",
            "maskrcnn",
            "--weights",
            str(weights),
            "--tile",
            str(tile),
            "--overlap",
            "64",
            "--device",
            "cpu",
        )
    )
    summary = json.loads(out)
    bare, _ = cpu_seconds([sys.executable, "-c", BARE, str(weights), str(summary["tiles"]), str(tile)])
    readings = summary["readings"]["inputs"] + summary["readings"]["foreign"]
    print(f"{summary['tiles']} tiles of {tile} px, {readings} detections")
    print(f"{'':24s}{'CPU s':>10s}")
    print(f"{'bare network loop':24s}{bare:10.1f}")
    print(f"{'seggeo segment':24s}{ours:10.1f}   ratio {ours / bare:.3f}  (target <= 1.05)")


def stub(folder: Path, side: int, detections: int) -> None:
    model, image = folder / "stub.py", folder / "scene.tif"
    model.write_text(STUB)
    write_image(image, side)
    ours, out = cpu_seconds(
        segment(
            image, folder, "--model", f"{model}:Stub", "--set", f"detections={detections}", "--tile", "1024", "--overlap", "128"
        )
    )
    empty, _ = cpu_seconds([sys.executable, "-c", "import sahi.predict, sahi, torch, torchvision"])
    theirs, _ = cpu_seconds([sys.executable, "-c", SAHI, str(image), str(detections), "1024"], times=1)
    tiles = json.loads(out)["tiles"]
    count = tiles * detections
    print(f"{tiles} tiles, {count} detections; SAHI's imports ({empty:.1f} s) are taken off its figure, ours are not")
    print(f"{'':16s}{'CPU s':>10s}{'ms a detection':>18s}")
    print(f"{'SAHI':16s}{theirs - empty:10.1f}{(theirs - empty) / count * 1e3:18.2f}")
    print(f"{'seggeo':16s}{ours:10.1f}{ours / count * 1e3:18.2f}   1/{(theirs - empty) / ours:.1f} of SAHI (target <= 1/10)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["maskrcnn", "stub"])
    parser.add_argument("--size", type=int, default=None)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--detections", type=int, default=100)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if asked.what == "maskrcnn":
            maskrcnn(Path(name), asked.size or 1024, asked.tile)
        else:
            stub(Path(name), asked.size or 4096, asked.detections)


if __name__ == "__main__":
    main()

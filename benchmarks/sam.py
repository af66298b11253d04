"""SAM everything mode on one 1024 px tile: our generator and the stock one against the encoder and decoder alone.

Run:
    python benchmarks/sam.py                   16 x 16 points, some minutes of CPU
    python benchmarks/sam.py --points 32       the stock generator's default; three times as long and more

ViT-B at its published size. The weights are written by hand and noise (tests/support_sam.py), so that blobs in the image
give some hundred masks that pass all filters. Every way runs in a process of its own with one thread:

    bare    image encoder, then prompt encoder and mask decoder of segment-anything for every batch of 64 points
    ours    seggeo.models.sam_masks.find_masks
    stock   segment_anything.SamAutomaticMaskGenerator(output_mode="uncompressed_rle"), without crops

CPU seconds, the peak of resident memory above what was resident with the network loaded, and how many masks of the two
generators are equal in every pixel.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TILE = 1024
BATCH = 64
TESTS = Path(__file__).resolve().parent.parent / "tests"
STABILITY = 0.8


def memory(name: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def network(path: Path):
    import torch
    from segment_anything import sam_model_registry

    torch.set_num_threads(1)
    return sam_model_registry["vit_b"](str(path))


def scene():
    sys.path.insert(0, str(TESTS))
    from support_sam import blob_image

    return blob_image(TILE, TILE, seed=1, step=128, fill=1.5)


def bare(sam, image, grid) -> list[str]:
    import torch
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    with torch.no_grad():
        predictor.set_image(image)
        for points in torch.as_tensor(grid * TILE).split(BATCH):
            labels = torch.ones((len(points), 1), dtype=torch.int)
            sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
            sam.mask_decoder(
                image_embeddings=predictor.features,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
    return []


def ours(sam, image, grid) -> list[str]:
    import numpy as np

    from seggeo.models.sam_masks import Thresholds, Work, find_masks

    found = find_masks(sam, image, grid * TILE, Thresholds(stability_score_thresh=STABILITY), Work(points_per_batch=BATCH))
    digests = []
    for (row, col, row_stop, col_stop), mask in found.instances:
        frame = np.zeros((TILE, TILE), bool)
        frame[row:row_stop, col:col_stop] = mask
        digests.append(hashlib.sha256(frame.tobytes()).hexdigest())
    return digests


def stock(sam, image, grid) -> list[str]:
    import numpy as np
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.utils.amg import rle_to_mask

    generator = SamAutomaticMaskGenerator(
        sam, None, points_per_batch=BATCH, stability_score_thresh=STABILITY, point_grids=[grid], output_mode="uncompressed_rle"
    )
    masks = generator.generate(image)
    return [hashlib.sha256(np.ascontiguousarray(rle_to_mask(m["segmentation"])).tobytes()).hexdigest() for m in masks]


def one(way: str, weights: Path, points: int) -> None:
    from segment_anything.utils.amg import build_point_grid

    sam, image = network(weights), scene()
    resident = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.process_time()
    digests = {"bare": bare, "ours": ours, "stock": stock}[way](sam, image, build_point_grid(points))
    print(json.dumps({"cpu_s": time.process_time() - start, "peak_mb": memory("VmHWM") - resident, "masks": digests}))


def make_weights(path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(TESTS))
    from support_sam import make_vit_b

    torch.save(make_vit_b().state_dict(), path)


def child(*arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=16, help="points along each side of the tile")
    parser.add_argument("--one", choices=["bare", "ours", "stock", "weights"], help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one == "weights":
        return make_weights(asked.weights)
    if asked.one:
        return one(asked.one, asked.weights, asked.points)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vit_b.pth"
        child("--one", "weights", "--weights", str(path))
        results = {}
        for way in ("bare", "ours", "stock"):
            results[way] = json.loads(child("--one", way, "--weights", str(path), "--points", str(asked.points)))
            print(f"{way} done: {results[way]['cpu_s']:.1f} CPU s", file=sys.stderr, flush=True)
    return report(results, asked.points)


def report(results: dict, points: int) -> None:
    base = results["bare"]["cpu_s"]
    print(f"ViT-B, {TILE} px, {points} x {points} points, one thread")
    print(f"{'way':<8}{'CPU s':>9}{'/ bare':>9}{'peak MB':>10}{'masks':>8}")
    for way, result in results.items():
        masks = len(result["masks"]) if way != "bare" else "-"
        print(f"{way:<8}{result['cpu_s']:>9.1f}{result['cpu_s'] / base:>9.2f}{result['peak_mb']:>10.0f}{masks:>8}")
    mine, theirs = set(results["ours"]["masks"]), set(results["stock"]["masks"])
    print(f"masks equal in every pixel: {len(mine & theirs)} of {len(mine | theirs)}")
    print(f"ours / stock: {results['ours']['cpu_s'] / results['stock']['cpu_s']:.2f} (target: ours / bare <= 1.10)")


if __name__ == "__main__":
    main()

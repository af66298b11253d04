"""SAM everything mode on one 1024 px tile: our generator and the stock one against the encoder and decoder alone.

Run:
    python benchmarks/sam.py                   16 x 16 points, some minutes of CPU
    python benchmarks/sam.py --points 32       the stock generator's default; three times as long
    python benchmarks/sam.py --network vit_h   or vit_l

The network has its published size. The weights are written by hand and noise (tests/support_sam.py), so that blobs in the
image give masks that pass all filters, and points beside them none. Every way runs in a process of its own, one thread:

    bare    image encoder, then prompt encoder and mask decoder of segment-anything for every batch of 64 points
    ours    seggeo.models.sam_masks.find_masks on `LeanSam`
    stock   segment_anything.SamAutomaticMaskGenerator(output_mode="uncompressed_rle"), without crops

CPU seconds, the peak of resident memory above what was resident with the network loaded, and how many masks of the two
generators find each other, one to one, at an IoU of 0.99 and more.
"""

from __future__ import annotations

import argparse
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


def network(name: str, path: Path):
    import torch
    from segment_anything import sam_model_registry

    torch.set_num_threads(1)
    return sam_model_registry[name](str(path)).eval()


def scene():
    sys.path.insert(0, str(TESTS))
    from support_sam import blob_image

    return blob_image(TILE, TILE, seed=1, step=128, fill=1.5)


def bare(sam, image, grid) -> list:
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


def ours(sam, image, grid) -> list:
    import numpy as np

    from seggeo.models.sam_decode import LeanSam
    from seggeo.models.sam_masks import Thresholds, Work, find_masks

    wanted, work = Thresholds(stability_score_thresh=STABILITY), Work(points_per_batch=BATCH)
    masks = []
    for (row, col, row_stop, col_stop), mask in find_masks(LeanSam(sam), image, grid * TILE, wanted, work).instances:
        frame = np.zeros((TILE, TILE), bool)
        frame[row:row_stop, col:col_stop] = mask
        masks.append(frame)
    return masks


def stock(sam, image, grid) -> list:
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.utils.amg import rle_to_mask

    generator = SamAutomaticMaskGenerator(
        sam, None, points_per_batch=BATCH, stability_score_thresh=STABILITY, point_grids=[grid], output_mode="uncompressed_rle"
    )
    return [rle_to_mask(mask["segmentation"]) for mask in generator.generate(image)]


def one(asked: argparse.Namespace) -> None:
    import numpy as np
    from segment_anything.utils.amg import build_point_grid

    sam, image = network(asked.network, asked.weights), scene()
    resident = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.process_time()
    masks = {"bare": bare, "ours": ours, "stock": stock}[asked.one](sam, image, build_point_grid(asked.points))
    seconds, peak = time.process_time() - start, memory("VmHWM") - resident
    flat = np.array(masks, bool).reshape(len(masks), TILE * TILE)
    np.save(asked.weights.with_name(f"{asked.one}.npy"), np.packbits(flat, axis=1))
    print(json.dumps({"cpu_s": seconds, "peak_mb": peak, "masks": len(masks)}))


def make_weights(name: str, path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(TESTS))
    from support_sam import make_vit

    torch.save(make_vit(name).state_dict(), path)


def matched(folder: Path) -> tuple[int, int]:
    """Pairs of masks of the two generators at an IoU of at least 0.99, and of these those equal in every pixel."""
    import numpy as np

    one, two = (np.unpackbits(np.load(folder / f"{way}.npy"), axis=1).astype(bool) for way in ("ours", "stock"))
    left, pairs, equal = list(range(len(two))), 0, 0
    for mask in one:
        iou = [np.count_nonzero(mask & two[i]) / max(1, np.count_nonzero(mask | two[i])) for i in left]
        best = int(np.argmax(iou)) if iou else -1
        if best >= 0 and iou[best] >= 0.99:
            pairs, equal = pairs + 1, equal + bool(iou[best] == 1)
            left.pop(best)
    return pairs, equal


def child(*arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *arguments], env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=16, help="points along each side of the tile")
    parser.add_argument("--network", choices=["vit_b", "vit_l", "vit_h"], default="vit_b")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--one", choices=["bare", "ours", "stock", "weights"], help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one == "weights":
        return make_weights(asked.network, asked.weights)
    if asked.one:
        return one(asked)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sam.pth"
        child("--one", "weights", "--network", asked.network, "--weights", str(path))
        results = {}
        for way in ("bare", "ours", "stock"):
            arguments = ["--one", way, "--network", asked.network, "--weights", str(path), "--points", str(asked.points)]
            results[way] = json.loads(child(*arguments))
            print(f"{way} done: {results[way]['cpu_s']:.1f} CPU s", file=sys.stderr, flush=True)
        pairs, equal = matched(Path(folder))
    report(results, asked, pairs, equal)
    if asked.json:
        asked.json.write_text(json.dumps({**results, "matched": pairs, "equal": equal}))
    return None


def report(results: dict, asked: argparse.Namespace, pairs: int, equal: int) -> None:
    base, mine, theirs = (results[way] for way in ("bare", "ours", "stock"))
    print(f"{asked.network}, {TILE} px, {asked.points} x {asked.points} points, one thread")
    print(f"{'way':<8}{'CPU s':>9}{'/ bare':>9}{'peak MB':>10}{'masks':>8}")
    for way, result in results.items():
        masks = result["masks"] if way != "bare" else "-"
        print(f"{way:<8}{result['cpu_s']:>9.1f}{result['cpu_s'] / base['cpu_s']:>9.2f}{result['peak_mb']:>10.0f}{masks:>8}")
    print(f"ours / bare {mine['cpu_s'] / base['cpu_s']:.2f} (at most 0.75)")
    print(f"stock / ours {theirs['cpu_s'] / mine['cpu_s']:.2f} (at least 2)")
    print(f"peak, ours / stock {mine['peak_mb'] / theirs['peak_mb']:.2f} (at most 0.5)")
    print(f"masks that find each other at IoU 0.99: {pairs} of {mine['masks']} and {theirs['masks']}; equal: {equal}")


if __name__ == "__main__":
    main()

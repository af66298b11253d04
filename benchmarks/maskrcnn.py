"""What Mask R-CNN costs besides its network: pasting and encoding masks, and predict() over the bare network.

Run:
    python benchmarks/maskrcnn.py              100 and 1000 detections of nuclei (12-40 px), buildings (10-100 px) and
                                               large objects (40-300 px) on a 1024 px tile: all we do after the heads
                                               (paste, least area, runs) against torchvision's paste_masks_in_image alone
    python benchmarks/maskrcnn.py --network    CPU time and memory of predict() against backbone, proposals, box and mask
                                               heads alone, stock, on one tile of a full-size ResNet-50 with random weights;
                                               --version 2 for torchvision's v2, --count for the detections

Every measurement runs in a process of its own with one thread: CPU seconds, and the peak of resident memory above what
was resident just before. The best of --repeats counts for time, the most for memory.
torchvision pastes 1000 masks a hundred at a time here, since at once they take 8 GB; its loop over masks is the same, the
memory that of a hundred, and the time less than at once, when fresh memory costs more (with a threshold 48 s were measured).
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


def measured(work) -> dict[str, float]:
    """CPU seconds of a call and the peak memory it added, MB."""
    resident = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.process_time()
    result = work()
    return {"cpu_s": time.process_time() - start, "extra_mb": memory("VmHWM") - resident, "result": result}


def memory(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise SystemExit("this benchmark reads /proc/self/status and needs Linux")


SIZES = {"nuclei": (12, 40), "buildings": (10, 100), "large": (40, 300)}
PIECE = 100


def detections(count: int, kind: str):
    """Discs with uneven rims and soft edges, as mask heads give them, and boxes of a tile full of objects of that kind."""
    import torch

    torch.manual_seed(0)
    axis = torch.linspace(-1, 1, 28)
    uneven = torch.nn.functional.avg_pool2d(torch.randn(count, 1, 28, 28), 9, 1, 4)
    masks = torch.sigmoid(8 * (0.8 - axis[:, None] ** 2 - axis**2 + uneven))
    least, most = SIZES[kind]
    size = least + torch.rand(count, 2) * (most - least)
    corner = torch.rand(count, 2) * (TILE - size)
    return masks, torch.cat([corner, corner + size], 1)


def paste_ours(count: int, kind: str, repeats: int) -> dict[str, float]:
    import torch

    from seggeo.models.maskrcnn_paste import to_instances
    from seggeo.models.maskrcnn_regions import Detections
    from seggeo.models.maskrcnn_settings import DetectorSettings

    masks, boxes = detections(count, kind)
    labels = torch.ones(count, dtype=torch.int64)
    found = Detections(boxes=boxes, scores=torch.ones(count), labels=labels, tile=labels * 0)
    settings = DetectorSettings(mask_threshold=0.5)
    to_instances(masks[:2, 0], found.take(slice(2)), (TILE, TILE), settings)
    rows = [measured(lambda: to_instances(masks[:, 0], found, (TILE, TILE), settings)) for _ in range(repeats)]
    return summary(rows, lambda instances: int(instances.area.sum()))


def paste_theirs(count: int, kind: str, repeats: int) -> dict[str, float]:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, boxes = detections(count, kind)
    paste_masks_in_image(masks[:2], boxes[:2], (TILE, TILE))
    total = {"cpu_s": 0.0, "extra_mb": 0.0, "result": 0}
    for start in range(0, count, PIECE):
        piece = masks[start : start + PIECE], boxes[start : start + PIECE], (TILE, TILE)
        rows = [measured(lambda piece=piece: paste_masks_in_image(*piece)) for _ in range(repeats if count == PIECE else 1)]
        row = summary(rows, lambda pasted: int((pasted >= 0.5).sum()))
        total = {
            "cpu_s": total["cpu_s"] + row["cpu_s"], "extra_mb": max(total["extra_mb"], row["extra_mb"]),
            "result": total["result"] + row["result"],
        }  # fmt: skip
    return total


def summary(rows: list[dict], of_result) -> dict[str, float]:
    """The least time, the most memory, and what there is to say of the result."""
    return {
        "cpu_s": min(row["cpu_s"] for row in rows), "extra_mb": max(row["extra_mb"] for row in rows),
        "result": of_result(rows[-1]["result"]),
    }  # fmt: skip


def full_size(count: int, version: int):
    """A ResNet-50 segmenter with random weights that gives about `count` detections, the stock network, and one tile."""
    import numpy as np
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

    from seggeo.geometry import Window
    from seggeo.models.maskrcnn import load
    from seggeo.protocols import ModelRequest, TileImage
    from seggeo.tiling import Tile

    torch.manual_seed(0)
    make = maskrcnn_resnet50_fpn if version == 1 else maskrcnn_resnet50_fpn_v2
    # Any score and nearly any overlap passes, so that random weights fill the limit.
    stock = make(
        weights=None, weights_backbone=None, num_classes=2, min_size=TILE, max_size=TILE,
        box_score_thresh=0.0, box_nms_thresh=1.0, box_detections_per_img=count,
        rpn_pre_nms_top_n_test=2000, rpn_post_nms_top_n_test=2000, rpn_nms_thresh=0.99,
    ).eval()  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(stock.state_dict(), path)
        settings = {"score": 0.0, "nms": 1.0, "detections": count, "rpn_pre": 2000, "rpn_post": 2000, "rpn_nms": 0.99}
        segmenter = load(ModelRequest(name="maskrcnn", weights=path, settings=settings, device="cpu"))
    window = Window(row=0, col=0, height=TILE, width=TILE)
    image = np.random.default_rng(0).integers(0, 255, (TILE, TILE, 3), dtype=np.uint8)
    tile = Tile(index=0, z=0, row=0, col=0, core=window, window=window)
    return segmenter, stock, TileImage(image=image, valid=np.ones((TILE, TILE), bool), tile=tile)


def bare(model, tile) -> int:
    """The network alone, stock: its own transform, backbone, proposals and heads, without pasting."""
    import torch

    with torch.inference_mode():
        images, _ = model.transform([torch.from_numpy(tile.image).permute(2, 0, 1) / 255])
        features = model.backbone(images.tensors)
        proposals, _ = model.rpn(images, features)
        return len(model.roi_heads(features, proposals, images.image_sizes)[0][0]["scores"])


def network(options, which: str) -> dict[str, float]:
    segmenter, stock, tile = full_size(options.count, options.version)
    ways = {"bare": lambda: bare(stock, tile), "ours": lambda: len(segmenter.predict([tile])[0].instances)}
    if which != "time":
        return measured(ways[which])
    best: dict[str, float] = {}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            best[name] = min(best.get(name, 1e9), time.process_time() - start)
    return best


def apart(task: str, **chosen) -> dict[str, float]:
    """The answer of one task, run in a process of its own."""
    command = [sys.executable, __file__, "--task", task]
    for name, value in chosen.items():
        command += [f"--{name}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return json.loads(
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


TASKS = {
    "paste_ours": lambda o: paste_ours(o.count, o.kind, o.repeats),
    "paste_theirs": lambda o: paste_theirs(o.count, o.kind, o.repeats),
    "time": lambda o: network(o, "time"),
    "memory_bare": lambda o: network(o, "bare"),
    "memory_ours": lambda o: network(o, "ours"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="store_true", help="predict() over the bare network")
    parser.add_argument("--count", type=int, default=100, help="with --network: detections")
    parser.add_argument("--version", type=int, choices=[1, 2], default=1, help="with --network: torchvision's v1 or v2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kind", choices=SIZES, default="nuclei", help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(TASKS[options.task](options)))
    elif options.network:
        compare_network(options.count, options.version, options.repeats)
    else:
        compare_paste(options.repeats)


def compare_paste(repeats: int) -> None:
    print(f"everything after the heads, {TILE} px tile (ours: runs, filtered; torchvision: paste_masks_in_image alone)")
    columns = ("seggeo s", "stock s", "ratio", "aim", "seggeo MB", "aim", "stock MB", "pixels differ")
    print(f"{'':18}" + "".join(f"{name:>14}" for name in columns))
    for count in (100, 1000):
        for kind in SIZES:
            ours, theirs = (apart(f"paste_{who}", count=count, kind=kind, repeats=repeats) for who in ("ours", "theirs"))
            ratio, limit = theirs["cpu_s"] / ours["cpu_s"], "20" if count == PIECE else "-"
            print(f"{count:5} {kind:12}{ours['cpu_s']:14.4f}{theirs['cpu_s']:14.2f}{ratio:14.0f}{50:14}", end="")
            print(f"{ours['extra_mb']:14.1f}{limit:>14}{theirs['extra_mb']:14.0f}{abs(ours['result'] - theirs['result']):14}")


def compare_network(count: int, version: int, repeats: int) -> None:
    chosen = {"count": count, "version": version, "repeats": repeats}
    seconds, ours, stock = (apart(task, **chosen) for task in ("time", "memory_ours", "memory_bare"))
    print(f"ResNet-50 v{version}, {TILE} px tile: {ours['result']} detections by seggeo, {stock['result']} by torchvision")
    print(f"{'':14}{'CPU s':>10}{'extra MB':>10}")
    print(f"{'bare network':14}{seconds['bare']:10.2f}{stock['extra_mb']:10.0f}")
    print(f"{'predict()':14}{seconds['ours']:10.2f}{ours['extra_mb']:10.0f}")
    print(f"{'ratio':14}{seconds['ours'] / seconds['bare']:10.3f}{ours['extra_mb'] / stock['extra_mb']:10.3f}")


if __name__ == "__main__":
    main()

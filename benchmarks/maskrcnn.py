"""What Mask R-CNN costs besides its network: pasting and encoding masks, and predict() over the bare network.

Run:
    python benchmarks/maskrcnn.py              1000 detections on a 1024 px tile: our paste and encode against
                                               torchvision's paste_masks_in_image (8 GB of memory!) and a threshold
    python benchmarks/maskrcnn.py --network    CPU time and memory of predict() against backbone, proposals, box and mask
                                               heads alone, on one tile of a full-size ResNet-50 with random weights

Every measurement runs in a process of its own with one thread: CPU seconds, and the peak of resident memory above what
was resident just before. Both ways are timed alternately within --network, the best of --repeats counts.
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


def detections(count: int):
    """Random masks and boxes of 12 to 40 px, as in a tile full of nuclei."""
    import torch

    torch.manual_seed(0)
    masks = torch.nn.functional.avg_pool2d(torch.rand(count, 1, 28, 28), 9, 1, 4)
    corner = torch.rand(count, 2) * (TILE - 41)
    return masks, torch.cat([corner, corner + 12 + torch.rand(count, 2) * 28], 1)


def paste_ours(count: int) -> dict[str, float]:
    import numpy as np

    from seggeo.instances import Instances
    from seggeo.models.maskrcnn_paste import paste_spans

    masks, boxes = detections(count)

    def work() -> int:
        spans = paste_spans(masks[:, 0], boxes, (TILE, TILE), 0.5)
        return int(Instances.from_spans(spans, score=np.ones(count), label=0).area.sum())

    detections(2), paste_spans(masks[:2, 0], boxes[:2], (TILE, TILE), 0.5)
    return measured(work)


def paste_theirs(count: int) -> dict[str, float]:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    masks, boxes = detections(count)
    paste_masks_in_image(masks[:2], boxes[:2], (TILE, TILE))
    return measured(lambda: int((paste_masks_in_image(masks, boxes, (TILE, TILE)) >= 0.5).sum()))


def full_size(count: int):
    """A ResNet-50 segmenter with random weights that gives about `count` detections, and one tile."""
    import numpy as np
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    from seggeo.geometry import Window
    from seggeo.models.maskrcnn import load
    from seggeo.protocols import ModelRequest, TileImage
    from seggeo.tiling import Tile

    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.pth"
        torch.save(model.state_dict(), path)
        # Any score and nearly any overlap passes, so that random weights fill the limit.
        settings = {"score": 0.0, "nms": 1.0, "detections": count, "rpn_pre": 2000, "rpn_post": 2000, "rpn_nms": 0.99}
        segmenter = load(ModelRequest(name="maskrcnn", weights=path, settings=settings, device="cpu"))
    window = Window(row=0, col=0, height=TILE, width=TILE)
    image = np.random.default_rng(0).integers(0, 255, (TILE, TILE, 3), dtype=np.uint8)
    tile = Tile(index=0, z=0, row=0, col=0, core=window, window=window)
    return segmenter, TileImage(image=image, valid=np.ones((TILE, TILE), bool), tile=tile)


def bare(segmenter, tile):
    """The network alone, stock: its own transform, backbone, proposals and heads, without pasting."""
    import torch

    model = segmenter._model
    with torch.inference_mode():
        images, _ = model.transform([torch.from_numpy(tile.image).permute(2, 0, 1) / 255])
        features = model.backbone(images.tensors)
        proposals, _ = model.rpn(images, features)
        return len(model.roi_heads(features, proposals, images.image_sizes)[0][0]["scores"])


def network(count: int, which: str, repeats: int) -> dict[str, float]:
    segmenter, tile = full_size(count)
    ways = {"bare": lambda: bare(segmenter, tile), "ours": lambda: len(segmenter.predict([tile])[0].instances)}
    if which != "time":
        return measured(ways[which])
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            best[name] = min(best.get(name, 1e9), time.process_time() - start)
    return best


def apart(task: str, count: int, repeats: int) -> dict[str, float]:
    """The answer of one task, run in a process of its own."""
    command = [sys.executable, __file__, "--task", task, "--count", str(count), "--repeats", str(repeats)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return json.loads(
        subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    )


TASKS = {
    "paste_ours": lambda count, repeats: paste_ours(count),
    "paste_theirs": lambda count, repeats: paste_theirs(count),
    "time": lambda count, repeats: network(count, "time", repeats),
    "memory_bare": lambda count, repeats: network(count, "bare", repeats),
    "memory_ours": lambda count, repeats: network(count, "ours", repeats),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="store_true", help="predict() over the bare network")
    parser.add_argument("--count", type=int, default=1000, help="detections")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(TASKS[options.task](options.count, options.repeats)))
    elif options.network:
        compare_network(options.count, options.repeats)
    else:
        compare_paste(options.count, options.repeats)


def compare_paste(count: int, repeats: int) -> None:
    ours, theirs = apart("paste_ours", count, repeats), apart("paste_theirs", count, repeats)
    print(f"{count} detections on a {TILE} px tile, paste and threshold (ours: and encode)")
    print(f"{'':12}{'CPU s':>10}{'extra MB':>10}{'pixels':>12}")
    for name, row in (("seggeo", ours), ("torchvision", theirs)):
        print(f"{name:12}{row['cpu_s']:10.3f}{row['extra_mb']:10.1f}{row['result']:12d}")
    print(f"{'ratio':12}{theirs['cpu_s'] / ours['cpu_s']:10.1f}{theirs['extra_mb'] / max(ours['extra_mb'], 0.1):10.1f}")


def compare_network(count: int, repeats: int) -> None:
    seconds = apart("time", count, repeats)
    ours, bare_network = apart("memory_ours", count, repeats), apart("memory_bare", count, repeats)
    print(f"ResNet-50, {TILE} px tile, limit of {count}: {ours['result']} by seggeo, {bare_network['result']} by torchvision")
    print(f"{'':14}{'CPU s':>10}{'extra MB':>10}")
    print(f"{'bare network':14}{seconds['bare']:10.2f}{bare_network['extra_mb']:10.0f}")
    print(f"{'predict()':14}{seconds['ours']:10.2f}{ours['extra_mb']:10.0f}")
    print(f"{'ratio':14}{seconds['ours'] / seconds['bare']:10.3f}{ours['extra_mb'] / bare_network['extra_mb']:10.3f}")


if __name__ == "__main__":
    main()

"""The networks alone, as the other benchmarks count them: forward passes over given windows, and nothing else.

    python benchmarks/bare.py TASK.json        started by overhead.py and table.py

A process with one thread loads the weights and an image that is already pixels in memory (`.npy`), and runs the network's
own forward pass on each window, in order:

    unet      the U-Net with its BatchNorm folded, on the window with the context that its fields need, at the same scale
              and in the same flips; no reading of fields, no objects
    maskrcnn  torchvision's transform, backbone, proposals, box and mask heads, stock, with the same limits; no pasting
    sam       segment_anything's encoder, then its prompt encoder and mask decoder for batches of 64 of as many points as
              the window has; no choice of masks

TASK.json: `family`, `weights`, `image`, `windows` as `[row, col, height, width]`, and what the family needs. Printed: the
process's own CPU seconds of imports and loading, and of the loop.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

BATCH = 64


def crops(task: dict[str, Any]) -> Iterator[NDArray[np.uint8]]:
    """`(h, w, 3)` pixels of each window."""
    image = np.load(task["image"])
    for row, col, height, width in task["windows"]:
        yield np.ascontiguousarray(image[row : row + height, col : col + width])


def planes(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """`(1, 3, h, w)`, 0 to 1."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def unet(task: dict[str, Any]) -> Iterator[None]:
    from torch.nn import functional as F

    from seggeo.models.unet import read_model
    from seggeo.models.unet_arch import folded
    from seggeo.models.unet_resample import resample
    from seggeo.protocols import ModelRequest

    network = folded(read_model(ModelRequest(name="unet", weights=Path(task["weights"])))[0])
    scale, stride = Fraction(task["scale"]), task["stride"]
    yield
    for pixels in crops(task):
        height, width = pixels.shape[:2]
        image = F.pad(planes(pixels), (0, -width % stride, 0, -height % stride), mode="replicate") - 0.5
        image = resample(image, scale)
        for view in range(task["flips"]):
            turned = image.flip([axis for bit, axis in ((1, 3), (2, 2)) if view & bit])
            turned = turned.transpose(2, 3) if view & 4 else turned
            network(turned.contiguous(memory_format=torch.channels_last))
        yield


def maskrcnn(task: dict[str, Any]) -> Iterator[None]:
    from safetensors.torch import load_file
    from torchvision.models import detection

    network = getattr(detection, task["network"])(weights=None, weights_backbone=None, **task["limits"]).eval()
    network.load_state_dict(load_file(task["weights"]))
    yield
    for pixels in crops(task):
        images, _ = network.transform([planes(pixels)[0]])
        features = network.backbone(images.tensors)
        proposals, _ = network.rpn(images, features)
        network.roi_heads(features, proposals, images.image_sizes)
        yield


def sam(task: dict[str, Any]) -> Iterator[None]:
    from segment_anything import SamPredictor, sam_model_registry
    from segment_anything.utils.amg import build_point_grid

    network = sam_model_registry[task["network"]](task["weights"])
    predictor = SamPredictor(network)
    yield
    for pixels, count in zip(crops(task), task["points"], strict=True):
        predictor.set_image(pixels)
        grid = build_point_grid(int(np.ceil(count**0.5)))[:count] * network.image_encoder.img_size
        for points in torch.as_tensor(grid).split(BATCH):
            labels = torch.ones((len(points), 1), dtype=torch.int)
            sparse, dense = network.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
            network.mask_decoder(
                image_embeddings=predictor.features, image_pe=network.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=True,
            )  # fmt: skip
        yield


def main() -> None:
    torch.set_num_threads(1)
    task = json.loads(Path(sys.argv[1]).read_text())
    loop = {"unet": unet, "maskrcnn": maskrcnn, "sam": sam}[task["family"]](task)
    with torch.inference_mode():
        next(loop)
        start = time.process_time()
        for _ in loop:
            pass
    print(json.dumps({"start_s": start, "loop_s": time.process_time() - start}))


if __name__ == "__main__":
    main()

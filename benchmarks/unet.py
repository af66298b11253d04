"""The U-Net per CPU second: the bare network and the segmenter on the same windows, in one process.

    OMP_NUM_THREADS=1 python benchmarks/unet.py [--side 4096] [--weights nuclei] [--otsu]

A scene of `--side` px is made of mirrored copies of `sample_data/nuclei.tif`, stretched to 8 bits. Compared are the bare
network's forward passes on windows that cover the scene without context or overlap, and the same windows through
`UNetSegmenter.predict`: what making fields and objects of the network's answers costs. Freed memory stays with the process
in both, as it does in `seggeo segment`; the whole tool is measured by `overhead.py`. They take turns, the lowest of three
counts. With `--otsu`, scikit-image's Otsu and watershed on distances, the usual cheap rival, is run too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from overhead import SAMPLES, mirrored

from seggeo.geometry import Window
from seggeo.models.bundled import find_bundled
from seggeo.models.unet import load, read_model
from seggeo.models.unet_arch import folded
from seggeo.protocols import ModelRequest, TileImage
from seggeo.run.heap import keep_freed_memory
from seggeo.tiling import Tile

WINDOW = 1024


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def watershed(image: NDArray[np.uint8]) -> None:
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed as flood

    grey = image[..., 0]
    mask = grey > threshold_otsu(grey)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 2)
    peaks = peak_local_max(distance, min_distance=7, labels=ndimage.label(mask)[0])
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    flood(-distance, markers, mask=mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--weights", default="nuclei")
    parser.add_argument("--otsu", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    image = mirrored(SAMPLES / "nuclei.tif", args.side, args.side)
    bundled = find_bundled(args.weights)
    assert bundled is not None
    request = ModelRequest(name="unet", weights=bundled.path, settings={"scale": "1", "flips": 1}, device="cpu")
    model = load(request)
    network = folded(read_model(request)[0])
    starts = range(0, args.side - WINDOW + 1, WINDOW)
    windows = [Window(row=r, col=c, height=WINDOW, width=WINDOW) for r in starts for c in starts]

    def bare() -> None:
        with torch.inference_mode():
            for window in windows:
                pixels = np.ascontiguousarray(image[window.slices()].transpose(2, 0, 1)[None])
                network((torch.from_numpy(pixels).float() / 255 - 0.5).contiguous(memory_format=torch.channels_last))

    def segmenter() -> None:
        own = Window(row=0, col=0, height=WINDOW, width=WINDOW)
        for window in windows:
            pixels = image[window.slices()]
            tile = Tile(index=0, z=0, row=0, col=0, core=own, window=own)
            model.predict([TileImage(image=pixels, valid=np.ones(pixels.shape[:2], bool), tile=tile)])

    ways = {"bare network": bare, "segmenter": segmenter}
    if args.otsu:
        ways["Otsu and watershed"] = lambda: watershed(image)
    rows = dict.fromkeys(ways, float("inf"))
    for _ in range(3):
        for name, way in ways.items():
            rows[name] = min(rows[name], cpu(way))
    megapixels = len(windows) * WINDOW**2 / 1e6
    print(f"{args.side} x {args.side} px, {args.weights}, one thread")
    print(f"{'':30}{'CPU s':>8}{'Mpx/CPU s':>11}{'x bare':>8}")
    for name, seconds in rows.items():
        print(f"{name:30}{seconds:8.1f}{megapixels / seconds:11.2f}{seconds / rows['bare network']:8.2f}")


if __name__ == "__main__":
    main()

"""The U-Net per CPU second: the bare network, the segmenter on one tile, and the whole of `segment`, in one run.

    OMP_NUM_THREADS=1 python benchmarks/unet.py [--side 4096] [--weights nuclei] [--otsu]

A scene of `--side` px is made of mirrored copies of `sample_data/nuclei.tif`, stretched to 8 bits. Compared are: the bare
network's forward passes on windows that cover the scene without context or overlap; the same windows through
`UNetSegmenter.predict`; `seggeo.segment` with tiles, context, merging and a label raster; and the model alone on the
very tiles of that run, with their context; the ratio of the two is the last line. With `--otsu`, scikit-image's
Otsu and watershed on distances, the usual cheap rival, is run too.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray

import seggeo
from seggeo.geometry import Window
from seggeo.job import Job
from seggeo.models.bundled import find_bundled
from seggeo.models.unet import load, read_model
from seggeo.models.unet_arch import folded
from seggeo.protocols import ModelRequest, TileImage
from seggeo.store import RunStore
from seggeo.tiling import Tile

SAMPLE = Path(__file__).parent.parent / "sample_data" / "nuclei.tif"
WINDOW = 1024


def scene(side: int) -> NDArray[np.uint8]:
    with rasterio.open(SAMPLE) as source:
        field = source.read(1).astype(np.float32)
    low, high = np.percentile(field, [1, 99.8])
    grey = np.clip((field - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    height, width = grey.shape
    pad = ((0, max(0, side - height)), (0, max(0, side - width)))
    return np.pad(grey, pad, mode="symmetric")[:side, :side, None].repeat(3, axis=2)


def cpu(work: Callable[[], object]) -> float:
    start = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() - start + after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime


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
    image = scene(args.side)
    megapixels = args.side**2 / 1e6
    bundled = find_bundled(args.weights)
    assert bundled is not None
    request = ModelRequest(name="unet", weights=bundled.path, settings={"scale": "1"}, device="cpu")
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

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=args.side, width=args.side, count=3, dtype="uint8", tiled=True,
            compress="deflate", photometric="RGB",
        ) as target:  # fmt: skip
            target.write(image.transpose(2, 0, 1))

        def whole() -> None:
            seggeo.segment(
                path, Path(folder) / "out", model="unet", weights=bundled.path, set={"scale": "1"}, format=("cog",),
                preview=False, workers=1, device="cpu",
            )  # fmt: skip

        def tiles() -> None:
            job = Job.from_json(RunStore(next(Path(folder, "out").glob("*.seggeo"))).load_job_values())
            info, frame = model.info, job.frame
            for index in range(len(job.grid)):
                tile = job.grid[index]
                extent = info.extent(tile.window, within=frame.window)
                pixels = image[extent.slices()]
                seen = TileImage(image=pixels, valid=np.ones(pixels.shape[:2], bool), tile=tile, extent=extent)
                model.predict([seen])

        bare()  # warms caches and lazy imports
        rows = [("bare network", cpu(bare)), ("segmenter, same windows", cpu(segmenter)), ("seggeo segment", cpu(whole))]
        rows.append(("model alone, segment's tiles", cpu(tiles)))
        if args.otsu:
            rows.append(("Otsu and watershed", cpu(lambda: watershed(image))))
    print(f"{args.side} x {args.side} px, {args.weights}, one thread")
    print(f"{'':30}{'CPU s':>8}{'Mpx/CPU s':>11}{'x bare':>8}")
    for name, seconds in rows:
        print(f"{name:30}{seconds:8.1f}{megapixels / seconds:11.2f}{seconds / rows[0][1]:8.2f}")
    print(f"segment over the model alone on the same tiles: {rows[2][1] / rows[3][1]:.2f}")


if __name__ == "__main__":
    main()

"""seggeo on a GPU: SAM's everything mode beside the stock generator, and what the whole tool adds to its models.

    python benchmarks/gpu.py                              on the first GPU, some minutes; ViT-B and ViT-H
    python benchmarks/gpu.py --networks vit_b --ways plain,autocast
    python benchmarks/gpu.py --device cpu --toy           networks of toy size: shows that the script runs, measures nothing

1. Everything mode, tiles of 1024 px, 32 x 32 points, hand-written weights (tests/support_sam.py) that give some dozens of
   masks: `SamAutomaticMaskGenerator` without crops, then `SamSegmenter` in float32, with `--autocast`, with `--compile`,
   with both. Wall seconds of a tile after one that warms up; every way sees the same tiles. `same`: masks of the stock
   generator that have one with IoU 0.99 among ours.
2. The whole tool, `seggeo segment --profile`: share of the wall time in which the model predicts (its processor's part of
   that apart), for Mask R-CNN R50-FPN, the bundled `nuclei` and SAM; `nuclei` in seconds per mm2 at 0.5 um/px.

Device, driver and versions come first, and published figures of others stand beside as what they are: published, on
another machine. Without CUDA it ends with exit code 7.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import seggeo
from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.models.sam import SamSegmenter, lattice_points, load
from seggeo.protocols import ModelRequest, TileImage
from seggeo.tiling import Tile

TESTS = Path(__file__).resolve().parent.parent / "tests"
STABILITY = 0.8
PUBLISHED = {"vit_b": (82.5, 10.9), "vit_h": (359.0, 43.1)}
"""segment-anything-fast's own figures: ms an image before and after, encoder and prompts, A100, bfloat16 and compiled."""
WAYS = {"plain": (), "autocast": ("autocast",), "compile": ("compile",), "both": ("autocast", "compile")}
HOVER_NEXT_S = 1.8
"""Seconds per mm2 at 0.5 um/px that HoVer-NeXt publishes."""
SHARE = 0.85
"""Aim for the model's share of the wall time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large everything is."""

    networks: tuple[str, ...]
    tile: int
    points: int
    """Along 1024 px."""
    tiles: int
    side: int
    """Of the scenes of part 2, px."""
    is_toy: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu with --toy")
    parser.add_argument("--toy", action="store_true", help="networks of toy size")
    parser.add_argument("--networks", default="vit_b,vit_h", help="vit_b, vit_l, vit_h")
    parser.add_argument("--tiles", type=int, default=5, help="tiles that are timed, of everything mode")
    parser.add_argument("--side", type=int, default=8192, help="side of the scenes of the whole tool, px")
    parser.add_argument("--ways", default="plain,autocast,compile,both", help="of seggeo, beside the stock generator")
    asked = parser.parse_args(arguments)
    device = torch.device(asked.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing is measured (its code runs anywhere with --device cpu --toy)", file=sys.stderr)
        return 7
    sys.path.insert(0, str(TESTS))
    size = Size(
        networks=tuple(asked.networks.split(",")), tile=1024, points=32, tiles=asked.tiles, side=asked.side, is_toy=False
    )  # fmt: skip
    if asked.toy:
        size = Size(networks=("toy",), tile=128, points=64, tiles=1, side=256, is_toy=True)
    print(where(device))
    with tempfile.TemporaryDirectory() as folder:
        for name in size.networks:
            everything(name, sam_weights(name, Path(folder)), size, device, asked.ways.split(","))
        whole_tool(Path(folder), size, device)
    return 0


def where(device: torch.device) -> str:
    """Device, driver and versions."""
    versions = f"seggeo {seggeo.__version__}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    if device.type != "cuda":
        return f"{device}: TOY RUN, its times mean nothing\n{versions}"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", f"--id={device.index or 0}"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    facts = torch.cuda.get_device_properties(device)
    return f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, driver {driver}\n{versions}"


def sam_weights(name: str, folder: Path) -> Path:
    """Hand-written weights of a SAM network, as a file."""
    from support_sam import make_sam_weights, make_vit

    path = folder / f"{name}.pth"
    if name == "toy":
        return make_sam_weights(path.with_suffix(".safetensors"))
    if not path.exists():  # a ViT-H takes a minute to write
        torch.save(make_vit(name).state_dict(), path)
    return path


# Part 1


def everything(name: str, weights: Path, size: Size, device: torch.device, ways: list[str]) -> None:
    """One network's everything mode, all ways, as a table."""
    tiles = [blob_tile(size.tile, seed) for seed in range(size.tiles + 1)]
    print(f"\n{name}: everything mode, {size.tile} px, {size.points} points along 1024 px")
    print(f"{'way':<28}{'s/tile':>9}{'tiles/s':>9}{'x stock':>9}{'masks':>7}{'same':>9}{'GiB':>7}")
    segmenter = opened(weights, size, device, ())
    base, theirs, memory = timed(stock_way(segmenter), tiles, device)
    row("stock generator", base, base, theirs, theirs, memory)
    del segmenter
    for way in ways:
        segmenter = opened(weights, size, device, WAYS[way])
        seconds, ours, memory = timed(lambda tile, own=segmenter: own.predict([tile])[0].instances, tiles, device)
        row(" ".join(["seggeo", *(f"--{option}" for option in WAYS[way])]), seconds, base, ours, theirs, memory)
        del segmenter
    if name in PUBLISHED:
        before, after = PUBLISHED[name]
        gain = f"{before} -> {after} ms an image, {before / after:.1f}x"
        print(f"published, A100, encoder and prompts: segment-anything-fast {gain}")


def blob_tile(side: int, seed: int) -> TileImage:
    """A whole image as one tile."""
    from support_sam import blob_image

    image = blob_image(side, side, seed=seed, **({"step": 128, "fill": 1.5} if side > 512 else {}))
    own = Window(row=0, col=0, height=side, width=side)
    return TileImage(
        image=image, valid=np.ones((side, side), bool), tile=Tile(index=0, z=0, row=0, col=0, core=own, window=own)
    )  # fmt: skip


def opened(weights: Path, size: Size, device: torch.device, faster: tuple[str, ...]) -> SamSegmenter:
    """The segmenter as the tool opens it."""
    settings = {"points_per_side": size.points, "stability_score_thresh": STABILITY}
    return load(
        ModelRequest(name="sam", weights=weights, settings=settings, device=str(device), **dict.fromkeys(faster, True))
    )  # fmt: skip


def stock_way(segmenter: SamSegmenter) -> Callable[[TileImage], Instances]:
    """The stock generator on the same network, with the same points."""
    from segment_anything import SamAutomaticMaskGenerator
    from segment_anything.utils.amg import rle_to_mask

    def found(tile: TileImage) -> Instances:
        side = tile.image.shape[0]
        grid = lattice_points(tile, segmenter.settings.point_step) / side
        generator = SamAutomaticMaskGenerator(
            segmenter.network.sam, None, points_per_batch=64, stability_score_thresh=STABILITY, point_grids=[grid],
            output_mode="uncompressed_rle",
        )  # fmt: skip
        return Instances.from_masks([rle_to_mask(m["segmentation"]) for m in generator.generate(tile.image)])

    return found


def timed(
    way: Callable[[TileImage], Instances], tiles: list[TileImage], device: torch.device
) -> tuple[float, list[Instances], int]:  # fmt: skip
    """Seconds a tile, what was found in each, and the most memory torch held on a GPU; the first tile warms up."""
    way(tiles[0])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    found = [way(tile) for tile in tiles[1:]]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / len(found)
    return seconds, found, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def row(way: str, seconds: float, base: float, ours: list[Instances], theirs: list[Instances], memory: int) -> None:
    """A line of the table."""
    masks, same = sum(map(len, ours)), sum(matched(a, b) for a, b in zip(ours, theirs, strict=True))
    share, gib = f"{same}/{sum(map(len, theirs))}", memory / 2**30
    print(f"{way:<28}{seconds:>9.3f}{1 / seconds:>9.2f}{base / seconds:>9.2f}{masks:>7}{share:>9}{gib:>7.1f}", flush=True)


def matched(ours: Instances, theirs: Instances) -> int:
    """Masks of `theirs` that have one with an IoU of 0.99 or more in `ours`."""
    return sum(any(iou(a, b) >= 0.99 for a in ours if np.abs(a[0] - b[0]).max() <= 8) for b in theirs)


Mask = tuple[NDArray[np.int32], NDArray[np.bool_]]


def iou(a: Mask, b: Mask) -> float:
    """IoU of two masks in their boxes."""
    low, high = np.minimum(a[0], b[0])[:2], np.maximum(a[0], b[0])[2:]
    frames = np.zeros((2, *(high - low)), bool)
    for frame, (box, mask) in zip(frames, (a, b), strict=True):
        top, left, bottom, right = box - np.tile(low, 2)
        frame[top:bottom, left:right] = mask
    return float((frames[0] & frames[1]).sum() / (frames[0] | frames[1]).sum())


# Part 2


def whole_tool(folder: Path, size: Size, device: torch.device) -> None:
    """Shares of the wall time of `seggeo segment`, and the speed of `nuclei`."""
    nuclei, blobs = folder / "nuclei.tif", folder / "blobs.tif"
    write(nuclei, nuclei_scene(size.side))
    write(blobs, blob_tile(size.side if size.is_toy else min(size.side, 4096), 0).image)
    first = size.networks[0]
    sam = {"points_per_side": size.points, "stability_score_thresh": STABILITY}
    runs: list[tuple[str, Path, dict[str, Any]]] = [
        ("maskrcnn", nuclei, {"model": "maskrcnn", "weights": detector_weights(folder, size)}),
        ("nuclei", nuclei, {"model": "nuclei", "set": {"scale": "1"}}),
        (f"sam {first}", blobs, {"model": "sam", "weights": sam_weights(first, folder), "set": sam, "tile": size.tile}),
    ]
    print("\nthe whole tool, seggeo segment --profile")
    print(f"{'model':<14}{'s':>8}{'Mpx/s':>8}{'model':>8}{'encode':>8}{'wait':>8}{'start':>8}   (shares of the wall time)")
    for name, path, options in runs:
        out = folder / f"out_{name.split()[0]}"
        how = {"device": str(device), "workers": 1, "profile": True, "preview": False, "format": ("cog",)}
        summary = seggeo.segment(path, out, **how, **options)
        profile = summary["profile"]
        share = {phase: entry["share"] for phase, entry in profile["phases"].items()}
        shares = "".join(f"{share[phase]:>8.1%}" for phase in ("model", "encode", "wait", "start"))
        print(f"{name:<14}{profile['seconds']:>8.1f}{profile['megapixels_per_s']:>8.2f}{shares}   (aim: model >= {SHARE:.0%})")
        if name == "nuclei":
            area_mm2 = summary["megapixels"] * 0.5**2
            speeds = [profile[name] / area_mm2 for name in ("seconds", "predicting_s")]
            print(f"{'':<14}{speeds[0]:.2f} s/mm2 at 0.5 um/px, {speeds[1]:.2f} while predicting;", end=" ")
            print(f"published by HoVer-NeXt, on another machine: {HOVER_NEXT_S}")


def nuclei_scene(side: int) -> NDArray[np.uint8]:
    """Mirrored copies of the sample image, 8 bits."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        source = rasterio.open(TESTS.parent / "sample_data" / "nuclei.tif")
    with source:
        field = source.read(1).astype(np.float32)
    low, high = np.percentile(field, [1, 99.8])
    grey = np.clip((field - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    pad = [(0, max(0, side - length)) for length in grey.shape]
    return np.pad(grey, pad, mode="symmetric")[:side, :side, None].repeat(3, axis=2)


def write(path: Path, image: NDArray[np.uint8]) -> None:
    """An RGB GeoTIFF."""
    import rasterio

    with rasterio.open(
        path, "w", driver="GTiff", height=image.shape[0], width=image.shape[1], count=3, dtype="uint8", tiled=True,
        compress="deflate", photometric="RGB", crs="EPSG:32633", transform=rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5e6),
    ) as target:  # fmt: skip
        target.write(image.transpose(2, 0, 1))


def detector_weights(folder: Path, size: Size) -> Path:
    """A Mask R-CNN with random weights that finds some things in any image: R50-FPN, or a toy."""
    from support_models import make_maskrcnn_weights

    path = folder / "maskrcnn.safetensors"
    if size.is_toy:
        return make_maskrcnn_weights(path)
    from safetensors.torch import save_file
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    net = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    save_file(net.state_dict(), path, metadata={"seggeo": json.dumps({"tile": 1024, "overlap": 128})})
    return path


if __name__ == "__main__":
    sys.exit(main())

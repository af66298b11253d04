"""Everything mode on a scene of many tiles: a lattice of prompts over the raster beside a grid of its own for every tile.

    python benchmarks/sam_scene.py                       4096 x 4096 px, ViT-B: an hour or two of one CPU
    python benchmarks/sam_scene.py --side 2048 --points 16

Tiles of 1024 px with 25 % overlap, weights written by hand as in `sam.py`, one thread, one run:

    grid      every tile is an image of its own with `--points` x `--points` prompts, as tools do that call a mask generator
              per tile; masks are those of the network, box suppression inside each tile. No merging is done, none is timed.
    seggeo    the whole `seggeo segment --model sam` with the lattice of that density: read, predict, merge, write.

Both run the same rearranged network, so that the difference is the prompts'. Duplicates are the masks that suppression of boxes
over the whole scene, at the generator's own IoU of 0.7, would still drop; seggeo's are counted before its merge and after it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent.parent / "tests"
TILE, OVERLAP = 1024, 256
SETTINGS = {"stability_score_thresh": 0.8}


def make_inputs(folder: Path, side: int) -> tuple[Path, Path]:
    """A scene of bright discs and weights that find them."""
    import rasterio
    import torch

    sys.path.insert(0, str(TESTS))
    from support_sam import blob_image, make_vit_b

    image, weights = folder / "scene.tif", folder / "vit_b.pth"
    torch.save(make_vit_b().state_dict(), weights)
    pixels = blob_image(side, side, seed=1, step=128, fill=1.5)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8", "tiled": True}
    with rasterio.open(
        image, "w", **profile, compress="deflate", crs="EPSG:32633", transform=rasterio.Affine(0.3, 0, 5e5, 0, -0.3, 5e6)
    ) as out:
        out.write(pixels.transpose(2, 0, 1))
    return image, weights


def by_grid(image: Path, weights: Path, points: int):
    """Masks in scene pixels, how many prompts were asked, and CPU seconds."""
    import rasterio
    from segment_anything.utils.amg import build_point_grid

    from seggeo.instances import concat
    from seggeo.models.sam import load
    from seggeo.models.sam_masks import find_masks
    from seggeo.protocols import ModelRequest
    from seggeo.tiling import TileGrid

    model = load(ModelRequest(name="sam", weights=weights, settings=SETTINGS, device="cpu"))
    with rasterio.open(image) as source:
        pixels = source.read().transpose(1, 2, 0)
    grid, found, prompts = build_point_grid(points), [], 0
    start = time.process_time()
    tiles = TileGrid(height=pixels.shape[0], width=pixels.shape[1], tile=TILE, halo=OVERLAP // 2)
    for i in range(len(tiles)):
        window = tiles[i].window
        piece = pixels[window.slices()]
        places = grid * [window.width, window.height]
        masks = find_masks(model.network, piece, places, model.settings.thresholds, model.work).instances
        found.append(masks.shift(window.row, window.col, 0))
        prompts += len(places)
        print(f"grid: tile {i + 1} of {len(tiles)}", file=sys.stderr, flush=True)
    return concat(found), prompts, time.process_time() - start, len(tiles)


def whole_command(image: Path, weights: Path, points: int, folder: Path):
    """Objects, masks before merging, how many prompts were asked, and CPU seconds."""
    import seggeo
    from seggeo.instances import concat
    from seggeo.job import Job
    from seggeo.models.sam import LATTICE_PX, lattice_points
    from seggeo.protocols import TileImage
    from seggeo.run.finish import MERGED
    from seggeo.run.result import open_result
    from seggeo.store import RunStore

    start = time.process_time()
    seggeo.segment(
        image, folder, model="sam", weights=weights, set={**SETTINGS, "points_per_side": points}, tile=TILE,
        overlap=OVERLAP, workers=1, device="cpu", preview=False,
    )  # fmt: skip
    seconds = time.process_time() - start
    kept = next(folder.glob("*.seggeo"))
    store = RunStore(kept)
    job = Job.from_json(store.load_job_values())
    prompts = 0
    for i in range(len(job.grid)):
        tile = job.grid[i]
        seen = np.ones(tile.window.shape, bool)
        prompts += len(lattice_points(TileImage(image=seen, valid=seen, tile=tile), LATTICE_PX / points))
    before = concat([store.load(part).instances for part in range(len(job.parts))])
    merged = concat([objects.instances for objects in open_result(kept / MERGED, job, {}).iter_objects()])
    return merged, before, prompts, seconds


def duplicates(instances) -> int:
    """Masks that the generator's own rule would drop, had it seen the scene whole."""
    from seggeo.models.sam_masks import Thresholds, nms

    return len(instances) - len(nms(instances.box, instances.score, Thresholds().box_nms_thresh))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--points", type=int, default=32, help="along each side of a tile")
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, weights = make_inputs(folder, asked.side)
        merged, before, prompts, seconds = whole_command(image, weights, asked.points, folder / "out")
        masks, grid_prompts, grid_seconds, tiles = by_grid(image, weights, asked.points)
    print(f"{asked.side} x {asked.side} px, {tiles} tiles of {TILE} px, {OVERLAP} px overlap, ViT-B, one thread")
    print(f"{'':34}{'prompts':>9}{'CPU s':>9}{'masks':>8}{'duplicates':>12}")
    print(f"{'a grid for every tile':34}{grid_prompts:9d}{grid_seconds:9.0f}{len(masks):8d}{duplicates(masks):12d}")
    print(f"{'seggeo, before its merge':34}{prompts:9d}{'':9}{len(before):8d}{duplicates(before):12d}")
    print(f"{'seggeo, the whole command':34}{prompts:9d}{seconds:9.0f}{len(merged):8d}{duplicates(merged):12d}")
    print(f"prompts {prompts / grid_prompts:.2f}, time {seconds / grid_seconds:.2f} of the grids'")


if __name__ == "__main__":
    main()

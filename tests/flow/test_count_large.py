"""Slides of two gigapixels whose every cell is known: counts, densities and places at full resolution."""

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.spatial import cKDTree
from skimage import draw
from support_flow import seggeo
from support_slides import halved, jpegs

SIDE, POOL = 512, 4
"""A slide repeats `POOL` x `POOL` different tiles of `SIDE` px."""
MPP = 0.25


def pool(seed=0):
    """Tiles of stained discs that touch no tile's edge, `(POOL * SIDE, POOL * SIDE, 3)`, and their centres (row, col)."""
    rng = np.random.default_rng(seed)
    side = POOL * SIDE
    image = np.full((side, side, 3), (232, 205, 222), np.float32)
    centres = []
    for row in range(64, side, 128):
        for col in range(64, side, 128):
            centre = np.array([row, col]) + rng.uniform(-16, 16, 2)
            rows, cols = draw.disk(centre, rng.uniform(20, 28), shape=(side, side))
            image[rows, cols] = (96, 60, 140)
            centres.append(centre)
    return image, np.array(centres)


def write_large(path, tiles_down, tiles_across, image):
    """An Aperio-like slide of repeated JPEG tiles with levels 4 and 16 times smaller; its size."""
    packed = list(jpegs(np.rint(image).astype(np.uint8), SIDE))
    height, width = tiles_down * SIDE, tiles_across * SIDE
    text = f"Aperio Image Library v11\r\n{width}x{height} ({SIDE}x{SIDE}) JPEG Q=90|MPP = {MPP}|AppMag = 40"
    layout = {"photometric": "ycbcr", "subsampling": (2, 1), "compression": "jpeg", "metadata": None, "tile": (SIDE, SIDE)}
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        order = [packed[r % POOL * POOL + c % POOL] for r in range(tiles_down) for c in range(tiles_across)]
        out.write(iter(order), shape=(height, width, 3), dtype="uint8", description=text, **layout)
        for factor in (4, 16):
            small = halved(np.rint(image).astype(np.uint8), factor)
            times = SIDE // small.shape[0]
            (tile,) = jpegs(np.tile(small, (times, times, 1)), SIDE)
            shape = (height // factor, width // factor, 3)
            count = -(-shape[0] // SIDE) * -(-shape[1] // SIDE)
            out.write(iter([tile] * count), shape=shape, dtype="uint8", description=text, **layout)
    return height, width


@pytest.mark.slow
@pytest.mark.parametrize(
    ("down", "across", "work_mpp", "tile", "off_px"),
    [(80, 100, 1.0, 1024, 1.4), (80, 100, 1.0, 4096, 1.4), (8, 12, 0.25, 512, 0.5), (8, 12, 0.25, 2048, 0.5)],
)
def test_every_cell_of_two_gigapixels_is_counted_once_in_its_place(tmp_path, down, across, work_mpp, tile, off_px):
    """At full resolution within half a pixel; where a pixel of the work grid is four, within a third of that."""
    image, centres = pool()
    height, width = write_large(tmp_path / "large.svs", down, across, image)
    truth = np.concatenate(
        [centres + [r * POOL * SIDE, c * POOL * SIDE] for r in range(down // POOL) for c in range(across // POOL)]
    )

    options = ("--tissue", "none", "-f", "cells", "--json", "--no-preview", "--model", "threshold", "--set", "split=false")
    grid = ("--work-mpp", str(work_mpp), "--tile", str(tile), "--overlap", "64")
    done = seggeo("count-cells", "large.svs", "-o", "out", *options, *grid, cwd=tmp_path, timeout=1800)
    assert done.code == 0, done.err
    (ran,) = done.results

    area_mm2 = height * width * MPP**2 / 1e6
    assert ran["cells"] == len(truth)
    assert ran["per_mm2"] == pytest.approx(len(truth) / area_mm2, rel=1e-3)
    cells = pd.read_parquet(tmp_path / "out" / "large_cells.parquet")
    distance, nearest = cKDTree(truth + 0.5).query(cells[["y_px", "x_px"]].to_numpy())
    assert len(np.unique(nearest)) == len(truth)
    assert distance.max() < off_px
    assert np.abs((cells[["y_px", "x_px"]].to_numpy() - truth[nearest] - 0.5).mean(axis=0)).max() < 0.1, "nothing is shifted"

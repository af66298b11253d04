"""Writes nuclei3d.ome.tif and nuclei3d_truth.ome.tif beside this file: a synthetic confocal stack of nuclei and its truth.

Run: python sample_data/make_nuclei3d.py [FOLDER]

Nuclei are ellipsoids with a soft texture in slices 1 um apart of pixels of 0.4 um. Some lean against each other, some are
cut by a side of the stack; the picture is blurred more along z than across, darkens with depth and has the noise of counted
photons. Everything is drawn from one seed; the same versions of numpy, scipy and tifffile write the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

SHAPE = (20, 112, 120)
SPACING = np.array([1.0, 0.4, 0.4])
"""um from slice to slice, from row to row and from column to column."""
COUNT, RADII_UM = 24, (3.4, 5.4)
TOUCH = 1.0
"""Centres lie at least so many times the sum of two radii apart; nuclei are no balls, so that some overlap all the same."""
BLUR_UM = np.array([0.7, 0.25, 0.25])
GROUND, BRIGHT, DARKENING = 2.0, 40.0, 0.012
"""Photons of the ground and of a nucleus, and how much of its light is lost with each slice."""


def places(rng: np.random.Generator) -> list[tuple[NDArray[np.float64], float]]:
    """Centres in um and radii of nuclei, half of them beside another, the rest anywhere."""
    size = np.array(SHAPE) * SPACING
    found: list[tuple[NDArray[np.float64], float]] = []
    while len(found) < COUNT:
        radius = float(rng.uniform(*RADII_UM))
        centre = rng.uniform(0, 1, 3) * size
        if found and rng.random() < 0.5:  # lean against another
            other, its_radius = found[int(rng.integers(len(found)))]
            way = rng.normal(size=3)
            centre = other + way / np.linalg.norm(way) * (radius + its_radius) * rng.uniform(TOUCH, 1.1)
        if (centre < 0.5 * radius).any() or (centre > size - 0.5 * radius).any():
            continue
        if all(np.linalg.norm(centre - other) > TOUCH * (radius + its) for other, its in found):
            found.append((centre, radius))
    return found


def make() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and ids, both of `SHAPE`."""
    rng = np.random.default_rng(20251122)
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) * step for n, step in zip(SHAPE, SPACING, strict=True)), indexing="ij"))
    truth, best = np.zeros(SHAPE, np.uint8), np.ones(SHAPE)
    light = np.zeros(SHAPE)
    for number, (centre, radius) in enumerate(places(rng), 1):
        turn = Rotation.random(rng=rng).as_matrix()
        axes = radius * rng.uniform(0.8, 1.15, 3)
        inside = (((turn @ (grid - centre[:, None, None, None]).reshape(3, -1)) / axes[:, None]) ** 2).sum(0).reshape(SHAPE)
        mine = inside < best
        truth[mine], best[mine] = number, inside[mine]
        light[mine] = rng.uniform(0.7, 1.15)
    texture = sum(
        weight * unit(gaussian_filter(rng.normal(size=SHAPE), sigma / SPACING)) for sigma, weight in ((1.4, 0.13), (0.5, 0.1))
    )
    rim = 1 - 0.25 * np.clip(best, 0, 1) ** 4
    photons = GROUND + BRIGHT * np.clip(light * (1 + texture) * rim, 0, None)
    photons = gaussian_filter(photons, BLUR_UM / SPACING) * np.exp(-DARKENING * np.arange(SHAPE[0]))[:, None, None]
    image = rng.poisson(photons) + rng.normal(0, 0.7, SHAPE)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), numbered(truth)


def unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of deviation 1."""
    return values / values.std()


def numbered(truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Ids in order of first voxel; what is left of a nucleus that others cover counts from 200 voxels on."""
    ids, first, counts = np.unique(truth, return_index=True, return_counts=True)
    keep = [i for i in np.argsort(first) if ids[i] and counts[i] >= 200]
    table = np.zeros(256, np.uint8)
    table[ids[keep]] = np.arange(1, len(keep) + 1)
    return table[truth]


def write(path: Path, stack: NDArray[np.uint8], name: str) -> None:
    """An OME-TIFF of one channel, one page for each slice."""
    facts = {"axes": "ZYX", "UUID": str(uuid5(NAMESPACE_URL, path.name)), "Channel": {"Name": [name]}} | {
        key: value
        for axis, step in zip("ZYX", SPACING, strict=True)
        for key, value in ((f"PhysicalSize{axis}", float(step)), (f"PhysicalSize{axis}Unit", "µm"))
    }
    tifffile.imwrite(path, stack, ome=True, metadata=facts, compression="zlib", photometric="minisblack")


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    image, truth = make()
    write(folder / "nuclei3d.ome.tif", image, "DAPI")
    write(folder / "nuclei3d_truth.ome.tif", truth, "ids")


if __name__ == "__main__":
    main()

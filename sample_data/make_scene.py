"""Writes scene.tif, scene_truth.tif and scene_classes.csv beside this file: a synthetic aerial picture and its truth.

Run: python sample_data/make_scene.py [FOLDER]

The scene is built to be hard where tiling is hard and easy where it is not the point: roofs are brighter than the
ground, but a hall and a lake are wider than a 1024 px tile, a river crosses the whole picture, houses stand wall to
wall, and a wedge of the frame holds no data. Everything is drawn from one seed; the same versions of numpy, scipy and
GDAL write the same bytes.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.shutil import copy
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import cKDTree

HEIGHT, WIDTH, GSD = 2200, 2800, 0.3
TRANSFORM, CRS = from_origin(691_200.0, 5_334_600.0, GSD, GSD), "EPSG:32632"
FIELDS = np.array([[86, 104, 62], [104, 116, 70], [118, 112, 82], [92, 98, 66], [110, 124, 78], [126, 114, 86], [78, 100, 64]])
ROOFS = np.array(
    [[226, 142, 104], [236, 226, 214], [202, 206, 214], [240, 206, 132], [176, 204, 232], [222, 178, 160], [206, 226, 190]]
)
WATER, ROAD, GUTTER = np.array([44, 66, 78]), np.array([112, 110, 108]), np.array([52, 46, 44])
SHADOW_PX = 7
"""Length of a house's shadow, down and to the right."""


@dataclass
class Scene:
    """The picture while it is painted."""

    rng: np.random.Generator
    image: NDArray[np.float32] = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH, 3), np.float32))
    truth: NDArray[np.uint16] = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH), np.uint16))
    busy: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((HEIGHT, WIDTH), bool))
    """Where no house may stand any more."""
    classes: list[str] = field(default_factory=list)

    def add(self, mask: NDArray[np.bool_], name: str, at: tuple[slice, slice] = np.s_[:, :]) -> None:
        """Give the mask the next id."""
        self.classes.append(name)
        self.truth[at][mask] = len(self.classes)
        self.busy[at] |= mask


def noise(rng: np.random.Generator, sigma: float) -> NDArray[np.float32]:
    """Smooth noise of unit deviation, `(HEIGHT, WIDTH)`; coarse noise is made small and enlarged."""
    step = max(1, int(sigma / 3))
    small = rng.standard_normal((HEIGHT // step + 2, WIDTH // step + 2)).astype(np.float32)
    small = gaussian_filter(small, sigma / step)
    large = zoom(small, step, order=1)[:HEIGHT, :WIDTH] if step > 1 else small[:HEIGHT, :WIDTH]
    return (large / large.std()).astype(np.float32)


def paint_ground(scene: Scene) -> None:
    """Fields of different crops with furrows and a soft mottle."""
    rng = scene.rng
    seeds = rng.uniform(0, 1, (70, 2)) * [HEIGHT, WIDTH]
    row, col = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    bent = np.stack([row + 14 * noise(rng, 60), col + 14 * noise(rng, 60)], axis=-1)
    owner = cKDTree(seeds).query(bent.reshape(-1, 2))[1].reshape(HEIGHT, WIDTH)
    angle, depth = rng.uniform(0, np.pi, 70)[owner], rng.uniform(0, 3.5, 70)[owner]
    furrow = np.sin((row * np.cos(angle) + col * np.sin(angle)) * 0.7) * depth
    mottle = 5 * noise(rng, 45) + 3.0 * noise(rng, 9) + 2.0 * noise(rng, 2)
    scene.image[:] = FIELDS[rng.integers(0, len(FIELDS), 70)][owner] + (furrow + mottle)[..., None]


def paint_trees(scene: Scene) -> None:
    """Dark crowns in clumps, lit from the upper left."""
    rng = scene.rng
    clumps = rng.uniform(0, 1, (90, 2)) * [HEIGHT, WIDTH]
    for clump in clumps:
        for spot in rng.normal(clump, 45, (int(rng.integers(4, 40)), 2)):
            radius = rng.uniform(5, 12)
            place = local(spot[0], spot[1], 16)
            if place is None:
                continue
            at, row, col = place
            crown = (np.hypot(row, col) < radius) & ~scene.busy[at]
            shade = 1 - 0.25 * (row + col) / radius
            scene.image[at][crown] = (np.array([52, 74, 42]) * shade[..., None])[crown]


def local(row: float, col: float, reach: float) -> tuple[tuple[slice, slice], NDArray[np.float64], NDArray[np.float64]] | None:
    """Slices around a place, and the offsets of their pixel centres from it; None near the frame's edge."""
    top, left, size = int(row - reach), int(col - reach), int(2 * reach) + 1
    if top < 2 or left < 2 or top + size > HEIGHT - 12 or left + size > WIDTH - 12:
        return None
    rows, cols = np.mgrid[top : top + size, left : left + size] + 0.5
    return np.s_[top : top + size, left : left + size], rows - row, cols - col


def paint_water(scene: Scene) -> None:
    """A lake wider than a tile, and a river from one side of the picture to the other."""
    row, col = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shore = 26 * noise(scene.rng, 50)
    lake = ((row - 480 + shore) / 300) ** 2 + ((col - 2060 + shore) / 600) ** 2 < 1
    bed = 1090 + 95 * np.sin(col / 330) + 0.1 * (col - 1400)
    river = np.abs(row - bed + 0.4 * shore) < 26 + 6 * np.sin(col / 170)
    for mask, name in ((lake, "lake"), (river & ~lake, "river")):
        scene.image[mask] = WATER + (2.0 * noise(scene.rng, 12) + 1.2 * noise(scene.rng, 2))[mask][:, None]
        scene.add(mask, name)
    scene.busy |= gaussian_filter((lake | river).astype(np.float32), 8) > 0.02


def turned(row: NDArray[np.float64], col: NDArray[np.float64], angle: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets along and across a direction that rises `angle` radians clockwise from the columns' axis."""
    return col * np.cos(angle) + row * np.sin(angle), row * np.cos(angle) - col * np.sin(angle)


@dataclass
class House:
    """A roof: a rectangle, an L or a disc around a centre."""

    row: float
    col: float
    along: float
    across: float
    angle: float
    shape: str = "rect"

    def mask(self, row: NDArray[np.float64], col: NDArray[np.float64], grow: float = 0.0) -> NDArray[np.bool_]:
        """Pixels of the roof, its outline moved outwards by `grow` px."""
        if self.shape == "disc":
            return np.hypot(row, col) < self.along / 2 + grow
        u, v = turned(row, col, self.angle)
        inside = (np.abs(u) < self.along / 2 + grow) & (np.abs(v) < self.across / 2 + grow)
        if self.shape == "L":  # the yard takes the upper right quarter
            inside &= ~((u > -self.along * 0.05 + grow) & (v < self.across * 0.0 - grow))
        return inside


def build(scene: Scene, house: House, roof: NDArray[np.integer], name: str, *, rim: bool = False) -> bool:
    """Paint one roof with ridge and shadow, unless something stands there."""
    place = local(house.row, house.col, np.hypot(house.along, house.across) / 2 + SHADOW_PX + 4)
    if place is None:
        return False
    at, row, col = place
    mask = house.mask(row, col)
    if scene.busy[at][mask].any():
        return False
    shadow = sum(house.mask(row - k, col - k) for k in range(1, SHADOW_PX)) > 0
    shadow &= ~mask & (scene.truth[at] == 0)
    scene.image[at][shadow] *= 0.55
    u, v = turned(row, col, house.angle)
    slope = np.where(v > 0, -9.0, 9.0) if house.shape != "disc" else -0.5 * (row + col)
    tiles = 2.0 * np.sin(v * 1.3) + scene.rng.normal(0, 2.0, mask.shape)
    scene.image[at][mask] = (roof + (slope + tiles)[..., None])[mask]
    if rim:
        scene.image[at][mask & ~house.mask(row, col, -1.3)] = GUTTER
    scene.add(mask, name, at)
    return True


def build_district(scene: Scene, row: float, col: float, size: tuple[float, float], angle: float) -> None:
    """Streets with detached houses, Ls and terraces on both sides."""
    high, wide = size
    colour = 0
    for street in np.arange(-high / 2, high / 2, 132.0):
        paint_road(scene, row, col, angle, street, wide)
        for side in (-1, 1):
            for house, has_gutters in row_of_houses(scene.rng, wide):
                u, v = house.row, street + side * (14 + house.across / 2 + house.col)
                house.row, house.col = row + u * np.sin(angle) + v * np.cos(angle), col + u * np.cos(angle) - v * np.sin(angle)
                house.angle = angle
                # Neighbours differ in colour: one terrace in six has no dark gutter between its houses.
                colour = (colour + int(scene.rng.integers(1, len(ROOFS)))) % len(ROOFS)
                build(scene, house, ROOFS[colour], "building", rim=has_gutters)


def row_of_houses(rng: np.random.Generator, wide: float) -> Iterator[tuple[House, bool]]:
    """Houses along one side of a street, and whether a dark gutter frames them.

    `row` holds the place along the street, `col` the front garden's depth.
    """
    u = -wide / 2
    while u < wide / 2:
        if rng.random() < 0.22:
            along, across, setback = rng.uniform(24, 34), rng.uniform(34, 44), rng.uniform(2, 6)
            has_gutters = rng.random() > 1 / 6
            for _ in range(int(rng.integers(4, 8))):
                yield House(row=u + along / 2, col=setback, along=along, across=across, angle=0.0), has_gutters
                u += along
        else:
            along, across = rng.uniform(28, 60), rng.uniform(24, 40)
            shape = "L" if along > 42 and across > 30 and rng.random() < 0.6 else "rect"
            yield House(row=u + along / 2, col=rng.uniform(2, 8), along=along, across=across, angle=0.0, shape=shape), False
            u += along
        u += rng.uniform(12, 34)


def paint_road(scene: Scene, row: float, col: float, angle: float, street: float, wide: float) -> None:
    """A strip of asphalt, 5 m wide."""
    rows, cols = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    u, v = turned(rows - row, cols - col, angle)
    road = (np.abs(v - street) < 8.5) & (np.abs(u) < wide / 2 + 20) & ~scene.busy
    scene.image[road] = ROAD + scene.rng.normal(0, 2.0, (int(road.sum()), 1))
    scene.busy |= road


def build_works(scene: Scene) -> None:
    """A hall wider than a tile and a tank farm, some tanks in touch."""
    hall = House(row=1560, col=760, along=1130, across=300, angle=0.06)
    build(scene, hall, np.array([214, 216, 218]), "hall")
    for i, row in enumerate(range(1500, 1900, 95)):
        for j, col in enumerate(range(1480, 1860, 95)):
            radius = float(scene.rng.uniform(20, 34))
            tank = House(row=row, col=col, along=2 * radius, across=2 * radius, angle=0.0, shape="disc")
            build(scene, tank, np.array([224, 224, 220]), "tank")
            if (i + j) % 3 == 0:
                other = House(row=row, col=col + radius + 16, along=34, across=34, angle=0.0, shape="disc")
                touch(scene, other)


def touch(scene: Scene, tank: House) -> None:
    """A smaller tank that leans against one that stands: it takes only free pixels."""
    place = local(tank.row, tank.col, tank.along)
    if place is not None:
        at, row, col = place
        mask = tank.mask(row, col) & (scene.truth[at] == 0)
        scene.image[at][mask] = np.array([228, 226, 216]) + scene.rng.normal(0, 2.0, (int(mask.sum()), 1))
        scene.add(mask, "tank", at)


def valid_pixels() -> NDArray[np.bool_]:
    """All but a wedge at the lower left and a sliver on the right, as after a rotated flight strip."""
    row, col = np.mgrid[:HEIGHT, :WIDTH]
    return (col > (row - 1350) * 0.42) & (col < WIDTH - (HEIGHT - row) * 0.02)


def make() -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.bool_], list[str]]:
    """Image `(h, w, 3)`, truth ids `(h, w)`, valid pixels `(h, w)` and the class of each id from 1 on."""
    scene = Scene(rng=np.random.default_rng(20240611))
    paint_ground(scene)
    paint_water(scene)
    build_works(scene)
    build_district(scene, row=520, col=680, size=(760, 1150), angle=0.16)
    build_district(scene, row=1640, col=2330, size=(700, 640), angle=-0.3)
    build_district(scene, row=2050, col=1250, size=(180, 1700), angle=0.02)
    paint_trees(scene)
    valid = valid_pixels()
    blurred = gaussian_filter(scene.image, (0.6, 0.6, 0)) + scene.rng.normal(0, 1.2, (HEIGHT, WIDTH, 1))
    image = np.where(valid[..., None], np.clip(np.rint(blurred), 1, 255), 0).astype(np.uint8)
    return image, np.where(valid, scene.truth, 0).astype(np.uint16), valid, scene.classes


def write(path: Path, bands: NDArray[np.integer], valid: NDArray[np.bool_] | None, **options: object) -> None:
    """A cloud-optimised GeoTIFF of `(bands, h, w)`, with an internal mask where `valid` is given."""
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": len(bands), "dtype": bands.dtype.name}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_NUM_THREADS=1), MemoryFile() as memory:
        with memory.open(
            **profile, crs=CRS, transform=TRANSFORM, photometric="RGB" if len(bands) == 3 else "MINISBLACK"
        ) as file:
            file.write(bands)
            if valid is not None:
                file.write_mask(valid)
        copy(memory.name, path, driver="COG", **options)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    image, truth, valid, classes = make()
    bands = np.ascontiguousarray(image.transpose(2, 0, 1))
    write(folder / "scene.tif", bands, valid, compress="JPEG", quality=82, blocksize=256, overview_resampling="average")
    write(folder / "scene_truth.tif", truth[None], None, compress="DEFLATE", level=9, blocksize=256, overviews="NONE", nodata=0)
    area = np.bincount(truth.ravel(), minlength=len(classes) + 1)
    with (folder / "scene_classes.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "class", "area_px"])
        table.writerows((i, name, int(area[i])) for i, name in enumerate(classes, 1) if area[i])


if __name__ == "__main__":
    main()

"""Data of the bundled `overhead` weights: cut the scenes into blocks and write manifests.

    python scripts/weights/overhead_data.py DATA WORK

DATA holds `banepa/` and `kampala/` (docs/models/overhead.md names sources and licences). WORK gets `train.csv` (train and
val, for `seggeo train`) and `test.csv`: a block of Banepa that no choice was ever made by. Blocks are cut without overlap,
so no pixel of one is in another.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import rasterio
from rasterio.windows import Window

BLOCK = 1024
"""Side of a block of Banepa, px of 0.132 m on the ground."""
VAL, TEST = (0, 1), (2, 2)
"""Row and column of the blocks held back."""
WEIGHTS = {"banepa": 1.0, "kampala_dense_z21": 0.5, "kampala_res_z21": 1.2}


def cut(scene: Path, work: Path) -> list[tuple[Path, str]]:
    """Blocks of a scene as GeoTIFFs, and where each goes."""
    found = []
    with rasterio.open(scene) as source:
        for row in range(source.height // BLOCK):
            for col in range(source.width // BLOCK):
                window = Window(col * BLOCK, row * BLOCK, BLOCK, BLOCK)
                path = work / f"{scene.stem}_{row}{col}.tif"
                profile = {
                    "driver": "GTiff", "height": BLOCK, "width": BLOCK, "count": 3, "dtype": "uint8", "crs": source.crs,
                    "transform": source.window_transform(window), "compress": "deflate", "photometric": "RGB",
                }  # fmt: skip
                with rasterio.open(path, "w", **profile) as target:
                    target.write(source.read([1, 2, 3], window=window))
                place = (row, col)
                found.append((path, "val" if place == VAL else "test" if place == TEST else "train"))
    return found


def main(data: Path, work: Path) -> None:
    banepa = data / "banepa" / "banepa_north_buildings.geojson"
    rows = [(path, banepa, split, "banepa") for path, split in cut(data / "banepa" / "banepa_north.tif", work)]
    for name in ("kampala_dense", "kampala_res"):
        scene = data / "kampala" / f"{name}_z21.tif"
        rows.append((scene, data / "kampala" / f"{name}_buildings.geojson", "train", scene.stem))
    for name, wanted in (("train.csv", ("train", "val")), ("test.csv", ("test",))):
        with (work / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "labels", "split", "group", "kind", "weight"])
            for image, labels, split, kind in rows:
                if split in wanted:
                    shown = "val" if split == "test" else split
                    writer.writerow([image.resolve(), labels.resolve(), shown, image.stem, kind, WEIGHTS[kind]])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Tiny labelled images that a tiny network learns from in seconds, and the command line that does it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage import draw
from support_io import write

from seggeo.train.examples import find_examples
from seggeo.train.scene_opening import open_scenes
from seggeo.train.scenes import Scene

TINY = ("--set", "widths=8,8,16", "--crop", "64", "--batch", "2", "--rate", "0.01", "--device", "cpu")
"""Options of `seggeo train unet` for a network of 11 thousand parameters."""


FAST = {
    "minutes": 0.0, "steps": 6, "epoch": 3, "crop": 32, "batch": 2, "rate": 0.01, "set": {"widths": "8,8,16"},
}  # fmt: skip
"""A recipe that is through in a second."""


def discs(seed: int, shape: tuple[int, int] = (160, 192), count: int = 40) -> NDArray[np.int32]:
    """Labels of discs of 5 to 9 px radius that do not touch."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for _ in range(count * 4):
        radius = rng.uniform(5, 9)
        centre = (rng.uniform(0, shape[0]), rng.uniform(0, shape[1]))
        if not labels[draw.disk(centre, radius + 2, shape=shape)].any():
            labels[draw.disk(centre, radius, shape=shape)] = labels.max() + 1
    return labels


def lit(labels: NDArray[np.int32], bands: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """`(bands, h, w)`: bright objects on dark noise."""
    noise = np.random.default_rng(seed).normal(0, 6, (bands, *labels.shape))
    return np.clip(np.where(labels > 0, 180, 50) + noise, 0, 255).astype(np.uint8)


def write_pair(
    folder: Path, name: str, labels: NDArray[np.int32], image: NDArray[np.generic] | None = None, **more: object
) -> Path:
    """NAME.tif beside NAME_label.tif; the path of the image."""
    folder.mkdir(parents=True, exist_ok=True)
    image = lit(labels) if image is None else image
    write(folder / f"{name}_label.tif", labels[None].astype("uint16"), **more)
    write(folder / f"{name}.tif", image, **more)
    return folder / f"{name}.tif"


def data_folder(folder: Path, images: int = 2) -> Path:
    """A folder that `seggeo train` learns from."""
    for i in range(images):
        write_pair(folder, f"img{i}", discs(i))
    return folder


def one_scene(folder: Path, labels: NDArray[np.int32], image: NDArray[np.generic] | None = None) -> Scene:
    """An image and its labels as training opens them."""
    return open_scenes(find_examples([write_pair(folder, "one", labels, image)]), all_bands=True)[0]


def coco_of(images: Sequence[Path], labels: Path, path: Path) -> Path:
    """A COCO json with run lengths made by pycocotools, of images and the label rasters named like them."""
    from pycocotools import mask
    from rasterio import open as open_raster

    entries, listed = [], []
    for number, image in enumerate(images, 1):
        with open_raster(labels / f"{image.stem}.png") as ds:
            ids = ds.read(1)
        listed.append({"id": number, "file_name": image.name, "height": ids.shape[0], "width": ids.shape[1]})
        for i in range(1, int(ids.max()) + 1):
            packed = mask.encode(np.asfortranarray(ids == i).astype(np.uint8))
            entries.append({
                "id": len(entries) + 1, "image_id": number, "category_id": 4, "iscrowd": 0,
                "segmentation": {"size": packed["size"], "counts": packed["counts"].decode()},
            })  # fmt: skip
    path.write_text(json.dumps({"images": listed, "annotations": entries, "categories": [{"id": 4, "name": "nucleus"}]}))
    return path

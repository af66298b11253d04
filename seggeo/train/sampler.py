"""Endless training samples: sample number i of a seed is always the same, whoever draws it and in whatever order.

A scene is drawn by its weight, then a place: near an object four times out of five. One resampling turns, flips and
zooms the pixels and labels around it into a crop of the training's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as components

from seggeo.geometry import Window
from seggeo.instances import Instances, concat
from seggeo.train.augment import Augmentation, matrix, relight, zoom
from seggeo.train.crops import Crop
from seggeo.train.scenes import Scene

_NEAR_OBJECT = 0.8
_SLIVER_PX = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training crop."""

    image: NDArray[np.float32]
    """`(c, h, w)`, 0 to 1."""
    labels: NDArray[np.int32]
    """`(h, w)`, ids 1 to k."""
    classes: NDArray[np.int32]
    """`(k,)`."""
    valid: NDArray[np.bool_]
    """`(h, w)`."""


class Sampler:
    """Draws samples from scenes."""

    def __init__(self, scenes: Sequence[Scene], *, size: int, augmentation: Augmentation, seed: int) -> None:
        self._scenes = list(scenes)
        self._size = size
        self._augmentation = augmentation
        self._seed = seed
        weight = np.array([scene.weight for scene in self._scenes], np.float64)
        self._share = weight / weight.sum()
        self._diameter = diameters_of(self._scenes)

    def draw(self, index: int) -> Sample:
        """Sample number `index`."""
        rng = np.random.default_rng([self._seed, index])
        which = int(rng.choice(len(self._scenes), p=self._share))
        scene = self._scenes[which]
        factor = zoom(self._augmentation, self._diameter[which], rng)
        transform = matrix(factor, self._augmentation, rng)
        centre = self._place(scene, factor, rng)
        crop, origin, is_cut = self._read(scene, transform, centre)
        return self._sample(crop, transform, centre - origin, rng, is_cut=is_cut)

    def _place(self, scene: Scene, factor: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Row and column of the image that become the crop's centre, in one of the scene's areas."""
        reach = 0.35 * self._size / factor
        if len(scene.objects) and rng.random() < _NEAR_OBJECT:
            box = scene.objects.box[rng.integers(len(scene.objects))]
            place = np.array([box[0] + box[2], box[1] + box[3]]) / 2
            area = next((a for a in scene.areas if _holds(a, place)), scene.areas[0])
            place = place + rng.uniform(-reach, reach, 2)
        else:
            area = scene.areas[int(rng.choice(len(scene.areas), p=_shares(scene.areas)))]
            place = rng.uniform([area.row, area.col], [area.row_stop, area.col_stop])
        # A crop hangs over the edge no further than it must.
        half = np.minimum(self._size / factor / 2, np.array(area.shape) / 2)
        return np.clip(place, [area.row, area.col] + half, [area.row_stop, area.col_stop] - half)

    def _read(
        self, scene: Scene, transform: NDArray[np.float64], centre: NDArray[np.float64]
    ) -> tuple[Crop, NDArray[np.float64], bool]:  # fmt: skip
        """The part of the image that the crop needs, where it begins, and whether the image ends in it."""
        reach = np.abs(transform).sum(axis=1) * self._size / 2 + 3
        size = np.array([scene.height, scene.width])
        start = np.floor(centre - reach).astype(int)
        stop = np.ceil(centre + reach).astype(int)
        is_cut = bool((start < 0).any() or (stop > size).any())
        start, stop = np.maximum(start, 0), np.minimum(stop, size)
        window = Window(row=int(start[0]), col=int(start[1]), height=int(stop[0] - start[0]), width=int(stop[1] - start[1]))
        return scene.crop(window), start.astype(np.float64), is_cut

    def _sample(
        self, crop: Crop, transform: NDArray[np.float64], centre: NDArray[np.float64], rng: np.random.Generator, *,
        is_cut: bool,
    ) -> Sample:  # fmt: skip
        half = (self._size - 1) / 2
        offset = centre - 0.5 - transform @ np.array([half, half])
        image = np.asarray(crop.image, np.float32) / (255 if crop.image.dtype == np.uint8 else 1)
        shrink = np.sqrt(abs(np.linalg.det(transform)))
        if shrink > 1.2:  # or what the zoom skips would alias
            image = ndimage.gaussian_filter(image, (0.45 * (shrink - 0.5), 0.45 * (shrink - 0.5), 0))
        shape = (self._size, self._size)
        bands = [
            ndimage.affine_transform(np.ascontiguousarray(band), transform, offset, shape, order=1, mode="mirror")
            for band in np.moveaxis(image, 2, 0)
        ]
        labels = ndimage.affine_transform(crop.labels, transform, offset, shape, order=0, mode="mirror")
        valid = ndimage.affine_transform(crop.valid.astype(np.uint8), transform, offset, shape, order=0, mode="mirror") > 0
        classes = crop.classes
        if is_cut:
            copy = _copies(transform, offset, shape, crop.valid.shape)
            labels, classes, fused = _unmirrored(labels, classes, copy)
            valid &= ~fused
        labels, classes = _renumbered(labels, classes)
        lit = relight(np.stack(bands, axis=2), self._augmentation, rng)
        return Sample(image=np.ascontiguousarray(np.moveaxis(lit, 2, 0)), labels=labels, classes=classes, valid=valid)


def _holds(area: Window, place: NDArray[np.float64]) -> bool:
    return bool(area.row <= place[0] <= area.row_stop and area.col <= place[1] <= area.col_stop)


def _shares(areas: Sequence[Window]) -> NDArray[np.float64]:
    sizes = np.array([area.area for area in areas], np.float64)
    return np.asarray(sizes / sizes.sum(), np.float64)


def median_diameter(objects: Instances) -> float:
    """Median, over objects, of the diameter of a disc of the same area, px; 0 without objects."""
    return float(np.median(2 * np.sqrt(objects.area / np.pi))) if len(objects) else 0.0


def diameters_of(scenes: Sequence[Scene]) -> list[float]:
    """Median diameter of the objects of each scene; of a slice that of its volume, whose objects it cuts anywhere."""
    of_volume: dict[str, float] = {}
    for name in dict.fromkeys(scene.volume for scene in scenes if scene.volume):
        of_volume[name] = median_diameter(concat([scene.objects for scene in scenes if scene.volume == name]))
    return [of_volume[scene.volume] if scene.volume else median_diameter(scene.objects) for scene in scenes]


def _copies(
    transform: NDArray[np.float64], offset: NDArray[np.float64], shape: tuple[int, int], size: tuple[int, ...]
) -> NDArray[np.int64]:  # fmt: skip
    """Which copy of an image of `size`, mirrored over and over, each pixel of the crop shows: a number for each."""
    row, col = np.ogrid[: shape[0], : shape[1]]
    copies = []
    for axis in (0, 1):
        at = np.rint(transform[axis, 0] * row + transform[axis, 1] * col + offset[axis])
        side = max(1, size[axis] - 1)
        copies.append(np.where(at > 0, np.ceil(at / side) - 1, np.floor(at / side)).astype(np.int64))
    return np.asarray(copies[0] * 4096 + copies[1], np.int64)


def _unmirrored(
    labels: NDArray[np.int32], classes: NDArray[np.int32], copy: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.bool_]]:  # fmt: skip
    """Labels with every mirror image an object of its own, their classes, and where an object is fused with its own."""
    pieces: NDArray[np.int32] = components(labels, connectivity=2, background=0).astype(np.int32)  # type: ignore[no-untyped-call]
    count = int(pieces.max()) + 1
    of_piece, any_copy = np.zeros(count, np.int32), np.zeros(count, np.int64)
    of_piece[pieces.ravel()] = labels.ravel()
    any_copy[pieces.ravel()] = copy.ravel()
    fused = np.bincount(pieces[any_copy[pieces] != copy], minlength=count) > 0
    fused[0] = False
    return pieces, classes[of_piece[1:] - 1], fused[pieces]


def _renumbered(
    labels: NDArray[np.int32], classes: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:  # fmt: skip
    """Ids 1 to k without gaps, slivers left out."""
    area = np.bincount(labels.ravel())
    keep = area >= _SLIVER_PX
    keep[0] = False
    ids = np.flatnonzero(keep)
    lookup = np.zeros(len(area), np.int32)
    lookup[ids] = np.arange(1, len(ids) + 1)
    return lookup[labels], classes[ids - 1]

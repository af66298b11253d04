"""Labelled scenes: images of any size, or slices of volumes, with their objects, cut into crops on demand.

1. `open_scenes` reads the labels of every example (kept as runs), checks them and fixes each image's stretch.
2. `Scene.crop` reads the pixels of one window, paints its objects and says where nothing may be learnt.
3. `Scene.within` makes a scene of some areas only, for a validation split; what lies outside is as if outside the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.geometry import Frame, Window
from seggeo.instances import Instances
from seggeo.rle import Spans, concat_spans, normalise
from seggeo.train.crops import Crop, paint, paint_mask
from seggeo.train.pixels import View, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One image, or one slice of a volume, with its objects; pixels are read when a crop asks for them.

    Safe between threads, small to pickle.
    """

    name: str
    """The image's file name, unique among the scenes opened together."""
    view: View
    """How its pixels are read."""
    frame: Frame
    """Its work grid."""
    bands: int
    """Bands of a crop."""
    dtype: str
    """Of raw values; crops are uint8 otherwise."""
    objects: Instances
    """Objects in pixels of the frame; label = index into `classes`."""
    ids: NDArray[np.int64]
    """`(n,)` id of each object in its label file."""
    cut: NDArray[np.bool_]
    """`(n,)`, True where an edge of `areas` cut pixels off the object."""
    classes: tuple[str, ...]
    """Class names, the same for all scenes opened together."""
    crowd: Instances
    """Regions where objects are not told apart: nothing is learnt there."""
    known: Spans | None = None
    """Row intervals of the area of interest, sorted by row; None: all of the image is labelled."""
    areas: tuple[Window, ...]
    """Parts of the image that belong to the scene; the whole image unless it was split."""
    weight: float = 1.0
    """How often it is drawn, against 1.0."""
    group: str = ""
    """Images of one group never lie on both sides of a split."""
    split: str = ""
    """train, val or empty."""
    kind: str = ""
    """A word for the kind of image, to report by."""
    volume: str = ""
    """Name of the volume that it is a slice of; empty for an image of one plane."""
    reach: int = 0
    """Slices on either side from which its pixels are made."""
    stretch: str = "auto"
    """Its stretch in `--stretch`'s words."""

    @property
    def z(self) -> int:
        """Which slice of its volume it is."""
        return self.view.z or 0

    @property
    def height(self) -> int:
        """Rows of the image."""
        return self.frame.height

    @property
    def width(self) -> int:
        """Columns of the image."""
        return self.frame.width

    @property
    def gsd_m(self) -> float | None:
        """Metres in a pixel, None where unknown."""
        return sqrt(self.frame.spacing[1] * self.frame.spacing[2]) if self.frame.unit == "m" else None

    @property
    def area(self) -> int:
        """Pixels of all areas."""
        return sum(window.area for window in self.areas)

    def crop(self, window: Window, *, raw: bool = False) -> Crop:
        """Pixels and objects of a window, which may reach beyond the image below and to the right.

        Args:
            window: In pixels of the frame.
            raw: True: the file's own values; False: uint8 after the stretch of the whole image, what `seggeo segment`
                shows a model.

        Raises:
            SourceError: The image is damaged there, or gone.
        """
        box = window.bounds
        row, col, row_stop, _ = box
        image, valid = self._pixels(window, raw=raw)
        if self.known is not None:
            low, high = np.searchsorted(self.known.row, [row, row_stop])
            inside = np.zeros_like(valid)
            paint_mask(inside, self.known.take(np.arange(low, high)), (row, col), value=True)
            valid &= inside
        if len(self.crowd):
            paint_mask(valid, self.crowd.spans(), (row, col), value=False)
        painted = paint(self.objects, box)
        return Crop(
            image=image, valid=valid, labels=painted.labels, visible=painted.visible, index=painted.index,
            classes=self.objects.label[painted.index].astype(np.int32),
            whole=(painted.visible == 1) & ~self.cut[painted.index],
        )  # fmt: skip

    def within(self, areas: Sequence[Window], *, split: str = "") -> Scene:
        """The part of the scene in `areas`, which may not overlap: outside them pixels are blank and nothing is learnt.

        Objects are cut at the areas' edges; those without a pixel inside are left out.
        """
        spans = self.objects.spans()
        parts = [spans.clip(*window.bounds) for window in areas]
        kept, positions = self.objects.with_spans(normalise(concat_spans(parts)))
        crowd = self.crowd.spans()
        crowd_kept, _ = self.crowd.with_spans(normalise(concat_spans([crowd.clip(*window.bounds) for window in areas])))
        return replace(
            self, objects=kept, ids=self.ids[positions], crowd=crowd_kept, areas=tuple(areas), split=split or self.split,
            cut=self.cut[positions] | (kept.area < self.objects.area[positions]),
        )  # fmt: skip

    def _pixels(self, window: Window, *, raw: bool) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Image and valid; 0 and False outside the areas."""
        valid = np.zeros(window.shape, np.bool_)
        image = np.zeros((*window.shape, self.bands), self.dtype if raw else np.uint8)
        for area in self.areas:
            part = area.intersect(window)
            if part is not None:
                place = part.slices(window)
                values, valid[place] = read(self.view, (self.height, self.width), part, raw=raw)
                for band in range(self.bands):  # from band-first memory three times faster than all at once
                    image[*place, band] = values[..., band]
        return image, valid

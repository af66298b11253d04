"""What is wrong with labels, said before hours are spent on them.

Refused: labels that lie elsewhere, none at all, objects that lie on each other, one image on both sides of a split.
Warned of, once for all images: objects outside the image, objects of a few pixels, labels in another CRS.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.ndimage import label as components

from seggeo.errors import SeggeoWarning, SourceError
from seggeo.io.annotations import Annotations
from seggeo.rle import overlaps
from seggeo.train.examples import Example

COVERED = 0.5
"""Share of an object under another one from which the two cannot both be told apart."""
COVERED_OBJECTS = 0.2
"""Share of such objects that is refused."""
SMALL_OBJECT_PX = 4
LUMPED_PIECES = 5
"""Separate pieces from which the only object of an image is taken for all of them."""
_LARGEST_PX = 64 * 2**20


@dataclass(slots=True)
class Findings:
    """Harmless oddities of many label files, collected to be told once."""

    outside: dict[str, int] = field(default_factory=dict)
    small: dict[str, int] = field(default_factory=dict)
    reprojected: dict[str, str] = field(default_factory=dict)
    lumped: dict[str, int] = field(default_factory=dict)
    """Images whose only object is many separate pieces."""
    images: int = 0
    """Images with objects."""

    def note(self, name: str, found: Annotations, *, is_slice: bool = False) -> None:
        """Remember what is odd in one label file; a slice of a volume cuts some objects near their ends, which is not."""
        small = found.tiny + int((found.instances.area < SMALL_OBJECT_PX).sum())
        if found.outside:
            self.outside[name] = found.outside
        if small and not is_slice:
            self.small[name] = small
        if found.reprojected:
            self.reprojected[name] = found.reprojected
        self.images += bool(len(found))
        if found.exclusive and len(found) == 1 and (pieces := _pieces(found)) >= LUMPED_PIECES:
            self.lumped[name] = pieces

    def warn(self) -> None:
        """Say each kind once.

        Raises:
            SourceError: Half of the label rasters or more show all objects as one.
        """
        if self.lumped and 2 * len(self.lumped) >= self.images:
            raise SourceError(
                what=f"{len(self.lumped)} label rasters hold one id on many separate pieces: {_some(self.lumped)}",
                why="they look like masks of object and background; a label raster has a number of its own for each object",
                mend="number the objects, for example with skimage.measure.label; objects that touch must be drawn apart",
            )
        for names, text in (
            (self.outside, "objects lie outside their image and are left out"),
            (self.lumped, "pieces are one object each in their label raster"),
            (self.small, f"objects have fewer than {SMALL_OBJECT_PX} px, and teach little"),
        ):
            if names:
                _warn(f"{sum(names.values())} {text}: {_some(names)}")
        if self.reprojected:
            kinds = ", ".join(sorted(set(self.reprojected.values())))
            _warn(f"labels in another CRS than their image are reprojected from {kinds}: {_some(self.reprojected)}")


def check_place(example: Example, found: Annotations) -> None:
    """Refuse polygons of which none lies on the image.

    Raises:
        SourceError: All are outside.
    """
    if not len(found) and found.outside:
        raise SourceError(
            what=f"no object of {example.labels} lies on {example.image}",
            why=f"all {found.outside} are outside it, so one of the two has a wrong position or CRS",
            mend="check both: seggeo info IMAGE, ogrinfo -so LABELS",
        )


def check_overlap(example: Example, found: Annotations) -> None:
    """Refuse objects that lie on each other.

    Raises:
        SourceError: More than a fifth of them are more than half under another one.
    """
    if found.exclusive or len(found) < 2:
        return
    real = np.flatnonzero(~found.crowd)
    objects = found.instances.take(real)
    spans = objects.spans()
    one, other, shared = overlaps(spans, spans)
    most = np.zeros(len(objects), np.int64)
    np.maximum.at(most, one[one != other], shared[one != other])
    covered = np.flatnonzero(most > COVERED * objects.area)
    if len(covered) > COVERED_OBJECTS * len(objects):
        ids = ", ".join(str(i) for i in found.ids[real][covered[:8]])
        raise SourceError(
            what=f"{len(covered)} of {len(objects)} objects of {example.labels} lie more than half on another one",
            why=f"a model cannot learn which of the two a pixel belongs to; ids {ids}{', ...' if len(covered) > 8 else ''}",
            mend="remove doubled objects, or add --allow-overlap if parts lie in wholes on purpose",
        )


def check_any(counts: Iterable[int], examples: Sequence[Example]) -> None:
    """Refuse data without a single object.

    Raises:
        SourceError: There is none.
    """
    if not sum(counts):
        raise SourceError(
            what="the labels hold no objects at all",
            why=f"{len(examples)} label files were read, the first is {examples[0].labels}",
            mend="check that they are the labels: one number for each object, or polygons",
        )


def check_split(examples: Sequence[Example]) -> None:
    """Refuse an image, or a group, that lies in train and in val.

    Raises:
        SourceError: One does; copies under other names are found, too. Two areas of interest of one image may be divided.
    """
    if {e.split for e in examples} < {"train", "val"}:
        return
    groups: dict[str, set[str]] = defaultdict(set)
    for example in examples:
        if example.group:
            groups[example.group].add(example.split)
    torn = next((g for g, splits in groups.items() if len(splits - {""}) > 1), None)
    if torn is not None:
        raise SourceError(
            what=f"group {torn!r} lies in train and in val",
            why="its images show the same thing, so validation would measure memory",
            mend="give all images of a group one split",
        )
    seen: dict[str, Example] = {}
    for example in _perhaps_equal(examples):
        twin = seen.setdefault(_digest(example.image), example)
        has_own_area = twin.aoi is not None and example.aoi is not None and twin.aoi != example.aoi
        if {twin.split, example.split} == {"train", "val"} and not has_own_area:
            raise SourceError(
                what=f"{twin.image} and {example.image} are the same image",
                why="one is in train and one in val, so validation would measure memory",
                mend="remove one of them",
            )


def _perhaps_equal(examples: Sequence[Example]) -> list[Example]:
    """Examples whose image has the size in bytes of another's: only these need to be read."""
    by_size: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        if not example.image.is_file():
            continue  # opening it says what is wrong
        by_size[example.image.stat().st_size].append(example)
    return [e for members in by_size.values() if len(members) > 1 for e in members]


def _pieces(found: Annotations) -> int:
    row, col, row_stop, col_stop = (int(v) for v in found.instances.box[0])
    return int(components(found.instances.mask(0))[1]) if (row_stop - row) * (col_stop - col) <= _LARGEST_PX else 0


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: dict[str, int] | dict[str, str]) -> str:
    shown = list(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more images" if len(names) > 3 else "")


def _warn(text: str) -> None:
    warnings.warn(SeggeoWarning(text), stacklevel=3)

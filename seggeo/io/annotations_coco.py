"""COCO json: images, categories and one segmentation for each object, as polygons or run lengths.

A polygon covers the pixels whose centres it holds, pixel (0, 0) reaching from 0 to 1: the rule of every other label kind.
pycocotools draws polygons five times enlarged and takes some border pixels more; run lengths are equal to the last pixel.
Several polygons of one object are united, as pycocotools does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame
from seggeo.instances import Instances, concat
from seggeo.io.annotations_coco_json import load_json
from seggeo.io.annotations_coco_rle import column_runs_to_spans, unpack
from seggeo.io.annotations_record import Annotations, size_mismatch
from seggeo.io.annotations_scanline import Outlines, fill

_MASKS = 20_000
"""Run-length masks worked on at once."""
_BROKEN = "export the data set again; the format is described at cocodataset.org under Data format"


@dataclass(frozen=True, slots=True, kw_only=True)
class CocoImage:
    """One entry of `images`."""

    id: int
    file_name: str
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coco:
    """A COCO json in memory; masks are made for one image at a time."""

    path: Path
    images: tuple[CocoImage, ...]
    classes: tuple[str, ...]
    """Names of the categories, by ascending id."""
    categories: Mapping[int, int]
    """Category id to index into `classes`."""
    objects: Mapping[int, Sequence[Mapping[str, Any]]]
    """Entries of `annotations` by image id."""

    def image(self, name: str | None) -> CocoImage:
        """The image with a file name, the last part of one, or an id; the only one for None.

        Raises:
            ConfigError: None or several fit.
        """
        if name is None:
            found = list(self.images)
        else:
            found = [i for i in self.images if i.file_name == name or str(i.id) == name]
            found = found or [i for i in self.images if PurePosixPath(i.file_name).name == PurePosixPath(name).name]
        if len(found) == 1:
            return found[0]
        shown = ", ".join(i.file_name for i in self.images[:5]) + (", ..." if len(self.images) > 5 else "")
        raise ConfigError(
            what=f"{self.path} {'holds several images' if name is None else f'has no single image {name!r}'}",
            why=f"its {len(self.images)} images are: {shown or 'none'}",
            mend="name one of them by file name or id",
        )

    def annotations(self, name: str | None = None, frame: Frame | None = None) -> Annotations:
        """The objects of one image.

        Args:
            name: See `image`.
            frame: The image's grid, of the size the json says; default: plain pixels of that size.

        Raises:
            ConfigError: No single image of that name.
            SourceError: Another size than the frame's, or a damaged segmentation.
        """
        image = self.image(name)
        grid = frame or Frame(height=image.height, width=image.width)
        if (grid.height, grid.width) != (image.height, image.width):
            raise size_mismatch(f"{self.path}, image {image.file_name},", (image.height, image.width), grid)
        entries = self.objects.get(image.id, ())
        instances, kept = _masks(entries, image, self.path)
        chosen = [entries[i] for i in kept]
        scored = bool(entries) and all("score" in e for e in entries)
        score = [float(e["score"]) for e in chosen] if scored else np.ones(len(chosen))
        return Annotations(
            instances=replace(
                instances, label=np.array([self.categories[e["category_id"]] for e in chosen], np.int32),
                score=np.asarray(score, np.float32),
            ),
            ids=np.array([int(e.get("id", kept[k] + 1)) for k, e in enumerate(chosen)], np.int64), classes=self.classes,
            scored=scored, exclusive=False, frame=grid, tiny=len(entries) - len(chosen),
            crowd=np.array([bool(e.get("iscrowd", 0)) for e in chosen], np.bool_),
        )  # fmt: skip


def open_coco(path: Path, dataset: Path | None = None) -> Coco:
    """A COCO json: a data set, or a list of results.

    Args:
        path: `{"images": ..., "annotations": ..., "categories": ...}`, whose annotations may have a `score`, or a list of
            results `[{"image_id": ..., "category_id": ..., "segmentation": ..., "score": ...}]`.
        dataset: The data set that names the images and categories of a list of results; without it images and classes
            are called by their ids.

    Raises:
        SourceError: Not such a file.
    """
    content = _load(path)
    if isinstance(content, list):
        head = _load(dataset) if dataset is not None else _head_of_results(content, path)
        content = {**head, "annotations": content}
    try:
        return _index(content, path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(
            what=f"{path} is no COCO json", why=f"an entry lacks or misstates something: {error!r}", mend=_BROKEN
        ) from error


def _load(path: Path) -> Any:
    try:
        return load_json(path)
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise SourceError(what=f"{path} is no COCO json", why=str(error), mend=_BROKEN) from error


def _index(content: Mapping[str, Any], path: Path) -> Coco:
    missing = [k for k in ("images", "annotations", "categories") if not isinstance(content.get(k), list)]
    if missing:
        raise SourceError(
            what=f"{path} is no COCO json", why=f"it has no list {', '.join(repr(m) for m in missing)}", mend=_BROKEN
        )
    categories = sorted(content["categories"], key=lambda c: int(c["id"]))
    place = {int(c["id"]): i for i, c in enumerate(categories)}
    images = tuple(
        CocoImage(id=i["id"], file_name=str(i["file_name"]), height=int(i["height"]), width=int(i["width"]))
        for i in content["images"]
    )
    known = {i.id for i in images}
    objects: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in content["annotations"]:
        if entry["image_id"] not in known or entry["category_id"] not in place:
            raise SourceError(
                what=f"annotation {entry.get('id')} of {path} belongs to nothing",
                why=f"there is no image {entry['image_id']!r} or no category {entry['category_id']!r}",
                mend=_BROKEN,
            )
        objects[entry["image_id"]].append(entry)
    return Coco(
        path=path, images=images, classes=tuple(str(c["name"]) for c in categories), categories=place, objects=dict(objects)
    )


def _head_of_results(results: list[Any], path: Path) -> dict[str, Any]:
    """Images and categories as far as a list of results tells them."""
    try:
        sizes = {r["image_id"]: r["segmentation"]["size"] for r in results}
        classes = sorted({int(r["category_id"]) for r in results})
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            what=f"{path} is a list of results that does not say the size of its images",
            why="its segmentations are not run lengths with a size",
            mend="give the data set json with it",
        ) from error
    return {
        "images": [{"id": i, "file_name": str(i), "height": h, "width": w} for i, (h, w) in sizes.items()],
        "categories": [{"id": i, "name": str(i)} for i in classes],
    }


def _masks(
    entries: Sequence[Mapping[str, Any]], image: CocoImage, path: Path
) -> tuple[Instances, NDArray[np.int64]]:  # fmt: skip
    """Masks of all entries that hold a pixel, in their order, and their positions."""
    drawn = [i for i, e in enumerate(entries) if isinstance(e.get("segmentation"), list)]
    coded = [i for i, e in enumerate(entries) if isinstance(e.get("segmentation"), dict)]
    if len(drawn) + len(coded) < len(entries):
        lost = next(e for e in entries if not isinstance(e.get("segmentation"), list | dict))
        raise SourceError(
            what=f"annotation {lost.get('id')} of {path} has no segmentation",
            why="a box alone does not say which pixels are the object's",
            mend="give polygons or run lengths",
        )
    batches, positions = [Instances.empty()], [np.zeros(0, np.int64)]
    for some, make in ((drawn, _from_polygons), (coded, _from_counts)):
        for first in range(0, len(some), _MASKS):
            chosen = some[first : first + _MASKS]
            try:
                instances, kept = make([entries[i]["segmentation"] for i in chosen], image)
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise SourceError(what=f"a segmentation of {path} is damaged", why=str(error), mend=_BROKEN) from error
            batches.append(instances)
            positions.append(np.array(chosen, np.int64)[kept])
    where = np.concatenate(positions)
    order = np.argsort(where, kind="stable")
    return concat(batches).take(order), where[order]


def _from_polygons(segmentations: list[Any], image: CocoImage) -> tuple[Instances, NDArray[np.int64]]:
    rings = [np.asarray(ring, np.float64).reshape(-1, 2) for parts in segmentations for ring in parts]
    xy = np.concatenate(rings) if rings else np.zeros((0, 2))
    if not np.isfinite(xy).all():
        raise ValueError("a polygon has a coordinate that is no number")
    count = np.arange(len(rings) + 1)
    outlines = Outlines(
        row=np.ascontiguousarray(xy[:, 1]), col=np.ascontiguousarray(xy[:, 0]), polygon=count,
        ring=np.cumsum([0, *(len(r) for r in rings)]), owner=np.cumsum([0, *(len(parts) for parts in segmentations)]),
    )  # fmt: skip
    return fill(outlines, image.height, image.width)


def _from_counts(segmentations: list[Any], image: CocoImage) -> tuple[Instances, NDArray[np.int64]]:
    counts, start = _counts(segmentations)
    total = np.add.reduceat(np.concatenate([counts, [0]]), start[:-1]) * (np.diff(start) > 0)
    sizes = {tuple(s["size"]) for s in segmentations}
    if sizes != {(image.height, image.width)} or (counts < 0).any() or (total != image.height * image.width).any():
        raise ValueError(f"run lengths that do not cover {image.height} x {image.width} pixels")
    spans = column_runs_to_spans(counts, start, image.height, image.width)
    kept, owner = np.unique(spans.owner, return_inverse=True)
    own = replace(spans, owner=owner.astype(np.int64))
    return Instances.from_spans(own, score=np.ones(len(kept), np.float32), label=0), kept


def _counts(segmentations: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of all masks, compressed or not, and where each one's begin."""
    packed = [s["counts"] for s in segmentations]
    is_text = np.array([isinstance(p, str | bytes) for p in packed], np.bool_)
    texts = [p.encode("ascii") if isinstance(p, str) else p for p in packed if isinstance(p, str | bytes)]
    flat, at = unpack(texts)
    parts: list[NDArray[np.int64]] = []
    text = 0
    for counts, compressed in zip(packed, is_text, strict=True):
        if compressed:
            parts.append(flat[at[text] : at[text + 1]])
            text += 1
        else:
            parts.append(np.asarray(counts, np.int64))
    return np.concatenate(parts), np.cumsum([0, *(len(p) for p in parts)])

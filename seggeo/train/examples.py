"""What there is to learn from: pairs of image, or volume, and labels, found in folders, COCO jsons, manifests and single files.

`find_examples` looks at each path: a folder (`images/` beside `labels/` or `masks/`, or NAME.tif beside NAME_label.tif), a
COCO json, a manifest CSV, or one image or volume with labels of its own. Nothing is decoded here; `open_scenes` does that.
"""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seggeo.errors import ConfigError, SeggeoWarning, SourceError
from seggeo.io.annotations import kind_of_labels, open_coco
from seggeo.train.files import (
    IMAGES,
    LABEL_ENDINGS,
    are_labels,
    images_in,
    is_volume,
    labels_beside,
    labels_in,
    labels_of,
    name_of,
)

_LABEL_FOLDERS = ("labels", "masks", "label", "mask")
_COLUMNS = ("image", "labels", "split", "group", "weight", "aoi", "attribute", "kind")
_SPLITS = ("", "train", "val")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image, or volume, and where its labels are."""

    image: Path
    """A file, or a folder that is a volume."""
    labels: Path
    """Label raster, vector file or COCO json; of a volume a label volume, or a folder with a mask for each slice."""
    split: str = ""
    """train, val, or empty for a split to be made."""
    group: str = ""
    """Images of one group never lie on both sides of a split; empty: the image is alone."""
    kind: str = ""
    """A word for the kind of image, to report by."""
    weight: float = 1.0
    """How often it is drawn, against 1.0."""
    aoi: Path | None = None
    """Polygons of the part that is labelled; None: all of it."""
    attribute: str | None = None
    """Column of a vector file that holds the class."""
    coco_image: str | None = None
    """The image's name or id in a COCO json."""
    class_of_id: Mapping[int, str] = field(default_factory=dict)
    """Class name by id of a label raster; empty: one class."""

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise ConfigError(
                what=f"split {self.split!r} of {self.image}", why="a split is train, val or empty", mend="use train or val"
            )
        if not 0 < self.weight < float("inf"):
            raise ConfigError(
                what=f"weight {self.weight} of {self.image}",
                why="it says how often the image is drawn, against 1",
                mend="use a number above 0, or leave the image out",
            )


def find_examples(
    data: Sequence[Path], *, labels: Path | None = None, aoi: Path | None = None, attribute: str | None = None,
    images: Path | None = None,
) -> list[Example]:  # fmt: skip
    """All examples of some paths, in order.

    Args:
        data: Folders, COCO jsons, manifest CSVs, or images.
        labels: The labels of the images in `data`: a vector file or COCO json for all of them, a label raster or volume for
            one, or a folder with one of the same name for each.
        aoi: Polygons of the labelled part, for every image.
        attribute: Column with the class, for every vector file.
        images: Folder of a COCO json's images; default: the json's own, or `images` in it.

    Raises:
        ConfigError: Options that do not fit together, or a manifest or index with wrong columns or values.
        SourceError: Missing files, images without labels, or nothing at all.
    """
    found: list[Example] = []
    for path in data:
        some = _labelled(path, labels) if labels is not None else _find(path, images)
        found += [replace(e, aoi=aoi or e.aoi, attribute=attribute or e.attribute) for e in some]
    if not found:
        raise SourceError(what="there is nothing to learn from", why="no data was given", mend="name a folder, json or CSV")
    return found


def _find(path: Path, images: Path | None) -> list[Example]:
    if path.is_dir() and not is_volume(path):
        return _from_folder(path)
    if path.suffix.lower() == ".csv":
        return list(_from_manifest(path))
    if path.suffix.lower() in IMAGES or is_volume(path):
        own = path if (path / "labels").is_dir() else None  # an OME-Zarr may hold its labels
        return [Example(image=path, labels=labels_beside(path) or own or _no_labels([path], path.parent))]
    if kind_of_labels(path) == "coco":
        return _from_coco(path, images)
    raise ConfigError(
        what=f"{path} alone cannot be learnt from",
        why="polygons need the image they were drawn on",
        mend="give the image, and the polygons with --labels",
    )


def _labelled(path: Path, labels: Path) -> list[Example]:
    """Images of a path with labels named by the user."""
    if is_volume(path):
        named = labels_of(path, labels_in(labels)) if labels.is_dir() and not is_volume(labels) else None
        return [Example(image=path, labels=named or labels)]
    members = images_in(path) if path.is_dir() else [path]
    if labels.is_dir():
        return _paired(members, labels)
    kind = "raster" if is_volume(labels) else kind_of_labels(labels)
    if kind == "coco":
        return _from_coco(labels, path) if path.is_dir() else [Example(image=path, labels=labels, coco_image=path.name)]
    if kind == "raster" and len(members) > 1:
        raise ConfigError(
            what=f"one label raster for {len(members)} images",
            why=f"{labels} has the pixels of one image",
            mend="give a folder with one label raster for each, of the same name",
        )
    return [Example(image=image, labels=labels) for image in members]


def _from_folder(folder: Path) -> list[Example]:
    within = folder / "images"
    if within.is_dir():
        labels = next((folder / name for name in _LABEL_FOLDERS if (folder / name).is_dir()), None)
        if labels is None:
            raise SourceError(
                what=f"{folder} has images without labels",
                why=f"there is no folder {', '.join(_LABEL_FOLDERS[:2])} beside images",
                mend="put one label raster or vector file of the same name for each image there",
            )
        found = _paired(images_in(within), labels)
    else:
        members = [p for p in images_in(folder) if not are_labels(p)]
        pairs = [(image, labels_beside(image)) for image in members]
        missing = [image for image, labels in pairs if labels is None]
        if missing or not pairs:
            _no_labels(missing, folder)
        found = [Example(image=image, labels=labels) for image, labels in pairs if labels is not None]
    index = folder / "index.csv"
    return _indexed(found, index) if index.is_file() else found


def _paired(images: list[Path], labels: Path) -> list[Example]:
    """Images with the label file of the same name, or that name and an ending."""
    by_stem = labels_in(labels)
    pairs = [(image, labels_of(image, by_stem)) for image in images]
    missing = [image for image, found in pairs if found is None]
    if missing or not images:
        _no_labels(missing, labels)
    used = {found for _, found in pairs}
    unused = [p for p in by_stem.values() if p not in used]
    if unused:
        text = f"{len(unused)} label files of {labels} have no image, for example {unused[0].name}"
        warnings.warn(SeggeoWarning(text), stacklevel=2)
    return [Example(image=image, labels=found) for image, found in pairs if found is not None]


def _no_labels(images: Sequence[Path], where: Path) -> Path:
    shown = ", ".join(p.name for p in images[:5]) + (", ..." if len(images) > 5 else "")
    raise SourceError(
        what=f"{len(images)} images have no labels: {shown}" if images else f"{where} holds no images",
        why=f"looked in {where} for a file of the same name, or that name with {', '.join(LABEL_ENDINGS)}",
        mend="add the labels, take the images away, or name pairs in a CSV with the columns image,labels",
    )


def _from_coco(path: Path, images: Path | None) -> list[Example]:
    """Every image of a COCO json; images without annotations are kept: they show what is no object."""
    folders = [images] if images is not None else [path.parent, path.parent / "images"]
    coco = open_coco(path)
    found, missing = [], []
    for entry in coco.images:
        names = (folder / name for folder in folders for name in (entry.file_name, Path(entry.file_name).name))
        file = next((f for f in names if f.is_file()), None)
        if file is None:
            missing.append(entry.file_name)
        else:
            found.append(Example(image=file, labels=path, coco_image=str(entry.id)))
    if missing:
        raise SourceError(
            what=f"{len(missing)} of {len(coco.images)} images of {path} are missing, for example {missing[0]}",
            why=f"looked in {' and '.join(str(f) for f in folders)}",
            mend="name the folder with --images",
        )
    return found


def _indexed(found: list[Example], index: Path) -> list[Example]:
    """Examples with what `index.csv` says of them by name: split, group, kind, weight, classes."""
    rows = {row.get("name", ""): row for row in _rows(index)}
    unknown = sorted(rows.keys() - {n for e in found for n in (e.image.stem, name_of(e.image), e.image.name)})
    if unknown:
        raise SourceError(
            what=f"{index} names {len(unknown)} images that are not there, for example {unknown[0]!r}",
            why="its column name must hold file names without ending",
            mend="copy the data again, or remove these lines",
        )
    return [_described(e, _row_of(e.image, rows), index) for e in found]


def _row_of(image: Path, rows: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    return next((rows[name] for name in (image.stem, name_of(image), image.name) if name in rows), {})


def _from_manifest(path: Path) -> Iterator[Example]:
    """Examples of a CSV with the columns image and labels, relative to it; a row may also name a folder or a COCO json."""
    rows = _rows(path)
    unknown = [c for c in (rows[0] if rows else {}) if c not in _COLUMNS]
    if not rows or unknown or "image" not in rows[0]:
        raise ConfigError(
            what=f"{path} is no list of examples",
            why=f"unknown columns: {', '.join(unknown)}" if unknown else "it has no line, or no column image",
            mend=f"use the columns {','.join(_COLUMNS)}; only image and labels are needed",
        )
    for row in rows:
        image = path.parent / row["image"]
        named = path.parent / row["labels"] if row.get("labels") else None
        for example in _labelled(image, named) if named else _find(image, None):
            area = path.parent / row["aoi"] if row.get("aoi") else None
            yield _described(replace(example, aoi=area, attribute=row.get("attribute") or None), row, path)


def _described(example: Example, row: Mapping[str, str], where: Path) -> Example:
    given: dict[str, Any] = {key: row[key] for key in ("split", "group", "kind") if row.get(key)}
    try:
        if row.get("weight"):
            given["weight"] = float(row["weight"])
        if row.get("classes"):
            given["class_of_id"] = {int(k): str(v) for k, v in json.loads(row["classes"]).items()}
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            what=f"{where} has a bad line for {example.image.name}",
            why=str(error),
            mend='weight is a number, classes is json: {"1": "tumour"}',
        ) from error
    return replace(example, **given)


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [{k.strip(): (v or "").strip() for k, v in row.items() if k} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(what=f"{path} cannot be read", why=str(error), mend="write it as comma-separated UTF-8") from error

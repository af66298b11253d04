"""What to compare with what: files, folders and COCO data sets, matched by the name of the image.

1. `_side` makes one side of anything given: names of images and volumes, and how to read each.
2. `cases_of` pairs the two sides by name; two single images are a pair whatever they are called.
3. `_read_pair` reads one pair on one grid: rasters and COCO bring theirs, polygons are drawn on the other side's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from seggeo.errors import ConfigError, SourceError
from seggeo.evaluation.groups import Groups
from seggeo.evaluation.objects import ObjectSet, objects_of
from seggeo.evaluation.options import Options
from seggeo.evaluation.volume_inputs import VOLUME_LABELS, check_options, is_stack, is_volume, open_labels, open_stack
from seggeo.evaluation.volume_labels import LabelVolume
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.io.annotations import Annotations, kind_of_labels, open_coco, read_annotations

_LABELS = (".parquet", ".gpkg", ".fgb", ".geojson", ".gz", ".shp", ".tif", ".tiff", ".png", ".bmp", *VOLUME_LABELS)
"""Endings of label files; of one image in several formats the first is read: vector files keep scores and classes."""
_ENDS = ("_objects", "_labels", "_label", "_masks", "_mask")
_NOT_LABELS = ("_preview.png", "_provenance.json")
Given = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One image of one side."""

    needs_frame: bool
    read: Callable[[Frame | None], tuple[ObjectSet, tuple[str, ...]]]
    """The objects on a grid, and remarks for the report; of a volume a refusal."""
    volume: Callable[[], LabelVolume] | None = None
    """Opens the volume; None for an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One image to compare."""

    name: str
    group: str | None
    read: Callable[[], tuple[ObjectSet, ObjectSet, tuple[str, ...]]]
    """Prediction, truth and remarks."""
    volumes: Callable[[], tuple[LabelVolume, LabelVolume]] | None = None
    """Opens prediction and truth; None for images."""


def cases_of(pred: Given, truth: Given, options: Options, frame: Frame | None = None) -> list[Case]:
    """Every image that is to be compared, in order of names.

    Args:
        pred: File, folder, COCO json, label image `(h, w)` or volume `(z, h, w)`, `Instances`, or a list of the last two.
        truth: Likewise.
        options: How to read and pair them.
        frame: The grid for polygons where neither side has pixels and there is no picture.

    Raises:
        ConfigError: Images of one side are missing on the other, or names are not distinct.
        SourceError: Something cannot be read.
    """
    truth_path = truth if isinstance(truth, str | Path) else None
    sides = (
        _stack(pred) if is_stack(pred, truth, options) else _side(pred, options.pred_attribute, truth_path),
        _stack(truth) if is_stack(truth, pred, options) else _side(truth, options.attribute, None),
    )
    groups = Groups.read(options.groups, options.where) if options.groups else None
    pictures = _pictures(options.image)
    if all(len(side) == 1 for side in sides) and groups is None:
        (own,), (name,) = sides
        grid = _grid(pictures, name, frame)
        volumes = _volumes(sides[0][own], sides[1][name], options)
        return [Case(name=name, group=None, read=lambda: _read_pair(sides[0][own], sides[1][name], grid), volumes=volumes)]
    return [
        Case(
            name=name, group=groups.of(name) if groups else None, volumes=_volumes(sides[0][name], sides[1][name], options),
            read=lambda name=name: _read_pair(sides[0][name], sides[1][name], _grid(pictures, name, frame)),  # type: ignore[misc]
        )
        for name in _common(*sides, groups, options.allow_missing)
    ]  # fmt: skip


def _volumes(pred: Entry, truth: Entry, options: Options) -> Callable[[], tuple[LabelVolume, LabelVolume]] | None:
    """How to open both sides where they are volumes."""
    if pred.volume is None and truth.volume is None:
        return None
    if pred.volume is None or truth.volume is None:
        kinds = ("an image", "a volume") if pred.volume is None else ("a volume", "an image")
        raise ConfigError(
            what=f"the prediction is {kinds[0]} and the truth {kinds[1]}", why="slices are compared with slices",
            mend="give two volumes, or a folder with one mask for each slice",
        )  # fmt: skip
    check_options(options)
    one, other = pred.volume, truth.volume
    return lambda: (one(), other())


def _stack(folder: Given) -> dict[str, Entry]:
    return {_stem(Path(folder)): _volume(lambda: open_stack(Path(folder)))}


def _volume(opener: Callable[[], LabelVolume]) -> Entry:
    def read(_: Frame | None) -> tuple[ObjectSet, tuple[str, ...]]:
        raise AssertionError("volumes are never read whole")

    return Entry(needs_frame=False, read=read, volume=opener)


def _common(pred: Mapping[str, Entry], truth: Mapping[str, Entry], groups: Groups | None, lax: bool) -> list[str]:
    """Names that both sides have, refusing what is on one side only."""
    wanted = groups.names if groups is not None and groups.is_filter else None
    names = [set(side) if wanted is None else set(side) & wanted for side in (pred, truth)]
    missing = {"prediction": names[1] - names[0], "truth": names[0] - names[1]}
    if wanted is not None:
        missing = {"prediction": wanted - names[0], "truth": wanted - names[1]}
    both = sorted(names[0] & names[1])
    lost = next(((what, sorted(who)) for what, who in missing.items() if who), None)
    if not both and lost is None:
        raise ConfigError(what="nothing to compare", why="neither side has an image", mend="give one image or more")
    if lost is not None and not (both and lax):
        what, who = lost
        raise ConfigError(
            what=f"{len(who)} images have no {what}: {', '.join(who[:3])}{', ...' if len(who) > 3 else ''}",
            why=f"{len(both)} images are on both sides, matched by file name without its ending",
            mend="add them, or use --allow-missing to score only what both sides have" if both else "check the file names",
        )
    return both


def _side(given: Given, attribute: str | None, dataset: str | Path | None) -> dict[str, Entry]:
    """The images of one side by name."""
    if isinstance(given, str | Path):
        path = Path(given)
        if is_volume(path):
            return {_stem(path): _volume(lambda: open_labels(path))}
        if path.is_dir():
            return {name: _file(p, attribute) for name, p in _folder(path, _LABELS).items()}
        if kind_of_labels(path) == "coco":
            return _coco(path, dataset)
        return {_stem(path): _file(path, attribute)}
    many = given if isinstance(given, Sequence) and not isinstance(given, Instances) else None
    if many is None:
        return {"image": _memory(given)}
    width = len(str(max(len(many) - 1, 0)))
    return {f"{i:0{width}d}": _memory(one) for i, one in enumerate(many)}


def _memory(given: Given) -> Entry:
    if is_volume(given):
        return _volume(lambda: open_labels(given))
    if isinstance(given, ObjectSet):
        objects = given
    elif isinstance(given, Annotations):
        objects = _from_annotations(given)
    elif isinstance(given, Instances | np.ndarray):
        objects = objects_of(given)
    else:
        raise ConfigError(
            what=f"a {type(given).__name__} to evaluate",
            why="it takes a path, a label image (h, w) or volume (z, h, w), Instances, or a list of these",
            mend="pass numpy integers",
        )
    return Entry(needs_frame=False, read=lambda _: (objects, ()))


def _file(path: Path, attribute: str | None) -> Entry:
    if is_volume(path):
        return _volume(lambda: open_labels(path))

    def read(frame: Frame | None) -> tuple[ObjectSet, tuple[str, ...]]:
        found = read_annotations(path, frame, attribute=attribute)
        return _from_annotations(found), _remarks(path, found)

    return Entry(needs_frame=kind_of_labels(path) == "vector", read=read)


def _coco(path: Path, dataset: str | Path | None) -> dict[str, Entry]:
    is_coco = dataset is not None and Path(dataset).is_file() and kind_of_labels(Path(dataset)) == "coco"
    coco = open_coco(path, Path(dataset) if is_coco and dataset is not None else None)

    def entry(name: str) -> Entry:
        def read(_: Frame | None) -> tuple[ObjectSet, tuple[str, ...]]:
            found = coco.annotations(name)
            return _from_annotations(found), _remarks(path, found)

        return Entry(needs_frame=False, read=read)

    names = [(PurePosixPath(image.file_name).name.rsplit(".", 1)[0], str(image.id)) for image in coco.images]
    entries = {stem: entry(id_) for stem, id_ in names}
    if len(entries) < len(names):
        raise ConfigError(
            what=f"{path} names {len(names) - len(entries)} images twice", why="images are matched by file name without folder",
            mend="give the files distinct names",
        )  # fmt: skip
    return entries


def _remarks(path: Path, found: Annotations) -> tuple[str, ...]:
    lines = []
    if found.outside:
        lines.append(f"{path.name}: {found.outside} objects lie outside the image and are left out")
    if found.tiny:
        lines.append(f"{path.name}: {found.tiny} objects hold no pixel centre and are left out")
    if found.reprojected:
        lines.append(f"{path.name}: brought from {found.reprojected} onto the image's grid")
    return tuple(lines)


def _from_annotations(found: Annotations) -> ObjectSet:
    return ObjectSet(
        instances=found.instances, ids=found.ids, classes=found.classes, scored=found.scored, ignored=found.crowd,
        frame=found.frame,
    )  # fmt: skip


def _folder(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by name of the image, the best ending of each."""
    if (folder / "job.json").exists():
        raise ConfigError(
            what=f"{folder} is a run folder", why="it holds tiles; the objects are in the files beside it",
            mend="give those, and this one as --run",
        )  # fmt: skip
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in endings and path.is_file() and not path.name.endswith(_NOT_LABELS):
            found.setdefault(_stem(path), []).append(path)
    if not found:
        raise SourceError(
            what=f"{folder} holds no files to compare", why=f"none ends in {', '.join(endings)}",
            mend="give the folder of the labels",
        )  # fmt: skip
    return {name: min(paths, key=lambda p: endings.index(p.suffix.lower())) for name, paths in found.items()}


def _stem(path: Path) -> str:
    """Name of the image that a label file belongs to."""
    stem = path.name.removesuffix(".gz").rsplit(".", 1)[0]
    return next((stem.removesuffix(end) for end in _ENDS if stem.endswith(end) and stem != end), stem)


def _pictures(image: Path | None) -> dict[str, Path] | Path | None:
    if image is None or not image.is_dir():
        return image
    return _folder(image, (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".jp2", ".vrt"))


def picture_of(image: Path | None, name: str) -> Path | None:
    """The picture of an image to compare, where there is one."""
    pictures = _pictures(image)
    return pictures.get(name) if isinstance(pictures, dict) else pictures


def _grid(pictures: dict[str, Path] | Path | None, name: str, frame: Frame | None) -> Callable[[], Frame | None]:
    path = pictures.get(name) if isinstance(pictures, dict) else pictures
    return lambda: frame if path is None else _frame_of(path)


def _frame_of(path: Path) -> Frame:
    from seggeo.config import Reading
    from seggeo.io import open_raster

    source = open_raster(str(path), Reading(), native=True)
    try:
        return source.frame
    finally:
        source.close()


def _read_pair(
    pred: Entry, truth: Entry, grid: Callable[[], Frame | None]
) -> tuple[ObjectSet, ObjectSet, tuple[str, ...]]:  # fmt: skip
    """Both sides on one grid."""
    if pred.needs_frame and truth.needs_frame:
        frame = grid()
        if frame is None:
            raise ConfigError(
                what="prediction and truth are both vector files",
                why="IoU is counted in pixels, and neither says how large they are",
                mend="give the picture: --image scene.tif, or the run folder: --run scene.seggeo",
            )
        (a, said_a), (b, said_b) = pred.read(frame), truth.read(frame)
    elif truth.needs_frame:
        a, said_a = pred.read(None)
        b, said_b = truth.read(a.frame)
    else:
        b, said_b = truth.read(None)
        a, said_a = pred.read(b.frame if pred.needs_frame else None)
    return a, b, said_a + said_b

"""From examples to scenes: labels read as runs, brought to the work grid, checked, and given one list of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances
from seggeo.io import RasterSource, fit_stretch, open_raster, volume_kind
from seggeo.io.annotations import Annotations, kind_of_labels, open_coco, read_annotations
from seggeo.io.annotations_coco import Coco
from seggeo.io.annotations_vector import read_area
from seggeo.io.frames import gsd_step
from seggeo.io.sources import check_plane
from seggeo.protocols import Pixels
from seggeo.train.examples import Example
from seggeo.train.label_checks import Findings, check_any, check_overlap, check_place, check_split
from seggeo.train.label_grid import at_grid
from seggeo.train.opened import OVERVIEW_PX, Opened
from seggeo.train.pixels import View
from seggeo.train.scenes import Scene
from seggeo.train.volume_opening import open_slices


def open_scenes(
    examples: Sequence[Example], *, reading: Reading | None = None, all_bands: bool = False, allow_overlap: bool = False
) -> list[Scene]:  # fmt: skip
    """A scene for every image, and for every slice of a volume, with one list of classes and one number of bands.

    Args:
        examples: What `find_examples` found.
        reading: Bands, GSD, nodata and stretch of every image, and how volumes are sliced; its area of interest is not used:
            examples have their own.
        all_bands: True: every band but alpha, for models that take any; False: the three that an RGB model gets.
        allow_overlap: True: objects may lie on each other (parts in wholes).

    Raises:
        SourceError: A file that cannot be read, or labels that cannot be learnt from (`label_checks`).
        ConfigError: Images of different numbers of bands, or a missing attribute.
    """
    reading = replace(reading or Reading(), aoi=None)
    check_split(examples)
    findings = Findings()
    jsons: dict[Path, Coco] = {}  # one json may hold the labels of thousands of images
    pairs = [
        (example, name, each)
        for example, name in zip(examples, _names(examples), strict=True)
        for each in _open(example, reading, jsons, all_bands=all_bands)
    ]
    for example, name, each in pairs:
        check_place(example, each.labels)
        if not allow_overlap:
            check_overlap(example, each.labels)
        findings.note(_name(name, each), each.labels, is_slice=each.view.z is not None)
    check_any((int((~each.labels.crowd).sum()) for _, _, each in pairs), examples)
    _check_bands(pairs)
    classes = tuple(dict.fromkeys(c for _, _, each in pairs for c in each.labels.classes))
    findings.warn()
    return [_scene(*pair, classes) for pair in pairs]


def _open(example: Example, reading: Reading, jsons: dict[Path, Coco], *, all_bands: bool) -> list[Opened]:
    """The image, or the slices of the volume, of an example."""
    if volume_kind(str(example.image)) is None:
        return [_open_plane(example, reading, jsons, all_bands=all_bands)]
    slices = open_slices(example, reading, all_bands=all_bands)
    if not example.class_of_id:
        return slices
    return [replace(each, labels=_with_classes(each.labels, example)) for each in slices]


def _open_plane(example: Example, reading: Reading, jsons: dict[Path, Coco], *, all_bands: bool) -> Opened:
    check_plane(str(example.image), reading)
    with open_raster(str(example.image), reading, native=all_bands) as source:
        frame = source.frame
        first = source.read(Window(row=0, col=0, height=1, width=1)).data
        stretch = fit_stretch(_sample(source, first, reading.stretch), reading.stretch)
    labels = _labels(example, frame, reading, jsons)
    return Opened(
        view=View(path=str(example.image), reading=reading, all_bands=all_bands, stretch=stretch), frame=frame,
        bands=first.shape[2], dtype=first.dtype.name, labels=labels, asked=reading.stretch,
    )  # fmt: skip


def _sample(source: RasterSource, first: NDArray[np.generic], spec: str) -> Pixels:
    """What the stretch is fitted to; 8-bit values that pass as they are need no overview."""
    if first.dtype == np.uint8 and spec in ("auto", "none"):
        return Pixels(data=first, valid=np.ones((1, 1), np.bool_))
    return source.overview(OVERVIEW_PX)


def _labels(example: Example, frame: Frame, reading: Reading, jsons: dict[Path, Coco]) -> Annotations:
    """The objects in pixels of `frame`: polygons are drawn there, labels in the image's own pixels are brought there."""
    if volume_kind(str(example.labels)) is not None:
        raise SourceError(
            what=f"{example.labels} is a volume and {example.image} an image of one plane",
            why="slices are learnt from with the labels of slices", mend="give the volume, or the labels of this plane",
        )  # fmt: skip
    kind = kind_of_labels(example.labels)
    own = frame if kind == "vector" or reading.gsd is None else _own_frame(example, reading)
    if kind == "coco":
        if example.labels not in jsons:
            jsons[example.labels] = open_coco(example.labels)
        labels = jsons[example.labels].annotations(example.coco_image, own)
    else:
        labels = read_annotations(example.labels, own, attribute=example.attribute)
        labels = _with_classes(labels, example) if example.class_of_id else labels
    step = gsd_step(own, reading, name=str(example.image)) if own is not frame else (1.0, 1.0)
    return labels if step == (1.0, 1.0) else at_grid(labels, frame, step)


def _own_frame(example: Example, reading: Reading) -> Frame:
    with open_raster(str(example.image), replace(reading, gsd=None), native=True) as source:
        return source.frame


def _with_classes(labels: Annotations, example: Example) -> Annotations:
    missing = [int(i) for i in labels.ids if int(i) not in example.class_of_id]
    if missing:
        raise SourceError(
            what=f"{len(missing)} objects of {example.labels} have no class, for example id {missing[0]}",
            why="the index names a class for each id",
            mend="add them, or take the column classes away",
        )
    classes = tuple(sorted(set(example.class_of_id.values())))
    label = np.array([classes.index(example.class_of_id[int(i)]) for i in labels.ids], np.int32)
    return replace(labels, instances=replace(labels.instances, label=label), classes=classes)


def _name(name: str, opened: Opened) -> str:
    return name if opened.view.z is None else f"{name} slice {opened.view.z}"


def _scene(example: Example, name: str, opened: Opened, classes: tuple[str, ...]) -> Scene:
    labels, is_slice = opened.labels, opened.view.z is not None
    place = np.array([classes.index(c) for c in labels.classes], np.int32)
    instances: Instances = replace(labels.instances, label=place[labels.instances.label])
    return Scene(
        name=_name(name, opened), view=opened.view, frame=opened.frame, bands=opened.bands, dtype=opened.dtype,
        objects=instances.take(~labels.crowd), ids=labels.ids[~labels.crowd], crowd=instances.take(labels.crowd),
        cut=np.zeros(int((~labels.crowd).sum()), np.bool_), classes=classes, areas=(opened.frame.window,),
        weight=example.weight, known=None if example.aoi is None else read_area(example.aoi, opened.frame),
        group=example.group or name, split=example.split, kind=example.kind, volume=name if is_slice else "",
        reach=opened.reach, stretch=opened.asked,
    )  # fmt: skip


def _names(examples: Sequence[Example]) -> list[str]:
    """File names, with as many folders before them as tell them apart, and a number where nothing does."""
    names = [e.image.name for e in examples]
    if len(set(names)) < len(names):
        names = ["/".join(e.image.absolute().parts[-3:]) for e in examples]
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique


def _check_bands(pairs: Sequence[tuple[Example, str, Opened]]) -> None:
    counts: Mapping[int, str] = {each.bands: name for _, name, each in pairs}
    if len(counts) > 1:
        listed = ", ".join(f"{name} {count}" for count, name in sorted(counts.items()))
        raise ConfigError(
            what="the images have different numbers of bands",
            why=f"a model takes one number: {listed}",
            mend="choose bands that all have with --bands, or train on images of one kind",
        )

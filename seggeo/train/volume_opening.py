"""A volume and its labels as slices to learn from, each an image of its own.

1. The volume is read as `seggeo segment` reads it: the same bands, smoothing and stretch (`_open_as_shown`).
2. Its label volume, of any format, is cut along the same axis; what is labelled must have its size and its place.
3. Slices with objects are kept, and a share of those without (`_kept`): slices of nothing teach little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import ConfigError, SourceError
from seggeo.evaluation.volume_grid import place_difference
from seggeo.evaluation.volume_inputs import is_volume, open_labels, open_stack
from seggeo.evaluation.volume_labels import LabelVolume, as_ids
from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.io import VolumeSource, fit_stretch, stretch_asked
from seggeo.io.annotations import Annotations
from seggeo.io.volume import open_volume
from seggeo.io.volume_blocks import Blocks
from seggeo.io.volume_view import View as Cut
from seggeo.rle import labels_to_spans
from seggeo.train.examples import Example
from seggeo.train.opened import OVERVIEW_PX, Opened
from seggeo.train.pixels import View

EMPTY_SHARE = 0.25
"""Slices without objects that are kept, for each slice with some."""


def open_slices(example: Example, reading: Reading, *, all_bands: bool) -> list[Opened]:
    """The slices of a volume that are learnt from, in order.

    Args:
        example: Its image is a volume, its labels are one, too.
        reading: Axis, channel, neighbours, window, smoothing and stretch.
        all_bands: True: every channel, in the file's own values where that are not three; False: three bands.

    Raises:
        SourceError: Image or labels cannot be read, or are not of one grid.
        ConfigError: Settings that do not fit this volume.
    """
    _check(example)
    source, reading, native = _open_as_shown(str(example.image), reading, all_bands=all_bands)
    with source:
        frame, bands, reach = source.frame, len(source.bands), source.reach
        overview = source.overview(OVERVIEW_PX)
        asked = stretch_asked(reading, overview, frame)
        view = View(path=str(example.image), reading=reading, all_bands=native, stretch=fit_stretch(overview, asked), z=0)
        dtype = source.dtype.name
        labels = _open_labels(example.labels)
        try:
            _check_grid(example, source, labels)
            found = [(z, found) for z, found in _labels(labels, source) if not source.is_missing(z)]
        finally:
            labels.file.close()
    filled = [len(each) > 0 for _, each in found]
    return [
        Opened(view=replace(view, z=z), frame=frame, bands=bands, dtype=dtype, labels=each, asked=asked, reach=reach)
        for z, each in (found[i] for i in _kept(filled))
    ]


def _check(example: Example) -> None:
    """Refuse what is said of planes only."""
    if example.aoi is not None:
        raise ConfigError(
            what=f"--aoi for {example.image}, a volume", why="an area of interest is drawn on one plane",
            mend="leave it out; cut the volume to what is labelled",
        )  # fmt: skip


def _open_as_shown(path: str, reading: Reading, *, all_bands: bool) -> tuple[VolumeSource, Reading, bool]:
    """The volume as a model will see it, with the reading that says so, and whether in the file's own values.

    Networks of three bands are shown what RGB models see; that alone is smoothed.
    """
    native = all_bands or reading.neighbours > 1 or (reading.neighbours == 1 and len(reading.channel or ()) > 1)
    source = open_volume(path, reading, native=native)
    if native and len(source.bands) == 3:
        source.close()
        native = False
        if not reading.neighbours and reading.bands is None and reading.channel is None:
            reading = replace(reading, bands=(1, 2, 3))
        source = open_volume(path, reading, native=False)
    if native and reading.smooth:
        source.close()
        raise ConfigError(
            what=f"--smooth {reading.smooth:g} for {len(source.bands)} bands of {path}",
            why="only what is shown in three bands is smoothed: one channel, alone or with --neighbours 1",
            mend="leave it out, or choose one --channel and at most --neighbours 1",
        )
    if native or reading.smooth is not None:
        return source, reading, native
    reading = replace(reading, smooth=source.noise_smoothing())
    if reading.smooth:
        source.close()
        source = open_volume(path, reading, native=False)
    return source, reading, native


def _open_labels(path: Path) -> LabelVolume:
    if path.is_dir() and not is_volume(path):
        return open_stack(path)
    return open_labels(path)


def _check_grid(example: Example, source: VolumeSource, labels: LabelVolume) -> None:
    """Refuse labels of another size or place than their volume."""
    own, truth = source.facts, labels.file.facts
    if own.shape != truth.shape:
        sizes = [" x ".join(map(str, facts.shape)) for facts in (truth, own)]
        turned = "; the axes may be in another order" if sorted(own.shape) == sorted(truth.shape) else ""
        raise SourceError(
            what=f"{example.labels} does not fit its volume",
            why=f"the labels have {sizes[0]} voxels (slices x rows x columns) and the volume {sizes[1]}{turned}",
            mend="give the labels of this very volume, at its full resolution",
        )
    off = place_difference(truth, own, "the label volume") if own.space and truth.space else ""
    if off:
        raise SourceError(
            what=f"{example.labels} does not lie on its volume", why=off,
            mend="bring it onto the volume's grid, for example with nibabel.processing.resample_from_to(..., order=0)",
        )  # fmt: skip


def _labels(labels: LabelVolume, source: VolumeSource) -> Iterator[tuple[int, Annotations]]:
    """The objects of every slice along the axis that the volume is sliced along."""
    frame = source.frame
    assert frame.placement is not None  # noqa: S101 - every volume has one
    cut = Cut(order=frame.placement.axes, frame=frame)
    blocks = Blocks(labels.file, cut, 0)
    whole = Window(row=0, col=0, height=frame.height, width=frame.width)
    for z in range(frame.depth):
        spans, ids = labels_to_spans(as_ids(blocks.plane(whole, z, 0), labels.file.facts.nodata, labels.name))
        instances = Instances.from_spans(spans, score=np.ones(len(ids), np.float32), label=0)
        yield z, Annotations(
            instances=instances, ids=ids.astype(np.int64), classes=("object",), scored=False, exclusive=True, frame=frame,
            crowd=np.zeros(len(ids), np.bool_),
        )  # fmt: skip


def _kept(filled: Sequence[bool]) -> NDArray[np.int64]:
    """Positions of the slices with objects and, evenly spread, of some without, ascending."""
    full, empty = np.flatnonzero(filled), np.flatnonzero(~np.asarray(filled, np.bool_))
    count = min(len(empty), max(1, ceil(EMPTY_SHARE * len(full))))
    places = ((np.arange(count) + 0.5) * len(empty) / max(count, 1)).astype(np.int64)
    return np.sort(np.concatenate([full, empty[places]]))

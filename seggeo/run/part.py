"""Predict one part: read ahead, skip what is empty, predict, keep what the tile may speak for.

For every tile: `_read_ahead` (a thread, one tile ahead; with the context that the model wants) -> `_prepare`: any data
in the window? stretch -> `_predict_batch` ->
`without_invalid` -> `owned`: a pixel in the core? -> work-grid coordinates. Pixels live until the prediction, masks
are runs at once.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import seggeo.io as image_io
from seggeo.config import Reading
from seggeo.errors import ModelError, ResourceError, SourceError, StoppedError
from seggeo.geometry import Window
from seggeo.instances import Instances, concat
from seggeo.job import Job
from seggeo.merge.readings import owned
from seggeo.protocols import ModelRequest, Pixels, Prediction, Segmenter, TileImage
from seggeo.rle import Spans, encode, meetings, runs_to_spans, subtract
from seggeo.run.segmenters import open_segmenter
from seggeo.store import Part
from seggeo.tiling import Tile

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a process needs to open the input and the model by itself; pickles."""

    path: str
    reading: Reading
    job: Job
    request: ModelRequest
    threads: int = 0
    """Threads inside the model's arithmetic; 0 leaves it to the library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An open input and a ready model: what a process holds for all its parts."""

    recipe: Recipe
    source: Any
    segmenter: Segmenter
    stretch: Any

    def close(self) -> None:
        """Release the input."""
        self.source.close()


def set_up(recipe: Recipe, segmenter: Segmenter | None = None) -> Bench:
    """Open the input and, unless given, the model."""
    model = segmenter or open_segmenter(recipe.request)
    if recipe.threads and "torch" in sys.modules:  # models without torch should not pay for its import
        from seggeo.models.device import set_threads

        set_threads(recipe.threads)
    stretch = image_io.Stretch.from_json(recipe.job.stretch) if recipe.job.stretch is not None else None
    source = image_io.open_source(recipe.path, recipe.reading, native=model.info.native)
    try:
        check_unchanged(source, recipe.job)
    except SourceError:
        source.close()
        raise
    return Bench(recipe=recipe, source=source, segmenter=model, stretch=stretch)


def check_unchanged(source: image_io.AnySource, job: Job) -> None:
    """Refuse an input that is no longer the one the job was planned for.

    Raises:
        SourceError: It has changed.
    """
    if source.fingerprint() != {k: v for k, v in job.source.items() if k != "path"}:
        raise SourceError(
            what=f"{job.source['path']} has changed since the job was planned",
            why="tiles of two versions of an image do not make one result",
            mend="let it be finished, then run again with --overwrite",
        )


def predict_part(bench: Bench, part: int) -> Part:
    """What the tiles of one part report; a tile that fails twice is noted and leaves its place empty.

    Raises:
        ResourceError: Memory or device ran out at the smallest batch.
    """
    job = bench.recipe.job
    tally = _Tally()
    waiting: list[TileImage] = []
    size = max(1, bench.segmenter.info.batch)
    for tile, coming in _read_ahead(bench, job.parts.tiles(part)):
        tally.tiles += 1
        try:
            image = _prepare(bench, tile, coming)
        except StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - a tile may fail without the job failing; it is recorded
            tally.failures.append(_failure(tile, error))
            continue
        if image is None:
            tally.empty += 1
        else:
            waiting.append(image)
        if len(waiting) >= size:
            _predict_batch(bench, waiting, tally)
            waiting = []
    _predict_batch(bench, waiting, tally)
    notes = {**tally.counts(), "failures": tally.failures, "tile_key": job.tile_key}
    return Part(part=part, instances=concat(tally.found), tile=np.array(tally.of_tile, np.int64), notes=notes)


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What a part has found so far."""

    tiles: int = 0
    empty: int = 0
    capped: int = 0
    predicted: int = 0
    found: list[Instances] = field(default_factory=list)
    of_tile: list[int] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {
            "tiles": self.tiles, "empty": self.empty, "capped": self.capped, "predicted": self.predicted,
            "foreign": self.predicted - len(self.of_tile),
        }  # fmt: skip

    def add(self, tile: Tile, prediction: Prediction, mine: Instances) -> None:
        self.capped += int(prediction.capped)
        self.predicted += len(prediction.instances)
        self.found.append(mine)
        self.of_tile += [tile.index] * len(mine)


def _predict_batch(bench: Bench, images: list[TileImage], tally: _Tally) -> None:
    """Predict some tiles together; if that fails, one by one, so that one tile's trouble stays its own."""
    if not images:
        return
    try:
        predictions = [_checked(p, i, bench.segmenter) for p, i in zip(bench.segmenter.predict(images), images, strict=True)]
    except (ResourceError, StoppedError):
        raise
    except Exception as error:  # noqa: BLE001 - likewise
        if len(images) > 1:
            for image in images:
                _predict_batch(bench, [image], tally)
        else:
            tally.failures.append(_failure(images[0].tile, error))
        return
    for image, prediction in zip(images, predictions, strict=True):
        instances = without_invalid(prediction.instances, image.valid[image.inside])
        mine = instances.take(owned(instances, image.tile, bench.recipe.job.grid))
        window = image.tile.window
        tally.add(image.tile, prediction, mine.shift(window.row, window.col, image.tile.z))


def _read_ahead(bench: Bench, tiles: list[Tile]) -> Iterator[tuple[Tile, Future[Pixels | None]]]:
    """Each tile with the pixels of its extent, the next one being read meanwhile; None for tiles known to be empty."""

    def read(tile: Tile) -> Pixels | None:
        return None if bench.source.is_empty(tile.window) else _read(bench, tile)

    with ThreadPoolExecutor(1, thread_name_prefix="seggeo-read") as reader:
        coming: list[Future[Pixels | None]] = [reader.submit(read, tile) for tile in tiles[:1]]
        for i, tile in enumerate(tiles):
            if i + 1 < len(tiles):
                coming.append(reader.submit(read, tiles[i + 1]))
            yield tile, coming.pop(0)


def _read(bench: Bench, tile: Tile) -> Pixels:
    pixels: Pixels = bench.source.read(_extent(bench, tile), tile.z)
    return pixels


def _extent(bench: Bench, tile: Tile) -> Window:
    return bench.segmenter.info.extent(tile.window, within=bench.recipe.job.frame.window)


def _prepare(bench: Bench, tile: Tile, coming: Future[Pixels | None]) -> TileImage | None:
    """What the model sees of one tile; None where its window has no data. An unreadable tile is read once more."""
    try:
        pixels = coming.result()
    except OSError:
        log.warning("tile %d could not be read, trying once more", tile.index)
        pixels = _read(bench, tile)
    extent = _extent(bench, tile)
    if pixels is None or not pixels.valid[tile.window.slices(extent)].any():
        return None
    image = image_io.apply_stretch(bench.stretch, pixels) if bench.stretch is not None else pixels.data
    return TileImage(image=image, valid=pixels.valid, tile=tile, extent=extent)


def _checked(prediction: Prediction, image: TileImage, segmenter: Segmenter) -> Prediction:
    """The prediction, if its instances lie inside the tile and its scores are numbers."""
    found = prediction.instances
    height, width = image.tile.window.shape
    if len(found) and (found.box.min() < 0 or found.box[:, 2].max() > height or found.box[:, 3].max() > width):
        raise ModelError(
            what=f"{segmenter.info.name} reported an instance outside its tile",
            why=f"the tile is {height} x {width} px and boxes must lie in it",
            mend="return masks in tile pixels",
        )
    if not np.isfinite(found.score).all():
        raise ModelError(
            what=f"{segmenter.info.name} reported a score that is not a number",
            why="its arithmetic overflowed or its weights are damaged",
            mend="try without --autocast, or other weights",
        )
    return prediction


def without_invalid(instances: Instances, valid: NDArray[np.bool_]) -> Instances:
    """Tile-local instances without the pixels that are no data; those left with none are dropped."""
    if not len(instances) or valid.all():
        return instances
    spans = instances.spans()
    runs = encode(~valid)
    gaps = runs_to_spans(runs, np.array([0, len(runs)]), np.array([[0, 0, *valid.shape]], np.int32))
    width = valid.shape[1] + 1  # one column more, so that neighbouring rows never touch
    i, j = meetings(
        spans.row * width + spans.start, spans.stop - spans.start, gaps.row * width + gaps.start, gaps.stop - gaps.start
    )
    if not len(i):
        return instances
    start, stop = np.maximum(spans.start[i], gaps.start[j]), np.minimum(spans.stop[i], gaps.stop[j])
    holes = Spans(owner=spans.owner[i], row=spans.row[i], start=start, stop=stop)
    return instances.with_spans(subtract(spans, holes))[0]


def _failure(tile: Tile, error: Exception) -> dict[str, Any]:
    """What is recorded of a failed tile."""
    where = tile.window
    log.debug("tile %d failed\n%s", tile.index, "".join(traceback.format_exception(error)))
    return {
        "tile": tile.index, "z": tile.z, "row": where.row, "col": where.col, "height": where.height, "width": where.width,
        "error": type(error).__name__, "message": str(error),
    }  # fmt: skip

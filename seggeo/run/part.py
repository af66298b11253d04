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
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import seggeo.io as image_io
from seggeo.config import Reading
from seggeo.errors import ModelError, SourceError, StoppedError
from seggeo.geometry import Window
from seggeo.instances import Instances, concat
from seggeo.job import Job
from seggeo.merge.readings import owned
from seggeo.protocols import ModelRequest, Pixels, Prediction, Segmenter, TileImage
from seggeo.rle import Spans, encode, meetings, runs_to_spans, subtract
from seggeo.run.quarters import in_quarters, is_out_of_memory
from seggeo.run.segmenters import open_segmenter
from seggeo.run.watch import NO_CARE, Care, Watch
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
    devices: tuple[str, ...] = ()
    """Of several processes the first predicts on the first of these, and so on in turn; none: where the request says."""

    def of_worker(self, number: int) -> Recipe:
        """As process `number`, from 0, follows it."""
        if not self.devices:
            return self
        return replace(self, request=replace(self.request, device=self.devices[number % len(self.devices)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """An open input and a ready model: what a process holds for all its parts."""

    recipe: Recipe
    source: Any
    segmenter: Segmenter
    stretch: Any
    spare: Callable[[], Segmenter] | None = None
    """Opens the same model on the CPU, once, for tiles that do not fit the accelerator's memory; None: they fail."""

    def close(self) -> None:
        """Release the input."""
        self.source.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """One part done."""

    part: int
    instances: int
    notes: Any
    """The part's counts and failures."""
    resumed: bool = False
    """True when an earlier run did it."""


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
    spare = None
    if recipe.request.cpu_fallback and model.info.device != "cpu":
        spare = cache(partial(open_segmenter, replace(recipe.request, device="cpu")))
    return Bench(recipe=recipe, source=source, segmenter=model, stretch=stretch, spare=spare)


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


def predict_part(
    bench: Bench, part: int, *, watch: Watch | None = None, care: Care = NO_CARE, begun: Part | None = None
) -> Part:  # fmt: skip
    """What the tiles of one part report; a tile that fails twice is noted and leaves its place empty.

    Args:
        bench: Open input and model.
        part: Which one.
        watch: Is told what is in hand, saves what is half done and may stop the part.
        care: Which tiles want it.
        begun: What an earlier, stopped run of this part has saved.

    Raises:
        Stop: The watch asked for it.
    """
    tally = _Tally.of(begun)
    waiting: list[TileImage] = []
    size = max(1, bench.segmenter.info.batch)

    def predict_waiting() -> None:
        _predict_batch(bench, waiting, tally)
        if watch is not None:
            watch.ends(image.tile.index for image in waiting)
        waiting.clear()

    for tile, coming in _read_ahead(bench, bench.recipe.job.parts.tiles(part)[tally.tiles :], care, watch):
        is_alone = tile.index in care.alone
        if is_alone or tile.index in care.barred:
            predict_waiting()
        image = None
        if coming is not None:
            image = _image(bench, tile, coming, tally)
        else:
            tally.failures.append(failure_of(tile, "ProcessDied", care.barred[tile.index]))
        tally.tiles += 1
        if image is not None:
            waiting.append(image)
        elif watch is not None:
            watch.ends([tile.index])
        if len(waiting) >= size or is_alone:
            predict_waiting()
        if watch is not None and not waiting:
            watch.between(lambda: tally.part(bench.recipe.job, part))
    predict_waiting()
    return tally.part(bench.recipe.job, part)


def _image(bench: Bench, tile: Tile, coming: Future[Pixels | None], tally: _Tally) -> TileImage | None:
    """What the model sees of a tile; None where that is nothing, which is counted, or cannot be read, which is noted."""
    try:
        image = _prepare(bench, tile, coming)
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - a tile may fail without the job failing; it is recorded
        tally.failures.append(_failure(tile, error))
        return None
    tally.empty += image is None
    return image


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

    @classmethod
    def of(cls, begun: Part | None) -> _Tally:
        """What an earlier run left; nothing without one."""
        if begun is None:
            return cls()
        notes = begun.notes
        return cls(
            **{name: notes[name] for name in ("tiles", "empty", "capped", "predicted")}, found=[begun.instances],
            of_tile=begun.tile.tolist(), failures=list(notes["failures"]),
        )  # fmt: skip

    def part(self, job: Job, part: int) -> Part:
        """All of it as it is stored."""
        counts = {
            "tiles": self.tiles, "empty": self.empty, "capped": self.capped, "predicted": self.predicted,
            "foreign": self.predicted - len(self.of_tile),
        }  # fmt: skip
        notes = {**counts, "failures": self.failures, "tile_key": job.tile_key}
        return Part(part=part, instances=concat(self.found), tile=np.array(self.of_tile, np.int64), notes=notes)

    def add(self, tile: Tile, prediction: Prediction, mine: Instances) -> None:
        self.capped += int(prediction.capped)
        self.predicted += len(prediction.instances)
        self.found.append(mine)
        self.of_tile += [tile.index] * len(mine)


def _predict_batch(bench: Bench, images: list[TileImage], tally: _Tally) -> None:
    """Predict some tiles together; if that fails one by one, so that one tile's trouble stays its own, or piece by piece."""
    if not images:
        return
    predictions, error = _attempt(bench, images)
    if error is not None and len(images) > 1:
        for image in images:
            _predict_batch(bench, [image], tally)
        return
    if error is not None and is_out_of_memory(error):
        predictions, error = _in_quarters(bench, images[0])
    if error is not None:
        tally.failures.append(_failure(images[0].tile, error))
        return
    for image, prediction in zip(images, predictions, strict=True):
        instances = without_invalid(prediction.instances, image.valid[image.inside])
        mine = instances.take(owned(instances, image.tile, bench.recipe.job.grid))
        window = image.tile.window
        tally.add(image.tile, prediction, mine.shift(window.row, window.col, image.tile.z))


def _attempt(bench: Bench, images: list[TileImage]) -> tuple[list[Prediction], Exception | None]:
    """Predictions of some tiles, or why there are none."""
    try:
        given = bench.segmenter.predict(images)
        return [_checked(p, i, bench.segmenter) for p, i in zip(given, images, strict=True)], None
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - a tile may fail without the job failing; it is recorded
        return [], error


def _in_quarters(bench: Bench, image: TileImage) -> tuple[list[Prediction], Exception | None]:
    try:
        return [_checked(in_quarters(bench.segmenter, image, bench.recipe.job), image, bench.segmenter)], None
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - likewise
        if bench.spare is None or not is_out_of_memory(error):
            return [], error
    log.warning("tile %d does not fit in memory; predicting it on the CPU", image.tile.index)
    return _attempt(replace(bench, segmenter=bench.spare(), spare=None), [image])


def _read_ahead(
    bench: Bench, tiles: list[Tile], care: Care, watch: Watch | None
) -> Iterator[tuple[Tile, Future[Pixels | None] | None]]:  # fmt: skip
    """Each tile with the pixels of its extent, the next one being read meanwhile; pixels of tiles known to be empty are None.

    Nothing is read of tiles that are barred, and nothing meanwhile of or beside those that stand alone.
    """

    def read(tile: Tile) -> Pixels | None:
        return None if bench.source.is_empty(tile.window, tile.z) else _read(bench, tile)

    def begin(tile: Tile) -> Future[Pixels | None]:
        if watch is not None:
            watch.begins(tile.index)
        return reader.submit(read, tile)

    with ThreadPoolExecutor(1, thread_name_prefix="seggeo-read") as reader:
        ahead: Future[Pixels | None] | None = None
        for i, tile in enumerate(tiles):
            if tile.index in care.barred:
                yield tile, None
                continue
            now = ahead or begin(tile)
            after = tiles[i + 1].index if i + 1 < len(tiles) else None
            is_free = after is not None and not {tile.index, after} & care.alone and after not in care.barred
            ahead = begin(tiles[i + 1]) if is_free else None
            yield tile, now


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
    """What is recorded of a tile that raised an error."""
    log.debug("tile %d failed\n%s", tile.index, "".join(traceback.format_exception(error)))
    return failure_of(tile, type(error).__name__, str(error))


def failure_of(tile: Tile, error: str, message: str) -> dict[str, Any]:
    """What is recorded of a tile that failed, JSON values."""
    where = tile.window
    return {
        "tile": tile.index, "z": tile.z, "row": where.row, "col": where.col, "height": where.height, "width": where.width,
        "error": error, "message": message,
    }  # fmt: skip

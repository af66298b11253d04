"""Predict one part: read ahead, skip what is empty, predict, keep what the tile may speak for.

For every tile: `read_ahead` (a thread, up to a batch ahead) -> `_reader`: any data in the window? with the context that
the model wants, stretched -> `_predict_batch` -> `without_invalid` -> `owned`: a pixel in the core? -> work-grid
coordinates. Pixels live until the prediction, masks are runs at once.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np

import seggeo.io as image_io
from seggeo.config import Reading
from seggeo.errors import SourceError, StoppedError
from seggeo.instances import Instances, concat
from seggeo.job import Job
from seggeo.merge.readings import owned
from seggeo.profiling import Clock, Spent, beside, count, recording, span
from seggeo.protocols import ModelRequest, Pixels, Prediction, Segmenter, TileImage
from seggeo.run.ahead import read_ahead, tiles_ahead
from seggeo.run.answers import checked, without_invalid
from seggeo.run.heap import bound_freed_memory, keep_freed_memory, release_freed_memory
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
    profile: bool = False
    """Count where the time goes."""

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
    clock: Clock | None = None
    """Counts where the time goes, if that is wanted."""
    keeps_memory: bool = False
    """Memory of the process that is freed stays with it, for the next layer of a network on the CPU."""
    threads_before: int = 0
    """Of torch, to be set again at the end; 0 where they were left alone."""

    def close(self) -> None:
        """Release the input and memory that was kept for the model, and give torch its threads back."""
        self.source.close()
        if self.keeps_memory:
            release_freed_memory()
        if self.threads_before:
            _set_threads(self.threads_before)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartReport:
    """One part done."""

    part: int
    instances: int
    notes: Any
    """The part's counts and failures."""
    resumed: bool = False
    """True when an earlier run did it."""
    spent: Spent | None = None
    """Where the time went, of its process since the part before; None where nobody asked."""


def set_up(recipe: Recipe, segmenter: Segmenter | None = None) -> Bench:
    """Open the input and, unless given, the model."""
    if not recipe.profile:
        return _opened(recipe, segmenter)
    clock = Clock()
    with recording(clock), span("start"):
        bench = _opened(recipe, segmenter)
    if bench.segmenter.info.device.startswith("cuda"):
        from torch.cuda import synchronize

        # Kernels run on by themselves: else their time would be that of whoever waits for them.
        clock.settle = partial(synchronize, bench.segmenter.info.device)
    return replace(bench, clock=clock)


def _opened(recipe: Recipe, segmenter: Segmenter | None) -> Bench:
    model = segmenter or open_segmenter(recipe.request)
    stretch = image_io.Stretch.from_json(recipe.job.stretch) if recipe.job.stretch is not None else None
    source = image_io.open_source(recipe.path, recipe.reading, native=model.info.native)
    try:
        check_unchanged(source, recipe.job)
    except SourceError:
        source.close()
        raise
    spare = None
    if recipe.request.cpu_fallback and model.info.device != "cpu":
        spare = cache(partial(open_segmenter, replace(recipe.request, device="cpu", compile=False)))
    with_torch = "torch" in sys.modules  # models without it should not pay for its import
    keeps = model.info.device == "cpu" and with_torch
    if keeps:
        keep_freed_memory()
    return Bench(
        recipe=recipe, source=source, segmenter=model, stretch=stretch, spare=spare, keeps_memory=keeps,
        threads_before=_set_threads(recipe.threads) if recipe.threads and with_torch else 0,
    )  # fmt: skip


def _set_threads(count: int) -> int:
    """Let torch use so many threads in one operation; how many they were."""
    import torch

    from seggeo.models.device import set_threads

    before = torch.get_num_threads()
    set_threads(count)
    return before


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
        if bench.keeps_memory and waiting:
            bound_freed_memory()
        if watch is not None:
            watch.ends(image.tile.index for image in waiting)
        waiting.clear()

    depth = tiles_ahead(bench.segmenter.info, bench.recipe.job)
    for tile, coming in read_ahead(bench.recipe.job.parts.tiles(part)[tally.tiles :], _reader(bench), depth, care, watch):
        is_alone = tile.index in care.alone
        if is_alone or tile.index in care.barred:
            predict_waiting()
        image = None
        if coming is not None:
            image = _image(tile, coming, tally)
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


def _image(tile: Tile, coming: Future[TileImage | None], tally: _Tally) -> TileImage | None:
    """What the model sees of a tile; None where that is nothing, which is counted, or cannot be read, which is noted."""
    try:
        with span("wait"):
            image = coming.result()
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
        self.predicted += len(prediction.instances) + prediction.foreign
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
        _count(bench, image.tile)


def _count(bench: Bench, tile: Tile) -> None:
    """Count a tile that was predicted: its own pixels, and the ground or tissue that they cover."""
    frame, pixels = bench.recipe.job.frame, tile.core.area
    count("tiles", 1)
    count("pixels", pixels)
    if frame.placement is None and frame.unit in ("m", "um"):
        count(f"{frame.unit}2", pixels * frame.spacing[1] * frame.spacing[2])


def _attempt(bench: Bench, images: list[TileImage]) -> tuple[list[Prediction], Exception | None]:
    """Predictions of some tiles, or why there are none."""
    try:
        with span("model"):
            given = bench.segmenter.predict(images)
        return [checked(p, i, bench.segmenter) for p, i in zip(given, images, strict=True)], None
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - a tile may fail without the job failing; it is recorded
        return [], error


def _in_quarters(bench: Bench, image: TileImage) -> tuple[list[Prediction], Exception | None]:
    try:
        with span("model"):
            whole = in_quarters(bench.segmenter, image, bench.recipe.job)
        return [checked(whole, image, bench.segmenter)], None
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - likewise
        if bench.spare is None or not is_out_of_memory(error):
            return [], error
    log.warning("tile %d does not fit in memory; predicting it on the CPU", image.tile.index)
    return _attempt(replace(bench, segmenter=bench.spare(), spare=None), [image])


def _reader(bench: Bench) -> Callable[[Tile], TileImage | None]:
    """What gives the model's view of a tile, for another thread; None of tiles without data. What fails is read once more."""

    def ready(tile: Tile) -> TileImage | None:
        if bench.source.is_empty(tile.window, tile.z):
            return None
        extent = bench.segmenter.info.extent(tile.window, within=bench.recipe.job.frame.window)
        pixels: Pixels = bench.source.read(extent, tile.z)
        if not pixels.valid[tile.window.slices(extent)].any():
            return None
        image = pixels.data if bench.stretch is None else image_io.apply_stretch(bench.stretch, pixels)
        return TileImage(image=image, valid=pixels.valid, tile=tile, extent=extent)

    def patient(tile: Tile) -> TileImage | None:
        try:
            return ready(tile)
        except OSError:
            log.warning("tile %d could not be read, trying once more", tile.index)
            return ready(tile)

    return beside("read", patient)


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

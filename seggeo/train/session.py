"""A training from data to weights: find, check, divide, learn, judge each epoch, and write everything into one folder.

The weights in the folder are those of the best validation (see `best`), the state holds the last. The state is written
before each validation, every two minutes, and when the iteration is broken off, so that a training goes on where it was
whatever ended it; a validation that was broken off is done again. `folder` says what lies where.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from seggeo import __version__
from seggeo.errors import ConfigError, SourceError
from seggeo.files import publishing
from seggeo.models.device import choose_device
from seggeo.models.registry import resolve_weights
from seggeo.models.weights import sha256_of
from seggeo.train import folder
from seggeo.train.augment import Augmentation
from seggeo.train.best import Best, best_of, is_better, row_of, step_of
from seggeo.train.examples import Example
from seggeo.train.fit import Trainer
from seggeo.train.recipe import Recipe
from seggeo.train.report import draw_curves, draw_examples
from seggeo.train.sampler import Sampler
from seggeo.train.scene_opening import open_scenes
from seggeo.train.scenes import Scene
from seggeo.train.schedule import Progress, Schedule
from seggeo.train.seen import slices_of, smoothing_of, stretch_of
from seggeo.train.tasks import Trainable, make_task
from seggeo.train.validate import Judgement, judge
from seggeo.train.validation_split import Split, split_scenes

SAVE_EVERY_S = 120.0
"""What a killed training loses at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What a training begins with."""

    train: int
    """Scenes to learn from."""
    val: int
    """Scenes to be judged by."""
    objects: int
    classes: tuple[str, ...]
    rule: str
    """How validation was held back."""
    parameters: int
    step: int
    """Where it goes on, 0 for a new one."""
    seconds: float
    """Spent on it before."""
    is_finished: bool
    """The budget was used up and judged before; nothing is left to do."""
    best: Best | None = None
    """Of which validation the weights in the folder are; None without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """An epoch's end."""

    progress: Progress
    judgement: Judgement
    best: Best
    """Of which validation the weights in the folder are: this one or one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the weights say of themselves besides what they need to work."""

    title: str = ""
    licence: str = ""
    credit: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More entries of the metadata, JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a training is run; nothing here changes what is learnt, but for rounding."""

    weights: Path | None = None
    """Weights to begin with: a file, or the name of bundled ones."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    threads: int = 1
    """Threads that prepare samples."""
    overwrite: bool = False
    """Begin anew where the folder holds another training."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ConfigError(what=f"threads {self.threads}", why="one is the least", mend="use --threads 1")


Event = Started | Progress | Epoch


def train(
    examples: Sequence[Example], recipe: Recipe, out: Path, about: About | None = None, running: Running | None = None
) -> Generator[Event, None, None]:
    """Train, or go on training, in the folder `out`; yields after every batch, and again after every validation.

    Close the generator to stop: the state is saved, and the same call goes on. Validation follows a `Progress` with `is_epoch`.

    Raises:
        SourceError: Images or labels that cannot be used.
        ConfigError: Settings that do not fit them.
        OutputError: The folder holds another training, or cannot be written.
        ModelError: Weights that are refused, or a loss that is no number.
        ResourceError: No such device, or no room on disk or device.
        BusyError: Another process trains in the folder.
    """
    about, running = about or About(), running or Running()
    folder.check_place(out, examples)
    where = choose_device(running.device)
    weights = resolve_weights(str(running.weights), recipe.model) if running.weights else None
    begin = None if weights is None else sha256_of(weights)
    definition = folder.definition_of(recipe.to_json(), examples, begin, __version__)
    is_new = not folder.check_same(out, definition, overwrite=running.overwrite)
    scenes = open_scenes(
        examples, reading=recipe.reading, all_bands=recipe.all_bands, allow_overlap=recipe.allow_overlap
    )  # fmt: skip
    split = split_scenes(scenes, seed=recipe.seed, share=recipe.val)
    _check_objects(split)
    task = make_task(recipe, split.train, weights)
    trainer = _trainer(task, recipe, split.train, where)
    out.mkdir(parents=True, exist_ok=True)
    with folder.only_trainer(out):
        folder.begin(out, definition, is_new=is_new)
        facts = {**_facts(recipe, split, definition, about), **task.card()}
        session = _Session(trainer=trainer, task=task, split=split, facts=facts, out=out)
        session.resume()
        yield session.started()
        yield from session.run(running.threads)


@dataclass(slots=True, kw_only=True)
class _Session:
    """A training that is ready to run."""

    trainer: Trainer
    task: Trainable
    split: Split
    facts: Mapping[str, Any]
    out: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of the history."""
    kept: Mapping[str, Any] | None = None
    """That of the weights in the folder."""

    def resume(self) -> None:
        """Go on from the state that is there, if any."""
        state, p = self.out / folder.STATE, self.trainer.progress
        if not state.exists():
            return
        self.trainer.resume(state)
        self.rows = folder.read_history(self.out, until=p.step)
        self.kept = row_of(self.rows, step_of(self.out / folder.WEIGHTS))
        p.judged, p.judged_s = len(self.rows), sum(row["judged_in_s"] for row in self.rows)
        if self._is_judged():  # the state was written before
            p.seconds = max(p.seconds, self.rows[-1]["seconds"] + self.rows[-1]["judged_in_s"])
        self.trainer.settle()

    def started(self) -> Started:
        """What the training begins with."""
        p = self.trainer.progress
        return Started(
            train=len(self.split.train), val=len(self.split.val), objects=sum(len(s.objects) for s in self.split.train),
            classes=tuple(self.facts["classes"]), rule=self.split.rule, step=p.step, seconds=p.seconds,
            parameters=sum(each.numel() for each in self.task.network.parameters()),
            is_finished=p.is_last and self._is_judged(), best=None if self.kept is None else best_of(self.kept),
        )  # fmt: skip

    def run(self, threads: int) -> Generator[Event, None, None]:
        """Learn and judge until the budget is used up."""
        trainer, state = self.trainer, self.out / folder.STATE
        p = trainer.progress
        if (p.is_epoch or p.is_last) and not self._is_judged():
            p.is_epoch = True
            yield replace(p)
            yield self._judge()
        if p.is_last:
            return
        saved = time.monotonic()
        with closing(trainer.run(threads)) as steps:
            try:
                for progress in steps:
                    if progress.is_epoch or time.monotonic() - saved > SAVE_EVERY_S:
                        trainer.save(state)
                        saved = time.monotonic()
                    yield progress
                    if progress.is_epoch:
                        yield self._judge()
            except GeneratorExit:  # whoever iterates has stopped, between two steps
                trainer.save(state)
                raise

    def _is_judged(self) -> bool:
        weights = self.out / folder.WEIGHTS
        return bool(self.rows) and self.rows[-1]["step"] == self.trainer.progress.step and weights.exists()

    def _judge(self) -> Epoch:
        """Judge the averaged network; write history, pictures, and the weights if they are the best."""
        trainer, p, out = self.trainer, self.trainer.progress, self.out
        begun = time.monotonic()
        judgement = judge(self.task.segmenter(trainer.averaged), self.split.val, raw=self.task.raw)
        is_best = is_better(judgement.metrics, self.kept)
        if is_best:
            said = {**self.facts, "metrics": judgement.metrics, "metrics_by_kind": judgement.kinds, "step": p.step}
            self._write_weights({name: value for name, value in said.items() if value not in ("", {})})
        seconds = time.monotonic() - begun
        row = {
            "step": p.step, "seconds": round(p.seconds, 1), "rate": p.rate, "losses": p.losses,
            "judged_in_s": round(seconds, 1), **judgement.metrics, "kinds": judgement.kinds, "is_best": is_best,
        }  # fmt: skip
        self.rows = [*(r for r in self.rows if r["step"] < p.step), row]
        self.kept = row if self.kept is None or is_best else self.kept
        p.note_judged(seconds)
        draw_curves(self.rows, out / folder.CURVES)
        draw_examples(judgement, out / folder.PICTURES)
        folder.write_history(out, self.rows)  # last: a step with a line is one with everything written
        return Epoch(progress=replace(p), judgement=judgement, best=best_of(self.kept))

    def _write_weights(self, facts: Mapping[str, Any]) -> None:
        with publishing(self.out / folder.WEIGHTS) as path:
            try:
                self.task.write(self.trainer.averaged, path, facts)
            except SafetensorError as error:  # it carries no errno
                raise OSError(str(error)) from error
            shutil.copymode(self.out / folder.RECIPE, path)  # safetensors' own files are their owner's alone


def _check_objects(split: Split) -> None:
    """Refuse to learn from images without a single object.

    Raises:
        SourceError: All objects are in the validation part.
    """
    if not any(len(scene.objects) for scene in split.train):
        raise SourceError(
            what="the images to learn from hold no objects", why=f"all objects are in the {len(split.val)} images of split val",
            mend="give images with objects the split train",
        )  # fmt: skip


def _trainer(task: Trainable, recipe: Recipe, scenes: Sequence[Scene], device: torch.device) -> Trainer:
    # The bands of a slice between its neighbours are no colours that might have been others.
    augmentation = Augmentation(scale=recipe.zoom, diameter=recipe.diameter, colour=not recipe.reading.neighbours)
    sampler = Sampler(scenes, size=recipe.crop, augmentation=augmentation, seed=recipe.seed)
    schedule = Schedule(
        minutes=recipe.minutes, steps=recipe.steps, batch=recipe.batch, rate=recipe.rate or task.rate, epoch=recipe.epoch,
        autocast=recipe.autocast,
    )  # fmt: skip
    return Trainer(task, sampler, schedule, device)


def _facts(recipe: Recipe, split: Split, definition: Mapping[str, Any], about: About) -> dict[str, Any]:
    """What the weights record of where they come from."""
    scenes = split.train
    data = "\n".join(definition["data"].values()).encode()
    return {
        **about.facts, "title": about.title, "licence": about.licence, "credit": about.credit,
        "classes": list(scenes[0].classes), "stretch": stretch_of(recipe.reading, scenes), **slices_of(recipe.reading, scenes),
        "trained": {
            **smoothing_of(scenes),
            "recipe": definition["recipe"], "version": definition["version"], "images": len(scenes),
            "objects": sum(len(s.objects) for s in scenes), "data_sha256": hashlib.sha256(data).hexdigest(),
            "weights_sha256": definition["weights_sha256"],
        },
    }  # fmt: skip

"""The training loop: warm-up, cosine, averaged weights, a budget in minutes or steps, and a state to go on from.

The loop knows nothing of architectures: a `Task` turns samples into batches and batches into losses. Sample i is the
same in every run of a seed, and the state holds all that the next step depends on, so that a run that was killed and
resumed learns from the same samples as one that was not.
"""

from __future__ import annotations

import copy
import math
import pickle
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from seggeo.errors import ModelError, ResourceError, StoreError
from seggeo.files import publishing
from seggeo.train.sampler import Sample, Sampler
from seggeo.train.schedule import Progress, Schedule, is_due, rate_at, share_of


class Batch(Protocol):
    """Tensors of a few samples."""

    def to(self, device: torch.device) -> Any:
        """The same on a device."""
        ...


class Task(Protocol):
    """What is trained."""

    @property
    def network(self) -> nn.Module:
        """What learns."""
        ...

    def collate(self, samples: Sequence[Sample]) -> Any:
        """Samples as a batch."""
        ...

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Parts of the loss by name; the loss is their sum. Nothing is drawn from torch's random numbers."""
        ...


class Trainer:
    """Network, averaged network, optimiser and position; iterate `run` to train."""

    def __init__(self, task: Task, sampler: Sampler, schedule: Schedule, device: torch.device) -> None:
        self.task = task
        self._sampler = sampler
        self._schedule = schedule
        self._device = device
        task.network.to(device)
        self.averaged = copy.deepcopy(task.network).eval().requires_grad_(requires_grad=False)
        self._optimiser = torch.optim.AdamW(_groups(task.network, schedule.decay), lr=schedule.rate)
        self._scaler = torch.amp.GradScaler(device.type, enabled=schedule.autocast and device.type == "cuda")
        self.progress = Progress()
        self._sums: dict[str, float] = {}
        self._count = 0

    def run(self, threads: int = 1) -> Generator[Progress, None, None]:
        """Train to the end of the budget; yields after every step, when the state is whole and may be saved.

        Raises:
            ModelError: The loss is no longer a number.
            ResourceError: The device's memory does not hold a batch.
        """
        p = self.progress
        started = time.monotonic() - p.seconds
        with closing(self._batches(threads)) as batches:
            for batch in batches:
                if p.is_epoch:
                    self._sums, self._count = {}, 0
                parts = self._step(batch)
                p.step += 1
                p.seconds = time.monotonic() - started
                self._note(parts)
                yield replace(p)
                if p.is_last:
                    return

    def _note(self, parts: Mapping[str, float]) -> None:
        """Bring the progress up to date after a step."""
        s, p = self._schedule, self.progress
        self._count += 1
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        p.losses = {name: value / self._count for name, value in self._sums.items()}
        p.share = share_of(s, p)
        p.is_last = p.share >= 1.0
        p.is_epoch = is_due(s, p)
        if not math.isfinite(sum(parts.values())):
            raise ModelError(
                what=f"the loss is no longer a number at batch {p.step}",
                why=f"a learning rate of {p.rate:.2g} is too high for these data, or the weights it began with are damaged",
                mend=f"train in another folder with --rate {s.rate / 3:.1g}",
            )

    def _step(self, batch: Any) -> dict[str, float]:
        """One batch forward and back; its losses."""
        s, p = self._schedule, self.progress
        p.rate = rate_at(s, p)
        for group in self._optimiser.param_groups:
            group["lr"] = p.rate
        self.task.network.train()
        try:
            with torch.autocast(self._device.type, enabled=s.autocast and self._device.type == "cuda"):
                parts = self.task.loss(batch.to(self._device))
                total = torch.stack(list(parts.values())).sum()
            self._optimiser.zero_grad(set_to_none=True)
            self._scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                what=f"a batch of {s.batch} samples does not fit into the memory of {self._device}", why=str(error),
                mend="use a smaller --batch or --crop, or --autocast, in another folder",
            ) from error  # fmt: skip
        self._scaler.unscale_(self._optimiser)
        nn.utils.clip_grad_norm_(self.task.network.parameters(), s.clip)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._average()
        return {name: float(value.detach()) for name, value in parts.items()}

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the new ones, faster at first."""
        keep = min(self._schedule.average, (1 + self.progress.step) / (10 + self.progress.step))
        for mine, new in zip(self.averaged.state_dict().values(), self.task.network.state_dict().values(), strict=True):
            if mine.dtype.is_floating_point:
                mine.lerp_(new, 1 - keep)
            else:
                mine.copy_(new)

    def _batches(self, threads: int) -> Generator[Any, None, None]:
        """Batches from the current step on, made a few steps ahead by other threads."""
        size = self._schedule.batch
        ahead = max(1, threads) + 1

        def make(step: int) -> Any:
            return self.task.collate([self._sampler.draw(step * size + i) for i in range(size)])

        step = self.progress.step
        with ThreadPoolExecutor(max(1, threads), thread_name_prefix="seggeo-samples") as pool:
            coming: list[Future[Any]] = [pool.submit(make, step + i) for i in range(ahead)]
            try:
                while True:
                    yield coming.pop(0).result()
                    step += 1
                    coming.append(pool.submit(make, step + ahead - 1))
            finally:
                for each in coming:
                    each.cancel()

    def save(self, path: Path) -> None:
        """Write the state that `resume` goes on from, whole or not at all.

        Raises:
            ResourceError: The disk is full.
            OutputError: Not writable.
        """
        p = self.progress
        state = {
            "network": self.task.network.state_dict(), "averaged": self.averaged.state_dict(),
            "optimiser": self._optimiser.state_dict(), "scaler": self._scaler.state_dict(),
            "step": p.step, "seconds": p.seconds, "rate": p.rate, "is_epoch": p.is_epoch, "sums": self._sums,
            "count": self._count,
        }  # fmt: skip
        with publishing(path) as partial, partial.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # what torch hides says that the disk is full
                    raise error.__context__ from error
                raise

    def resume(self, path: Path) -> None:
        """Go on where `save` left off; the budget may be another one.

        Raises:
            StoreError: The file is damaged, or the state of another network.
        """
        try:
            state = torch.load(path, map_location=self._device, weights_only=True)
            self.task.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._scaler.load_state_dict(state["scaler"])
            p = self.progress
            p.step, p.seconds, p.rate = int(state["step"]), float(state["seconds"]), float(state["rate"])
            p.is_epoch = bool(state["is_epoch"])
            self._sums, self._count = dict(state["sums"]), int(state["count"])
        except (OSError, EOFError, KeyError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise StoreError(
                what=f"{path} cannot be gone on from", why=f"it is damaged, or of another version ({str(error):.200})",
                mend="remove it, and begin anew with --overwrite",
            ) from error  # fmt: skip
        p.losses = {name: value / self._count for name, value in self._sums.items()}

    def settle(self) -> None:
        """Reckon anew how much of the budget is used up, after `resume` and what was noted since."""
        p = self.progress
        p.share = share_of(self._schedule, p)
        p.is_last = p.share >= 1.0


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weights decay, biases and normalisation do not."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    kept = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": decay}, {"params": kept, "weight_decay": 0.0}]

"""How long a training lasts, how fast it learns at each moment, and when it is judged.

A budget of batches is exact. One of minutes holds validation, too: what validation has cost so far is taken off what is
left, so that the learning rate comes down to its end while there still are batches to learn from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

_WARM_SHARE = 0.1
"""Part of the budget after which the rate has risen, where that comes before `warmup` batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to learn."""

    minutes: float = 60.0
    """Budget of training time, validation included; 0: no limit."""
    steps: int = 0
    """Batches in all; 0: no limit."""
    batch: int = 8
    rate: float = 1e-3
    """Greatest learning rate."""
    warmup: int = 200
    """Batches over which the rate rises."""
    decay: float = 1e-4
    """Weight decay."""
    average: float = 0.999
    """Share of the averaged weights that one step keeps."""
    clip: float = 5.0
    """Greatest norm of the gradient."""
    epoch: int = 500
    """Batches between validations."""
    autocast: bool = False
    """Half precision on an accelerator."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where a training stands, over all its resumed runs."""

    step: int = 0
    """Batches learnt from."""
    seconds: float = 0.0
    """Spent so far, validation included."""
    judged: int = 0
    """Validations so far."""
    judged_s: float = 0.0
    """Spent on them."""
    losses: dict[str, float] = field(default_factory=dict)
    """Mean of each part of the loss since the last epoch."""
    rate: float = 0.0
    share: float = 0.0
    """Of the budget, 0 to 1."""
    is_epoch: bool = False
    """An epoch has just ended: time to validate."""
    is_last: bool = False

    def note_judged(self, seconds: float) -> None:
        """A validation took so long."""
        self.judged += 1
        self.judged_s += seconds
        self.seconds += seconds


def share_of(schedule: Schedule, progress: Progress) -> float:
    """The part of the budget that is used up, 0 to 1."""
    of_steps = progress.step / schedule.steps if schedule.steps else 0.0
    of_time = 0.0
    if schedule.minutes:
        learnt = progress.seconds - progress.judged_s
        of_time = learnt / max(1e-9, _learning_s(schedule, progress))
    return min(1.0, max(of_steps, of_time))


def is_due(schedule: Schedule, progress: Progress) -> bool:
    """Whether a network is judged now: at the end, and after every epoch unless only the end's validation fits in."""
    if progress.is_last:
        return True
    if progress.step % schedule.epoch:
        return False
    return not schedule.minutes or _left_s(schedule, progress) >= 2 * _each_s(progress)


def rate_at(schedule: Schedule, progress: Progress) -> float:
    """Learning rate of the next step: a rise, then half a cosine down to a hundredth."""
    rise = min(1.0, max((progress.step + 1) / schedule.warmup, progress.share / _WARM_SHARE))
    return schedule.rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress.share)))


def _left_s(schedule: Schedule, progress: Progress) -> float:
    return 60 * schedule.minutes - progress.seconds


def _each_s(progress: Progress) -> float:
    """What a validation takes; 0 before the first."""
    return progress.judged_s / progress.judged if progress.judged else 0.0


def _learning_s(schedule: Schedule, progress: Progress) -> float:
    """Seconds that the budget will have had for learning when it ends."""
    learnt, each = progress.seconds - progress.judged_s, _each_s(progress)
    if not each or not progress.step:
        return learnt + _left_s(schedule, progress)
    between = schedule.epoch * learnt / progress.step
    left = max(0.0, _left_s(schedule, progress) - each)
    return learnt + left * between / (between + each)

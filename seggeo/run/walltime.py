"""How long the batch system that runs this process will let it: so that it stops by itself, without being told.

SLURM says when a job ends (`SLURM_JOB_END_TIME`, or `scontrol` where that is not set); Torque how long it may run
(`PBS_WALLTIME`). Others tell nothing to the job itself: there `--time-limit` says it.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

MARGIN_S = 60.0
"""How long before the end to stop; what is in hand is saved within 10 s, and clusters kill to the minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """When to stop."""

    seconds: float
    """From now."""
    why: str
    """Who says so."""


def limit_of(environment: Mapping[str, str], ask: Callable[[str], str] | None = None) -> Limit | None:
    """The time that the batch system leaves, less `MARGIN_S`; None outside of one, and where it sets no limit.

    A job that has less than two margins left keeps half of it.

    Args:
        environment: Variables of this process.
        ask: Gives what SLURM's controller knows of a job; by default `scontrol show job`.
    """
    found = _slurm(environment, ask or _scontrol) or _torque(environment)
    if found is None:
        return None
    left, who = found
    return Limit(seconds=max(1.0, left - MARGIN_S, left / 2), why=f"{who} ends this job in {_words(left)}")


def _slurm(environment: Mapping[str, str], ask: Callable[[str], str]) -> tuple[float, str] | None:
    job = environment.get("SLURM_JOB_ID", "")
    if not job.isdigit():
        return None
    end = environment.get("SLURM_JOB_END_TIME", "")
    stop = float(end) if end.isdigit() else _end_time(ask(job))
    return None if stop is None else (stop - time.time(), "SLURM")


def _end_time(text: str) -> float | None:
    """`EndTime` of what `scontrol` prints, seconds since 1970."""
    said = next((word[8:] for word in text.split() if word.startswith("EndTime=")), "")
    try:
        return datetime.fromisoformat(said).timestamp()
    except ValueError:  # Unknown, where there is no limit
        return None


def _scontrol(job: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", "-o", "show", "job", job], capture_output=True, text=True, timeout=10, check=False
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _torque(environment: Mapping[str, str]) -> tuple[float, str] | None:
    said = environment.get("PBS_WALLTIME", "")  # counted from the job's start, which this process is taken for
    return (float(said), "PBS") if said.isdigit() and int(said) else None


def _words(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"

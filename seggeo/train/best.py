"""Which validation's weights a training keeps: those of the highest panoptic quality, of equals the later.

The last weights are in the state; the file that users take holds the best. The file itself says of which batch it is, so
that nothing has to be believed of a training that was killed between two files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seggeo.errors import ModelError
from seggeo.models.bundled import read_header


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The validation whose weights are kept."""

    step: int
    """Batches learnt from by then."""
    pq: float | None
    """None where validation holds no objects."""
    ap50: float | None


def is_better(row: Mapping[str, Any], best: Mapping[str, Any] | None) -> bool:
    """Whether a later row of the history takes the place of the best so far.

    Where either has no panoptic quality (no objects in validation) the later one is taken: nothing speaks for the other.
    """
    if best is None or row["pq"] is None or best["pq"] is None:
        return True
    return bool(row["pq"] >= best["pq"])


def step_of(weights: Path) -> int | None:
    """The batch that a file of weights is of; None where it is missing, damaged or does not say."""
    step = None
    if weights.exists():
        with suppress(ModelError):
            step = read_header(weights).facts.get("step")
    return step if isinstance(step, int) else None


def row_of(rows: Sequence[Mapping[str, Any]], step: int | None) -> Mapping[str, Any] | None:
    """The line of the history for a batch, or None."""
    return next((row for row in rows if row["step"] == step), None)


def latest_best(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The last line that was the best up to then: the one that the kept weights are of."""
    return next((row for row in reversed(rows) if row.get("is_best")), None)


def best_of(row: Mapping[str, Any]) -> Best:
    """What there is to say of a line of the history."""
    return Best(step=row["step"], pq=row["pq"], ap50=row["ap50"])

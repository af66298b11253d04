"""`--profile`: where the wall time of a run went, made of its own clock and of what each process told with its parts.

1. `Profiler` holds the clock of the process that leads the run; its spans are `plan`, `predict`, `merge` and `write`.
2. Those that predict count `start`, `wait`, `model`, `encode` and `store` by themselves (`seggeo.profiling`).
3. `Profiler.profile` puts the second in the place of `predict`: seconds of all processes over their number, so that
   all phases together are the wall time; what is missing to that is `idle`.

Nothing of it goes into a result, which is the same to the byte with and without.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from seggeo.output.report_html_time import TimeUse
from seggeo.profiling import OTHER, Clock, Spent
from seggeo.run.part import PartReport

PHASES = ("plan", "start", "wait", "model", "encode", "store", "idle", "merge", "write", OTHER)
PROFILE = "profile.json"
"""In the run folder."""
_PREDICT = "predict"
_AREAS = {"m2": ("km2", 1e-6), "um2": ("mm2", 1e-6)}
_BAR = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Where the wall time of a run went."""

    seconds: Mapping[str, float]
    """Wall time by phase, all of `PHASES`."""
    predicting_s: float
    """While parts were predicted; of it are `start` to `idle`."""
    reading_s: float
    """Reading and stretching, of a process on average, in threads beside the model."""
    encoding_s: float
    """Encoding, likewise; 0 where the process that predicts encodes by itself, as on a CPU."""
    processes: int
    """That predicted."""
    tiles: int
    """Predicted now, empty ones not counted."""
    pixels: float
    """Of these tiles, what neighbours share counted once."""
    area: Mapping[str, float]
    """Of the same, by unit: km2 of a map, mm2 of a slide."""
    memory: Mapping[str, int]
    """The most memory that each process held, bytes."""
    gpu_bytes: int
    """The most that torch held of the GPUs' memory, of all processes together."""

    @property
    def total_s(self) -> float:
        """Wall time of the run."""
        return sum(self.seconds.values())

    def plus(self, phase: str, seconds: float) -> Profile:
        """The profile of a run that spent some more time."""
        return replace(self, seconds={**self.seconds, phase: self.seconds[phase] + seconds})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        total, predicting = max(self.total_s, 1e-9), max(self.predicting_s, 1e-9)
        rates = {"megapixels": (self.pixels / 1e6, 1), **{name: (area, 3600) for name, area in self.area.items()}}
        values: dict[str, Any] = {
            "seconds": round(self.total_s, 3), "predicting_s": round(self.predicting_s, 3),
            "reading_s": round(self.reading_s, 3), "encoding_s": round(self.encoding_s, 3),
            "phases": {p: {"seconds": round(s, 3), "share": round(s / total, 4)} for p, s in self.seconds.items()},
            "processes": self.processes, "tiles": self.tiles,
        }  # fmt: skip
        for name, (amount, factor) in rates.items():
            per = f"{name}_per_{'s' if factor == 1 else 'h'}"
            values |= {
                name: _rounded(amount), per: _rounded(amount * factor / total),
                f"{per}_predicting": _rounded(amount * factor / predicting),
            }  # fmt: skip
        most = max(self.memory.values(), default=0)
        return {**values, "memory_bytes": most, "memory_bytes_together": sum(self.memory.values()), "gpu_bytes": self.gpu_bytes}

    def time_use(self) -> TimeUse:
        """What a report shows of it."""
        facts = {name: text.replace("m2/h", "m\N{SUPERSCRIPT TWO}/h") for name, text in _facts(self.to_json())}
        return TimeUse(seconds=dict(self.seconds), facts=facts)


class Profiler:
    """The clock of the process that leads a run, from its beginning on."""

    def __init__(self, *, is_wanted: bool) -> None:
        """A clock that runs."""
        self._is_wanted = is_wanted
        self._began = time.monotonic()
        self._clock = Clock(self._began)
        self._told: list[Spent] = []

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def span(self, name: str) -> AbstractContextManager[None]:
        """Time inside it is counted as that of a phase, or as `predict`."""
        return self._clock.span(name)

    def profile(self, reports: Iterable[PartReport]) -> Profile | None:
        """Where the time went up to now; None where nobody asked.

        Args:
            reports: Of parts; those that an earlier run did say nothing.
        """
        if not self._is_wanted:
            return None
        self._told.append(self._clock.take())
        return profile_of(self._told, [report.spent for report in reports if report.spent is not None])


def profile_of(leader: Sequence[Spent], crew: Sequence[Spent]) -> Profile:
    """The profile of a run.

    Args:
        leader: What the leading process spent; its wall time without a gap, that of `crew` as `predict`.
        crew: What those that predict spent; the leading process may be among them.
    """
    seconds = _sum(spent.seconds for spent in leader)
    processes = len({spent.process for spent in crew})
    predicting = seconds.pop(_PREDICT, 0.0)
    each = {name: value / processes for name, value in _sum(spent.seconds for spent in crew).items()}
    for name, value in each.items():
        seconds[name if name in PHASES else OTHER] += value
    seconds["idle" if processes else OTHER] += max(0.0, predicting - sum(each.values()))
    counts, beside = _sum(spent.counts for spent in crew), _sum(spent.beside for spent in crew)
    memory: Counter[str] = Counter()
    gpu: Counter[str] = Counter()
    for spent in (*leader, *crew):
        memory[spent.process] = max(memory[spent.process], spent.memory_bytes)
        gpu[spent.process] = max(gpu[spent.process], spent.gpu_bytes)
    return Profile(
        seconds={phase: seconds[phase] for phase in PHASES}, predicting_s=predicting,
        reading_s=beside["read"] / max(1, processes), encoding_s=beside["encode"] / max(1, processes), processes=processes,
        tiles=int(counts["tiles"]), pixels=counts["pixels"],
        area={name: counts[unit] * factor for unit, (name, factor) in _AREAS.items() if counts[unit]}, memory=dict(memory),
        gpu_bytes=sum(gpu.values()),
    )  # fmt: skip


def _sum(parts: Iterable[Mapping[str, float]]) -> defaultdict[str, float]:
    total: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for name, value in part.items():
            total[name] += value
    return total


def told(values: Mapping[str, Any]) -> list[str]:
    """Lines for people.

    Args:
        values: From `Profile.to_json`.
    """
    lines = [f"profile: {values['seconds']:.2f} s"]
    for phase, entry in values["phases"].items():
        if entry["seconds"] >= 0.005:
            bar = "#" * round(_BAR * entry["share"])
            lines.append(f"  {phase:<8}{entry['seconds']:>9.2f} s {entry['share']:>6.1%}  {bar}".rstrip())
    return lines + [f"  {name}: {text}" for name, text in _facts(values)]


def _facts(values: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Everything but the phases."""
    yield "processes", f"{values['processes']}"
    for name, key, waited in (("read", "reading_s", "wait"), ("encode", "encoding_s", "encode")):
        if values[key]:
            yield f"{name} beside", f"{values[key]:.2f} s, waited for: {values['phases'][waited]['seconds']:.2f} s"
    if values["tiles"]:
        units = [("megapixels", "s", "Mpx/s"), *((name, "h", f"{name}/h") for name in ("km2", "mm2") if name in values)]
        speeds = [
            ", ".join(f"{values[f'{name}_per_{per}{when}']:.4g} {unit}" for name, per, unit in units)
            for when in ("", "_predicting")
        ]
        yield "speed", f"{speeds[0]}; while predicting {speeds[1]}"
    most, together = values["memory_bytes"], values["memory_bytes_together"]
    alone = "" if most == together else f", {together / 1e9:.2f} GB in all processes"
    yield "memory", f"{most / 1e9:.2f} GB at the most{alone}"
    if values["gpu_bytes"]:
        yield "GPU memory", f"{values['gpu_bytes'] / 1e9:.2f} GB at the most"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")

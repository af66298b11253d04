"""Progress on stderr: a bar where someone looks, a plain line every 30 s where nobody does."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from seggeo.run.logs import tell
from seggeo.run.part import PartReport

EVERY_S = 30.0


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counts reports of parts and shows them."""

    tiles: int
    megapixels_per_tile: float
    quiet: bool = False
    _done: int = 0
    _resumed: int = 0
    _objects: int = 0
    _failures: int = 0
    _began: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)
    _bar: Any = None

    def __post_init__(self) -> None:
        if not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.tiles, unit="tile", file=sys.stderr, dynamic_ncols=True)

    def add(self, report: PartReport, *, resumed: bool) -> None:
        """One part is done; `resumed` ones were done by an earlier run."""
        tiles = int(report.notes["tiles"])
        self._done += tiles
        self._resumed += tiles * resumed
        self._objects += report.instances
        self._failures += len(report.notes["failures"])
        if self._bar is not None:
            self._bar.update(tiles)
            self._bar.set_postfix_str(self._facts())
        elif not self.quiet and time.monotonic() - self._said >= EVERY_S:
            self._said = time.monotonic()
            rate = (self._done - self._resumed) / max(1e-9, self._said - self._began)
            left = (self.tiles - self._done) / rate if rate > 0 else float("inf")
            if not tell("info", self._record(left)):
                print(f"{self._done}/{self.tiles} tiles, {self._facts()}, {left:.0f} s left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """The last word."""
        if self._bar is not None:
            self._bar.close()

    def _record(self, left_s: float) -> dict[str, Any]:
        values = {"tiles_done": self._done, "tiles": self.tiles, "readings": self._objects, "failures": self._failures}
        return {"message": "progress", **values, "seconds_left": round(left_s) if isfinite(left_s) else None}

    def _facts(self) -> str:
        passed = max(1e-9, time.monotonic() - self._began)
        rate = (self._done - self._resumed) * self.megapixels_per_tile / passed
        return f"{rate:.1f} Mpx/s, {self._objects} readings, {self._failures} failures"

"""Who looks after a part while it is predicted: what is in hand, what is saved on the way, when to stop.

A process that dies takes its reasons with it. So it says which tiles it touches before it touches them; those of a dead
process are then taken one by one, and a tile that kills its process by itself is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from seggeo.profiling import span
from seggeo.run.signals import Stop
from seggeo.store import Part, RunStore

CHECKPOINT_S = 60.0
"""How often a part that takes long is saved half done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """What is known of a part's tiles from processes that died over them."""

    alone: frozenset[int] = frozenset()
    """Tiles that are read and predicted with no other in hand."""
    barred: Mapping[int, str] = field(default_factory=dict)
    """Tiles that are not touched any more, and why."""


NO_CARE = Care()


class Watch:
    """Looks after one part."""

    def __init__(
        self, store: RunStore, *, stops: Callable[[], str | None], holds: Callable[[list[int]], None] | None = None
    ) -> None:
        """What a part is to be watched with.

        Args:
            store: The run folder.
            stops: Gives the reason to stop, if there is one.
            holds: Is told the tiles in hand before another is touched.
        """
        self._store, self._stops, self._holds = store, stops, holds
        self._held: set[int] = set()
        self._saved = time.monotonic()

    def begins(self, tile: int) -> None:
        """A tile will be read now."""
        self._held.add(tile)
        if self._holds is not None:
            self._holds(sorted(self._held))

    def ends(self, tiles: Iterable[int]) -> None:
        """What became of these tiles is known."""
        self._held.difference_update(tiles)

    def between(self, half_done: Callable[[], Part]) -> None:
        """Between two tiles: save what there is if it is time, or if it is time to stop.

        Raises:
            Stop: It is.
        """
        reason = self._stops()
        if reason is None and time.monotonic() - self._saved < CHECKPOINT_S:
            return
        with span("store"):
            self._store.save_begun(half_done())
        self._saved = time.monotonic()
        if reason is not None:
            raise Stop(reason)

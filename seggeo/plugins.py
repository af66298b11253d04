"""Sources, segmenters and sinks found by name among the installed packages' entry points."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from seggeo.errors import ConfigError

GROUPS = ("seggeo.sources", "seggeo.segmenters", "seggeo.sinks")


def available(group: str) -> dict[str, EntryPoint]:
    """Entry points of one group by name, in alphabetical order; nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


def load(group: str, name: str) -> Any:
    """The object behind one entry point.

    Raises:
        ConfigError: No installed package offers that name.
    """
    points = available(group)
    if name not in points:
        near = get_close_matches(name, points, n=1)
        kind = group.rsplit(".", 1)[-1].rstrip("s")
        raise ConfigError(
            what=f"there is no {kind} called {name!r}",
            why=f"installed here: {', '.join(points) or 'none'}",
            mend=f"did you mean {near[0]!r}?" if near else "see them all with: seggeo plugins",
        )
    return points[name].load()

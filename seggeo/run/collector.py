"""Python's search for garbage in cycles, in processes that are seggeo's own.

To import a network's library makes 280 000 objects that stay. Walking them again and again while they come, and once more
at the end, costs a CPU second of each process. Tiles do not wait for it: they lie in no cycles.
"""

from __future__ import annotations

import gc
import sys

_OBJECTS_MORE = 10_000
"""Objects that come before Python looks through the young ones; 700 by its own."""
_OLDER = 2, 4
"""Looks at younger objects before one at older ones; 10 each by its own. All are looked at every 80 000, as by its own every
70 000: what libraries leave in cycles, as drawn figures do, is not held for longer."""
_COMPLAIN = "triton"
"""Made with nanobind, whose libraries complain on standard error when what they made is still there at the end."""


def collect_rarely() -> None:
    """Let Python look at young objects a tenth as often: for a process's start, and not in a program of the user's."""
    gc.set_threshold(_OBJECTS_MORE, *_OLDER)


def spare_imports() -> None:
    """What lives now is no garbage, and is not walked again: for when imports are over, where `collect_rarely` was called."""
    is_own = gc.get_threshold()[0] == _OBJECTS_MORE
    if is_own and not gc.get_freeze_count() and _COMPLAIN not in sys.modules:
        gc.freeze()

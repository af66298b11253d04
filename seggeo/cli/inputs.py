"""The inputs of a command line: globs expanded, repeats left out, a name for each one's outputs."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from pathlib import Path

from seggeo.errors import ConfigError


def expand(inputs: list[str]) -> list[tuple[str, str]]:
    """Inputs with globs expanded and repeats left out, and a distinct stem for each.

    Inputs of one stem are told apart by a digest of where they lie.

    Raises:
        ConfigError: A glob matches nothing, or a name is empty.
    """
    from seggeo.run.plan import input_name

    names: dict[str, str] = {}
    if "" in inputs:
        raise ConfigError(what="an input has no name", why="it is an empty text", mend="check the variable it came from")
    for item in inputs:
        for name in _matches(item):
            names.setdefault(name if "://" in name else os.path.realpath(name), name)
    stems = [input_name(name) for name in names.values()]
    shared = Counter(stem.casefold() for stem in stems)  # some file systems do not tell A from a
    return [
        (name, stem if shared[stem.casefold()] == 1 else f"{stem}_{hashlib.sha256(os.fsencode(key)).hexdigest()[:8]}")
        for (key, name), stem in zip(names.items(), stems, strict=True)
    ]


def _matches(item: str) -> list[str]:
    if "://" in item or not glob.has_magic(item) or os.path.lexists(item):
        return [item]
    found = [name for name in sorted(glob.glob(item, recursive=True)) if not Path(name).is_dir()]
    if not found:
        raise ConfigError(what=f"{item} matches no file", why="the pattern found nothing", mend="check it with ls")
    return found

"""seggeo turns images bigger than memory into objects.

The public door: everything listed in `__all__`, loaded when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Execution": "seggeo.config", "Frame": "seggeo.geometry", "Instances": "seggeo.instances", "Objects": "seggeo.instances",
    "Pixels": "seggeo.protocols", "Prediction": "seggeo.protocols", "SeggeoError": "seggeo.errors",
    "Settings": "seggeo.config", "TileGrid": "seggeo.tiling", "TileImage": "seggeo.protocols", "Window": "seggeo.geometry",
    "count_cells": "seggeo.api", "evaluate": "seggeo.evaluation.api", "segment": "seggeo.api", "segment_array": "seggeo.api",
}  # fmt: skip

__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604 - the names above are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'seggeo' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

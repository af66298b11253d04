"""From a model's name to a segmenter that predicts."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from seggeo import plugins
from seggeo.errors import ResourceError, SeggeoWarning
from seggeo.protocols import ModelRequest, Segmenter
from seggeo.run.collector import spare_imports


def is_custom(name: str) -> bool:
    """True for a model of the user's own, `file.py:Class`."""
    return ".py:" in name or name.endswith(".py")


def factory_of(request: ModelRequest) -> Any:
    """What makes the segmenter: an entry point's factory, or None for a model of the user's own.

    Raises:
        ConfigError: No model has that name.
    """
    return None if is_custom(request.name) else plugins.load("seggeo.segmenters", request.name)


def open_segmenter(request: ModelRequest) -> Segmenter:
    """A segmenter ready to predict; on the CPU if the request allows that and its device cannot be used.

    Raises:
        ConfigError: No such model, or a setting it does not know.
        ModelError: Weights or code refused.
        ResourceError: The device is absent.
    """
    try:
        return _opened(request)
    except ResourceError as error:
        if not request.cpu_fallback or request.device == "cpu":
            raise
        warnings.warn(SeggeoWarning(f"{error.what}, {error.why}: predicting on the CPU"), stacklevel=2)
        return _opened(replace(request, device="cpu"))


def _opened(request: ModelRequest) -> Segmenter:
    if is_custom(request.name):
        from seggeo.models.custom import load_custom

        return load_custom(request.name, request)
    factory = factory_of(request)
    if str(getattr(factory, "__module__", "")).startswith("seggeo."):  # others may import what does not bear it
        spare_imports()
    segmenter: Segmenter = factory(request)
    return segmenter

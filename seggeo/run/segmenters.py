"""From a model's name to a segmenter that predicts."""

from __future__ import annotations

from typing import Any

from seggeo import plugins
from seggeo.protocols import ModelRequest, Segmenter


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
    """A segmenter ready to predict.

    Raises:
        ConfigError: No such model, or a setting it does not know.
        ModelError: Weights or code refused.
    """
    if is_custom(request.name):
        from seggeo.models.custom import load_custom

        return load_custom(request.name, request)
    segmenter: Segmenter = factory_of(request)(request)
    return segmenter

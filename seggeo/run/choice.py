"""Which model and which weights a job uses: what the user named, or what `--model auto` takes; and its request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seggeo import plugins
from seggeo.config import AUTO, Execution, Settings
from seggeo.errors import ConfigError
from seggeo.models.architecture import architecture_of
from seggeo.models.bundled import bundled_models, find_bundled
from seggeo.models.registry import resolve_weights
from seggeo.protocols import Look, ModelRequest, Pixels
from seggeo.run.segmenters import factory_of, is_custom


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A model that will be opened."""

    name: str
    """A segmenter's, or `file.py:Class` with an absolute path."""
    weights: Path | None
    choice: Mapping[str, Any] | None = None
    """How `auto` came to it, JSON values; None when the user named it."""


def named_model(settings: Settings) -> Chosen | None:
    """The model that the settings name, or that their weights are for; None when the image decides.

    Raises:
        ConfigError: There is no such model, or a name of weights stands for a model and there are others besides.
        ModelError: Weights that are missing, or of another model.
    """
    model, weights = settings.model, str(settings.weights) if settings.weights else None
    if model == AUTO:
        return None if weights is None else _of_weights(weights)
    bundled = None if model in plugins.available("seggeo.segmenters") or is_custom(model) else find_bundled(model)
    if bundled is None:
        return Chosen(name=absolute_spec(model), weights=resolve_weights(weights, model))
    if weights is not None and resolve_weights(weights, AUTO) != bundled.path:
        raise ConfigError(
            what=f"--model {model} and --weights {weights}",
            why=f"{model} is {bundled.model} with weights of its own",
            mend=f"use --model {bundled.model} --weights {weights}, or --model {model} alone",
        )
    return Chosen(name=bundled.model, weights=bundled.path)


def _of_weights(weights: str) -> Chosen:
    path = resolve_weights(weights, AUTO)
    assert path is not None
    name = architecture_of(path)
    return Chosen(name=name, weights=path, choice={"model": name, "kind": None, "why": "the weights are for it"})


def model_for(look: Look | None, raw: Pixels | None = None) -> Chosen:
    """What `auto` takes for an image.

    Args:
        look: Shows stretched RGB; None where its bands make none.
        raw: Its overview in the file's own values.
    """
    from seggeo.models.auto import FALLBACK, choose

    if look is None:
        why = "its bands make no colour picture"
        return Chosen(name=FALLBACK, weights=None, choice={"model": FALLBACK, "kind": "unknown", "why": why})
    available = {bundled.name: bundled for bundled in bundled_models()}
    taken = choose(look, available, raw)
    bundled = available.get(taken.model)
    choice = {"model": taken.model, "kind": taken.kind, "why": taken.why}
    if bundled is None:
        return Chosen(name=taken.model, weights=None, choice=choice)
    return Chosen(name=bundled.model, weights=bundled.path, choice=choice)


def request_for(chosen: Chosen, settings: Settings, execution: Execution, mpp: float | None = None) -> ModelRequest:
    """What the model is asked, sizes of objects and pixels among its settings.

    Args:
        chosen: The model.
        settings: What the user asked for.
        execution: How it is run.
        mpp: Micrometres per pixel of the work grid, where they tell how large objects are; models without use for it
            do not get it.

    Raises:
        ConfigError: No such model, or sizes for one that takes none.
    """
    sizes = {} if settings.diameter is None else {"diameter": settings.diameter}
    request = ModelRequest(
        name=chosen.name, weights=chosen.weights, settings={**settings.set, **sizes}, device=execution.device,
        batch=execution.batch, autocast=execution.autocast, compile=execution.compile, cpu_fallback=execution.cpu_fallback,
    )  # fmt: skip
    if is_custom(chosen.name) and settings.reading.mpp is not None:
        told = settings.reading.work_mpp or settings.reading.mpp
        return replace(request, settings={**request.settings, "mpp": told})
    if mpp is not None and not sizes and not is_custom(chosen.name) and getattr(factory_of(request), "sizes", False):
        return replace(request, settings={**request.settings, "mpp": mpp})
    if sizes and not is_custom(chosen.name) and not getattr(factory_of(request), "sizes", False):
        by_auto = "" if chosen.choice is None else f" (which auto took because {chosen.choice['why']})"
        raise ConfigError(
            what=f"{chosen.name}{by_auto} has no use for --{' and --'.join(sizes)}",
            why="it knows no size of objects that the image could be fitted to",
            mend="leave it out, or name a model that does: --model unet",
        )
    return request


def absolute_spec(name: str) -> str:
    """A model's name; the path of a model of the user's own made absolute, for processes that start elsewhere."""
    if not is_custom(name):
        return name
    path, colon, attribute = name.rpartition(":") if ".py:" in name else (name, "", "")
    return f"{Path(path).absolute()}{colon}{attribute}"

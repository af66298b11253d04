"""Which GPU each process predicts on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seggeo.config import Execution, Reading
from seggeo.errors import ConfigError, ResourceError
from seggeo.protocols import ModelRequest
from seggeo.run.devices import devices_of, named_devices
from seggeo.run.part import Recipe


@pytest.mark.parametrize(
    ("wanted", "count", "names"),
    [("all", 2, ("cuda:0", "cuda:1")), ("1", 2, ("cuda:1",)), ("2,0", 3, ("cuda:2", "cuda:0")), ("0,0", 1, ("cuda:0",))],
)
def test_names_of_devices(wanted: str, count: int, names: tuple[str, ...]):
    assert named_devices(wanted, count) == names


@pytest.mark.parametrize(("wanted", "count"), [("all", 0), ("0", 0), ("0,2", 2)])
def test_devices_that_are_not_there(wanted: str, count: int):
    with pytest.raises(ResourceError, match=f"torch sees {count} CUDA"):
        named_devices(wanted, count)


def test_none_unless_asked_for():
    assert devices_of(Execution()) == ()


@pytest.mark.parametrize(
    "given",
    [{"devices": "cuda:0"}, {"devices": ""}, {"devices": "0,"}, {"devices": "two"}, {"devices": "0", "device": "cpu"},
     {"devices": "0", "device": "cuda:1"}, {"devices": "all", "dask": "local:2"}],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(given: dict[str, Any]):
    with pytest.raises(ConfigError, match="--devices"):
        Execution(**given)


def test_processes_take_the_devices_in_turn():
    request = ModelRequest(name="unet", weights=Path("w"), settings={}, device="auto")
    recipe = Recipe(path="scene.tif", reading=Reading(), job=None, request=request)  # type: ignore[arg-type]

    assert [recipe.of_worker(k).request.device for k in range(2)] == ["auto", "auto"]
    shared = Recipe(path="scene.tif", reading=Reading(), job=None, request=request, devices=("cuda:1", "cuda:3"))  # type: ignore[arg-type]
    assert [shared.of_worker(k).request.device for k in range(3)] == ["cuda:1", "cuda:3", "cuda:1"]

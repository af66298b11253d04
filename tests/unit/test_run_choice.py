"""Which model and weights a job uses, and what the model is asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support_io import write
from support_look import look_at

from seggeo.config import Execution, Reading, Settings
from seggeo.errors import ConfigError, ModelError, SeggeoWarning
from seggeo.models import bundled
from seggeo.run.choice import Chosen, model_for, named_model, request_for
from seggeo.run.plan import make_plan


@pytest.fixture
def nuclei(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundled weights of an installation that has these alone."""
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    facts = {"seggeo": json.dumps({"model": "maskrcnn"})}
    save_file({"rpn.a": np.zeros(1), "roi_heads.a": np.zeros(1)}, tmp_path / "nuclei.safetensors", metadata=facts)
    return tmp_path / "nuclei.safetensors"


def fluorescence() -> np.ndarray:
    image = np.full((100, 100, 3), 4, np.uint8)
    image[40:60, 40:60] = 200
    return image


def test_bundled_weights_are_a_model_and_weights(nuclei: Path):
    wanted = Chosen(name="maskrcnn", weights=nuclei)

    assert named_model(Settings(model="nuclei")) == wanted
    assert named_model(Settings(model="maskrcnn", weights=Path("nuclei"))) == wanted
    assert named_model(Settings(model="nuclei", weights=Path("nuclei"))) == wanted
    with pytest.raises(ConfigError, match=r"--model nuclei and --weights other\.pth") as caught:
        named_model(Settings(model="nuclei", weights=Path("other.pth")))
    assert "--model maskrcnn" in caught.value.mend
    with pytest.raises(ModelError, match="not for --model sam"):
        named_model(Settings(model="sam", weights=Path("nuclei")))


def test_auto_asks_the_weights_first_and_then_the_image(nuclei: Path):
    of_weights = named_model(Settings(weights=nuclei))
    by_name = named_model(Settings(weights=Path("nuclei")))

    assert named_model(Settings()) is None
    assert of_weights is not None
    assert (of_weights.name, of_weights.weights) == ("maskrcnn", nuclei)
    assert of_weights == by_name
    assert of_weights.choice == {"model": "maskrcnn", "kind": None, "why": "the weights are for it"}
    of_image = model_for(look_at(fluorescence()))
    assert (of_image.name, of_image.weights) == ("maskrcnn", nuclei)
    assert of_image.choice is not None
    assert (of_image.choice["model"], of_image.choice["kind"]) == ("nuclei", "fluorescence")


def test_without_bundled_weights_or_colours_auto_falls_to_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)

    none, blind = model_for(look_at(fluorescence())), model_for(None)

    assert (none.name, none.weights) == (blind.name, blind.weights) == ("threshold", None)
    assert none.choice is not None
    assert "not in this installation" in none.choice["why"]
    assert blind.choice is not None
    assert "colour" in blind.choice["why"]


def test_auto_sees_the_files_own_values(tmp_path: Path):
    """A stretch makes a field without objects gray; its 16 bits say that it is dark."""
    noise = np.random.default_rng(0).normal(150, 6, (1, 160, 170)).astype(np.uint16)
    path = write(tmp_path / "empty.tif", noise, geo=False)

    with pytest.warns(SeggeoWarning, match="no CRS"):
        plan = make_plan(path, Settings(), Execution(device="cpu"))

    assert plan.job.choice is not None
    assert plan.job.choice["kind"] == "fluorescence"
    assert "noise of dark ground" in plan.job.choice["why"]


def test_other_names_pass_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    assert named_model(Settings(model="threshold")) == Chosen(name="threshold", weights=None)
    assert named_model(Settings(model="sam", weights=Path("x.pth"))) == Chosen(name="sam", weights=Path("x.pth"))
    own = named_model(Settings(model="mine.py:Mine"))
    assert own == Chosen(name=f"{tmp_path / 'mine.py'}:Mine", weights=None)


def test_a_diameter_becomes_a_setting_of_models_that_take_it(monkeypatch: pytest.MonkeyPatch):
    from seggeo.models import regions

    own = request_for(Chosen(name="mine.py:Mine", weights=None), Settings(set={"a": 1}, diameter=30.0), Execution())
    assert own.settings == {"a": 1, "diameter": 30.0}
    told = Settings(reading=Reading(mpp=0.25, work_mpp=0.5))
    assert request_for(Chosen(name="mine.py:Mine", weights=None), told, Execution()).settings == {"mpp": 0.5}
    with pytest.raises(ConfigError, match="regions has no use for --diameter"):
        request_for(Chosen(name="regions", weights=None), Settings(diameter=30.0), Execution())
    monkeypatch.setattr(regions.load, "sizes", True, raising=False)
    asked = request_for(Chosen(name="regions", weights=None), Settings(set={"diameter": 1.0}, diameter=30.0), Execution(), 0.5)
    assert asked.settings == {"diameter": 30.0}, "what the user says of size beats what pixels say"


def test_the_size_of_pixels_becomes_a_setting_of_models_that_take_it(monkeypatch: pytest.MonkeyPatch):
    from seggeo.models import regions

    chosen = Chosen(name="regions", weights=None)
    assert request_for(chosen, Settings(), Execution(), 0.5).settings == {}
    monkeypatch.setattr(regions.load, "sizes", True, raising=False)
    assert request_for(chosen, Settings(), Execution(), 0.5).settings == {"mpp": 0.5}
    assert request_for(chosen, Settings(), Execution()).settings == {}


def test_a_size_that_autos_model_cannot_use_says_how_it_came_to_that():
    chosen = Chosen(name="threshold", weights=None, choice={"model": "threshold", "kind": "unknown", "why": "it is plain"})

    with pytest.raises(ConfigError, match="which auto took because it is plain"):
        request_for(chosen, Settings(diameter=30.0), Execution())
    assert request_for(chosen, Settings(), Execution(device="cpu", batch=3)).batch == 3

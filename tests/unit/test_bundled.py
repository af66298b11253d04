"""Weights that come along: found by their headers, without torch, whatever lies in the folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from seggeo.errors import ModelError
from seggeo.models import bundled, registry
from seggeo.models.architecture import architecture_of
from seggeo.models.bundled import bundled_models, find_bundled, is_safetensors, read_header

FACTS = {"model": "unet", "title": "nuclei", "kinds": ["fluorescence", "H&E"], "licence": "CC0-1.0", "classes": ["nucleus"]}


def weights(path: Path, facts: object = None, names: tuple[str, ...] = ("stem.0.weight",)) -> Path:
    """A file of small tensors, described or not."""
    metadata = None if facts is None else {"seggeo": facts if isinstance(facts, str) else json.dumps(facts)}
    save_file({name: np.zeros((2, 2), np.float16) for name in names}, path, metadata=metadata)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation's folder with two sets of weights, and files that are none."""
    place = tmp_path / "weights_bundled"
    place.mkdir()
    weights(place / "nuclei.safetensors", FACTS)
    weights(place / "boxes.safetensors", {"model": "maskrcnn"})
    weights(place / "undescribed.safetensors")
    weights(place / "other.safetensors", "no json")
    (place / "README.md").write_text("not weights")
    monkeypatch.setattr(bundled, "FOLDER", place)
    return place


def test_every_described_file_is_a_model(folder: Path):
    boxes, nuclei = bundled_models()

    assert (boxes.name, boxes.model, boxes.kinds) == ("boxes", "maskrcnn", ())
    assert (nuclei.name, nuclei.model, nuclei.title, nuclei.licence) == ("nuclei", "unet", "nuclei", "CC0-1.0")
    assert nuclei.kinds == ("fluorescence", "H&E")
    assert nuclei.facts == FACTS
    assert nuclei.path == folder / "nuclei.safetensors"
    assert nuclei.size_bytes == nuclei.path.stat().st_size
    assert len(bytes.fromhex(nuclei.sha256)) == 32
    assert find_bundled("nuclei") == nuclei
    assert find_bundled("undescribed") is None


def test_no_folder_holds_no_models(tmp_path: Path):
    assert bundled_models(tmp_path / "none") == []


def test_what_this_installation_brings_is_described_and_small():
    for model in bundled_models():
        assert model.model in ("unet", "maskrcnn")
        assert model.title
        assert model.licence
        assert model.kinds
        assert model.size_bytes <= 12e6


def test_names_lead_to_the_file_for_their_own_model_and_for_auto(folder: Path, monkeypatch: pytest.MonkeyPatch):
    path = folder / "nuclei.safetensors"

    assert registry.resolve_weights("nuclei", "unet") == path
    assert registry.resolve_weights("nuclei", "auto") == path
    with pytest.raises(ModelError, match="not for --model maskrcnn") as caught:
        registry.resolve_weights("nuclei", "maskrcnn")
    assert "known for maskrcnn: boxes" in caught.value.why
    monkeypatch.chdir(folder)
    (folder / "nuclei").write_bytes(b"a file of that name")
    assert registry.resolve_weights("nuclei", "maskrcnn") == Path("nuclei")


def test_listing_needs_no_torch():
    code = "import sys; from seggeo.models.bundled import bundled_models; bundled_models(); print('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


@pytest.mark.parametrize("content", [b"", b"\x10", b"\xff" * 9, b"\x05\0\0\0\0\0\0\0{a", b"\x04\0\0\0\0\0\0\0[12]"])
def test_damaged_headers_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"bad\.safetensors"):
        read_header(path)
    assert not is_safetensors(path)


SAM = ("image_encoder.pos_embed", "mask_decoder.iou_token.weight", "prompt_encoder.not_a_point_embed.weight")
RCNN = ("backbone.body.conv1.weight", "rpn.head.cls_logits.bias", "roi_heads.box_head.fc6.weight")
UNET = ("stem.0.weight", "encode.0.0.weight", "decode.0.0.0.weight", "head.weight")


@pytest.mark.parametrize(("names", "kind"), [(SAM, "sam"), (RCNN, "maskrcnn"), (UNET, "unet")])
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_tensors_tell_their_network(tmp_path: Path, names: tuple[str, ...], kind: str, prefix: str):
    wrapped = tuple(prefix + name for name in names)

    assert architecture_of(weights(tmp_path / "w.safetensors", names=wrapped)) == kind


def test_metadata_has_the_first_word_and_archives_count_too(tmp_path: Path):
    import torch

    torch.save({name: torch.zeros(2) for name in SAM}, tmp_path / "w.pth")

    assert architecture_of(tmp_path / "w.pth") == "sam"
    assert architecture_of(weights(tmp_path / "w.safetensors", {"model": "unet"}, RCNN)) == "unet"


def test_weights_of_nothing_known_must_be_named(tmp_path: Path):
    with pytest.raises(ModelError, match="does not say which model") as caught:
        architecture_of(weights(tmp_path / "w.safetensors", names=("layer.weight",)))

    assert "--model" in caught.value.mend
    with pytest.raises(ModelError, match="cannot be read"):
        architecture_of(tmp_path / "none.safetensors")

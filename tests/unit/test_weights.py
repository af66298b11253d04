"""Weights files of every kind: tensors come out unchanged, everything else is refused and runs nothing."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seggeo.errors import ModelError
from seggeo.models.weights import load_state, load_strictly, sha256_of

TENSORS = {"conv.weight": torch.arange(12.0).reshape(3, 4), "conv.bias": torch.ones(3, dtype=torch.float16)}


class Canary:
    """Unpickled anywhere, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def same(state) -> bool:
    return state.keys() == TENSORS.keys() and all(
        torch.equal(state[k], TENSORS[k]) and state[k].dtype == TENSORS[k].dtype for k in state
    )


def refusal(path: Path, **options) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_state(path, **options)
    assert caught.value.exit_code == 6
    assert path.name in caught.value.what
    assert caught.value.mend
    return caught.value


def test_safetensors_give_tensors_and_metadata_whatever_their_name(tmp_path):
    save_file(TENSORS, tmp_path / "weights.pth", metadata={"seggeo": json.dumps({"anchors": [8]}), "format": "pt"})

    state, metadata = load_state(tmp_path / "weights.pth")

    assert same(state)
    assert metadata == {"seggeo": {"anchors": [8]}, "format": "pt"}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict", "ema", "params"])
def test_torch_archives_are_unwrapped(tmp_path, wrapper, zipped):
    content = {wrapper: TENSORS, "epoch": 7, "optimizer": {"lr": 0.1}} if wrapper else TENSORS
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)

    state, metadata = load_state(tmp_path / "w.pt")

    assert same(state)
    assert metadata == {}


def test_a_torch_archive_may_carry_our_settings(tmp_path):
    torch.save({"model": TENSORS, "seggeo": {"score": 0.3}}, tmp_path / "w.pt")

    assert load_state(tmp_path / "w.pt")[1] == {"seggeo": {"score": 0.3}}


def test_the_options_of_torchvisions_training_script_pass(tmp_path):
    torch.save({"model": TENSORS, "args": argparse.Namespace(lr=0.02, output_dir="x")}, tmp_path / "w.pth")

    assert same(load_state(tmp_path / "w.pth")[0])


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    save_file({prefix + name: value for name, value in TENSORS.items()}, tmp_path / "w.safetensors")

    assert same(load_state(tmp_path / "w.safetensors")[0])


def test_a_prefix_that_only_some_names_carry_is_part_of_the_name(tmp_path):
    save_file({"model.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "w.safetensors")

    assert load_state(tmp_path / "w.safetensors")[0].keys() == {"model.a", "b"}


def test_averaged_models_lose_their_counter(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))
    torch.save({"ema": averaged.state_dict()}, tmp_path / "w.pt")

    assert load_state(tmp_path / "w.pt")[0].keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>quota exceeded", "this is a web page, not weights"),
        (b"\xef\xbb\xbf\n  <html>", "this is a web page, not weights"),
        (b'{"error": "not found"}', "web page or JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "neither safetensors nor a torch archive"),
        (b"abc", "neither safetensors nor a torch archive"),
    ],
    ids=["empty", "html", "html with BOM", "json", "lfs", "hdf5", "text"],
)
def test_what_is_no_weights_file_is_named(tmp_path, content, reason):
    (tmp_path / "w.pth").write_bytes(content)

    assert reason in refusal(tmp_path / "w.pth").why


def test_a_missing_file_a_folder_and_an_unreadable_file_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.pth").why
    (tmp_path / "folder.pth").mkdir()
    assert "directory" in refusal(tmp_path / "folder.pth").why
    with pytest.raises(ModelError, match=r"absent\.pth cannot be read"):
        sha256_of(tmp_path / "absent.pth")


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    path, big = tmp_path / "w.pth", {"a": torch.rand(2000), "b": torch.rand(500)}
    if kind == "safetensors":
        save_file(big, path)
    else:
        torch.save(big, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    assert refusal(path).why


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_never_end_in_anything_but_a_refusal_or_tensors(tmp_path, seed):
    import random

    rng, path = random.Random(seed), tmp_path / "w.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=bool(seed % 2))
    content = bytearray(path.read_bytes())
    for _ in range(6):
        content[rng.randrange(2, len(content))] = rng.randrange(256)
    path.write_bytes(bytes(content))

    try:
        state, _ = load_state(path)
    except ModelError:
        return
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare", "nested", "beside a namespace"])
def test_a_malicious_pickle_runs_nothing(tmp_path, kind):
    canary, path = tmp_path / "canary", tmp_path / "w.pth"
    evil = Canary(canary)
    if kind == "bare":
        path.write_bytes(pickle.dumps(evil, protocol=2))
    elif kind == "beside a namespace":
        torch.save({"model": TENSORS, "args": argparse.Namespace(x=1), "evil": evil}, path)
    else:
        torch.save(
            {"model": {**TENSORS, "evil": evil}} if kind == "nested" else evil,
            path,
            _use_new_zipfile_serialization=kind != "legacy",
        )

    error = refusal(path)

    assert not canary.exists()
    assert "run code" in error.what
    assert "mkdir" in error.why
    assert "save_file" in error.mend


def test_a_whole_module_is_refused_with_how_to_save_it_again(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")

    error = refusal(tmp_path / "module.pt")

    assert "torch.nn.modules.linear.Linear" in error.why
    assert "model.state_dict()" in error.mend


def test_torchscript_is_code(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
        archive.writestr("script/data.pkl", b"\x80\x02}.")
        archive.writestr("script/code/__torch__.py", "import os\n")
        archive.writestr("script/version", "3\n")

    assert "TorchScript code" in refusal(tmp_path / "script.pt").why


def test_a_zip_that_is_no_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("../../escape.txt", "x")

    refusal(tmp_path / "photos.pth")
    assert not (tmp_path.parent.parent / "escape.txt").exists()


def test_an_archive_without_tensors_says_what_it_holds(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "log.pt")
    torch.save([1, 2], tmp_path / "list.pt")

    assert "epoch, lr" in refusal(tmp_path / "log.pt").why
    assert "found list" in refusal(tmp_path / "list.pt").why


@pytest.mark.parametrize("text", ["not json", "[1, 2]", "3"])
def test_metadata_that_is_no_object_is_refused(tmp_path, text):
    save_file(TENSORS, tmp_path / "w.safetensors", metadata={"seggeo": text})

    assert "metadata" in refusal(tmp_path / "w.safetensors").what


def test_the_digest_is_of_the_bytes(tmp_path):
    content = io.BytesIO(b"seggeo" * 100_000).getvalue()
    (tmp_path / "f").write_bytes(content)

    assert sha256_of(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_loading_is_all_or_nothing(tmp_path):
    module, path = nn.Linear(2, 2), tmp_path / "w.pth"
    load_strictly(module, {"weight": torch.eye(2), "bias": torch.zeros(2)}, path)
    assert torch.equal(module.weight, torch.eye(2))

    many = {f"layer{i}.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(ModelError, match=r"2 missing: weight, bias; 9 left over: layer0.weight, .* and 5 more"):
        load_strictly(module, many, path)
    with pytest.raises(ModelError, match="size mismatch for weight"):
        load_strictly(module, {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, path)

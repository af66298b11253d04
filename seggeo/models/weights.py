"""Weights from files that may be anything: tensors come out, code never runs.

1. `_sniff` looks at the first bytes, not at the name: safetensors, a torch archive, or what else it is.
2. safetensors give tensors and a text header; torch archives are read with `weights_only=True` and nothing else.
3. `_unwrap` finds the tensors in what trainers put around them, `_strip` takes off what wrappers put before names.
4. `load_strictly` fills a network with exactly these tensors or refuses.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seggeo.errors import ModelError

WRAPPERS = ("model", "state_dict", "model_state_dict", "ema", "params")
PREFIXES = ("module.", "model.", "_orig_mod.")

# What reading a damaged or hostile archive can raise; anything else is a bug of ours and should look like one.
_DAMAGE = (
    RuntimeError, ValueError, EOFError, OSError, KeyError, IndexError, AttributeError, TypeError, OverflowError,
    struct.error, pickle.UnpicklingError,
)  # fmt: skip

_RESAVE = (
    "where the file was made: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors'), "
    "or torch.save(model.state_dict(), 'weights.pth')"
)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits.

    Raises:
        ModelError: The file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a weights file by name, on the CPU, and the file's metadata.

    Args:
        path: `.safetensors`, or a `.pth`/`.pt` that holds tensors and plain values; told apart by content.

    Returns:
        The tensors, names freed of `module.`, `model.` and `_orig_mod.` where all carry them; and the metadata:
        text by name, with the entry `seggeo` parsed from JSON. Torch archives have at most that entry.

    Raises:
        ModelError: Missing, empty, truncated, not weights, or weights that would run code.
    """
    kind = _sniff(path)
    if kind == "safetensors":
        tensors, metadata = _read_safetensors(path)
    else:
        content = _read_archive(path, mmap=kind == "zip")
        tensors, metadata = _unwrap(content, path), _embedded(content)
    return _strip(tensors), metadata


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Fill every parameter and buffer of `module` from `state`, leaving none out on either side.

    Raises:
        ModelError: Names are missing or left over, or a shape differs; `module` is then not to be used.
    """
    try:
        missing, unexpected = module.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        shapes = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        raise _misfit(path, module, "; ".join(shapes[:3]) or str(error)) from error
    if missing or unexpected:
        lists = [_few("missing", list(missing)), _few("left over", list(unexpected))]
        raise _misfit(path, module, "; ".join(part for part in lists if part))


def _sniff(path: Path) -> str:
    """`safetensors`, `zip` or `pickle`, by the first bytes."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80") and head[1:2] <= b"\x05":
        return "pickle"
    raise ModelError(
        what=f"{path} holds no weights", why=_what_else(head), mend="download the file again and compare its size and sha256"
    )


def _what_else(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head:
        return "the file is empty"
    if text.startswith(b"<"):
        return "this is a web page, not weights: the download needed a login, a confirmation or another address"
    if text.startswith((b"{", b"[")):
        return "this is a web page or JSON answer, not weights"
    if text.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, not weights: fetch the file itself with git lfs pull"
    if len(head) > 8 and head[8:9] == b"{":
        return "the file is truncated inside its safetensors header"
    return f"its first bytes {head[:8]!r} are neither safetensors nor a torch archive"


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, Any] = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    except (SafetensorError, *_DAMAGE) as error:
        raise _damaged(path, error) from error
    return tensors, _parsed(metadata, path)


def _parsed(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """Metadata with its entry `seggeo` as a mapping."""
    if "seggeo" not in metadata:
        return metadata
    try:
        values = json.loads(metadata["seggeo"])
    except ValueError as error:
        raise _bad_metadata(path, str(error)) from error
    if not isinstance(values, dict):
        raise _bad_metadata(path, f"it is a {type(values).__name__}")
    return {**metadata, "seggeo": values}


def _bad_metadata(path: Path, why: str) -> ModelError:
    return ModelError(
        what=f"the metadata of {path} cannot be read",
        why=f"its entry 'seggeo' is no JSON object: {why}",
        mend="save the file again with metadata={'seggeo': json.dumps({...})}",
    )


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, *_DAMAGE) as error:
        raise _damaged(path, error) from error


def _read_archive(path: Path, *, mmap: bool) -> Any:
    """What a torch archive holds, tensors and plain values only."""
    if mmap and _is_torchscript(path):  # torch.load would hand it on to torch.jit.load
        raise _would_run_code(path, "TorchScript code")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _DAMAGE as error:
        refused = _refused_name(error)
        if refused is None:
            raise _damaged(path, error) from error
        if refused != "argparse.Namespace":
            raise _would_run_code(path, refused) from error
    # torchvision's own training script saves its options beside the weights; a Namespace is inert.
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except _DAMAGE as error:
        refused = _refused_name(error)
        raise (_would_run_code(path, refused) if refused else _damaged(path, error)) from error


def _refused_name(error: BaseException) -> str | None:
    """The Python name a restricted unpickler would not import, or None when the trouble is another."""
    text = str(error)
    found = re.search(r"(?:GLOBAL|class|function) ['\"]?([A-Za-z_]\w*(?:\.\w+)+)", text)
    if found and isinstance(error, pickle.UnpicklingError):
        return found.group(1)
    return "Python objects" if "weights_only" in text and "Unsupported" in text else None


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors inside the layers trainers put around them."""
    for _ in range(4):
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            break
        inner = next((content[name] for name in WRAPPERS if isinstance(content.get(name), (Mapping, nn.Module))), None)
        if inner is None:
            break
        content = inner
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and len(tensors) == len(content):
            return tensors
    held = ", ".join(sorted(map(str, content))[:5]) if isinstance(content, Mapping) else type(content).__name__
    raise ModelError(
        what=f"{path} holds no state dict",
        why=f"found {held or 'nothing'}; looked for tensors by name, alone or under {', '.join(WRAPPERS)}",
        mend=_RESAVE,
    )


def _embedded(content: Any) -> dict[str, Any]:
    """The `seggeo` entry that a torch archive may carry beside its tensors."""
    values = content.get("seggeo") if isinstance(content, Mapping) else None
    return {"seggeo": dict(values)} if isinstance(values, Mapping) else {}


def _strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefixes that data-parallel, compiled, averaged and Lightning wrappers add to all of them."""
    tensors.pop("n_averaged", None)  # torch.optim.swa_utils.AveragedModel counts here
    while tensors:
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _few(title: str, names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{len(names)} {title}: {', '.join(names[:4])}{more}" if names else ""


def _misfit(path: Path, module: nn.Module, why: str) -> ModelError:
    return ModelError(
        what=f"the tensors of {path} do not fill a {type(module).__name__}",
        why=why,
        mend="use weights saved from this architecture; nothing is loaded in part",
    )


def _unreadable(path: Path, error: OSError) -> ModelError:
    return ModelError(
        what=f"weights {path} cannot be read", why=error.strerror or str(error), mend="check the path given to --weights"
    )


def _damaged(path: Path, error: BaseException) -> ModelError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(
        what=f"{path} is damaged or truncated",
        why=first or type(error).__name__,
        mend="download the file again and compare its size and sha256",
    )


def _would_run_code(path: Path, refused: str) -> ModelError:
    return ModelError(
        what=f"{path} is refused: loading it would run code",
        why=f"it stores {refused}, not only tensors; nothing of it was executed",
        mend=_RESAVE,
    )

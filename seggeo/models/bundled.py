"""Weights that come with seggeo: `weights_bundled/*.safetensors`, each described by its own header.

A file's name is its model's name (`nuclei.safetensors` is `--model nuclei`), and the entry `seggeo` of its metadata, a
JSON object, says which architecture it fills (`model`), what it is (`title`), for which kinds of image (`kinds`) and under
which `licence`. Only headers are read here: listing costs no torch. Files without that entry are not listed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seggeo.errors import ModelError

FOLDER = Path(__file__).parent / "weights_bundled"
_MAX_HEADER = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """One set of weights in the package."""

    name: str
    """What `--model` and `--weights` take."""
    model: str
    """The segmenter they are for: unet or maskrcnn."""
    path: Path
    title: str = ""
    """What it finds, one line."""
    kinds: tuple[str, ...] = ()
    """Kinds of image it was trained on."""
    licence: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The whole entry `seggeo` of the metadata."""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    @property
    def sha256(self) -> str:
        """Of the file, 64 hexadecimal digits."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a safetensors file says before its numbers."""

    tensors: tuple[str, ...]
    """Names, in the file's order."""
    facts: Mapping[str, Any]
    """The entry `seggeo` of its metadata; empty where it has none that is a JSON object."""


def bundled_models(folder: Path | None = None) -> list[Bundled]:
    """The weights that come with this installation, in alphabetical order; none is no trouble."""
    found = []
    for path in sorted((folder or FOLDER).glob("*.safetensors")):
        facts = read_header(path).facts
        if isinstance(facts.get("model"), str):
            found.append(
                Bundled(
                    name=path.stem, model=facts["model"], path=path, title=str(facts.get("title", "")),
                    kinds=tuple(map(str, facts.get("kinds", ()))), licence=str(facts.get("licence", "")), facts=facts,
                )
            )  # fmt: skip
    return found


def find_bundled(name: str, folder: Path | None = None) -> Bundled | None:
    """The bundled weights of one name, or None."""
    return next((model for model in bundled_models(folder) if model.name == name), None)


def is_safetensors(path: Path) -> bool:
    """True when the first bytes are those of a safetensors file, whatever its name."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def read_header(path: Path) -> Header:
    """Names of tensors and the `seggeo` entry of a safetensors file, without reading its numbers.

    Raises:
        ModelError: It cannot be read, or is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            # A damaged length must not fill the memory; what is cut off then is no JSON.
            length = min(int.from_bytes(file.read(8), "little"), _MAX_HEADER)
            values = json.loads(file.read(length))
            metadata = dict(values.pop("__metadata__", {}))
    except OSError as error:
        raise ModelError(
            what=f"weights {path} cannot be read", why=error.strerror or str(error), mend="check the path given to --weights"
        ) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(
            what=f"{path} is no safetensors file, or a damaged one", why=str(error), mend="download or save the file again"
        ) from error
    return Header(tensors=tuple(values), facts=_facts(metadata.get("seggeo")))


def _facts(text: Any) -> Mapping[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, TypeError):
        return {}
    return facts if isinstance(facts, dict) else {}

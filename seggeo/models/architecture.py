"""Which segmenter a weights file is for: what its metadata says, else what its tensors are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from seggeo.errors import ModelError
from seggeo.models.bundled import is_safetensors, read_header

_SIGNS = (
    ("sam", ("image_encoder.", "mask_decoder.", "prompt_encoder.")),
    ("maskrcnn", ("roi_heads.", "rpn.")),
    ("unet", ("stem.", "encode.", "decode.", "head.")),
)
"""Beginnings of tensor names that every network of a kind has."""


def architecture_of(path: Path) -> str:
    """Name of the segmenter that a weights file is for.

    The headers of safetensors are enough; a torch archive is read whole, tensors and plain values only.

    Raises:
        ModelError: The file cannot be read or is refused, or nothing in it says what it is.
    """
    if is_safetensors(path):
        header = read_header(path)
        said, names = header.facts.get("model"), header.tensors
    else:
        from seggeo.models.weights import load_state

        state, metadata = load_state(path)
        said, names = metadata.get("seggeo", {}).get("model"), tuple(state)
    if isinstance(said, str) and said:
        return said
    found = _by_names(names)
    if found is None:
        raise ModelError(
            what=f"{path} does not say which model it is for",
            why="its metadata has no entry 'model', and its tensors are those of no model that seggeo knows",
            mend="name it with --model: maskrcnn, sam or unet",
        )
    return found


def _by_names(names: Iterable[str]) -> str | None:
    """The kind all of whose parts are there; wrappers may have put something before the names."""
    dotted = [f".{name}" for name in names]
    for kind, signs in _SIGNS:
        if all(any(f".{sign}" in name for name in dotted) for sign in signs):
            return kind
    return None

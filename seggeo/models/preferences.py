"""How weights want their images read: the stretch and the bands of their training, where a user asks for no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from seggeo.config import Reading
from seggeo.models.bundled import is_safetensors, read_header


def preferred(reading: Reading, weights: Path | None) -> Reading:
    """A user's reading with what the weights' metadata ask for in place of automatic choices.

    Raises:
        ModelError: The weights cannot be read.
    """
    if weights is None or not is_safetensors(weights):
        return reading
    facts = read_header(weights).facts
    stretch, bands = facts.get("stretch"), facts.get("bands")
    if reading.stretch == "auto" and isinstance(stretch, str):
        reading = replace(reading, stretch=stretch)
    if reading.bands is None and isinstance(bands, list) and bands:
        reading = replace(reading, bands=tuple(int(band) for band in bands))
    return reading

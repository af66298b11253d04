"""Which channels of a slide are read: by name or number, else all of them, or for RGB models the colours or the nuclei."""

from __future__ import annotations

import re
from collections.abc import Sequence

from seggeo.errors import ConfigError

_NUCLEAR = ("dapi", "hoechst", "draq5", "nuclei", "nuclear", "nucleus", "dna")
"""Names of nuclear stains."""
_NUMBERED = re.compile(r"((band|channel|ch|c)?[ _:-]*\d+([:.]\d+)*)?")


def choose_channels(
    names: Sequence[str], asked: Sequence[str | int] | None, *, native: bool, is_rgb: bool, name: str
) -> tuple[int, ...]:
    """0-based channels to read, in the order they are handed out.

    Args:
        names: Of every channel of the file.
        asked: Names (in any case, or a part that only one has) or numbers from 1; None for no choice.
        native: True: as asked, or all; False: three for an RGB model. Of one that is asked for all three are made, two are
            filled up with the first; unasked it gets the colours of a camera, else the nuclear stain or the first channel.
        is_rgb: The first three are red, green and blue.
        name: The file, for errors.

    Raises:
        ConfigError: A channel that does not exist, or a name that means several.
    """
    if asked is None:
        return _unasked(names, native=native, is_rgb=is_rgb)
    chosen = tuple(_find(names, one, name) for one in asked)
    if not chosen:
        raise ConfigError(what="no channel", why="a model needs at least one", mend="use --channel DAPI")
    if native:
        return chosen
    if len(chosen) > 3:
        raise ConfigError(
            what=f"{len(chosen)} channels for a model that takes red, green and blue",
            why="one is repeated three times, two or three are shown as colours; anything else would be a guess",
            mend="choose up to three, for example --channel DAPI",
        )
    return (*chosen, *(chosen[0],) * (3 - len(chosen)))


def nuclear_channel(names: Sequence[str]) -> int | None:
    """The first channel whose name is that of a nuclear stain."""
    return next((i for i, name in enumerate(names) if any(stain in name.lower() for stain in _NUCLEAR)), None)


def are_colours(names: Sequence[str], colours: Sequence[str] = ()) -> bool:
    """True when three channels are a camera's red, green and blue.

    Args:
        names: Of all channels, empty or numbered where they have none.
        colours: In which each is drawn, as hexadecimal RGB. They tell only where no name does: stains are drawn so too.
    """
    plain = [name.strip().lower() for name in names]
    if plain in (["red", "green", "blue"], ["r", "g", "b"]):
        return True
    unnamed = all(_NUMBERED.fullmatch(name) for name in plain)
    return unnamed and [colour.upper() for colour in colours] == ["FF0000", "00FF00", "0000FF"]


def _unasked(names: Sequence[str], *, native: bool, is_rgb: bool) -> tuple[int, ...]:
    if native:
        return tuple(range(len(names)))
    return (0, 1, 2) if is_rgb else (nuclear_channel(names) or 0,) * 3


def _find(names: Sequence[str], asked: str | int, name: str) -> int:
    """The channel that a name or number means; an exact name wins over a number, and that over a part of a name."""
    text = str(asked).strip()
    exact = [i for i, own in enumerate(names) if own.lower() == text.lower()]
    if len(exact) == 1 and not isinstance(asked, int):
        return exact[0]
    if text.isdecimal() and 1 <= int(text) <= len(names):
        return int(text) - 1
    found = exact or [i for i, own in enumerate(names) if text and text.lower() in own.lower()]
    if len(found) == 1 and not isinstance(asked, int):
        return found[0]
    listed = ", ".join(f"{i} {own}" for i, own in enumerate(names, 1))
    raise ConfigError(
        what=f"{name} has {'several channels' if found else 'no channel'} called {text!r}",
        why=f"its channels are {listed}",
        mend=f"use --channel with a number from 1 to {len(names)} or a whole name",
    )

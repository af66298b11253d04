"""How many micrometres a pixel of a slide is, from whoever says so: never guessed.

1. A backend collects `Claim`s: vendor property, OME-XML, DICOM, TIFF resolution.
2. `settle_mpp` takes the user's word, else the first claim in that order, and warns where two differ by more than 5 %.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt

from seggeo.errors import ConfigError, SeggeoWarning

ORIGINS = ("vendor", "OME", "DICOM", "TIFF resolution")
"""Where a claim may come from, the most trusted first."""
_DIFFERS = 0.05
_PLAUSIBLE_UM = (1e-3, 1e3)
_PLAUSIBLE_RESOLUTION_UM = (5e-3, 20.0)
"""TIFF resolutions are often those of a printer: 72 dpi is 353 um, 96 dpi 265 um, 300 dpi 85 um and 600 dpi 42 um."""
_UM = {
    "micrometer": 1.0, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "micrometre": 1.0, "\\u00b5m": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "pm": 1e-6, "å": 1e-4, "angstrom": 1e-4, "mm": 1e3, "millimeter": 1e3,
    "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6, "inch": 25400.0, "in": 25400.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement about the full-resolution pixel."""

    origin: str
    """One of `ORIGINS`."""
    row: float
    """Micrometres between two rows."""
    col: float
    """Micrometres between two columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mpp:
    """The resolution that is used."""

    row: float
    """Micrometres between two rows of the full-resolution image."""
    col: float
    """Micrometres between two columns."""
    origin: str
    """One of `ORIGINS`, or user."""


def claim(origin: str, row: float | None, col: float | None) -> tuple[Claim, ...]:
    """One claim in micrometres, or none where a value is missing or cannot be a slide's; one axis stands for both."""
    row, col = (col if row is None else row), (row if col is None else col)
    low, high = _PLAUSIBLE_RESOLUTION_UM if origin == "TIFF resolution" else _PLAUSIBLE_UM
    if row is None or col is None or not (isfinite(row) and isfinite(col)):
        return ()
    if not (low <= row <= high and low <= col <= high):
        return ()
    return (Claim(origin=origin, row=row, col=col),)


def tiff_claim(rows: float, cols: float, unit: float | None) -> tuple[Claim, ...]:
    """The claim of a TIFF's resolution tags.

    Args:
        rows, cols: Pixels per unit along y and x.
        unit: Micrometres in that unit; None where the file names none, and then its numbers say nothing.
    """
    if unit is None or rows <= 0 or cols <= 0:
        return ()
    return claim("TIFF resolution", unit / rows, unit / cols)


def to_um(value: float | None, unit: str | None) -> float | None:
    """A length in micrometres; None for units that are no length (pixel, reference frame) or unknown."""
    factor = _UM.get((unit or "").strip().lower())
    return None if value is None or factor is None or not value > 0 else value * factor


def number(text: object) -> float | None:
    """The number a file wrote, also with a decimal comma; None for anything else."""
    try:
        value = float(str(text).strip().replace(",", "."))
    except ValueError:
        return None
    return value if isfinite(value) else None


def settle_mpp(claims: Iterable[Claim], told: float | None, name: str) -> Mpp | None:
    """The resolution to use, or None where nobody knows it.

    Args:
        claims: What the file says.
        told: Micrometres per pixel in the user's words, which win.
        name: The file, for the warning.

    Raises:
        ConfigError: `told` is no length.
    """
    if told is not None and not 0 < told < float("inf"):
        raise ConfigError(what=f"an MPP of {told} um", why="it is the side of a pixel on the slide", mend="use --mpp 0.25")
    ordered = sorted(claims, key=lambda c: ORIGINS.index(c.origin))
    if told is None and not ordered:
        return None
    first = ordered[0] if ordered else None
    chosen = Mpp(row=told, col=told, origin="user") if told is not None else _as_mpp(ordered[0])
    others = [c for c in ordered if _differ(chosen, c) and (told is not None or c is not first)]
    if others:
        said = ", ".join(f"{_shown(c)} from its {c.origin}" for c in others)
        source = "you say" if told is not None else f"its {chosen.origin} says"
        message = f"{name}: {source} {_shown(chosen)} um/px, but it also has {said}; {_shown(chosen)} is used"
        warnings.warn(SeggeoWarning(message), stacklevel=2)
    return chosen


def _as_mpp(first: Claim) -> Mpp:
    return Mpp(row=first.row, col=first.col, origin=first.origin)


def _differ(a: Mpp, b: Claim) -> bool:
    return any(max(x, y) / min(x, y) > 1 + _DIFFERS for x, y in ((a.row, b.row), (a.col, b.col)))


def _shown(size: Mpp | Claim) -> str:
    return f"{sqrt(size.row * size.col):.4g}"

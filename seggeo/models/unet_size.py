"""At which share of an image's resolution a network works: what is known of the image's scale, else the size of what it finds.

Known beats guessed: a scale that is set, a diameter, micrometres or metres per pixel. Otherwise the network looks at a few
windows at several scales; the objects it is surest of tell how large they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from seggeo.geometry import Frame
from seggeo.models.unet_resample import nearest_scale
from seggeo.models.unet_settings import UNetCard, UNetSettings
from seggeo.protocols import Segmenter, TileImage

WINDOW = 320
WINDOWS = 4
"""Windows of this side, px, that sizes are estimated from."""
TRIED = tuple(Fraction(*pq) for pq in ((1, 1), (1, 2), (2, 1), (1, 4)))
_ENOUGH = 5
_SURE = 0.75
"""Objects less sure than this are no objects to measure."""
_CERTAIN = 0.85
"""Objects as sure as this need no other look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """What a look at one scale showed."""

    scale: Fraction
    diameter: float
    """Of the objects that hold half of all objects' area, px of the image; 0 without objects."""
    count: int
    surety: float
    """Mean score of the objects, by area."""


def choose_scale(card: UNetCard, settings: UNetSettings, frame: Frame) -> tuple[Fraction, str] | None:
    """The scale that what is known of the image asks for, and why; None when nothing is known."""
    if settings.ratio is not None:
        return settings.ratio, "set"
    if card.diameter and settings.diameter:
        return nearest_scale(card.diameter / settings.diameter), f"objects are {settings.diameter:g} px across, as you say"
    if card.diameter and card.object_um and settings.mpp:
        size = card.object_um / settings.mpp
        return nearest_scale(card.diameter / size), f"at {settings.mpp:g} um a pixel objects are about {size:.0f} px across"
    if card.gsd and frame.unit == "m":
        gsd = float(np.sqrt(frame.spacing[1] * frame.spacing[2]))
        return nearest_scale(gsd / card.gsd), f"the image has {gsd:.3g} m a pixel, the model knows {card.gsd:.3g} m"
    if not card.diameter or card.diameters[1] >= 1e6:
        return Fraction(1), "nothing is known of the image's scale"
    return None


def weigh(card: UNetCard, seen: Sequence[Sized]) -> Sized:
    """Of several looks the one to go by: objects of a size that the network takes, and the surest of them."""

    def merit(look: Sized) -> tuple[bool, bool, float]:
        return is_sure(look), look.count >= _ENOUGH and _is_taken(card, look.diameter * float(look.scale)), look.surety

    return max(seen, key=merit)


def is_needless(card: UNetCard, seen: Sequence[Sized], scale: Fraction) -> bool:
    """True when the image's own resolution shows objects as the network takes them, and at `scale` it would not.

    A look at twice the resolution costs four times as much as one at its own. Coarser looks settle nothing: what they find
    in small objects' place is at times of a size that is taken.
    """
    return any(
        look.scale == 1 and look.surety >= _CERTAIN and look.count >= _ENOUGH and _is_taken(card, look.diameter)
        and not _is_taken(card, look.diameter * float(scale))
        for look in seen
    )  # fmt: skip


def _is_taken(card: UNetCard, diameter: float) -> bool:
    low, high = card.diameters
    return low <= diameter <= high


def is_sure(look: Sized) -> bool:
    """True when what was seen can be measured."""
    return look.count > 0 and look.surety >= _SURE


def look_at(segmenter: Segmenter, windows: Sequence[TileImage], scale: Fraction) -> Sized:
    """What a segmenter that works at `scale` finds in some windows; objects cut by a window's side say nothing."""
    areas: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    scores = []
    for window in windows:
        found = segmenter.predict([window])[0].instances
        height, width = window.valid.shape
        whole = (found.box[:, :2] > 0).all(axis=1) & (found.box[:, 2] < height) & (found.box[:, 3] < width)
        areas.append(found.area[whole])
        scores.append(found.score[whole])
    area, score = np.concatenate(areas), np.concatenate(scores)
    surety = float(np.average(score, weights=area)) if len(area) else 0.0
    return Sized(scale=scale, diameter=diameter_of(area), count=len(area), surety=surety)


def diameter_of(areas: ArrayLike) -> float:
    """Diameter, px, of a disc as large as the object up to which objects hold half of all area; 0 without objects."""
    area = np.sort(np.asarray(areas, np.float64))
    if not len(area):
        return 0.0
    return float(2 * np.sqrt(area[np.searchsorted(np.cumsum(area), area.sum() / 2)] / np.pi))

"""What is known of an image, or of one slice of a volume, before its scene is made."""

from __future__ import annotations

from dataclasses import dataclass

from seggeo.geometry import Frame
from seggeo.io.annotations import Annotations
from seggeo.train.pixels import View

OVERVIEW_PX = 2048
"""Longest side of the overview that fixes the stretch, the same as in `seggeo segment`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An image, or a slice, with its labels."""

    view: View
    frame: Frame
    bands: int
    """Of its pixels."""
    dtype: str
    """Of raw values."""
    labels: Annotations
    asked: str
    """Its stretch in `--stretch`'s words."""
    reach: int = 0
    """Slices on either side from which its pixels are made."""

"""What a whole slide must offer, whatever library reads it: images of several sizes, cut into fixed blocks.

A backend decodes one block at a time and keeps nothing; caching, windows, work grids and channels are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.io.mpp import Claim

MAX_BLOCK_BYTES = 256 * 2**20
"""A block is decoded whole, so a larger one is refused."""

Block = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""Values `(h, w, c)` and valid `(h, w)` of one block, None where all of it was scanned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PyramidLevel:
    """One image of a pyramid."""

    shape: tuple[int, int]
    """Rows and columns."""
    downsample: tuple[float, float]
    """Full-resolution rows and columns in one pixel, true ratios and not the nearest whole number."""
    block: tuple[int, int]
    """Rows and columns of a block; those at the lower and right edge may be cut."""
    missing: NDArray[np.bool_] | None = None
    """`(block rows, block columns)`, True = never written; None where every block is there, or where nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFacts:
    """What a file says about itself."""

    kind: str
    """Format, as users call it."""
    levels: tuple[PyramidLevel, ...]
    """Full resolution first, then ever smaller."""
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    """Name of every channel, alpha left out."""
    is_rgb: bool
    """True when the first three channels are red, green and blue of a camera (brightfield)."""
    origin: tuple[float, float] = (0.0, 0.0)
    """Full-resolution row and column, in the whole slide's coordinates, of the corner of pixel (0, 0)."""
    claims: tuple[Claim, ...] = ()
    """What the file says of its resolution, in several places perhaps."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """More for `seggeo info`, JSON values."""


class Pyramid(Protocol):
    """An open slide; `block` may be called from several threads at once."""

    facts: SlideFacts

    def block(self, level: int, row: int, col: int, channels: tuple[int, ...]) -> Block | None:
        """The block in this block row and column with these channels (0-based), or None where it was never written.

        Raises:
            SourceError: It is damaged.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def check_block_bytes(level: PyramidLevel, pixel_bytes: int, name: str) -> None:
    """Refuse blocks too large to decode as one piece.

    Raises:
        SourceError: A block of this level passes the limit.
    """
    size = level.block[0] * level.block[1] * pixel_bytes
    if size > MAX_BLOCK_BYTES:
        raise SourceError(
            what=f"{name} has blocks of {size >> 20} MiB",
            why=f"each must be decoded whole, and the limit is {MAX_BLOCK_BYTES >> 20} MiB",
            mend="write it in tiles: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
        )


def damaged_slide(name: str, error: BaseException, where: str = "") -> SourceError:
    """The refusal of a slide that a library cannot read (`where`: the part of it), with the reason on one line."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, (ArithmeticError, AttributeError, LookupError, TypeError)):
        reason = f"what it says of itself makes no sense ({type(error).__name__}: {reason})"
    return SourceError(what=f"{name} cannot be read{where}", why=reason, mend="copy or download the file again")

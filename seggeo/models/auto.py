"""`--model auto`: which model fits the kind of image, from a few numbers that can be told in one line.

1. With a CRS: a colour picture whose pixels are at most 1 m on the ground is overhead imagery; anything else is unknown.
2. `fluorescence_of`: most of the picture is one dark ground, what is bright on it is grey or of pure colours.
3. `stain_of`: on light ground, what absorbs light absorbs green most (haematoxylin and eosin, optical density against the
   scene's own white, Ruifrok and Johnston 2001), unlike soil, roofs and brown stains (blue) or water and leaves (red).
4. `noise_of`: one band of 16 bits, low and narrow values, neighbours that have nothing in common: a camera that saw nothing.
   A stretch makes such a field gray, so that the file's own values are looked at.
5. `choose` takes the bundled model for the kind, or `threshold` where there is none, and says why.

The limits lie in the middle of the gaps that the shared images leave; `docs/models.md` has the table.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.models.threshold import otsu
from seggeo.protocols import Look, Pixels, TileImage

FALLBACK = "threshold"
BUNDLED_FOR = {"fluorescence": "nuclei", "H&E": "nuclei", "overhead": "overhead"}
"""Bundled model for each kind of image."""

OVERHEAD_GSD = 1.0
"""Pixels on the ground are at most this large where buildings can be told apart, m."""
DARK = 40
"""Gray value, 0-255, that the ground of fluorescence does not pass; highest seen 24, lowest of other pictures 45."""
BRIGHT_SHARE = 0.5
"""Share of pixels that may be brighter than the ground; highest seen 0.40."""
CONTRAST = 4.0
"""Least difference, gray values, between ground and what is bright."""
PURE = 0.6
"""Share of the bright pixels that are grey or of a pure colour; 1.0 in fluorescence."""
STAINED = 0.5
"""Share of the absorbed light that purple and pink pixels account for; lowest of H&E 0.61, highest of overhead 0.42."""
WHITE = 120
"""Least gray value of the ground of stained tissue in each band; lowest seen 149."""
FAINT = 1024
"""Value of 16 bits that nine tenths of a field without objects do not pass; highest seen 165."""
NARROW = 0.5
"""Share of their median over which these values spread, from the 2nd percentile; highest seen 0.19, with objects 2.0."""
GRAINY = 0.25
"""Least mean difference of neighbours against that of any two pixels: noise 1, least of empty fields 0.54, terrain near 0."""
_PIXELS = 250_000
"""Pixels that are looked at."""
_ABSORBING = 0.2
"""Sum of the natural optical densities of three bands from which a pixel counts as stained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What `--model auto` took."""

    model: str
    """A segmenter or the name of bundled weights."""
    kind: str
    """fluorescence, H&E, overhead or unknown."""
    why: str
    """One line, to be read after "because"."""


def choose(look: Look, available: Collection[str], raw: Pixels | None = None) -> Choice:
    """The model for an image.

    Args:
        look: A look at it in stretched RGB.
        available: Names of bundled weights.
        raw: Its overview in the file's own values, where they are known.
    """
    kind, why = kind_of(look, raw)
    bundled = BUNDLED_FOR.get(kind)
    if bundled is None:
        return Choice(model=FALLBACK, kind=kind, why=why)
    if bundled not in available:
        return Choice(model=FALLBACK, kind=kind, why=f"{why}, and the weights {bundled!r} are not in this installation")
    return Choice(model=bundled, kind=kind, why=why)


def kind_of(look: Look, raw: Pixels | None = None) -> tuple[str, str]:
    """The kind of image (fluorescence, H&E, overhead or unknown) and the reason, one line; arguments as for `choose`."""
    if look.frame.crs is not None:
        return _overhead(look)
    pixels = _sample(look.overview)
    if not len(pixels):
        return "unknown", "the image holds no data"
    ground, bright = fluorescence_of(pixels)
    if ground is not None:
        return "fluorescence", f"{bright:.0%} of it is bright on dark ground ({ground:.0f} of 255), as in fluorescence images"
    stained = stain_of(pixels)
    if stained >= STAINED:
        return "H&E", f"pink and purple on light ground ({stained:.0%} of the stain) look like H&E"
    noise = None if raw is None or len(set(look.bands)) > 1 else noise_of(raw)
    if noise is not None:
        low, high = noise
        values = f"{low:.0f} to {high:.0f} of 65535"
        return "fluorescence", f"most of it is the noise of dark ground ({values}), as in fluorescence with hardly an object"
    return "unknown", "it has no CRS and looks like neither fluorescence nor H&E"


def _overhead(look: Look) -> tuple[str, str]:
    frame, side = look.frame, max(look.frame.spacing[1:])
    if frame.unit != "m":
        return "unknown", "it is georeferenced, but the size of its pixels on the ground is unknown"
    if side > OVERHEAD_GSD:
        return "unknown", f"its pixels of {side:.3g} m are too large to show single buildings"
    if len(set(look.bands)) < 3:
        return "unknown", "it is georeferenced, but not in colour"
    return "overhead", f"it is a georeferenced colour image with pixels of {side:.2g} m"


def _sample(overview: TileImage) -> NDArray[np.int64]:
    """Valid pixels `(n, 3)`, evenly thinned out."""
    pixels = overview.image[overview.valid]
    every = max(1, len(pixels) // _PIXELS)
    sample: NDArray[np.int64] = pixels[::every].astype(np.int64)
    return sample


def fluorescence_of(pixels: NDArray[np.int64]) -> tuple[float | None, float]:
    """Gray value of the dark ground, None unless the picture looks like fluorescence; and the share of bright pixels.

    Brightness is the largest band, so that a blue dye counts like a white one; Otsu's level divides ground from objects.

    Args:
        pixels: `(n, 3)`, 0 to 255.
    """
    value, least = pixels.max(axis=1), pixels.min(axis=1)
    is_bright = value > otsu(np.bincount(value, minlength=256))
    share = float(is_bright.mean())
    if not 0 < share <= BRIGHT_SHARE:
        return None, share
    ground, level = float(np.median(value[~is_bright])), float(np.median(value[is_bright]))
    middle = pixels.sum(axis=1) - value - least
    spread = value - least
    is_grey = 5 * spread <= value
    # One or two dyes leave a band almost empty, and what they leave is no mixture of all three.
    is_pure = (3 * (least - ground) <= value - ground) & (np.minimum(middle - least, value - middle) <= 0.5 * spread)
    pure = float((is_grey | is_pure)[is_bright].mean())
    looks_so = ground <= DARK and level - ground >= CONTRAST and pure >= PURE
    return (ground if looks_so else None), share


def noise_of(raw: Pixels) -> tuple[float, float] | None:
    """Values between which nine tenths of a dark field of noise lie; None unless the first band looks like one.

    Args:
        raw: `(h, w, c)` in the file's own values; other types than unsigned 16 bits are never taken for one.
    """
    values = raw.data[..., 0]
    if values.dtype != np.uint16 or not raw.valid.any():
        return None
    low, middle, high = np.percentile(values[raw.valid], (2, 50, 90))
    if high > FAINT or high - low > NARROW * middle:
        return None
    level = np.clip(values.astype(np.float64), low, high)
    pairs = raw.valid[:, 1:] & raw.valid[:, :-1]
    step = np.abs(np.diff(level, axis=1))[pairs]
    spread = np.abs(level - middle)[raw.valid]
    is_noise = len(step) > 0 and step.mean() >= GRAINY * np.sqrt(2) * spread.mean() > 0
    return (float(low), float(high)) if is_noise else None


def stain_of(pixels: NDArray[np.int64]) -> float:
    """Share of the absorbed light in pixels of purple or pink, 0 to 1; 0 without light ground.

    Args:
        pixels: `(n, 3)`, 0 to 255.
    """
    white = np.percentile(pixels, 95, axis=0)
    if white.min() < WHITE:
        return 0.0
    density = np.maximum(np.log((white + 1) / (pixels + 1)), 0)
    total = density.sum(axis=1)
    density, total = density[total > _ABSORBING], total[total > _ABSORBING]
    if not len(total):
        return 0.0
    # Haematoxylin absorbs (0.65, 0.70, 0.29) of red, green, blue and eosin (0.07, 0.99, 0.11): green most, blue least.
    red, green, blue = density.T
    is_stain = (green >= 1.1 * blue) & (green >= 0.8 * red)
    return float(total[is_stain].sum() / total.sum())

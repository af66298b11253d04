"""Stain normalisation: haematoxylin and eosin of one slide shown as a reference slide shows them (Macenko et al. 2009).

1. `fit_stains` looks at a fixed sample of the whole slide, once for a job: the optical densities of stained pixels span a
   plane; the directions at the 1st and 99th percentile of their angles in it are the two stains, the 99th percentile of
   each stain's amount its maximum.
2. `apply_stains` unmixes every pixel, scales both amounts to the reference's maxima and mixes them with its stains. Without
   clipping in between this is one linear map of optical densities: three table look-ups and a sum of whole numbers for
   each band, so that a pixel becomes the same in every tile, on every machine.

Whatever is not two stains like these (hardly any tissue, one stain, grey, brown DAB) is left as it is, and the record says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError

Triple = tuple[float, float, float]

PERCENTILES = (1.0, 99.0)
"""Of the angles, and the upper one of the amounts: the values of the paper."""
_STAINED = 0.12
"""Least mean decimal optical density of a pixel that counts: the limit below which `--tissue auto` would call it glass."""
_FEWEST = 1000
"""Stained pixels without which percentiles of 1 % mean nothing."""
_MOST = 1_000_000
"""Pixels that are looked at; evenly thinned out beyond about this number."""
_LEAST_ANGLE = 12.0
"""Degrees between two stains."""
_RED = (0.4, 0.55)
"""Red in the unit vector of haematoxylin at least, and of eosin at most."""
_RED_APART = 0.25
"""Least difference of these. One stain with the noise of a camera and of JPEG gives two directions, too: haematoxylin alone
at most 0.19 apart, eosin alone mostly less than this. Of 105 real fields, mostly of 256 x 320 px, 90 pass all limits."""
_UNITS = 4096
"""Whole numbers to one of optical density, in which densities are added up; this changes a value by at most 0.25 of 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stains:
    """How a slide shows its two stains."""

    white: Triple
    """What glass shows in red, green and blue, 1 to 255."""
    vectors: tuple[Triple, Triple]
    """Decimal optical density of each stain in red, green and blue, of unit length; haematoxylin first."""
    maxima: tuple[float, float]
    """99th percentile of each stain's amount."""

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same record."""
        return {"white": list(self.white), "vectors": [list(v) for v in self.vectors], "maxima": list(self.maxima)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Stains:
        """The record that `to_json` described."""
        first, second = (_triple(v) for v in values["vectors"])
        low, high = map(float, values["maxima"])
        return cls(white=_triple(values["white"]), vectors=(first, second), maxima=(low, high))


REFERENCE = Stains(white=(240.0, 240.0, 240.0), vectors=((0.62, 0.71, 0.35), (0.30, 0.82, 0.48)), maxima=(0.86, 0.46))
"""Usual H&E: about the mean of what `fit_stains` finds in ten fields of breast tissue (NuCLS, Amgad et al. 2022, CC0), on
neutral white."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StainNorm:
    """What is done to the stains of a job's image, and why nothing, where that is so."""

    kind: str
    """macenko, or none."""
    own: Stains | None = None
    """The image's stains."""
    target: Stains | None = None
    """Those it is shown with."""
    why: str = ""
    """Why an image is left as it is although normalisation was asked for; one line, to be read after "because"."""

    def __post_init__(self) -> None:
        if self.kind not in {"none", "macenko"} or (self.kind == "macenko") != (None not in (self.own, self.target)):
            raise ConfigError(
                what=f"a stain normalisation of kind {self.kind!r}",
                why="kind is none, or macenko with the stains of the image and those of the reference",
                mend="let fit_stains make it",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same record."""
        own, target = (None if s is None else s.to_json() for s in (self.own, self.target))
        return {"kind": self.kind, "own": own, "target": target, "why": self.why}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StainNorm:
        """The record that `to_json` described."""
        own, target = (None if values[key] is None else Stains.from_json(values[key]) for key in ("own", "target"))
        return cls(kind=values["kind"], own=own, target=target, why=values["why"])


def fit_stains(samples: Sequence[NDArray[np.uint8]], white: Sequence[float]) -> StainNorm:
    """The normalisation of a slide, to the reference.

    Args:
        samples: Pixels `(n, 3)` from places spread over the slide, at the resolution that is worked at: in an overview
            neighbouring stains are mixed, their directions closer together and their maxima lower.
        white: What glass shows in red, green and blue.
    """
    pixels = np.concatenate([np.zeros((0, 3), np.uint8), *samples])
    pixels = pixels[:: max(1, len(pixels) // _MOST)]
    ground = _triple([np.clip(v, 1, 255) for v in white])
    density = _densities(pixels, ground)
    density = density[density.mean(axis=1) >= _STAINED]
    if len(density) < _FEWEST:
        return StainNorm(kind="none", why=f"only {len(density)} of the {len(pixels)} pixels looked at are stained")
    own, why = _separated(density, ground)
    return StainNorm(kind="none", why=why) if own is None else StainNorm(kind="macenko", own=own, target=REFERENCE)


def apply_stains(norm: StainNorm, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`(h, w, 3)` uint8 with the stains of the reference, in new memory unless nothing is to be done.

    Every pixel depends on its own value alone.
    """
    if norm.own is None or norm.target is None:
        return image
    tables, back = _tables(norm.own, norm.target)
    out = np.empty_like(image, order="C")
    for band in range(3):
        units = tables[0, band][image[..., 0]]
        units += tables[1, band][image[..., 1]]
        units += tables[2, band][image[..., 2]]
        np.take(back[band], units, out=out[..., band], mode="clip")
    return out


def _separated(density: NDArray[np.float64], white: Triple) -> tuple[Stains | None, str]:
    """The two stains of pixels `(n, 3)`, or why there are none."""
    power, axes = np.linalg.eigh(density.T @ density)
    plane = axes[:, [2, 1]] * np.sign(axes[:, [2, 1]].sum(axis=0) + 1e-12)
    angles = np.arctan2(density @ plane[:, 1], density @ plane[:, 0])
    low, high = np.percentile(angles, PERCENTILES)
    found = np.clip([plane @ [np.cos(a), np.sin(a)] for a in (low, high)], 0, None)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    vectors = found[np.argsort(-found[:, 0], kind="stable")]  # haematoxylin absorbs red, eosin hardly any
    if why := _unlike(vectors, float(np.degrees(high - low))):
        return None, why
    amounts = density @ np.linalg.pinv(vectors)
    maxima = np.percentile(amounts, PERCENTILES[1], axis=0)
    if maxima.min() < _STAINED / 2:
        return None, f"one of its stains hardly occurs ({maxima.min():.2f} of optical density)"
    first, second = (_triple(v) for v in np.round(vectors, 6))
    return Stains(white=white, vectors=(first, second), maxima=(round(float(maxima[0]), 6), round(float(maxima[1]), 6))), ""


def _unlike(vectors: NDArray[np.float64], apart: float) -> str:
    """Why two directions are not haematoxylin and eosin; empty if they may be."""
    if apart < _LEAST_ANGLE:
        return f"all that is stained has one colour: its pixels lie within {apart:.0f} degrees"
    if vectors[1, 2] > vectors[1, 1]:
        return "its second stain absorbs blue most, as the brown of DAB does, and is no eosin"
    said = ["{:.2f} : {:.2f} : {:.2f}".format(*vector) for vector in vectors]
    if vectors[0, 0] < _RED[0]:
        return f"there seems to be no haematoxylin: what absorbs red most absorbs red, green and blue as {said[0]}"
    if vectors[1, 0] > _RED[1] or vectors[0, 0] - vectors[1, 0] < _RED_APART:
        return f"its colours lie between {said[0]} and {said[1]} (absorbed red, green, blue), too near for two stains"
    return ""


def _densities(values: NDArray[Any], white: Sequence[float]) -> NDArray[np.float64]:
    """Decimal optical densities of pixels `(..., 3)` against white; what is brighter than white absorbs nothing."""
    ground = np.asarray(white, np.float64)
    return np.asarray(np.log10((ground + 1) / (np.minimum(values, ground) + 1)))


def _tables(own: Stains, target: Stains) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """What a pixel's three values add to the density of each band, and what the sums become.

    Returns:
        Units of density by band that comes, band that goes and value, `(3, 3, 256)`; values by band and sum, `(3, n)`.
    """
    amounts = np.linalg.pinv(np.array(own.vectors)) * (np.array(target.maxima) / np.array(own.maxima))
    change = amounts @ np.array(target.vectors)
    every = np.repeat(np.arange(256.0)[:, None], 3, axis=1)
    densities = _densities(every, own.white)
    units = np.rint(densities.T[:, None, :] * change[:, :, None] * _UNITS).astype(np.int32)
    most = int(np.ceil(np.log10(512) * _UNITS))  # darker than this is 0 whatever the white
    ground = np.array(target.white)[:, None]
    values = (ground + 1) * 10 ** (-np.arange(most) / _UNITS) - 1
    return units, np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _triple(values: Sequence[float]) -> Triple:
    red, green, blue = (float(v) for v in values)
    return red, green, blue

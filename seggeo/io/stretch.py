"""One stretch for a whole job: from the file's own values to the 8 bits that RGB models take.

The limits come from a fixed overview of the scene and are frozen into the job, so that what a model sees at a place
depends on the value of the pixel only, never on the tile that reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError
from seggeo.io.stains import StainNorm, apply_stains
from seggeo.protocols import Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Limits per band: `low` and below become 0, `high` and above 255, linear between; `none` passes uint8 through."""

    kind: str
    """none or linear."""
    low: tuple[float, ...]
    """Value that becomes 0, one per band."""
    high: tuple[float, ...]
    """Value that becomes 255; not below `low`."""
    stains: StainNorm | None = None
    """What is done to an 8-bit image's stains before; None where nobody asked for it."""

    def __post_init__(self) -> None:
        pairs = zip(self.low, self.high, strict=True) if len(self.low) == len(self.high) else [(1.0, 0.0)]
        if self.kind not in {"none", "linear"} or not self.low or not all(low <= high for low, high in pairs):
            raise ConfigError(
                what=f"a stretch of kind {self.kind!r} from {self.low} to {self.high}",
                why="kind is none or linear, and every band needs a low that is not above its high",
                mend="let fit_stretch make it",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same stretch."""
        values: dict[str, Any] = {"kind": self.kind, "low": list(self.low), "high": list(self.high)}
        return values if self.stains is None else {**values, "stains": self.stains.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Stretch:
        """The stretch that `to_json` described."""
        stains = None if values.get("stains") is None else StainNorm.from_json(values["stains"])
        low, high = (tuple(map(float, values[limits])) for limits in ("low", "high"))
        return cls(kind=values["kind"], low=low, high=high, stains=stains)


def fit_stretch(sample: Pixels, spec: str) -> Stretch:
    """The stretch that a spec means for an image of which `sample` is a fixed overview.

    Args:
        sample: Only its valid pixels count.
        spec: `auto` (none for uint8, else percent:2,98), `none`, `minmax`, `percent:LOW,HIGH` (of each band) or `LOW,HIGH`
            (in the file's own values, for all bands).

    Raises:
        ConfigError: A spec that means nothing, or `none` for values that do not fit in 8 bits.
    """
    bands, dtype = sample.data.shape[2], sample.data.dtype
    kind = ("none" if dtype == np.uint8 else "percent:2,98") if spec == "auto" else spec
    if kind == "none":
        if dtype != np.uint8:
            raise ConfigError(
                what=f"stretch none for an image of {dtype}",
                why="models of RGB images take 8 bits, so other values must be brought into 0 to 255",
                mend="use --stretch percent:2,98 or --stretch LOW,HIGH",
            )
        return Stretch(kind="none", low=(0.0,) * bands, high=(255.0,) * bands)
    if kind == "minmax" or kind.startswith("percent:"):
        low, high = (0.0, 100.0) if kind == "minmax" else _pair(kind.removeprefix("percent:"), spec)
        if not 0 <= low < high <= 100:
            raise _bad_spec(spec)
        return _from_percentiles(sample, low, high)
    low, high = _pair(kind, spec)
    if not low < high:
        raise _bad_spec(spec)
    return Stretch(kind="linear", low=(low,) * bands, high=(high,) * bands)


def apply_stretch(stretch: Stretch, pixels: Pixels) -> NDArray[np.uint8]:
    """`(h, w, c)` uint8, its stains normalised where the stretch says so; pixels that are not valid become 0.

    May be a transposed view of band-first memory, and share the memory of `pixels` when nothing had to change.

    Raises:
        ConfigError: The stretch was made for another number of bands or another dtype.
    """
    data, valid = pixels.data, pixels.valid
    if data.shape[2] != len(stretch.low) or (stretch.kind == "none" and data.dtype != np.uint8):
        raise ConfigError(
            what=f"a stretch for {len(stretch.low)} bands does not fit {data.shape[2]} bands of {data.dtype}",
            why="the image changed after the job was planned",
            mend="use another --work folder, or --restart",
        )
    image = _eight_bits(stretch, data if stretch.stains is None else apply_stains(stretch.stains, data))
    if valid.all():
        return image
    return np.multiply(image, valid[..., None], out=None if image is data else image, dtype=np.uint8)


def _eight_bits(stretch: Stretch, data: NDArray[Any]) -> NDArray[np.uint8]:
    if stretch.kind == "none":
        return data
    out = np.empty((data.shape[2], *data.shape[:2]), np.uint8)
    for band, (low, high) in enumerate(zip(stretch.low, stretch.high, strict=True)):
        _stretch_band(data[..., band], low, high, out=out[band])
    return out.transpose(1, 2, 0)


def _stretch_band(values: NDArray[Any], low: float, high: float, *, out: NDArray[np.uint8]) -> None:
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        unsigned = np.dtype(f"u{values.dtype.itemsize}")
        every = np.arange(2 ** (8 * values.dtype.itemsize), dtype=unsigned).view(values.dtype)
        np.take(_linear(every, low, high, np.float64), values.view(unsigned), out=out, mode="clip")
        return
    # Wide types hold values that differ beyond the 24 bits of a float32.
    kind = np.float32 if values.dtype == np.float32 or values.dtype == np.float16 else np.float64
    out[...] = _linear(values, low, high, kind)


def _linear(values: NDArray[Any], low: float, high: float, kind: type[np.floating[Any]]) -> NDArray[np.uint8]:
    """`low` to 0, `high` to 255, rounded to nearest; a band without contrast becomes 0 up to it and 255 above."""
    if not kind(high) - kind(low) > 255 * np.finfo(kind).tiny:
        return (values > low).astype(np.uint8) * np.uint8(255)
    # Clipped first, so that nodata values near the limits of the type cannot overflow.
    level = np.clip(values.astype(kind), kind(low), kind(high))
    level -= kind(low)
    level *= kind(255) / (kind(high) - kind(low))
    level += kind(0.5)
    # NaN is never valid; a defined value keeps the cast silent.
    eight_bit: NDArray[np.uint8] = np.nan_to_num(level, copy=False, nan=0.0).astype(np.uint8)
    return eight_bit


def _from_percentiles(sample: Pixels, low: float, high: float) -> Stretch:
    bands = sample.data.shape[2]
    if not sample.valid.any():
        return Stretch(kind="linear", low=(0.0,) * bands, high=(1.0,) * bands)
    is_whole = bool(sample.valid.all())  # no copy of the pixels of all bands for nothing
    planes = (sample.data[..., band] for band in range(bands))
    limits = [_percentiles(plane.ravel() if is_whole else plane[sample.valid], (low, high)) for plane in planes]
    return Stretch(kind="linear", low=tuple(float(a) for a, _ in limits), high=tuple(float(b) for _, b in limits))


def _percentiles(values: NDArray[Any], shares: tuple[float, float]) -> list[float]:
    """As `np.percentile`; whole numbers of up to 16 bits are counted, which is ten times faster than to sort millions."""
    if values.dtype.kind != "u" or values.dtype.itemsize > 2:
        return [float(v) for v in np.percentile(values.astype(np.float64), shares)]
    until = np.cumsum(np.bincount(values))
    found = []
    for share in shares:
        place = (len(values) - 1) * (share / 100)
        first, part = int(place), place - int(place)
        below, above = (int(np.searchsorted(until, k, side="right")) for k in (first, min(first + 1, len(values) - 1)))
        # From the nearer side, as numpy interpolates, so that the last bit is the same.
        step = above - below
        found.append(above - step * (1 - part) if part >= 0.5 else below + step * part)
    return found


def _pair(text: str, spec: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise _bad_spec(spec) from error
    if not (np.isfinite(low) and np.isfinite(high)):
        raise _bad_spec(spec)
    return low, high


def _bad_spec(spec: str) -> ConfigError:
    return ConfigError(
        what=f"stretch {spec!r} means nothing",
        why="it is auto, none, minmax, percent:LOW,HIGH (0 <= LOW < HIGH <= 100) or LOW,HIGH in the file's own values",
        mend="use --stretch auto",
    )

"""Objects brighter or darker than a level: no weights, a laptop, a second per scene.

1. `channel_of`: stretched RGB to one channel, then a Gaussian of `smooth` px over the valid pixels.
2. Foreground: strictly above the level (bright) or below it (dark), valid, small holes filled.
3. Components: 4-connected, the partition of `scipy.ndimage.label` with its default structure.
4. `split`: each component is cut where it narrows, by a watershed of the distance to its outline (`basins`).
5. Parts outside `min_area` to `max_area` are dropped; each of the others gets a score.

Level, polarity and contrast are numbers for the whole job: `calibrate` finds them once, in the job's overview. What a
pixel becomes then depends on the pixels around it and not on the tile: 4 x smooth px for the foreground, the object's
own extent for the rest. An object that fits into the overlap of two tiles is therefore the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seggeo.errors import ConfigError
from seggeo.instances import Instances
from seggeo.models.basins import JoinRule, Labels, ascend, join, necks
from seggeo.models.channels import Channel, channel_of, smoothed
from seggeo.models.settings import bad_setting, parse_settings, to_values
from seggeo.profiling import span
from seggeo.protocols import Look, ModelInfo, ModelRequest, Prediction, TileImage

NAME = "threshold"
EIGHT = np.ones((3, 3), bool)
_ROUNDING = 1e-3
"""Gray values that a smoothed one may be off by, and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdSettings:
    """What `--set` may change; see the module's head for the order of the steps."""

    level: float | Literal["otsu"] = "otsu"
    """Gray value 0-255 between object and ground; otsu: found once in the job's overview."""
    polarity: Literal["auto", "bright", "dark"] = "auto"
    """Which side of the level is object; auto: the side with fewer pixels in the overview."""
    channel: Channel = "gray"
    smooth: float = 0.5
    """Sigma of the Gaussian, px; 0 for none."""
    split: bool = True
    """Cut components where they narrow."""
    neck: float = 0.8
    """Cut where the neck is at most this share of the smaller part's width, 0 to 1; lower cuts less."""
    min_distance: float = 6.0
    """Centres nearer than this are one object, px."""
    min_area: int = 20
    """Smallest object, px."""
    max_area: int = 0
    """Largest object, px; 0 for no limit. Meant for objects that fit into a tile's overlap."""
    fill_holes: int = 100
    """Holes up to this many px are filled; 0 for none."""
    contrast: float = 64.0
    """Distance from the level at which a pixel counts fully in the score; found in the overview."""

    def __post_init__(self) -> None:
        limits = {"smooth": 50.0, "min_distance": 1e6, "min_area": 1e12, "max_area": 1e12, "fill_holes": 1e12, "neck": 1.0}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise bad_setting(type(self), name, getattr(self, name), model=NAME, why=f"lies between 0 and {most:g}")
        if self.level != "otsu" and not 0 <= float(self.level) <= 255:
            raise bad_setting(type(self), "level", self.level, model=NAME, why="is a gray value, 0 to 255, or otsu")
        if not self.contrast > 0:
            raise bad_setting(type(self), "contrast", self.contrast, model=NAME, why="is more than 0")


def load(request: ModelRequest) -> Threshold:
    """The segmenter of a request.

    Raises:
        ConfigError: A setting it does not know or cannot use.
    """
    return Threshold(parse_settings(ThresholdSettings, request.settings, model=NAME))


def calibrate(request: ModelRequest, look: Look) -> dict[str, Any]:
    """All settings of the job, with level, polarity and contrast as found in the overview.

    Args:
        request: What the user set; what is a number there already stays.
        look: Its overview of the whole image, stretched RGB, is what counts.

    Raises:
        ConfigError: A setting it does not know or cannot use.
    """
    settings = parse_settings(ThresholdSettings, request.settings, model=NAME)
    sample = look.overview
    values = channel_of(sample.image, settings.channel)[sample.valid]
    counts = np.bincount(values, minlength=256)
    level = otsu(counts) if settings.level == "otsu" else float(settings.level)
    above, below = counts[int(np.floor(level)) + 1 :].sum(), counts[: int(np.ceil(level))].sum()
    polarity = settings.polarity
    if polarity == "auto":
        polarity = "bright" if above <= below else "dark"
    margin = (values - level if polarity == "bright" else level - values)[_is_object(values, level, polarity)]
    contrast = settings.contrast
    if "contrast" not in request.settings and margin.size:
        contrast = max(1.0, float(margin.mean()))
    return to_values(replace(settings, level=level, polarity=polarity, contrast=contrast))


load.calibrate = calibrate  # type: ignore[attr-defined]  # the protocol's optional attribute of a factory


def otsu(counts: NDArray[np.integer]) -> float:
    """Otsu's level of a histogram, halfway between two gray values; a single value is its own level.

    Args:
        counts: Pixels of each gray value 0-255, `(256,)`. Without pixels the level is 255, above which nothing lies.
    """
    seen = np.flatnonzero(counts)
    if len(seen) < 2:
        return float(seen[0]) if len(seen) else 255.0
    low, high = int(seen[0]), int(seen[-1])
    part = counts[low : high + 1].astype(np.float64)
    weight, total = np.cumsum(part)[:-1], part.sum()
    mass = np.cumsum(part * np.arange(low, high + 1))
    between = (mass[-1] * weight - mass[:-1] * total) ** 2 / (weight * (total - weight))
    # Empty gray values between two modes score alike: take their middle, not the first.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return low + (int(best[0]) + int(best[-1])) / 2 + 0.5


def _is_object(values: NDArray[Any], level: float, polarity: str) -> NDArray[np.bool_]:
    """Pixels beyond the level by more than what smoothing rounds: even ground at the level itself is none."""
    return values > np.float32(level + _ROUNDING) if polarity == "bright" else values < np.float32(level - _ROUNDING)


class Threshold:
    """Segmenter by a fixed level; masks never overlap.

    A mask's score is the mean over its pixels of their distance from the level, 0 to `contrast` counted as 0 to 1: near 1
    for objects that stand out, near 0 for faint ones.
    """

    def __init__(self, settings: ThresholdSettings) -> None:
        self.settings = settings
        self.info = ModelInfo(name=NAME, channels=3, exclusive=True, settings=to_values(settings), memory_bytes=100 * 1024**2)

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """The objects of each tile.

        Raises:
            ConfigError: Level or polarity were left to the data and `calibrate` has not been asked.
        """
        if self.settings.level == "otsu" or self.settings.polarity == "auto":
            raise ConfigError(
                what=f"threshold has level={self.settings.level} and polarity={self.settings.polarity}, not values of the job",
                why="a level found tile by tile would change from tile to tile",
                mend="set level and polarity=bright or dark, or take the settings from load.calibrate(request, look)",
            )
        return [Prediction(instances=self._one(tile, float(self.settings.level))) for tile in tiles]

    def _one(self, tile: TileImage, level: float) -> Instances:
        settings = self.settings
        values = smoothed(channel_of(tile.image, settings.channel), tile.valid, settings.smooth)
        mask = _is_object(values, level, settings.polarity) & tile.valid
        if settings.fill_holes:
            mask |= small_holes(mask, tile.valid, settings.fill_holes)
        labels, count = ndimage.label(mask)
        if not count:
            return Instances.empty()
        if settings.split:
            labels = split(labels, settings)
        labels = _sized(labels, open_sides(tile), settings)
        owner = labels[mask]
        margin = np.clip(np.abs(values[mask] - np.float32(level)) / np.float32(settings.contrast), 0, 1)
        with span("encode"):
            found = Instances.from_labels(labels)
        area = np.bincount(owner, minlength=len(found) + 1)[1:]
        score = np.bincount(owner, weights=margin, minlength=len(found) + 1)[1:] / np.maximum(area, 1)
        return replace(found, score=score.astype(np.float32))


def small_holes(mask: NDArray[np.bool_], valid: NDArray[np.bool_], most: int) -> NDArray[np.bool_]:
    """Background enclosed by the mask, up to `most` px; a hole at the window's side or with an invalid pixel stays.

    Holes are 8-connected, as befits 4-connected objects.
    """
    labels, count = ndimage.label(~mask, structure=EIGHT)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    fill = area <= most
    fill[0] = False
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[side] = False
    if not valid.all():
        fill[labels[~valid]] = False
    filled: NDArray[np.bool_] = fill[labels]
    return filled


def split(labels: Labels, settings: ThresholdSettings) -> Labels:
    """Labels of the parts of each component, cut at necks; every part is 4-connected.

    The height of a pixel is its distance from the background inside the window.
    """
    mask = labels > 0
    box = _filled(mask)
    height = ndimage.distance_transform_edt(mask[box]).astype(np.float32)
    basins = ascend(height, mask[box])
    rule = JoinRule(neck=settings.neck, min_distance=settings.min_distance, min_area=settings.min_area)
    parts: Labels = np.zeros(labels.shape, basins.labels.dtype)
    parts[box] = join(basins, necks(basins.labels, height), rule)[basins.labels]
    return parts


def _filled(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The box of all of a mask with a pixel of ground around it: distances to the ground are the same in it."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(max(0, int(rows[0]) - 1), int(rows[-1]) + 2), slice(max(0, int(cols[0]) - 1), int(cols[-1]) + 2)


def open_sides(tile: TileImage) -> tuple[bool, bool, bool, bool]:
    """Top, left, bottom, right: True where the image goes on beyond the window."""
    core, window = tile.tile.core.bounds, tile.tile.window.bounds
    return core[0] > window[0], core[1] > window[1], core[2] < window[2], core[3] < window[3]


def _sized(labels: Labels, sides: tuple[bool, ...], settings: ThresholdSettings) -> Labels:
    """Labels of the objects within the size limits, numbered anew from 1.

    A piece that goes on beyond the window is never too small: where it reaches the core it is at least a halo long,
    and the tile that sees the object whole decides.
    """
    area = np.bincount(labels.ravel())
    is_cut = np.zeros(len(area), bool)
    for is_open, line in zip(sides, (labels[0], labels[:, 0], labels[-1], labels[:, -1]), strict=True):
        if is_open:
            is_cut[line] = True
    keep = (area >= settings.min_area) | is_cut
    if settings.max_area:
        keep &= area <= settings.max_area
    keep &= area > 0
    keep[0] = False
    new: Labels = np.where(keep, np.cumsum(keep), 0).astype(np.int32)[labels]
    return new

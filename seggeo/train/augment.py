"""Crops as no microscope or camera took them, but might have: turned, scaled, lit and stained otherwise.

Geometry is one resampling of image and labels together; what lies outside the image is mirrored, because objects cut
by black would be learnt as such. Colours change after it, in the crop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of hematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001)."""


_AS_IT_IS = 0.2
"""Share of crops whose objects keep about their size though a range of sizes is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How far a crop may depart from its image."""

    scale: tuple[float, float] = (0.8, 1.25)
    """Least and greatest zoom."""
    diameter: tuple[float, float] | None = None
    """Range, px, that the median object of an image is zoomed to, its middle most; None leaves it to `scale`."""
    free_rotation: float = 0.3
    """Share of crops turned by any angle; all others by right angles."""
    colour: bool = True
    """Colours may shift: hue, stains, channels; gain and gamma always do."""
    invert: float = 0.0
    """Share of crops with light and dark exchanged."""


def zoom(augmentation: Augmentation, median_diameter: float, rng: np.random.Generator) -> float:
    """How much larger an object becomes: at times to any size of the range, else about as it is."""
    low, high = augmentation.scale
    if augmentation.diameter is None or median_diameter <= 0 or rng.random() < _AS_IT_IS:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    small, large = augmentation.diameter
    if small == large:
        return float(np.clip(small / median_diameter, 0.35, 3.0))
    # Images are brought near the middle of the range when they are segmented: the ends are for sizes misjudged.
    wanted = np.exp(rng.triangular(np.log(small), np.log(small * large) / 2, np.log(large)))
    return float(np.clip(wanted / median_diameter, 0.35, 3.0))


def matrix(factor: float, augmentation: Augmentation, rng: np.random.Generator) -> NDArray[np.float64]:
    """From the crop's pixels to the image's, `(2, 2)`: a right angle or any, a flip, a zoom by `factor`."""
    turn = float(rng.integers(4) * np.pi / 2)
    if rng.random() < augmentation.free_rotation:
        turn = float(rng.uniform(0, 2 * np.pi))
    flip = np.diag([1.0, rng.choice([-1.0, 1.0])])
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    return np.array([[cos, -sin], [sin, cos]]) @ flip / factor


def relight(image: Image, augmentation: Augmentation, rng: np.random.Generator) -> Image:
    """A crop `(h, w, c)`, 0 to 1, with other colours, gain, gamma, blur and noise."""
    if augmentation.invert and rng.random() < augmentation.invert:
        image = 1.0 - image
    if augmentation.colour and image.shape[2] == 3:
        image = _recolour(image, rng)
    gain, gamma = np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0, 0.25))
    image = np.clip(image, 0, 1) ** np.float32(gamma) * np.float32(gain) + np.float32(rng.normal(0, 0.03))
    if rng.random() < 0.25:
        sigma = rng.uniform(0.3, 1.3)
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0))
    if rng.random() < _AS_IT_IS:
        grain = rng.normal(0, rng.uniform(0.005, 0.05), image.shape[:2] + (1 if rng.random() < 0.5 else image.shape[2],))
        image = image + grain.astype(np.float32)
    return np.clip(image, 0, 1).astype(np.float32)


def _recolour(image: Image, rng: np.random.Generator) -> Image:
    """Stains mixed anew where the image has colour; a tint, or another channel order, at times."""
    is_grey = bool(np.abs(image[..., 0] - image[..., 1]).max() < 0.02 and np.abs(image[..., 1] - image[..., 2]).max() < 0.02)
    if is_grey:
        if rng.random() < 0.15:
            tint = rng.uniform(0.0, 1.0, 3)
            return np.asarray(image * (tint / tint.max()), np.float32)
        return image
    kind = rng.random()
    if kind < 0.6:
        image = _restain(image, rng)
    elif kind < 0.75:
        image = image @ (np.eye(3) + rng.normal(0, 0.12, (3, 3))).astype(np.float32)
    elif kind < 0.85:
        grey = image @ np.array([0.3, 0.59, 0.11], np.float32)
        image = np.repeat(grey[..., None], 3, axis=2)
    elif kind < 0.90:
        image = image[..., rng.permutation(3)]
    return image


def _restain(image: Image, rng: np.random.Generator) -> Image:
    """Amounts of hematoxylin, eosin and residue scaled and shifted, in optical density (Tellez et al. 2018)."""
    stains = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    density = -np.log(np.clip(image, 1 / 255, 1))
    amounts = density @ np.linalg.inv(stains).astype(np.float32)
    amounts = amounts * rng.uniform(0.6, 1.5, 3).astype(np.float32) + rng.normal(0, 0.04, 3).astype(np.float32)
    turned = stains + rng.normal(0, 0.05, (3, 3))
    return np.asarray(np.exp(-np.clip(amounts @ turned, 0, 6)), np.float32)

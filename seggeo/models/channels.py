"""One number per pixel from stretched RGB: brightness, a colour, saturation or the amount of a stain.

Each pixel is computed by itself, with the same operations in the same order wherever it lies, so that two tiles
agree about it to the last bit.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import hed_from_rgb

Channel = Literal["gray", "red", "green", "blue", "saturation", "hematoxylin", "eosin", "dab"]
CHANNELS: tuple[str, ...] = get_args(Channel)
STAINS = ("hematoxylin", "eosin", "dab")
TRUNCATE = 4.0
"""A Gaussian ends at this many sigmas."""
STAIN_MAX = 2.0
"""Amount of stain (natural optical density) that is written as 255."""

# Beer-Lambert by table: 256 logarithms instead of three per pixel. The floor is skimage's, so that black is finite.
_DENSITY = -np.log(np.maximum(np.arange(256) / 255.0, 1e-6)).astype(np.float32)


def channel_of(image: NDArray[np.uint8], channel: str) -> NDArray[np.uint8]:
    """The channel of an RGB image, 0 to 255.

    Args:
        image: `(h, w, 3)`.
        channel: One of `CHANNELS`. gray is ITU-R 601 luma; saturation that of HSV; a stain is its amount after colour
            deconvolution with Ruifrok's vectors, negative amounts as 0.

    Returns:
        `(h, w)`, rounded.
    """
    red, green, blue = (image[..., band] for band in range(3))
    if channel in ("red", "green", "blue"):
        return np.ascontiguousarray({"red": red, "green": green, "blue": blue}[channel])
    if channel == "saturation":
        return _saturation(red, green, blue)
    if channel in STAINS:
        return _stain(red, green, blue, STAINS.index(channel))
    # 16-bit fixed point: exact for gray pixels because the weights add up to 65536.
    luma = red * np.uint32(19595) + green * np.uint32(38470) + blue * np.uint32(7471)
    gray: NDArray[np.uint8] = ((luma + np.uint32(32768)) >> np.uint32(16)).astype(np.uint8)
    return gray


def _saturation(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    share = (most - least).astype(np.float32) * np.float32(255) / np.maximum(most, 1)
    return np.rint(share).astype(np.uint8)


def _stain(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8], stain: int) -> NDArray[np.uint8]:
    weights = (hed_from_rgb[:, stain] * (255.0 / STAIN_MAX)).astype(np.float32)
    amount = _DENSITY[red] * weights[0]
    amount += _DENSITY[green] * weights[1]
    amount += _DENSITY[blue] * weights[2]
    rounded: NDArray[np.uint8] = np.rint(np.clip(amount, 0, 255)).astype(np.uint8)
    return rounded


def smoothed(values: NDArray[np.uint8], valid: NDArray[np.bool_], sigma: float) -> NDArray[np.float32]:
    """Gaussian mean of the valid pixels around each pixel, `(h, w)`; 0 where none is near.

    A value depends on the pixels up to `4 * sigma` away, rounded, and on nothing beyond.
    """
    if valid.all():
        return _gaussian(values, sigma)
    weight = _gaussian(valid.astype(np.uint8), sigma)
    total = _gaussian(np.where(valid, values, 0).astype(np.uint8), sigma)
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def _gaussian(values: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    if sigma == 0:
        return values.astype(np.float32)
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(values, sigma, output=np.float32, truncate=TRUNCATE)
    return blurred

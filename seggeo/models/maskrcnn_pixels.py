"""What a detector sees of tiles: one normalised tensor, padded to the stride of its pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seggeo.models.device import upload
from seggeo.models.maskrcnn_settings import DetectorSettings
from seggeo.protocols import TileImage

STRIDE = 32


def padded(size: Sequence[int]) -> tuple[int, int]:
    """Height and width rounded up to the pyramid's stride.

    Not further, to one size for all tiles: a convolution's own padding is of zeros in every layer, while pixels that were
    padded get values of their own in the first, so that answers beside the edge would change with the padding.
    """
    return -(-int(size[0]) // STRIDE) * STRIDE, -(-int(size[1]) // STRIDE) * STRIDE


def prepare(tiles: Sequence[TileImage], settings: DetectorSettings, device: torch.device, *, native: bool) -> Tensor:
    """Tiles of one padded size as a float32 tensor `(n, bands, h, w)` on the device, zeros where padded.

    Args:
        tiles: At least one.
        settings: How bands are scaled and normalised.
        device: Where the tensor is made.
        native: Pixels are the file's own: what lies outside its data may be NaN or -9999 and becomes 0.
    """
    height, width = padded(tiles[0].image.shape[:2])
    mean = torch.tensor(settings.mean, device=device)[:, None, None]
    std = torch.tensor(settings.std, device=device)[:, None, None]
    batch = torch.zeros(len(tiles), len(mean), height, width, device=device)
    for target, tile in zip(batch, tiles, strict=True):
        rows, cols = tile.image.shape[:2]
        pixels = _scaled(upload(_bands_first(tile.image), device), tile.image.dtype, settings)
        pixels = (pixels - mean) / std
        if native:
            valid = upload(tile.valid, device)
            pixels = torch.where(valid & torch.isfinite(pixels), pixels, 0.0)
        target[:, :rows, :cols] = pixels
    return batch


def _scaled(pixels: Tensor, dtype: np.dtype[Any], settings: DetectorSettings) -> Tensor:
    """Bands as they are before mean and std."""
    if settings.low:
        low = torch.tensor(settings.low, device=pixels.device)[:, None, None]
        high = torch.tensor(settings.high, device=pixels.device)[:, None, None]
        level: Tensor = (pixels.to(torch.float32) - low) / (high - low).clamp_min(1e-12)
        return level.clamp(0, 1)
    largest = float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0
    return pixels.to(torch.float32) / (settings.scale or largest)


def _bands_first(image: NDArray[Any]) -> NDArray[Any]:
    """`(bands, h, w)` of an image `(h, w, bands)`, its dtype kept where torch calculates with it."""
    bands = np.moveaxis(image, 2, 0)
    return bands if bands.dtype.kind != "u" or bands.dtype == np.uint8 else bands.astype(np.float32)

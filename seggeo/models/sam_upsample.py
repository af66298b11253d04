"""Low-resolution logits to image pixels where they matter, the arithmetic of `Sam.postprocess_masks`.

1. `Upsampling.region`: the cells above the lowest threshold of interest, and two more on each side, are interpolated to
   pixels of the network's input; a pixel in reach of any such cell gets the value the whole frame would give it.
2. Where the image was resized to fit the network, the second interpolation follows (`Taps`), again inside that region.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsampling:
    """The way from low-resolution logits to pixels of one image."""

    cell: int
    """Network input pixels per cell, along one side; at least 2."""
    scaled: tuple[int, int]
    """Height and width of the image inside the network's input."""
    size: tuple[int, int]
    """Height and width of the image."""

    @classmethod
    def of(cls, height: int, width: int, sam: Sam) -> Upsampling:
        """The way to an image of that size, resized so that its longer side fills the network's input."""
        side: int = sam.image_encoder.img_size
        scale = side * 1.0 / max(height, width)
        scaled = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        return cls(cell=side // sam.prompt_encoder.mask_input_size[0], scaled=scaled, size=(height, width))

    @property
    def scale_xy(self) -> NDArray[np.float64]:
        """What x and y in image pixels are multiplied by to lie in the network's input."""
        return np.array([self.scaled[1] / self.size[1], self.scaled[0] / self.size[0]])

    def region(self, logits: Tensor, cells: tuple[int, int, int, int]) -> tuple[FloatArray, int, int]:
        """Logits in image pixels wherever the given cells reach, and the row and column of the first pixel.

        Args:
            logits: `(side, side)`.
            cells: Half-open `(row, col, row_stop, col_stop)` of the cells above the lowest threshold of interest. Two more
                on each side are interpolated and the outermost cut off again, as its own neighbour is not there.
        """
        side = logits.shape[0]
        low = [max(v - 2, 0) for v in cells[:2]]
        high = [min(v + 2, side) for v in cells[2:]]
        crop = logits[low[0] : high[0], low[1] : high[1]]
        fine = F.interpolate(crop[None, None], scale_factor=self.cell, mode="bilinear", align_corners=False)[0, 0]
        # Below and right of the image the network's input is padding; a mask can lie there alone.
        first = [min((v + (v > 0)) * self.cell, limit) for v, limit in zip(low, self.scaled, strict=True)]
        ends = [min((v - (v < side)) * self.cell, limit) for v, limit in zip(high, self.scaled, strict=True)]
        stop = [max(a, b) for a, b in zip(first, ends, strict=True)]
        fine = fine[
            first[0] - low[0] * self.cell : stop[0] - low[0] * self.cell,
            first[1] - low[1] * self.cell : stop[1] - low[1] * self.cell,
        ]
        if self.scaled == self.size:  # the second interpolation would change nothing
            return fine.numpy(), first[0], first[1]
        return self._to_image(fine.numpy(), (first[0], first[1]), (stop[0], stop[1]))

    def _to_image(self, fine: FloatArray, first: tuple[int, int], stop: tuple[int, int]) -> tuple[FloatArray, int, int]:
        rows, cols = (taps(a, b).inside(i, j) for a, b, i, j in zip(self.scaled, self.size, first, stop, strict=True))
        across: FloatArray = fine[:, cols.near] * cols.near_weight + fine[:, cols.far] * cols.far_weight
        values: FloatArray = across[rows.near] * rows.near_weight[:, None] + across[rows.far] * rows.far_weight[:, None]
        return values, rows.start, cols.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Taps:
    """The two samples of one axis that make each sample of another."""

    start: int
    """The output sample that the first entry makes."""
    near: NDArray[np.int64]
    far: NDArray[np.int64]
    near_weight: FloatArray
    far_weight: FloatArray

    def inside(self, first: int, stop: int) -> Taps:
        """The run of output samples made of input samples `first` to `stop - 1` alone, indices counted from `first`."""
        low = int(np.searchsorted(self.near, first))
        high = max(low, int(np.searchsorted(self.far, stop)))
        return Taps(
            start=low, near=self.near[low:high] - first, far=self.far[low:high] - first,
            near_weight=self.near_weight[low:high], far_weight=self.far_weight[low:high],
        )  # fmt: skip


@lru_cache(maxsize=8)
def taps(length: int, out: int) -> Taps:
    """Taps of torch's bilinear interpolation, read off its answer to unit pulses: its rounding of positions included."""
    pulses = torch.eye(length)[None, None]
    weights = F.interpolate(pulses, (out, length), mode="bilinear", align_corners=False)[0, 0].numpy()
    near = (weights > 0).argmax(1)
    far = length - 1 - (weights > 0)[:, ::-1].argmax(1)
    rows = np.arange(out)
    far_weight = np.where(far > near, weights[rows, far], np.float32(0))
    return Taps(start=0, near=near, far=far, near_weight=weights[rows, near], far_weight=far_weight)

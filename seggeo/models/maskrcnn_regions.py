"""Detections, and the features of their boxes: RoIAlign over the levels of a pyramid, a few boxes at a time.

1. `Pyramid.of` lays the maps out once for all boxes of a pass.
2. `Pyramid.pool` finds the level of each box, as torchvision does, and samples there.
3. On the CPU `_sampled` writes each cell of a box's grid as a weighted sum of places of a map and lets one call add them up,
   all channels of a place together; elsewhere torchvision's kernel does it.

The arithmetic is that of torchvision's `roi_align` (He et al. 2017; not "aligned"), equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import LevelMapper


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """What was found in some tiles: tile by tile, by descending score; rows of four tensors."""

    boxes: Tensor
    """`(n, 4)` float32 `(x, y, x_stop, y_stop)` in pixels of the tile."""
    scores: Tensor
    labels: Tensor
    """`(n,)` int64, 0 is background."""
    tile: Tensor
    """`(n,)` int64, position in the batch."""

    def take(self, which: Tensor | slice) -> Detections:
        """The picked ones, in that order."""
        boxes, scores, labels, tile = (values[which] for values in (self.boxes, self.scores, self.labels, self.tile))
        return Detections(boxes=boxes, scores=scores, labels=labels, tile=tile)

    def cpu(self) -> Detections:
        """The same in the host's memory, by a single transfer; numbers of labels and tiles are exact in float32."""
        columns = [values[:, None].to(self.boxes.dtype) for values in (self.scores, self.labels, self.tile)]
        table = torch.cat([self.boxes, *columns], 1).cpu()
        return Detections(boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long(), tile=table[:, 6].long())


@dataclass(frozen=True, slots=True, kw_only=True)
class Pyramid:
    """Feature maps of some tiles of one size, finest first."""

    maps: tuple[Tensor, ...]
    """Each `(tiles, channels, h, w)`."""
    strides: tuple[int, ...]
    """Pixels of a tile from one place of a map to the next: powers of two."""

    @classmethod
    def of(cls, features: Mapping[str, Tensor], names: Sequence[str], shape: tuple[int, int]) -> Pyramid:
        """The maps that boxes are sampled from.

        Args:
            features: All maps by name.
            names: Those that the pooler uses.
            shape: Height and width of the tiles as the network saw them, multiples of the largest stride.
        """
        chosen = [values for name, values in features.items() if name in names]
        is_cpu = chosen[0].device.type == "cpu"
        layout = torch.channels_last if is_cpu else torch.contiguous_format
        return cls(
            maps=tuple(values.contiguous(memory_format=layout) for values in chosen),
            strides=tuple(shape[0] // values.shape[2] for values in chosen),
        )

    def pool(self, pooler: MultiScaleRoIAlign, boxes: Tensor, tile: Tensor) -> Tensor:
        """What `pooler` gives for boxes.

        Args:
            pooler: Says how large a grid is, how often it samples, and which boxes go to which level.
            boxes: `(n, 4)`, `(x, y, x_stop, y_stop)` in pixels.
            tile: `(n,)` int64, the tile of each box.

        Returns:
            `(n, channels, rows, cols)` float32; of channels-last memory on the CPU.
        """
        rows, cols = pooler.output_size
        sample = _sampled if self.maps[0].device.type == "cpu" else _aligned
        if len(self.maps) == 1:
            return sample(self.maps[0], self.strides[0], boxes, tile, pooler)
        first, last = (int(stride).bit_length() - 1 for stride in (self.strides[0], self.strides[-1]))
        level = LevelMapper(first, last, pooler.canonical_scale, pooler.canonical_level)([boxes])
        pooled = torch.empty(len(boxes), rows, cols, self.maps[0].shape[1], device=boxes.device).permute(0, 3, 1, 2)
        for i, (values, stride) in enumerate(zip(self.maps, self.strides, strict=True)):
            which = torch.nonzero(level == i)[:, 0]
            if len(which):
                pooled[which] = sample(values, stride, boxes[which], tile[which], pooler)
        return pooled


def _aligned(values: Tensor, stride: int, boxes: Tensor, tile: Tensor, pooler: MultiScaleRoIAlign) -> Tensor:
    """By torchvision's kernel."""
    regions = torch.cat([tile[:, None].to(boxes.dtype), boxes], 1)
    pooled: Tensor = roi_align(values, regions, pooler.output_size, 1 / stride, pooler.sampling_ratio)
    return pooled


def _sampled(values: Tensor, stride: int, boxes: Tensor, tile: Tensor, pooler: MultiScaleRoIAlign) -> Tensor:
    """By one weighted sum of rows of the map's table of places."""
    height, width = values.shape[2:]
    (rows, cols), samples = pooler.output_size, pooler.sampling_ratio
    scaled = boxes * (1 / stride)
    row, row_share = _places(scaled[:, 1], scaled[:, 3], height, rows, samples)
    col, col_share = _places(scaled[:, 0], scaled[:, 2], width, cols, samples)
    base = row * width + (tile * (height * width))[:, None, None]
    index = base[:, :, None, :, None] + col[:, None, :, None, :]  # (n, rows, cols, places down, places across)
    share = row_share[:, :, None, :, None] * col_share[:, None, :, None, :]
    places = values.permute(0, 2, 3, 1).flatten(0, 2)
    sums = F.embedding_bag(index.view(-1, 4 * samples**2), places, None, mode="sum",
                           per_sample_weights=share.view(-1, 4 * samples**2))  # fmt: skip
    return sums.view(len(boxes), rows, cols, values.shape[1]).permute(0, 3, 1, 2)


def _places(start: Tensor, stop: Tensor, length: int, cells: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the places that each cell of each box adds up and the share of each: `(n, cells, 2 * samples)`."""
    size = (stop - start).clamp_min(1)[:, None, None] / cells
    cell, sample = torch.arange(cells)[:, None], torch.arange(samples)
    at = start[:, None, None] + cell * size + (sample + 0.5) * size / samples
    outside = (at < -1) | (at > length)
    at = at.clamp(0, length - 1)
    low = at.long()
    part = at - low
    shares = torch.stack([1 - part, part], -1).masked_fill(outside[..., None], 0) / samples
    return torch.stack([low, (low + 1).clamp_max(length - 1)], -1).flatten(2), shares.flatten(2)

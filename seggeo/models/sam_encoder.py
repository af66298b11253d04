"""segment-anything's image encoder with attention that never holds all its scores, and none computed for padding.

The stock attention writes the scores of every pair of image tokens several times: product, two sums with the relative
positions, softmax. Here, on a CPU, the scores of some rows of one head are made, normalised and used up while they are in
the cache; elsewhere `scaled_dot_product_attention` does the like. For it, relative positions become channels: a query brings
its score for every row and column distance, a key the row and column that it stands in.

Windows that reach beyond the image are padded; what attention projects padding to is the bias, which is copied instead of
computed. Sums are taken in another order than in the stock module, nothing else changes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import Tensor, nn

SCORES = 1 << 20
"""Scores in work at once on a CPU: 4 MB."""


class LeanEncoder(nn.Module):
    """The forward pass of a stock encoder, whose modules and weights it uses; in inference mode only.

    Args:
        stock: With relative positions, as all published ones.
        fused: Attention by `scaled_dot_product_attention`; default: where the encoder is not on a CPU.
    """

    def __init__(self, stock: ImageEncoderViT, *, fused: bool | None = None) -> None:
        super().__init__()
        self.stock = stock
        self.fused = next(stock.parameters()).device.type != "cpu" if fused is None else fused

    def forward(self, image: Tensor) -> Tensor:
        """Image embedding `(b, channels, grid, grid)` of normalised pixels `(b, 3, side, side)`."""
        tokens = self.stock.patch_embed(image)
        if self.stock.pos_embed is not None:
            tokens = tokens + self.stock.pos_embed
        for block in self.stock.blocks:
            tokens = tokens + self._attend(block, block.norm1(tokens))
            tokens = tokens + block.mlp(block.norm2(tokens))
        embedding: Tensor = self.stock.neck(tokens.permute(0, 3, 1, 2))
        return embedding

    def _attend(self, block: Block, tokens: Tensor) -> Tensor:
        """Attention of a block, `(b, height, width, channels)`."""
        attention, size = block.attn, tokens.shape[1:3]
        projected = attention.qkv(tokens)
        window = block.window_size or size[0]
        if any(length % window for length in size):
            projected = _padded(projected, attention.qkv.bias, window)
        windows = _windows(projected, window, attention.num_heads)
        places = tuple(get_rel_pos(window, window, codes) for codes in (attention.rel_pos_h, attention.rel_pos_w))
        found = (_fused if self.fused or projected.dtype != torch.float32 else _in_cache)(attention, windows, places)
        mixed: Tensor = attention.proj(_joined(found, projected.shape[:3])[:, : size[0], : size[1]])
        return mixed


Places = tuple[Tensor, ...]


def _padded(projected: Tensor, bias: Tensor, window: int) -> Tensor:
    """`(b, h, w, 3 C)` up to whole windows; zeros are projected to the bias."""
    count, height, width, channels = projected.shape
    shape = count, -(-height // window) * window, -(-width // window) * window, channels
    padded = bias.to(projected.dtype).expand(shape).clone()
    padded[:, :height, :width] = projected
    return padded


def _windows(projected: Tensor, window: int, heads: int) -> Tensor:
    """Queries, keys and values `(3, windows, heads, window, window, d)` of `(b, h, w, 3 C)`."""
    count, height, width, _ = projected.shape
    parts = projected.view(count, height // window, window, width // window, window, 3, heads, -1)
    return parts.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(1, 3)


def _joined(found: Tensor, shape: torch.Size) -> Tensor:
    """`(b, h, w, C)` of windows `(windows, heads, window, window, d)`."""
    count, height, width = shape
    window = found.shape[2]
    parts = found.view(count, height // window, width // window, *found.shape[1:])
    return parts.permute(0, 1, 4, 2, 5, 3, 6).reshape(count, height, width, -1)


def _in_cache(attention: Attention, windows: Tensor, places: Places) -> Tensor:
    """Attention of `(3, windows, heads, side, side, d)`, some heads or some rows of one head at a time."""
    query, key, value = windows.flatten(1, 2)
    count, side, _, d = query.shape
    tokens = side * side
    together = max(1, min(count, SCORES // tokens**2))
    rows = side if together > 1 else max(1, min(side, SCORES // (tokens * side)))
    found = torch.empty_like(query)
    for first in range(0, count, together):
        some = slice(first, first + together)
        keys, values = key[some].flatten(1, 2).mT, value[some].flatten(1, 2)
        for row in range(0, side, rows):
            part = query[some, row : row + rows]
            scores = _place_scores(part, places, row)
            scores.baddbmm_(part.flatten(1, 2) * attention.scale, keys)
            found[some, row : row + rows] = torch.bmm(scores.softmax(-1), values).view(part.shape)
    return torch.unflatten(found, 0, windows.shape[1:3])


def _place_scores(query: Tensor, places: Places, first: int) -> Tensor:
    """Scores of relative positions, `(n, rows * side, side * side)`, of queries `(n, rows, side, d)` from row `first` on."""
    count, rows, side, _ = query.shape
    of_rows, of_cols = (s.flatten(1, 2) for s in _by_distance(query, places, first))
    scores = query.new_empty(count, rows * side, side, side)
    torch.add(of_rows[..., None], of_cols[:, :, None], out=scores)
    return scores.flatten(2)


def _by_distance(query: Tensor, places: Places, first: int = 0) -> tuple[Tensor, Tensor]:
    """Scores of queries `(n, rows, side, d)` for the row and for the column of a key, `(n, rows, side, side)` each."""
    rows, cols = places
    return (
        query @ rows[first : first + query.shape[1]].mT,
        (query.transpose(1, 2) @ cols.mT).transpose(1, 2),
    )


def _fused(attention: Attention, windows: Tensor, places: Places) -> Tensor:
    """Attention of `(3, windows, heads, side, side, d)` by torch's own kernels, relative positions as channels."""
    query, key, value = windows.flatten(1, 2)
    count, side = query.shape[:2]
    ask = torch.cat([query * attention.scale, *_by_distance(query, places)], -1)
    one = torch.eye(side, dtype=key.dtype, device=key.device)
    at_row, at_col = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    reply = torch.cat([key, at_row.expand(count, -1, -1, -1), at_col.expand(count, -1, -1, -1)], -1)
    shape = windows.shape[1:3]
    ask, reply, value = (torch.unflatten(given.flatten(1, 2), 0, shape) for given in (ask.to(key.dtype), reply, value))
    found = F.scaled_dot_product_attention(ask, reply, value, scale=1.0)
    return torch.unflatten(found, 2, (side, side))

"""segment-anything's two-way transformer for many points of one image, without a copy of the image tokens per point.

All points see the same image. What a point changes in its copy of the image tokens is little: each layer adds, to every
image token, a mixture of the point's few tokens, and normalises. The image tokens of a point are therefore, exactly,

    token[t] = scale[t] * (base[t] + sum over k of rows[k, t] * vectors[k]) + offset

where `base` is the same for all points, `rows` are attention weights (heads x tokens of them per layer, and a constant) and
`vectors` what is added. Every product with the image tokens splits the same way: projections of `base` are computed once per
image, and the rest has the size of `rows`, a fifth, then under half of the image tokens'. Even the variances that layer
normalisation needs are quadratic forms of the rows. Nothing is approximated; sums are taken in another order than in the
stock modules.

Shapes: `b` points, `n` tokens per point, `H` heads, `d` channels per head, `C` channels, `T` image tokens, `r` rows.
Image tokens lie last everywhere, so that all elementwise work runs along memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTokens:
    """The image tokens of a batch of points, as the module's formula says."""

    scale: Tensor
    """`(b, 1, T)`."""
    rows: Tensor
    """`(b, r, T)`."""
    vectors: Tensor
    """`(b, r, C)`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """What all points share of the image tokens as one layer finds them."""

    key: Tensor
    """Keys of the tokens' attention to the image, without positions and bias, `(H, d, T)`; of the first layer with both."""
    value: Tensor
    """Its values, `(H, d, T)`."""
    query: Tensor
    """Queries of the image's attention to the tokens, without positions and bias, `(H, d, T)`; of the first layer with both."""
    square: Tensor
    """Squared length of each centred base token, `(T,)`."""
    cross: tuple[Tensor, ...]
    """Products of the centred base with what each layer so far can add, `(H, d, T)` for each."""
    cross_constant: tuple[Tensor, ...]
    """The same for the constants, `(T,)` for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTokens:
    """What all points of one image share."""

    levels: tuple[_Level, ...]
    key: Tensor
    """Of the last attention, as in `_Level`."""
    value: Tensor
    base: Tensor
    """After the last layer, `(C, T)`."""


class LowRankTransformer:
    """The transformer of a `MaskDecoder`, its weights rearranged; in inference mode only.

    Args:
        transformer: The stock module, which stays in use for everything that is small.
        positions: Positional code of the image tokens, `(C, T)`.
        side_by_side: Points in one product, not one by one; default: where the weights are not on a CPU.
    """

    def __init__(self, transformer: TwoWayTransformer, positions: Tensor, *, side_by_side: bool | None = None) -> None:
        self._side_by_side = positions.device.type != "cpu" if side_by_side is None else side_by_side
        self._stock = transformer
        self._layers = list(transformer.layers)
        self._final: Attention = transformer.final_attn_token_to_image
        self._heads: int = transformer.num_heads
        self._positions = positions
        self._key_places = [self._project(a.k_proj.weight, positions) for a in (*self._asking(), self._final)]
        self._query_places = [self._project(a.q_proj.weight, positions) for a in self._answering()]
        # What a layer adds, as later layers find it: centred before each norm, then multiplied by the norm's weight.
        self._exits: list[list[Tensor]] = [[] for _ in self._layers]
        self._constants: list[list[Tensor]] = [[] for _ in self._layers]
        for start, layer in enumerate(self._layers):
            before = self._offset(start)
            exit_ = layer.cross_attn_image_to_token.out_proj.weight
            constant = layer.cross_attn_image_to_token.out_proj.bias + before
            for now, norm in enumerate((later.norm4 for later in self._layers[start:]), start):
                exit_, constant = exit_ - exit_.mean(0), constant - constant.mean()
                self._exits[now].append(exit_)
                self._constants[now].append(constant)
                exit_, constant = exit_ * norm.weight[:, None], constant * norm.weight

    @property
    def offset(self) -> Tensor:
        """`offset` of the image tokens after the last layer, `(C,)`."""
        return self._offset(len(self._layers))

    def share(self, image: Tensor) -> SharedTokens:
        """What all points of an image share.

        Args:
            image: Image embedding with the embedding of "no mask" added, `(C, T)`.
        """
        base, levels = image, []
        for number, layer in enumerate(self._layers):
            ask, answer = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            centred = base - base.mean(0)
            key, query = self._project(ask.k_proj.weight, base), self._project(answer.q_proj.weight, base)
            if not number:
                key, query = key + self._key_places[0], query + self._query_places[0]
            levels.append(
                _Level(
                    key=key, query=query, value=self._project(ask.v_proj.weight, base), square=(centred**2).sum(0),
                    cross=tuple(self._project(exit_.T, centred) for exit_ in self._exits[number]),
                    cross_constant=tuple(constant @ centred for constant in self._constants[number]),
                )
            )  # fmt: skip
            base = centred * layer.norm4.weight[:, None]
        return SharedTokens(
            levels=tuple(levels), base=base,
            key=self._project(self._final.k_proj.weight, base), value=self._project(self._final.v_proj.weight, base),
        )  # fmt: skip

    def __call__(self, shared: SharedTokens, tokens: Tensor) -> tuple[Tensor, ImageTokens]:
        """Answers of the points' tokens `(b, n, C)`, and the image tokens of each point.

        Args:
            shared: From `share`.
            tokens: Quality token, mask tokens and prompt of each point, `(b, n, C)`.
        """
        queries, added = tokens, []
        image: ImageTokens | None = None
        for number, layer in enumerate(self._layers):
            level = shared.levels[number]
            queries = _self_attention(layer, queries, tokens)
            asked = self._ask(layer.cross_attn_token_to_image, queries + tokens, (level.key, level.value), image, number)
            queries = layer.norm2(queries + asked)
            queries = layer.norm3(queries + layer.mlp(queries))
            answer = layer.cross_attn_image_to_token
            added.append(self._split(answer.v_proj(queries)))
            image = self._add(answer, queries + tokens, added, level, image)
        last = len(self._layers)
        asked = self._ask(self._final, queries + tokens, (shared.key, shared.value), image, last)
        assert image is not None, "a transformer has layers"
        answers: Tensor = self._stock.norm_final_attn(queries + asked)
        return answers, image

    def _ask(
        self, attention: Attention, queries: Tensor, sides: tuple[Tensor, Tensor], image: ImageTokens | None, number: int
    ) -> Tensor:  # fmt: skip
        """The tokens' attention to the image, `(b, n, C)`. Biases of keys move all scores of a token alike and are left out."""
        key, value = sides
        asking = self._split(attention.q_proj(queries)) / self._root(attention)
        scores = self._times(asking, key)
        if image is not None:
            absorbed = (asking @ self._by_head(attention.k_proj.weight)).flatten(1, 2)
            scores.baddbmm_(absorbed @ image.vectors.mT, image.rows)
            scores.mul_(image.scale)
            self._times(asking, self._key_places[number], onto=scores)
        weights = scores.softmax(-1)
        bias = attention.v_proj.bias
        if image is None:
            found = self._gather(weights, value)
        else:
            weights.mul_(image.scale)
            found = self._gather(weights, value)
            changed = torch.unflatten(weights @ image.rows.mT @ image.vectors, 1, (self._heads, -1))
            found = found + changed @ self._by_head(attention.v_proj.weight).mT
            bias = bias + attention.v_proj.weight @ self._offset(number)
        found = found + bias.view(self._heads, 1, -1)
        mixed: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
        return mixed

    def _add(
        self, attention: Attention, queries: Tensor, added: list[Tensor], level: _Level, image: ImageTokens | None
    ) -> ImageTokens:  # fmt: skip
        """The image tokens after a layer: its attention to the tokens added, and normalised."""
        number = len(added) - 1
        weights = self._answers(attention, queries, level, image, number)
        ones = weights.new_ones(len(weights), 1, weights.shape[2])
        if image is None:
            rows = torch.cat([weights, ones], 1)
        else:  # what is added now stands inside the scale of the layers before
            inverse = 1 / image.scale
            rows = torch.cat([image.rows, weights.mul_(inverse), inverse], 1)
        vectors = torch.cat([self._vectors(v, number, start) for start, v in enumerate(added)], 1)
        norm = self._layers[number].norm4
        products = torch.cat(
            [
                part
                for i, v in enumerate(added)
                for part in (self._times(v, level.cross[i]), level.cross_constant[i].expand_as(ones))
            ],
            1,
        )
        # |base + rows' vectors|^2, rows' part: twice the products with the base, and the rows' own.
        products.baddbmm_(vectors @ vectors.mT, rows, beta=2)
        square = level.square + products.mul_(rows).sum(1, keepdim=True)
        before = 1.0 if image is None else image.scale
        variance = square * before * before / vectors.shape[2]
        scale = before * torch.rsqrt(variance.clamp_min_(0) + norm.eps)
        return ImageTokens(scale=scale, rows=rows, vectors=vectors * norm.weight)

    def _answers(
        self, attention: Attention, queries: Tensor, level: _Level, image: ImageTokens | None, number: int
    ) -> Tensor:  # fmt: skip
        """Weights of the image's attention to the tokens, `(b, H * n, T)`."""
        keys = self._split(attention.k_proj(queries)) / self._root(attention)
        scores = self._times(keys, level.query)
        bias = attention.q_proj.bias
        if image is not None:
            absorbed = (keys @ self._by_head(attention.q_proj.weight)).flatten(1, 2)
            scores.baddbmm_(absorbed @ image.vectors.mT, image.rows)
            scores.mul_(image.scale)
            self._times(keys, self._query_places[number], onto=scores)
            bias = bias + attention.q_proj.weight @ self._offset(number)
        scores.add_((keys @ bias.view(self._heads, -1, 1)).flatten(1, 2))
        return torch.unflatten(scores, 1, (self._heads, -1)).softmax(2).flatten(1, 2)

    def _vectors(self, values: Tensor, number: int, start: int) -> Tensor:
        """What layer `start` added, by head and token, and its constant, `(b, H * n + 1, C)`, as layer `number` finds them."""
        rows = (values @ self._by_head(self._exits[number][start].T)).flatten(1, 2)
        return torch.cat([rows, self._constants[number][start].expand(len(rows), 1, -1)], 1)

    def _times(self, tokens: Tensor, image: Tensor, onto: Tensor | None = None) -> Tensor:
        """Products of tokens `(b, H, n, d)` with `(H, d, T)` that all points share, `(b, H * n, T)`, or added onto such."""
        return (_times_all if self._side_by_side else _times_each)(tokens, image, onto)

    def _gather(self, weights: Tensor, image: Tensor) -> Tensor:
        """Sums of `(H, d, T)` that all points share, weighted `(b, H * n, T)`: `(b, H, n, d)`."""
        by_head = torch.unflatten(weights, 1, (self._heads, -1))
        return (_gather_all if self._side_by_side else _gather_each)(by_head, image)

    def _asking(self) -> list[Attention]:
        return [layer.cross_attn_token_to_image for layer in self._layers]

    def _answering(self) -> list[Attention]:
        return [layer.cross_attn_image_to_token for layer in self._layers]

    def _offset(self, number: int) -> Tensor:
        """`offset` of the image tokens that layer `number` finds."""
        bias: Tensor = self._layers[max(number, 1) - 1].norm4.bias
        return bias if number else torch.zeros_like(bias)

    def _root(self, attention: Attention) -> float:
        return sqrt(attention.internal_dim // self._heads)

    def _by_head(self, weight: Tensor) -> Tensor:
        """`(H, d, x)` of `(H * d, x)`."""
        return torch.unflatten(weight, 0, (self._heads, -1))

    def _project(self, weight: Tensor, image: Tensor) -> Tensor:
        return self._by_head(weight @ image)

    def _split(self, tokens: Tensor) -> Tensor:
        """`(b, H, n, d)` of `(b, n, H * d)`."""
        return torch.unflatten(tokens, 2, (self._heads, -1)).transpose(1, 2)


def _self_attention(layer: TwoWayAttentionBlock, queries: Tensor, tokens: Tensor) -> Tensor:
    """The tokens' attention to each other, and its norm, by the stock modules."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + tokens
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    normed: Tensor = layer.norm1(queries)
    return normed


def _times_each(tokens: Tensor, image: Tensor, onto: Tensor | None) -> Tensor:
    """`LowRankTransformer._times` point by point: a broadcast product would copy `image` for every point."""
    (count, heads, n, _), length = tokens.shape, image.shape[2]
    result = tokens.new_empty(count, heads * n, length) if onto is None else onto
    for one, own in zip(result.view(count, heads, n, length), tokens, strict=True):
        if onto is None:
            torch.bmm(own, image, out=one)
        else:
            one.baddbmm_(own, image)
    return result


def _times_all(tokens: Tensor, image: Tensor, onto: Tensor | None) -> Tensor:
    """The same with the points side by side in one product, which is put in order afterwards."""
    count, heads, n, d = tokens.shape
    together = torch.bmm(tokens.transpose(0, 1).reshape(heads, count * n, d), image)
    products = torch.unflatten(together, 1, (count, n)).transpose(0, 1).flatten(1, 2)
    return products if onto is None else onto.add_(products)


def _gather_each(weights: Tensor, image: Tensor) -> Tensor:
    """`LowRankTransformer._gather` point by point."""
    count, heads, n, _ = weights.shape
    result = weights.new_empty(count, heads, n, image.shape[1])
    for one, some in zip(result, weights, strict=True):
        torch.bmm(some, image.mT, out=one)
    return result


def _gather_all(weights: Tensor, image: Tensor) -> Tensor:
    """The same with the points side by side."""
    together = torch.bmm(weights.transpose(0, 1).flatten(1, 2), image.mT)
    return torch.unflatten(together, 1, (len(weights), -1)).transpose(0, 1)

"""Decoding told by places and runs gives to the last bit what every pixel, pile and object taken one by one give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import label as components
from support_unet import toy_network, true_fields

from seggeo.models.basins import ascend, climb
from seggeo.models.unet_decode import Decoded, Decoding, decode, settled


def plain_votes(inside, offset):
    """Where each foreground pixel's vote falls: it looks along its offset three times, while it lands in the foreground."""
    row, col = np.nonzero(inside)
    to_row, to_col = row + offset[0, row, col], col + offset[1, row, col]
    for _ in range(2):
        r, c = (np.clip(np.rint(v), 0, n - 1).astype(int) for v, n in zip((to_row, to_col), inside.shape, strict=True))
        again = inside[r, c]
        to_row = np.where(again, r + offset[0, r, c], to_row)
        to_col = np.where(again, c + offset[1, r, c], to_col)
    return [np.clip(np.rint(v), 0, n - 1).astype(int) for v, n in zip((to_row, to_col), inside.shape, strict=True)]


def plain_joined(pile, ends, join):
    """The object of each pile, every pair of them compared."""
    count = pile.max() + 1
    area = np.bincount(pile, minlength=count)
    radius = np.sqrt(area / np.pi)
    centre = np.stack([np.bincount(pile, weights=end, minlength=count) / np.maximum(area, 1) for end in ends], axis=1)
    group = np.arange(count)
    pairs = []
    for a in range(1, count):
        for b in range(a + 1, count):
            apart = np.hypot(*(centre[a] - centre[b]))
            if apart < join * (radius[a] + radius[b]):
                pairs.append((apart, a, b))
    for _, a, b in sorted(pairs):
        low, high = sorted((group[a], group[b]))
        group[group == high] = low
    return group


def plain_settled(labels, chances, d):
    """Components, the largest of each label, filled one by one."""
    chance = chances[0] if len(chances) == 1 else chances.sum(axis=0)
    pieces = components(labels, connectivity=1, background=0)
    best: dict[int, tuple[int, int]] = {}
    for piece in range(1, pieces.max() + 1):
        mine = pieces == piece
        owner, area = int(labels[mine][0]), int(mine.sum())
        if owner not in best or area > best[owner][0]:
            best[owner] = area, piece
    out, scores = np.zeros(labels.shape, np.int32), []
    for piece in sorted(piece for _, piece in best.values()):
        mine = pieces == piece
        score = np.float32(np.bincount(mine.ravel(), weights=chance.ravel())[1] / mine.sum())
        if mine.sum() >= d.min_area and score >= d.min_score:
            scores.append(score)
            out[mine] = len(scores)
    for i in range(1, len(scores) + 1):
        out[ndimage.binary_fill_holes(out == i) & (out == 0)] = i
    sums = [[c[out == i].sum(dtype=np.float64) for c in chances] for i in range(1, len(scores) + 1)]
    kinds = np.array([np.argmax(s) for s in sums], np.int32)
    return Decoded(labels=out, score=np.array(scores, np.float32), label=kinds)


def plain_decode(chances, offset, d):
    chance = chances[0] if len(chances) == 1 else chances.sum(axis=0)
    inside = chance > d.foreground
    labels = np.zeros(chance.shape, np.int32)
    if inside.any():
        ends = plain_votes(inside, offset)
        count = np.zeros(chance.shape, np.float32)
        np.add.at(count, tuple(ends), 1)
        density = ndimage.gaussian_filter(count, d.smooth, mode="constant", truncate=3.0)
        pile = ascend(density, density > 1e-3).labels[tuple(ends)]
        labels[inside] = plain_joined(pile, ends, d.join)[pile]
    return plain_settled(labels, chances, d)


def assert_equal(found: Decoded, expected: Decoded):
    for name in ("labels", "score", "label"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs), name


def fields(seed, shape, classes):
    """Discs with noise in everything, so that piles split, join and leave holes."""
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for i in range(1, 14):
        y, x, r = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(3, 16)
        labels[np.hypot(yy - y, xx - x) < r] = i
    chance, offset = true_fields(labels)
    chance = np.clip(0.1 + 0.75 * chance + rng.normal(0, 0.2, chance.shape), 0, 1)
    share = rng.dirichlet(np.ones(classes), shape).transpose(2, 0, 1)
    return (chance * share).astype(np.float32), (offset + rng.normal(0, 1 + seed % 3, offset.shape)).astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_objects_of_fields(seed):
    shape = [(90, 110), (1, 80), (80, 1), (64, 70)][seed % 4]
    chances, offset = fields(seed, shape, 1 + seed % 2)
    d = Decoding(foreground=0.45, smooth=(0.6, 1.2, 2.0)[seed % 3], min_area=1 + 5 * (seed % 2), min_score=0.4)
    assert_equal(decode(chances, offset, d), plain_decode(chances, offset, d))


def test_no_foreground():
    chances, offset = np.zeros((1, 30, 40), np.float32), np.zeros((2, 30, 40), np.float32)
    assert_equal(decode(chances, offset, Decoding()), plain_decode(chances, offset, Decoding()))


@pytest.mark.parametrize("seed", range(12))
def test_objects_of_any_labels(seed):
    """Blocks of a few labels: pieces, ties of area, rings, rings in rings, holes that only corners close."""
    rng = np.random.default_rng(seed)
    block = 1 + seed % 3
    labels = rng.integers(0, 2 + seed % 4, (24, 25)) * (rng.random((24, 25)) < 0.8)
    labels = np.kron(labels, np.ones((block, block), int)).astype(np.int32)
    if seed % 4 == 3:
        labels[2:20, 3:21], labels[4:18, 5:19], labels[6:16, 7:17], labels[8:14, 9:15] = 1, 0, 2, 0
    chances = rng.random((1 + seed % 2, *labels.shape), np.float32)
    d = Decoding(min_area=1 + seed % 5, min_score=0.3)
    assert_equal(settled(labels, chances, d), plain_settled(labels, chances, d))


@pytest.mark.parametrize("seed", range(6))
def test_climbing_from_a_list_of_pixels_is_climbing_in_the_image(seed):
    """With few heights, so that most maxima are plateaus."""
    rng = np.random.default_rng(seed)
    height = rng.integers(0, 4 + 20 * seed, (31, 37)).astype(np.float32)
    padded = np.pad(height, 1)
    at = np.flatnonzero(padded)
    labels = np.zeros(padded.shape, np.int32)
    labels.ravel()[at] = climb(at, padded.ravel(), padded.shape[1]) + 1
    assert np.array_equal(labels[1:-1, 1:-1], ascend(height, height > 0).labels)


def test_fields_without_gradients_are_those_with_them():
    """The pass that works in the memory of its own intermediate results adds nothing up in another order."""
    network = toy_network(3)
    image = torch.rand(1, 3, 192, 224, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.inference_mode():
        fast = network(image)
    assert torch.equal(fast, network(image).detach())

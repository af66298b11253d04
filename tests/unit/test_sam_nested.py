"""Nested masks: every rule is what a count of pixels on the full frame says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seggeo.errors import ConfigError
from seggeo.instances import Instances
from seggeo.models.sam_nested import INSIDE, apply_nested

SIDE = 24


@st.composite
def masks(draw):
    """Up to ten boxes and discs with their scores, many of them inside others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, cols = np.mgrid[:SIDE, :SIDE]
    frames = []
    for _ in range(draw(st.integers(1, 10))):
        row, col = rng.uniform(0, SIDE, 2)
        radius = rng.uniform(2, SIDE / 2)
        far = np.maximum(abs(rows - row), abs(cols - col)) if rng.random() < 0.5 else np.hypot(rows - row, cols - col)
        frames.append((far < radius) & (rng.random((SIDE, SIDE)) > draw(st.sampled_from([0.0, 0.02]))))
    return [frame for frame in frames if frame.any()] or [np.ones((SIDE, SIDE), bool)]


def frames_of(instances):
    out = []
    for (row, col, row_stop, col_stop), mask in instances:
        frame = np.zeros((SIDE, SIDE), bool)
        frame[row:row_stop, col:col_stop] = mask
        out.append(frame)
    return out


def order(frames, scores):
    return sorted(range(len(frames)), key=lambda i: (frames[i].sum(), -scores[i], i))


def one_level(frames, scores, *, largest_first):
    kept = []
    rank = order(frames, scores)
    for i in rank[::-1] if largest_first else rank:
        pairs = [(i, j) if largest_first else (j, i) for j in kept]
        if not any((frames[a] & frames[b]).sum() >= INSIDE * frames[a].sum() for a, b in pairs):
            kept.append(i)
    return sorted(kept)


@settings(deadline=None, max_examples=60)
@given(masks())
def test_whole_and_part_keep_one_level(frames):
    scores = np.linspace(0.9, 0.95, len(frames)).astype(np.float32)
    instances = Instances.from_masks(frames, score=scores)
    for rule, largest_first in (("whole", True), ("part", False)):
        wanted = one_level(frames, scores, largest_first=largest_first)
        found = apply_nested(instances, rule)
        assert np.array_equal(found.score, scores[wanted])
        assert all(np.array_equal(a, frames[i]) for a, i in zip(frames_of(found), wanted, strict=True))


@settings(deadline=None, max_examples=60)
@given(masks())
def test_flat_gives_every_pixel_to_the_smallest_mask(frames):
    scores = np.linspace(0.9, 0.95, len(frames)).astype(np.float32)
    owner = np.full((SIDE, SIDE), -1)
    for i in order(frames, scores)[::-1]:
        owner[frames[i]] = i
    found = apply_nested(Instances.from_masks(frames, score=scores), "flat")
    wanted = [i for i in range(len(frames)) if (owner == i).any()]
    assert np.array_equal(found.score, scores[wanted])
    assert all(np.array_equal(a, owner == i) for a, i in zip(frames_of(found), wanted, strict=True))


def test_all_keeps_everything_and_nothing_stays_nothing():
    frames = [np.ones((5, 5), bool), np.eye(5, dtype=bool)]
    instances = Instances.from_masks(frames)
    assert apply_nested(instances, "all") is instances
    for rule in ("all", "whole", "part", "flat"):
        assert len(apply_nested(Instances.empty(), rule)) == 0


def test_a_chain_of_three_keeps_the_outermost_or_the_innermost():
    frames = [np.pad(np.ones((n, n), bool), ((1, 21 - n), (1, 21 - n))) for n in (4, 9, 15)]
    instances = Instances.from_masks(frames)
    assert apply_nested(instances, "whole").area.tolist() == [225]
    assert apply_nested(instances, "part").area.tolist() == [16]
    assert apply_nested(instances, "flat").area.tolist() == [16, 81 - 16, 225 - 81]


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="all, whole, part and flat"):
        apply_nested(Instances.from_masks([np.ones((2, 2), bool)]), "some")

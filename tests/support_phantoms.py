"""Volumes whose objects are known: balls apart and packed, bundles of tubes, nested labels; and what is found of them by slice.

Lengths are in pixels of the plane; slices are `step` pixels apart (the anisotropy). Everything follows from the generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances
from seggeo.merge.chains import Breaks
from seggeo.merge.link import Linked, Linker, LinkRules, number

Labels = NDArray[np.int32]
Rng = np.random.Generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a model found of a volume: a label image for each slice, numbered anew in each, and what is true of them."""

    labels: Labels
    """`(z, row, col)`, in each slice from 1 in random order."""
    truth: tuple[NDArray[np.int64], ...]
    """For each slice the true id of label 1, 2, ..."""

    def pieces(self, z: int) -> Instances:
        """The cross-sections of a slice, label 1 first."""
        return Instances.from_labels(self.labels[z])


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors of ids given to cross-sections."""

    objects: int
    splits: int
    """Ids more than one that a true object bears."""
    merges: int
    """True objects more than one that an id stands for."""
    reused: int
    """Ids of two cross-sections of one slice, or of pieces more than the allowed gap apart or not above each other."""


def balls_apart(rng: Rng, step: float, side: int = 160, count: int = 250) -> Labels:
    """Balls that never touch, each through five slices or more."""
    return draw_balls(*_apart(rng, _radii(step)[0], side, count), step, (round(side / step), side, side))


def balls_packed(rng: Rng, step: float, side: int = 160, *, lean: float = 0.0, tries: int = 6000) -> Labels:
    """Balls each laid against another, so that neighbours touch in every direction.

    Args:
        rng: Of places and sizes.
        step: Distance of slices, px.
        side: Of the cube, px.
        lean: Columns by which the whole pack is sheared for each px of depth: leaning ellipsoids that touch.
        tries: Of laying one more.
    """
    low, high = _radii(step)
    centres, radii = np.full((1, 3), side / 2), np.array([rng.uniform(low, high)])
    for _ in range(tries):
        at, radius, way = rng.integers(len(radii)), rng.uniform(low, high), rng.normal(size=3)
        centre = centres[at] + way / np.linalg.norm(way) * (radii[at] + radius)
        inside = (centre >= 0).all() and (centre <= side).all()
        if inside and (np.linalg.norm(centres - centre, axis=1) - radii - radius).min() > -1e-6:
            centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
    wide = side + round(lean * side)
    return draw_balls(centres, radii, step, (round(side / step), side, wide), lean)


def tubes(rng: Rng, step: float, side: int = 160, *, slope: float = 0.0, turns: float = 0.0) -> Labels:
    """A bundle of tubes from the first slice to the last, a pixel or two apart.

    Args:
        rng: Of radii.
        step: Distance of slices, px.
        side: Of the cube, px.
        slope: Sideways way of the tubes for each px of depth.
        turns: Turns of a helix of that slope; 0 is straight.
    """
    radius = max(6.0, 1.6 * step)
    depth = round(side / step)
    reach = slope * side / (2 * np.pi * turns) if turns else 0.0
    wide = side + (0 if turns else int(slope * side))
    labels = np.zeros((depth, side, wide), np.int32)
    pitch, stretch = 2 * radius + 2, np.hypot(1, slope)
    rows = np.arange(pitch / 2 + reach, side - pitch / 2 - reach + 1, pitch * (stretch if turns else 1))
    cols = np.arange(pitch * stretch / 2 + reach, side - pitch * stretch / 2 - reach + 1, pitch * stretch)
    angle = 2 * np.pi * turns * np.arange(depth) / depth
    for i, (row, col) in enumerate((r, c) for r in rows for c in cols):
        r = radius * rng.uniform(0.8, 1)
        for z in range(depth):
            at = (row + reach * np.sin(angle[z]), col + (reach * np.cos(angle[z]) if turns else slope * step * z))
            way = angle[z] if turns else np.pi / 2
            _ellipse(labels[z], at, (r, r * stretch), way, i + 1)
    return labels


def nested(rng: Rng, step: float, side: int = 160) -> Labels:
    """Balls apart, each around one of half its radius that is an object of its own: a label in the ring of another."""
    centres, radii = _apart(rng, 2 * _radii(step)[0], side, 40)
    shape = (round(side / step), side, side)
    outer, inner = draw_balls(centres, radii, step, shape), draw_balls(centres, 0.5 * radii, step, shape)
    return np.where(inner > 0, inner + len(radii), outer)


def tree(step: float, levels: int = 3, side: int = 200) -> tuple[Labels, int]:
    """A stem that branches in two again and again, all one label; and how often it branches."""
    depth = levels + 1
    part = max(8, round(40 / step))
    labels = np.zeros((depth * part, 60, side), np.int32)
    for z in range(len(labels)):
        level, within = z // part, (z % part) / part
        count, spread = 1 << level, side / (1 << level)
        for i in range(count):
            col, parent = (i + 0.5) * spread, (i // 2 + 0.5) * spread * 2
            start = parent + (6.5 if i % 2 else -6.5) if level else col
            wide = 6 + 12 * max(0, within - 0.5) * (level < levels)
            _ellipse(labels[z], (30, start + (col - start) * within), (6, wide), np.pi / 2, i + 1)
    return labels, sum(1 << level for level in range(levels))


def draw_balls(
    centres: NDArray[np.float64], radii: NDArray[np.float64], step: float, shape: tuple[int, int, int], lean: float = 0.0
) -> Labels:  # fmt: skip
    """Label volume of balls; centres `(n, 3)` are depth, row, column in px."""
    labels = np.zeros(shape, np.int32)
    for i, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        first, last = int(np.ceil((centre[0] - radius) / step)), int(np.floor((centre[0] + radius) / step))
        for z in range(max(0, first), min(shape[0] - 1, last) + 1):
            r = np.sqrt(max(0.0, radius**2 - (z * step - centre[0]) ** 2))
            _ellipse(labels[z], (centre[1], centre[2] + lean * z * step), (r, r), 0, i + 1)
    return labels


def find(rng: Rng, truth: Labels, *, miss: float = 0.0, jitter: bool = False, empty: float = 0.0) -> Found:
    """What an otherwise perfect model finds slice by slice.

    Args:
        rng: Of everything random.
        truth: True ids `(z, row, col)`.
        miss: Share of cross-sections that are not found; never more than two in a row of one object.
        jitter: Each cross-section is a pixel too large, a pixel too small or right, each as likely.
        empty: Share of slices in which nothing is found.
    """
    missed = np.zeros(int(truth.max()) + 1, int)
    found, true = np.zeros_like(truth), []
    for z, plane in enumerate(truth):
        ids = np.unique(plane[plane > 0])
        lost = (rng.random(len(ids)) < miss) | (rng.random() < empty)
        lost &= missed[ids] < 2
        missed[ids] = np.where(lost, missed[ids] + 1, 0)
        kept = np.zeros(len(missed), bool)
        kept[ids[~lost]] = True
        seen = np.where(kept[plane], plane, 0)
        seen = _jittered(rng, seen, len(missed)) if jitter else seen
        left = np.unique(seen[seen > 0])
        place = np.zeros(len(missed), np.int32)
        order = rng.permutation(len(left))
        place[left[order]] = np.arange(1, len(left) + 1)
        found[z] = place[seen]
        true.append(left[order].astype(np.int64))
    return Found(labels=found, truth=tuple(true))


def link(
    found: Found, rules: LinkRules, order: Sequence[int] | None = None
) -> tuple[list[NDArray[np.int64]], Breaks, list[Linked]]:
    """Ids of the cross-sections of every slice; slices are taken in `order`, ascending or descending."""
    return link_pieces([found.pieces(z) for z in range(len(found.labels))], rules, order)


def link_pieces(
    pieces: Sequence[Instances], rules: LinkRules, order: Sequence[int] | None = None
) -> tuple[list[NDArray[np.int64]], Breaks, list[Linked]]:  # fmt: skip
    """The same of instances of each slice."""
    order = list(order if order is not None else range(len(pieces)))
    linker = Linker(rules)
    slices = list(linker.walk((at, pieces[z]) for at, z in enumerate(order)))
    breaks = linker.breaks
    ids: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(pieces)
    for at, of_slice in number(iter(slices), breaks, rules.gap):
        ids[order[at]] = of_slice
    return ids, breaks, slices


def errors(found: Found, ids: Sequence[NDArray[np.int64]], gap: int = 2) -> Errors:
    """Count what is wrong with the ids of cross-sections, 0 standing for none."""
    true, got = np.concatenate(found.truth), np.concatenate(list(ids))
    pairs = np.unique(np.stack([true, got], 1), axis=0)
    objects = len(np.unique(true))
    return Errors(
        objects=objects, splits=len(pairs) - objects, merges=len(pairs) - len(np.unique(got)), reused=reused(found, ids, gap)
    )


def reused(found: Found, ids: Sequence[NDArray[np.int64]], gap: int) -> int:
    """Ids in two places: see `Errors.reused`. Pieces above each other share a pixel or touch, over a corner too."""
    painted = [np.concatenate([[0], of_slice])[plane] for plane, of_slice in zip(found.labels, ids, strict=True)]
    last: dict[int, int] = {}
    wrong: set[int] = set()
    for z, of_slice in enumerate(ids):
        here, count = np.unique(of_slice[of_slice > 0], return_counts=True)
        wrong.update(here[count > 1].tolist())
        touching = [_touching(painted[z], painted[z - d]) if d <= z else set() for d in range(1, gap + 2)]
        for one in here.tolist():
            away = z - last.get(one, z)
            if away and (away > gap + 1 or one not in touching[away - 1]):
                wrong.add(one)
            last[one] = z
    return len(wrong)


def partition(ids: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The same objects, numbered in order of their first cross-section: equal for equal partitions."""
    flat = np.concatenate(list(ids))
    _, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _radii(step: float) -> tuple[float, float]:
    low = max(7.0, 2.6 * step)
    return low, 1.6 * low


def _apart(rng: Rng, low: float, side: int, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres `(n, 3)` and radii of balls at least 2 px apart."""
    centres, radii = np.zeros((0, 3)), np.zeros(0)
    for _ in range(10 * count):
        radius, centre = rng.uniform(low, 1.6 * low), rng.uniform(0, side, 3)
        if len(radii) < count and (np.linalg.norm(centres - centre, axis=1) > radii + radius + 2).all():
            centres, radii = np.vstack([centres, centre]), np.append(radii, radius)
    return centres, radii


def _touching(a: NDArray[np.int64], b: NDArray[np.int64]) -> set[int]:
    """Ids of pixels of `a` that lie on, or next to, pixels of the same id in `b`."""
    wide = np.pad(b, 1)
    shifts = [wide[i : i + a.shape[0], j : j + a.shape[1]] for i in range(3) for j in range(3)]
    same = np.logical_or.reduce([a == b for b in shifts])
    return set(np.unique(a[same & (a > 0)]).tolist())


def _ellipse(
    plane: Labels, at: tuple[float, float], radii: tuple[float, float], turned: float, value: int
) -> None:  # fmt: skip
    """Draw where nothing is yet; the second radius lies along columns turned by `turned` from rows."""
    reach = max(radii) + 1
    rows = slice(max(0, int(at[0] - reach)), max(0, int(at[0] + reach) + 1))
    cols = slice(max(0, int(at[1] - reach)), max(0, int(at[1] + reach) + 1))
    part = plane[rows, cols]
    y, x = np.mgrid[rows.start : rows.start + part.shape[0], cols.start : cols.start + part.shape[1]]
    y, x = y - at[0], x - at[1]
    along, across = y * np.cos(turned) + x * np.sin(turned), x * np.cos(turned) - y * np.sin(turned)
    inside = (across / max(radii[0], 1e-9)) ** 2 + (along / max(radii[1], 1e-9)) ** 2 < 1
    part[inside & (part == 0)] = value


def _jittered(rng: Rng, plane: Labels, count: int) -> Labels:
    change = rng.integers(-1, 2, count)
    change[0] = 0
    grown = np.pad(plane, 1)
    around = [np.roll(grown, s, axis)[1:-1, 1:-1] for axis in (0, 1) for s in (-1, 1)]
    edge = np.logical_or.reduce([a != plane for a in around])
    thin = np.where(edge & (change[plane] < 0), 0, plane)
    gone = np.setdiff1d(plane, thin)
    thin = np.where(np.isin(plane, gone), plane, thin)
    for a in around:
        thin = np.where((thin == 0) & (plane == 0) & (change[a] > 0), a, thin)
    return thin.astype(np.int32)

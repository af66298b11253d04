"""Which scenes, or parts of scenes, a model is judged by and never learns from.

1. A split that the data give is kept (`_given`).
2. Many images, or several volumes: whole groups of them, drawn for each kind of image apart (`_by_group`).
3. One volume: a block of its slices (`volume_split`).
4. Few images, and volumes of few slices: a contiguous part of each, with a guard band that neither side sees (`_by_area`).
   What lies outside its areas is blank in a scene, so no pixel of one side is ever in a crop of the other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seggeo.errors import ConfigError
from seggeo.geometry import Window
from seggeo.instances import concat
from seggeo.train.scenes import Scene
from seggeo.train.volume_split import block_of

SHARE = 0.15
GUARD_PX = 64
_MANY_GROUPS = 6
_LEAST_PX = 128
"""Narrowest part that is worth judging by."""
_MOST = 0.4
"""Part of a scene that a strip and its guard band may take."""
_HUGE_PX = 64 * 2**20
_CELL_PX = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Scenes to learn from and scenes to be judged by."""

    train: list[Scene]
    val: list[Scene]
    rule: str
    """How it was made, for the report: given, groups, slices or areas."""


def split_scenes(scenes: Sequence[Scene], *, seed: int, share: float = SHARE, guard: int = GUARD_PX) -> Split:
    """Scenes divided into those for training and those for validation; the same for the same scenes and seed.

    Args:
        scenes: What `open_scenes` gave.
        seed: Of the draw.
        share: Part of the objects that is wanted for validation, about.
        guard: Pixels between the two sides where one scene is divided; nobody sees them.

    Raises:
        ConfigError: Too little data to divide, or a split given with one side only.
    """
    if any(scene.split == "val" for scene in scenes):
        return _given(scenes)
    groups = _groups(scenes)
    largest = max(sum(s.area for s in members) for members in groups.values())
    has_volumes = any(scene.volume for scene in scenes)
    if len(groups) >= _MANY_GROUPS and largest <= 0.5 * sum(s.area for s in scenes):
        return _by_group(scenes, seed, share)
    if has_volumes and sum(any(len(scene.objects) for scene in members) for members in groups.values()) > 1:
        return _by_group(scenes, seed, share)
    by_slices = _by_slices(scenes, share)
    if by_slices is not None:
        return by_slices
    divided = _by_area(scenes, share, guard, seed)
    if divided.val:
        return divided
    if len(groups) > 1:
        return _by_group(scenes, seed, share)
    raise ConfigError(
        what="there is too little data to hold some back for validation",
        why=f"{len(scenes)} images of one group, the largest {max(s.height for s in scenes)} px high, cannot be divided",
        mend="add images, or name train and val in the column split",
    )


def _given(scenes: Sequence[Scene]) -> Split:
    train, val = [s for s in scenes if s.split != "val"], [s for s in scenes if s.split == "val"]
    if not train:
        raise ConfigError(
            what="all images are for validation", why="their split is val", mend="name some train, or leave the split out"
        )
    if not any(len(s.objects) for s in val):
        raise ConfigError(
            what="the images for validation hold no objects", why=f"{len(val)} have split val", mend="choose others"
        )
    return Split(train=train, val=val, rule="given")


def _groups(scenes: Sequence[Scene]) -> dict[str, list[Scene]]:
    groups: dict[str, list[Scene]] = defaultdict(list)
    for scene in scenes:
        groups[scene.group].append(scene)
    return groups


def _by_group(scenes: Sequence[Scene], seed: int, share: float) -> Split:
    rng = np.random.default_rng(seed)
    kinds: dict[str, list[str]] = defaultdict(list)
    groups = _groups(scenes)
    for name in sorted(groups):
        kinds[groups[name][0].kind].append(name)
    chosen: set[str] = set()
    for kind in sorted(kinds):
        names = kinds[kind]
        if len(names) > 1 or len(kinds) == 1:
            chosen |= _draw({n: sum(len(s.objects) for s in groups[n]) for n in names}, share, rng)
    if not chosen:  # every kind has one group only
        chosen = _draw({n: sum(len(s.objects) for s in members) for n, members in groups.items()}, share, rng)
    train = [replace(s, split="train") for s in scenes if s.group not in chosen]
    val = [replace(s, split="val") for s in scenes if s.group in chosen]
    return Split(train=train, val=val, rule="groups")


def _draw(counts: dict[str, int], share: float, rng: np.random.Generator) -> set[str]:
    """Names with about a share of all objects: in random order, each that does not take the sum further away from it."""
    names = [list(counts)[i] for i in rng.permutation(len(counts))]
    wanted = share * sum(counts.values())
    chosen: set[str] = set()
    total = 0
    for name in names[:-1]:  # the last one stays, or nothing is left to learn from
        if counts[name] and abs(total + counts[name] - wanted) <= abs(total - wanted):
            chosen.add(name)
            total += counts[name]
    return chosen or {min((n for n in names if counts[n]), key=lambda n: counts[n])}


def _by_slices(scenes: Sequence[Scene], share: float) -> Split | None:
    """The one volume that holds all objects divided; None where there is no such one, or it has too few slices."""
    holders = {scene.volume for scene in scenes if len(scene.objects)}
    if len(holders) != 1 or "" in holders:
        return None
    block = block_of([scene for scene in scenes if scene.volume in holders], share)
    if block is None:
        return None
    others = [scene for scene in scenes if scene.volume not in holders]
    train, val = [replace(s, split="train") for s in [*block.train, *others]], [replace(s, split="val") for s in block.val]
    return Split(train=train, val=val, rule="slices")


def _by_area(scenes: Sequence[Scene], share: float, guard: int, seed: int) -> Split:
    train: list[Scene] = []
    val: list[Scene] = []
    strips: dict[str, list[Window]] = {}  # all slices of a volume are divided at one place
    for number, scene in enumerate(scenes):
        held = strips.get(scene.volume)
        if held is None:
            held = _held_back(_whole(scene, scenes), share, guard, np.random.default_rng([seed, number]))
        if scene.volume:
            strips[scene.volume] = held
        if not held:
            train.append(replace(scene, split="train"))
            continue
        whole = scene.frame.window
        rest = without(whole, [h.grow(guard, within=whole) for h in held])
        learnt, judged = scene.within(rest, split="train"), scene.within(held, split="val")
        if scene.volume or (len(learnt.objects) and len(judged.objects)):
            train.append(learnt)
            val.append(judged)
        else:
            train.append(replace(scene, split="train"))
    if not any(len(scene.objects) for scene in val) or not any(len(scene.objects) for scene in train):
        val = []  # of a volume one side has all objects
    return Split(train=train, val=val, rule="areas")


def _whole(scene: Scene, scenes: Sequence[Scene]) -> Scene:
    """A scene with the objects of all slices of its volume."""
    if not scene.volume:
        return scene
    return replace(scene, objects=concat([s.objects for s in scenes if s.volume == scene.volume]))


def _held_back(scene: Scene, share: float, guard: int, rng: np.random.Generator) -> list[Window]:
    """Parts of a scene for validation; none where it is too small."""
    if scene.frame.window.area > _HUGE_PX:
        return _cells(scene, share, rng)
    side = max(scene.height, scene.width)
    narrow = max(_LEAST_PX, math.ceil(share * side))
    if narrow + guard > _MOST * side:
        return []
    # A strip along one side needs one guard band only; of those that fit, the one with the fairest part of the objects.
    sides = []
    if scene.height >= scene.width:
        sides += [(0, 0, narrow, scene.width), (scene.height - narrow, 0, scene.height, scene.width)]
    if scene.width >= scene.height:
        sides += [(0, 0, scene.height, narrow), (0, scene.width - narrow, scene.height, scene.width)]
    strips = [Window.from_bounds(*bounds) for bounds in sides]
    wanted = share * len(scene.objects)
    return [min(strips, key=lambda strip: abs(_centres(scene, strip) - wanted))]


def _cells(scene: Scene, share: float, rng: np.random.Generator) -> list[Window]:
    """Squares of a huge scene: ranked by their objects, one of every so many, so that dense and sparse places are judged."""
    rows, cols = max(1, round(scene.height / _CELL_PX)), max(1, round(scene.width / _CELL_PX))
    down, right = np.linspace(0, scene.height, rows + 1).astype(int), np.linspace(0, scene.width, cols + 1).astype(int)
    centre = (scene.objects.box[:, :2] + scene.objects.box[:, 2:]) / 2
    counts, _, _ = np.histogram2d(centre[:, 0], centre[:, 1], bins=(down, right))
    filled = np.flatnonzero(counts.ravel() > 0)
    ranked = filled[np.argsort(counts.ravel()[filled], kind="stable")]
    every = max(2, round(1 / share))
    picked = ranked[int(rng.integers(min(every, len(ranked)))) :: every] if len(ranked) > 1 else ranked[:0]
    return [
        Window.from_bounds(int(down[r]), int(right[c]), int(down[r + 1]), int(right[c + 1]))
        for r, c in (divmod(int(i), cols) for i in np.sort(picked))
    ]


def _centres(scene: Scene, window: Window) -> int:
    """Objects whose box is centred in a window."""
    row, col = ((scene.objects.box[:, i] + scene.objects.box[:, i + 2]) / 2 for i in (0, 1))
    inside = (row >= window.row) & (row < window.row_stop) & (col >= window.col) & (col < window.col_stop)
    return int(inside.sum())


def without(whole: Window, holes: Sequence[Window]) -> list[Window]:
    """Disjoint windows that cover `whole` less the holes, which may overlap each other and reach beyond it."""
    parts = [hole for h in holes if (hole := h.intersect(whole)) is not None]
    levels = sorted({whole.row, whole.row_stop, *(h.row for h in parts), *(h.row_stop for h in parts)})
    done: list[Window] = []
    open_: dict[tuple[int, int], int] = {}
    for top in [*levels[:-1], whole.row_stop]:
        free = _free(whole, [h for h in parts if h.row <= top < h.row_stop]) if top < whole.row_stop else []
        for gap in [g for g in open_ if g not in free]:
            done.append(Window.from_bounds(open_.pop(gap), gap[0], top, gap[1]))
        for gap in free:
            open_.setdefault(gap, top)
    return done


def _free(whole: Window, holes: Sequence[Window]) -> list[tuple[int, int]]:
    """Column ranges of a row that no hole covers."""
    free, at = [], whole.col
    for hole in sorted(holes, key=lambda h: h.col):
        if hole.col > at:
            free.append((at, hole.col))
        at = max(at, hole.col_stop)
    if at < whole.col_stop:
        free.append((at, whole.col_stop))
    return free

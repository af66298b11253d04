"""The merge as one sweep over the parts, in order, holding only what is still in doubt.

For every part:
1. `make_readings`; those no neighbour can have seen are objects at once.
2. `match` the seams that this part completes.
3. `group` the components nobody can add to any more (every tile that might has been read), `explained` drops lone
   readings that a better one explains, `resolve` makes one object of each group.
4. For an exclusive model, `_settle` gives each pixel that several objects claim to the best of them, as soon as all
   claimants are known; an object leaves when no dispute of its own is open.

What is held are the readings beside the frontier, whatever the size of the image. The result does not depend on the
order of parts, only the order in which objects leave does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from seggeo.instances import Instances, concat
from seggeo.merge.group import components, group
from seggeo.merge.match import Pairs, join_pairs, match, no_pairs
from seggeo.merge.readings import IntArray, Lattice, Readings, join, make_readings
from seggeo.merge.resolve import Resolved, Tally, explained, join_resolved, resolve, standing
from seggeo.rle import Spans, subtract
from seggeo.tiling import PartGrid


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Objects that left the sweep, in no particular order, and what became of the readings behind them."""

    instances: Instances
    n_tiles: NDArray[np.int32]
    cut: NDArray[np.bool_]
    touches_edge: NDArray[np.bool_]
    tally: Tally


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What is in flight between two parts."""

    pool: Readings
    is_open: NDArray[np.bool_]
    """False for readings already made into an object, kept while a pair of theirs is open."""
    object_key: IntArray
    """Key of the object that a closed reading became; -1 for open or dropped ones."""
    pairs: Pairs
    held: Resolved
    """Objects with an open dispute, as they are now."""
    raw: Instances
    """The same objects before any dispute."""


def sweep(
    parts: Iterable[tuple[int, Instances, IntArray]], grid: PartGrid, *, match_iou: float = 0.3, exclusive: bool = True
) -> Iterator[Merged]:
    """Merge the readings of all parts.

    Args:
        parts: `(part, instances, tile index of each)`, in ascending order of part and tile; missing parts count as
            empty. Instances lie in work-grid pixels.
        grid: The job's parts.
        match_iou: Least IoU of two readings of one object inside the strip both windows saw.
        exclusive: True when objects never share a pixel.

    Yields:
        Objects, each exactly once, some time after the last tile that could have seen it.
    """
    lattice = Lattice.of(grid)
    state = _start(lattice)
    for step, instances, tile in parts:
        readings = make_readings(instances, tile, lattice)
        state, batch = _advance(state, readings, step, lattice, (match_iou, exclusive))
        yield _publish(batch, lattice)
    state, batch = _advance(state, _start(lattice).pool, len(grid), lattice, (match_iou, exclusive))
    yield _publish(batch, lattice)


def _start(lattice: Lattice) -> _State:
    pool = make_readings(Instances.empty(), np.zeros(0, np.int64), lattice)
    nothing = np.zeros(0, np.int64)
    return _State(
        pool=pool,
        is_open=nothing.astype(bool),
        object_key=nothing,
        pairs=no_pairs(),
        held=standing(pool),
        raw=Instances.empty(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    objects: Resolved
    tally: Tally


def _publish(batch: _Batch, lattice: Lattice) -> Merged:
    box = batch.objects.instances.box
    grid = lattice.grid
    edge = (box[:, 0] == 0) | (box[:, 1] == 0) | (box[:, 2] == grid.height) | (box[:, 3] == grid.width)
    return Merged(
        instances=batch.objects.instances, n_tiles=batch.objects.n_tiles, cut=batch.objects.cut, touches_edge=edge,
        tally=batch.tally,
    )  # fmt: skip


def _advance(state: _State, new: Readings, step: int, lattice: Lattice, rules: tuple[float, bool]) -> tuple[_State, _Batch]:
    """One part further: the new state and the objects that left."""
    match_iou, exclusive = rules
    done = standing(new.take(new.alone))
    entering = new.take(~new.alone)
    pool = join(state.pool, entering)
    pairs = join_pairs(state.pairs, match(pool, lattice, step, match_iou))
    state = replace(
        state, pool=pool, pairs=pairs,
        is_open=np.concatenate([state.is_open, np.ones(len(entering), bool)]),
        object_key=np.concatenate([state.object_key, np.full(len(entering), -1)]),
    )  # fmt: skip
    closed, groups = _close(state, step, lattice.margin)
    slivers, orphans = explained(pool, np.where(closed, groups, -1), pairs, lattice, exclusive=exclusive)
    dropped = np.isin(np.arange(len(pool)), np.concatenate([slivers, orphans]))
    members = np.flatnonzero(closed & ~dropped)
    objects = resolve(pool.take(members), groups[members], lattice)
    is_open = state.is_open & ~closed
    lead = _leading(objects.key, pool.key[members], groups[members])
    object_key = state.object_key.copy()
    object_key[members] = lead
    state = replace(state, is_open=is_open, object_key=object_key)
    if exclusive:
        state, leaving, erased = _settle(state, objects)
    else:
        leaving, erased = objects, objects.take(np.zeros(0, np.int64))
    tally = _count(done, objects, erased, slivers, orphans)
    return _forget(state), _Batch(objects=join_resolved([done, leaving]), tally=tally)


def _count(done: Resolved, objects: Resolved, erased: Resolved, slivers: IntArray, orphans: IntArray) -> Tally:
    """What became of the readings that closed in one step."""

    def joined(batch: Resolved) -> NDArray[np.bool_]:
        return batch.cut & (batch.n_readings > 1)

    standing_, lost = ~joined(objects), ~joined(erased)
    lost_pieces = int(erased.n_readings[~lost].sum())
    return Tally(
        kept=len(done) + int(standing_.sum()) - int(lost.sum()),
        merged=int(objects.n_readings[~standing_].sum()) - lost_pieces,
        duplicates=int((objects.n_readings[standing_] - 1).sum()) + len(slivers),
        orphans=len(orphans), hidden=int(lost.sum()) + lost_pieces,
    )  # fmt: skip


def _close(state: _State, step: int, margin: int) -> tuple[NDArray[np.bool_], IntArray]:
    """Open readings whose whole component can change no more, and the group of each."""
    pool, count = state.pool, len(state.pool)
    component = components(count, state.pairs) if count else np.zeros(0, np.int64)
    closes = np.zeros(int(component.max(initial=-1)) + 1, np.int64)
    np.maximum.at(closes, component, pool.closes)
    closed = state.is_open & (closes[component] <= step) if count else np.zeros(0, bool)
    groups = np.full(count, -1, np.int64)
    index = np.flatnonzero(closed)
    if len(index):
        inside = closed[state.pairs.a] & closed[state.pairs.b]
        place = np.cumsum(closed) - 1
        links = state.pairs.take(inside)
        local = replace(links, a=place[links.a], b=place[links.b])
        groups[index] = group(pool.take(index), component[index], local, margin)
    return closed, groups


def _leading(object_keys: IntArray, keys: IntArray, groups: IntArray) -> IntArray:
    """For every reading the key of its group's object: the object whose leading key is in that group."""
    if not len(keys):
        return np.zeros(0, np.int64)
    is_lead = np.isin(keys, object_keys)
    lead_of = np.full(int(groups.max()) + 1, -1, np.int64)
    lead_of[groups[is_lead]] = keys[is_lead]
    return lead_of[groups]


def _settle(state: _State, objects: Resolved) -> tuple[_State, Resolved, Resolved]:
    """Decide the disputes whose claimants are all known: the new state, objects that leave, objects left without pixels.

    A pixel belongs to the best object that claims it: whole before cut, then the higher score, then the lower key. So an
    object loses what better claimants hold, whatever those lose themselves, and disputes can be settled in any order.
    """
    held = join_resolved([state.held, objects])
    raw = concat([state.raw, objects.instances])
    pairs = state.pairs
    ready = ~state.is_open[pairs.a] & ~state.is_open[pairs.b]
    a, b = _rivals(state, ready, held.key)
    erased = np.zeros(0, np.int64)
    if len(a):
        held, erased = _subtract_better(held, raw, a, b)
    waiting = np.concatenate([state.object_key[pairs.a[~ready]], state.object_key[pairs.b[~ready]]])
    stays = np.isin(held.key, waiting[waiting >= 0])
    gone = np.isin(np.arange(len(held)), erased)
    state = replace(state, held=held.take(stays & ~gone), raw=raw.take(stays & ~gone))
    return state, held.take(~stays & ~gone), held.take(erased)


def _rivals(state: _State, ready: NDArray[np.bool_], keys: IntArray) -> tuple[IntArray, IntArray]:
    """Positions in `keys` of every two objects that share pixels, once each."""
    key_a, key_b = state.object_key[state.pairs.a[ready]], state.object_key[state.pairs.b[ready]]
    rivals = (key_a != key_b) & np.isin(key_a, keys) & np.isin(key_b, keys)
    order = np.argsort(keys)
    a, b = (order[np.searchsorted(keys[order], key[rivals])] for key in (key_a, key_b))
    both = np.unique(np.stack([a, b], axis=1), axis=0) if len(a) else np.zeros((0, 2), np.int64)
    return both[:, 0], both[:, 1]


def _subtract_better(held: Resolved, raw: Instances, a: IntArray, b: IntArray) -> tuple[Resolved, IntArray]:
    """`held` with every disputed pixel taken from the worse of `a` and `b`, and the positions left without any.

    An object that loses all keeps its old mask here and is for the caller to drop: whatever it claimed, a better one
    claims too, so nobody needs to hear of it again.
    """
    place = np.empty(len(held), np.int64)
    place[np.lexsort((held.key, -held.instances.score, held.cut))] = np.arange(len(held))
    loser, winner = np.where(place[a] > place[b], a, b), np.where(place[a] > place[b], b, a)
    losers, owner = np.unique(loser, return_inverse=True)
    claims = raw.take(winner).spans()
    theirs = Spans(owner=owner.astype(np.int64)[claims.owner], row=claims.row, start=claims.start, stop=claims.stop)
    left = subtract(held.instances.take(losers).spans(), theirs)
    masks, kept = held.instances.take(losers).with_spans(left)
    place = np.arange(len(held))
    place[losers[kept]] = len(held) + np.arange(len(kept))
    return replace(held, instances=concat([held.instances, masks]).take(place)), np.setdiff1d(losers, losers[kept])


def _forget(state: _State) -> _State:
    """The state without settled pairs and without the readings that no pair and no open question needs."""
    pairs = state.pairs.take(state.is_open[state.pairs.a] | state.is_open[state.pairs.b])
    needed = state.is_open.copy()
    needed[pairs.a] = True
    needed[pairs.b] = True
    place = np.cumsum(needed) - 1
    return replace(
        state, pool=state.pool.take(needed), is_open=state.is_open[needed], object_key=state.object_key[needed],
        pairs=replace(pairs, a=place[pairs.a], b=place[pairs.b]),
    )  # fmt: skip

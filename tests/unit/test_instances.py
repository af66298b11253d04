"""A batch of masks behaves like the list of dense masks it stands for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seggeo.errors import GeometryError
from seggeo.instances import Instances, concat

law = settings(deadline=None, derandomize=True)
SHAPE = (9, 11)
seeds = st.integers(0, 1 << 32)


def random_stack(seed, count, share):
    return np.random.default_rng(seed).random((count, *SHAPE)) < share


stacks = st.builds(random_stack, seeds, st.integers(0, 5), st.sampled_from([0.0, 0.02, 0.5, 0.9, 1.0]))


def dense(instances, shape=SHAPE):
    stack = np.zeros((len(instances), *shape), bool)
    for i, (box, mask) in enumerate(instances):
        stack[i, box[0] : box[2], box[1] : box[3]] = mask
    return stack


def marked(stack):
    """Instances of a stack without empty masks, each with a score and a label of its own."""
    n = len(stack)
    return Instances.from_masks(stack, score=np.arange(n) / 8, label=np.arange(n) + 3)


def equal(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("box", "z", "label", "score", "runs", "start"))


@law
@given(stacks)
def test_masks_come_back_and_empty_ones_are_left_out(stack):
    some = stack.any(axis=(1, 2))
    instances = marked(stack)

    assert np.array_equal(dense(instances), stack[some])
    assert np.array_equal(instances.area, stack[some].sum(axis=(1, 2)))
    assert instances.label.tolist() == (np.flatnonzero(some) + 3).tolist()
    assert instances.score.tolist() == (np.flatnonzero(some) / 8).tolist()
    assert instances.score.dtype == np.float32
    assert instances.box.dtype == instances.label.dtype == instances.z.dtype == np.int32


@law
@given(stacks, seeds)
def test_take_picks_like_an_array(stack, seed):
    stack = stack[stack.any(axis=(1, 2))]
    instances = marked(stack)
    index = np.random.default_rng(seed).integers(0, max(1, len(stack)), 6 * bool(len(stack)))

    assert np.array_equal(dense(instances.take(index)), stack[index])
    assert instances.take(index).label.tolist() == instances.label[index].tolist()
    which = np.arange(len(stack)) % 2 == 0
    assert np.array_equal(dense(instances.take(which)), stack[which])
    assert equal(instances.take(slice(1, None)), instances.take(np.arange(len(stack)) > 0))


@law
@given(stacks, stacks)
def test_concat_is_one_after_the_other(a, b):
    joined = concat([marked(a), marked(b)])
    stack = np.concatenate([a, b])

    assert np.array_equal(dense(joined), stack[stack.any(axis=(1, 2))])
    assert equal(joined.take(np.arange(len(marked(a)))), marked(a))
    assert equal(concat([joined]), joined)
    assert equal(concat([Instances.empty(), joined, Instances.empty()]), joined)


def test_concat_of_nothing_is_empty():
    assert len(concat([])) == len(Instances.empty()) == 0
    assert Instances.empty().box.shape == (0, 4)
    assert len(Instances.empty().spans()) == 0


@law
@given(stacks, st.integers(0, 5), st.integers(0, 5))
def test_shift_moves_boxes_and_keeps_masks(stack, rows, cols):
    moved = marked(stack).shift(rows, cols, z=2)
    canvas = np.zeros((len(moved), SHAPE[0] + rows, SHAPE[1] + cols), bool)
    canvas[:, rows:, cols:] = stack[stack.any(axis=(1, 2))]

    assert np.array_equal(dense(moved, canvas.shape[1:]), canvas)
    assert set(moved.z) <= {2}
    assert equal(moved.shift(-rows, -cols, z=-2), marked(stack))


@law
@given(stacks, st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 9), st.integers(1, 11)))
def test_clip_cuts_masks_and_says_which_remain(stack, bounds):
    stack = stack[stack.any(axis=(1, 2))]
    inside = np.zeros(SHAPE, bool)
    inside[bounds[0] : bounds[2], bounds[1] : bounds[3]] = True
    clipped, kept = marked(stack).clip(*bounds)

    assert kept.tolist() == np.flatnonzero((stack & inside).any(axis=(1, 2))).tolist()
    assert np.array_equal(dense(clipped), (stack & inside)[kept])
    assert clipped.label.tolist() == marked(stack).label[kept].tolist()
    assert clipped.score.tolist() == marked(stack).score[kept].tolist()


@law
@given(seeds, st.integers(-2, 4))
def test_labels_give_one_instance_per_positive_value(seed, most):
    labels = np.random.default_rng(seed).integers(-2, most, SHAPE, np.int32, endpoint=True)
    instances = Instances.from_labels(labels, score=0.5, label=2)
    ids = [i for i in np.unique(labels) if i > 0]

    assert np.array_equal(dense(instances), np.array([labels == i for i in ids]).reshape(-1, *SHAPE))
    assert set(instances.score) <= {0.5}
    assert set(instances.label) <= {2}


@law
@given(stacks)
def test_spans_and_back_are_the_same_instances(stack):
    instances = marked(stack)
    again = Instances.from_spans(instances.spans(), score=instances.score, label=instances.label)

    assert equal(again, instances)


def test_masks_of_their_own_size_lie_at_their_origins():
    small = [np.ones((2, 3), bool), np.eye(3, dtype=bool)]
    instances = Instances.from_masks(small, origin=[(5, 1), (0, 7)])

    assert instances.box.tolist() == [[5, 1, 7, 4], [0, 7, 3, 10]]
    assert instances.area.tolist() == [6, 3]
    assert np.array_equal(instances.mask(1), np.eye(3, dtype=bool))


def test_boxes_are_tight_and_masks_never_full_frame():
    frame = np.zeros((1, 4000, 4000), bool)
    frame[0, 1000:1010, 2000:2020] = True
    instances = Instances.from_masks(frame)

    assert instances.box.tolist() == [[1000, 2000, 1010, 2020]]
    assert instances.runs.nbytes <= 8


def test_columns_that_do_not_fit_each_other_are_refused():
    good = marked(np.ones((2, 3, 3), bool))
    with pytest.raises(GeometryError, match="n instances need"):
        Instances(box=good.box, z=good.z, label=good.label[:1], score=good.score, runs=good.runs, start=good.start)

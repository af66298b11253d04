"""Runs and spans hold exactly the pixels of dense masks, and COCO's runs are ours on exchanged axes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from seggeo.errors import GeometryError
from seggeo.rle import (
    Spans,
    concat_spans,
    decode,
    encode,
    labels_to_spans,
    meetings,
    normalise,
    overlaps,
    ragged_ranges,
    runs_to_spans,
    spans_to_runs,
    subtract,
)

law = settings(deadline=None, derandomize=True)
COUNT, HEIGHT, WIDTH = 4, 9, 12
seeds = st.integers(0, 1 << 32)
filled = st.sampled_from([0.0, 0.05, 0.5, 0.9, 1.0])


def random_stack(seed, share, shape=(COUNT, HEIGHT, WIDTH)):
    return np.random.default_rng(seed).random(shape) < share


stacks = st.builds(random_stack, seeds, filled)
masks = st.builds(random_stack, seeds, filled, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def dense(spans, count=COUNT, shape=(HEIGHT, WIDTH)):
    """Spans as a stack of boolean masks."""
    stack = np.zeros((count, *shape), bool)
    for owner, row, start, stop in zip(spans.owner, spans.row, spans.start, spans.stop, strict=True):
        stack[owner, row, start:stop] = True
    return stack


def spans_of(stack):
    """Sorted spans of a stack of boolean masks, made without the code under test."""
    rows = [
        (owner, row, start, stop)
        for owner, mask in enumerate(stack) for row, line in enumerate(mask)
        for start, stop in np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]]))).reshape(-1, 2)
    ]  # fmt: skip
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Spans(owner=columns[0], row=columns[1], start=columns[2], stop=columns[3])


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("owner", "row", "start", "stop"))


@law
@given(masks)
def test_decoding_undoes_encoding(mask):
    runs = encode(mask)

    assert runs.dtype == np.uint32
    assert runs.sum() == mask.size
    assert (runs[1:] > 0).all()
    assert np.array_equal(decode(runs, *mask.shape), mask)


@law
@given(masks)
def test_runs_are_those_of_coco_with_rows_and_columns_exchanged(mask):
    theirs = coco.encode(np.asfortranarray(mask.T.astype(np.uint8)))

    assert np.array_equal(encode(mask), uncompressed(theirs["counts"]))


def uncompressed(text):
    """Run lengths of COCO's compressed string: base 32 digits, and from the third on differences to the last but one."""
    counts, value, shift = [], 0, 0
    for char in text:
        digit = char - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value |= -1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts


@law
@given(stacks)
def test_spans_to_runs_and_back(stack):
    stack = stack[stack.any(axis=(1, 2))]
    spans = spans_of(stack)
    runs, first, box = spans_to_runs(spans, len(stack))

    assert same(runs_to_spans(runs, first, box), spans)
    for i, mask in enumerate(stack):
        rows, cols = np.nonzero(mask)
        row, col, row_stop, col_stop = box[i]
        assert (row, col, row_stop, col_stop) == (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1)
        assert np.array_equal(runs[first[i] : first[i + 1]], encode(mask[row:row_stop, col:col_stop]))


def test_a_gap_that_32_bits_cannot_hold_is_refused():
    two = np.array([0, 1])
    far = Spans(owner=np.zeros(2, np.int64), row=two * 70_000, start=two * 70_000, stop=two * 70_000 + 1)

    with pytest.raises(GeometryError, match="gap of more than"):
        spans_to_runs(far, 1)


@law
@given(seeds, st.integers(-1, 5))
def test_labels_become_one_mask_each_in_ascending_order(seed, most):
    labels = np.random.default_rng(seed).integers(-1, most, (HEIGHT, WIDTH), np.int32, endpoint=True)
    spans, ids = labels_to_spans(labels)

    assert ids.tolist() == [i for i in np.unique(labels) if i > 0]
    assert same(spans, spans_of(np.array([labels == i for i in ids]).reshape(-1, HEIGHT, WIDTH)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.uint32])
def test_labels_of_any_integer_type_are_read(dtype):
    labels = np.array([[0, 200, 200], [7, 0, 200]], dtype)
    spans, ids = labels_to_spans(labels)

    assert ids.tolist() == [7, 200]
    assert spans.areas(2).tolist() == [1, 3]


@law
@given(stacks, seeds)
def test_normalising_keeps_the_pixels_whatever_the_order_cuts_and_repeats(stack, seed):
    rows, rng = [], np.random.default_rng(seed)
    for owner, row, start, stop in zip(*(getattr(spans_of(stack), n) for n in ("owner", "row", "start", "stop")), strict=True):
        middle = int(rng.integers(start, stop))
        rows += [(owner, row, start, middle + 1), (owner, row, middle, stop)]
    columns = rng.permutation(np.array(rows, np.int64).reshape(-1, 4)).T
    messy = Spans(owner=columns[0], row=columns[1], start=columns[2], stop=columns[3])

    assert same(normalise(messy), spans_of(stack))


@law
@given(stacks, stacks)
def test_subtracting_leaves_what_the_holes_do_not_cover(stack, holes):
    left = subtract(spans_of(stack), spans_of(holes))

    assert same(left, spans_of(stack & ~holes)) or not len(left)
    assert np.array_equal(dense(left), stack & ~holes)


@law
@given(stacks, stacks)
def test_overlaps_count_the_shared_pixels_of_every_pair(a, b):
    shared = (a[:, None] & b[None]).sum(axis=(2, 3))
    i, j, pixels = overlaps(spans_of(a), spans_of(b))

    assert list(zip(i, j, strict=True)) == list(zip(*np.nonzero(shared), strict=True))
    assert np.array_equal(pixels, shared[i, j])


@law
@given(stacks, st.tuples(st.integers(-2, 8), st.integers(-2, 11), st.integers(0, 12), st.integers(0, 14)))
def test_clipping_keeps_what_lies_inside(stack, bounds):
    row, col, row_stop, col_stop = bounds
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[max(0, row) : row_stop, max(0, col) : col_stop] = True
    spans = spans_of(stack)

    assert np.array_equal(dense(spans.clip(*bounds)), stack & inside)
    assert spans.areas(COUNT).tolist() == stack.sum(axis=(1, 2)).tolist()
    assert same(spans.take(np.arange(len(spans))[::-1]).take(np.arange(len(spans))[::-1]), spans)


intervals = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=12)


@law
@given(intervals, intervals)
def test_meetings_are_all_pairs_of_intervals_with_a_shared_point(a, b):
    (a_start, a_length), (b_start, b_length) = (np.array(x, np.int64).reshape(-1, 2).T for x in (a, b))
    i, j = meetings(a_start, a_length, b_start, b_length)
    expected = {
        (x, y) for x, (s, n) in enumerate(a) for y, (t, m) in enumerate(b) if max(s, t) < min(s + n, t + m)
    }  # fmt: skip

    assert len(i) == len(expected)
    assert set(zip(i.tolist(), j.tolist(), strict=True)) == expected


def test_ragged_ranges_count_up_from_each_start():
    index, k = ragged_ranges(np.array([5, 0, 9]), np.array([2, 0, 3]))

    assert index.tolist() == [5, 6, 9, 10, 11]
    assert k.tolist() == [0, 0, 2, 2, 2]


def test_nothing_stays_nothing():
    none = concat_spans([])

    assert len(none) == 0
    assert len(normalise(none)) == 0
    assert len(subtract(none, spans_of(np.ones((1, 2, 2), bool)))) == 0
    assert [len(x) for x in overlaps(none, none)] == [0, 0, 0]
    assert [len(x) for x in spans_to_runs(none, 0)] == [0, 1, 0]
    assert len(labels_to_spans(np.zeros((0, 5), np.int32))[1]) == 0

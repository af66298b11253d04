"""Two stages side by side give what they give one after the other, and hold only some items between them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from support_unet import save_network, toy_network, whole_tile

from seggeo.models import unet
from seggeo.models.overlap import overlapped
from seggeo.protocols import ModelRequest


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_answers_are_in_order_whatever_the_threads(threads: int):
    assert overlapped(range(20), lambda i: i * i, lambda i, square: (i, square), threads=threads) == [
        (i, i * i) for i in range(20)
    ]
    assert overlapped([], lambda i: i, lambda i, j: j, threads=threads) == []


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_items_lie_between_than_was_said(threads: int):
    lock, between, most = threading.Lock(), set(), []

    def compute(i: int) -> int:
        with lock:
            between.add(i)
            most.append(len(between))
        return i

    def finish(i: int, _: int) -> int:
        with lock:
            between.remove(i)
        return i

    overlapped(range(50), compute, finish, threads=threads)

    assert max(most) <= threads + 2, "those waiting, one more, and the one that was just computed"


def test_the_next_is_computed_while_one_is_finished():
    next_began = threading.Event()

    def compute(i: int) -> int:
        if i == 1:
            next_began.set()
        return i

    def finish(i: int, _: int) -> bool:
        return i > 0 or next_began.wait(10)

    assert overlapped(range(2), compute, finish, threads=1) == [True, True]


@pytest.mark.parametrize("threads", [0, 2])
def test_the_first_trouble_is_told(threads: int):
    def finish(i: int, _: int) -> int:
        if i >= 3:
            raise ValueError(f"item {i}")
        return i

    with pytest.raises(ValueError, match="item 3"):
        overlapped(range(9), lambda i: i, finish, threads=threads)
    with pytest.raises(ZeroDivisionError):
        overlapped([1, 0], lambda i: 1 // i, finish, threads=threads)


def test_unet_finds_the_same_beside_itself(tmp_path, monkeypatch):
    settings = {"scale": "1", "min_score": 0.0, "min_area": 4.0}
    model = unet.load(
        ModelRequest(name="unet", weights=save_network(toy_network(), tmp_path / "toy.safetensors"), settings=settings)
    )
    rng = np.random.default_rng(5)
    tiles = [whole_tile(rng.integers(0, 255, (160 + 16 * i, 192, 3)).astype(np.uint8)) for i in range(4)]
    one_after_the_other = model.predict(tiles)
    monkeypatch.setattr(unet, "finishers", lambda device: 2)

    for one, two in zip(one_after_the_other, model.predict(tiles), strict=True):
        assert np.array_equal(one.instances.runs, two.instances.runs)
        assert np.array_equal(one.instances.score, two.instances.score)
    assert sum(len(one.instances) for one in one_after_the_other) > 5

"""Devices are proven before the first tile, and memory that runs out halves the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support_models import as_tile, make_maskrcnn_weights, scene

from seggeo.errors import ConfigError, ResourceError
from seggeo.models.device import (
    FREE_SHARE,
    batch_for,
    choose_device,
    finishers,
    fitting_batch,
    in_batches,
    is_out_of_memory,
    set_threads,
    upload,
)
from seggeo.models.maskrcnn import load
from seggeo.protocols import ModelRequest


def test_auto_and_cpu_always_give_a_device():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "cpu:1", ""])
def test_what_is_no_device_is_a_bad_setting(name):
    with pytest.raises(ConfigError, match="no device called"):
        choose_device(name)


def test_an_absent_device_is_a_missing_resource():
    with pytest.raises(ResourceError, match="cuda:99 cannot be used") as caught:
        choose_device("cuda:99")
    assert "CUDA_VISIBLE_DEVICES" in caught.value.why
    if not torch.backends.mps.is_available():
        with pytest.raises(ResourceError, match="mps cannot be used"):
            choose_device("mps")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="torch sees 0 CUDA devices"):
            choose_device("cuda")


def test_threads_are_set_and_checked():
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
        with pytest.raises(ConfigError, match="0 threads"):
            set_threads(0)
    finally:
        torch.set_num_threads(before)


def test_memory_that_ran_out_is_told_from_other_troubles():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not is_out_of_memory(RuntimeError("size mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_batches_keep_order_and_shrink_to_what_fits(caplog):
    sizes = []

    def run(some):
        sizes.append(len(some))
        if len(some) > 3:
            raise MemoryError
        return [value * 10 for value in some]

    assert in_batches(run, list(range(10)), 8) == [value * 10 for value in range(10)]
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    assert "out of memory with a batch of 8; going on with 4" in caplog.text


@pytest.mark.parametrize("faster", [(), ("compile",)])
def test_filled_batches_shrink_as_well(tmp_path, monkeypatch, faster):
    """A backbone that fits two tiles: what is filled up for a compiled network may not be larger than what fits."""
    weights = make_maskrcnn_weights(tmp_path / "toy.safetensors")
    segmenter = load(ModelRequest(name="maskrcnn", weights=weights, device="cpu", batch=4))
    wanted = [len(p.instances) for p in segmenter.predict([as_tile(scene(128))] * 5)]
    segmenter.info = replace(segmenter.info, faster=faster)  # nothing is compiled here
    plain, seen = segmenter._model.backbone.forward, []

    def small(batch):
        seen.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(batch)

    monkeypatch.setattr(segmenter._model.backbone, "forward", small)

    assert [len(p.instances) for p in segmenter.predict([as_tile(scene(128))] * 5)] == wanted
    assert seen == [4, 2, 2, 2 if faster else 1]


def test_a_batch_below_one_is_refused():
    with pytest.raises(ConfigError, match="a batch of -1"):
        in_batches(lambda some: list(some), [1], -1)


def test_a_real_allocation_that_fails_is_recognised():
    with pytest.raises(ResourceError, match="batch of 1"):
        in_batches(lambda some: [torch.empty(1 << 60) for _ in some], [0], 1)


def test_other_errors_pass():
    def broken(some):
        raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        in_batches(broken, [1, 2], 2)


@pytest.mark.parametrize("free_gb", [0.001, 0.5, 1, 3, 8, 24, 80])
@pytest.mark.parametrize("item_mb", [1, 25, 700])
@pytest.mark.parametrize("most", [1, 4, 64, 100])
def test_a_batch_is_the_largest_power_of_two_that_fits(free_gb, item_mb, most):
    free, item = int(free_gb * 2**30), item_mb << 20

    batch = fitting_batch(free, item, most)

    assert 1 <= batch <= most
    assert batch & (batch - 1) == 0
    assert batch == 1 or batch * item <= free * FREE_SHARE
    assert 2 * batch > most or 2 * batch * item > free * FREE_SHARE


def test_the_cpu_has_a_batch_of_its_own_and_nothing_to_finish_beside():
    assert batch_for(torch.device("cpu"), 1 << 20, most=64, on_cpu=3) == 3
    assert finishers(torch.device("cpu")) == 0
    assert finishers(torch.device("cuda")) >= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "bool"])
def test_what_is_uploaded_is_the_array(dtype):
    values = (np.random.default_rng(0).random((5, 6, 3)) * 200).astype(dtype)
    for given in (values, values.transpose(2, 0, 1), values[::2], values[..., 1]):
        assert np.array_equal(upload(given, torch.device("cpu")).numpy(), given)
    values.flags.writeable = False
    assert np.array_equal(upload(values, torch.device("cpu")).numpy(), values)

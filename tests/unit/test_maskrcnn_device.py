"""Devices are proven before the first tile, and memory that runs out halves the batch."""

from __future__ import annotations

import pytest
import torch

from seggeo.errors import ConfigError, ResourceError
from seggeo.models.device import choose_device, in_batches, is_out_of_memory, set_threads


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

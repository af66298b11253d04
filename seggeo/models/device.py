"""Which processor a model runs on, how many threads it may use, and what happens when its memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seggeo.errors import ConfigError, ResourceError

log = logging.getLogger(__name__)

FINISHERS = 4
"""Threads, at most, that finish tiles on the processor while a GPU computes the next."""
FREE_SHARE = 0.8
"""Of a GPU's free memory that a batch may take by our rough estimates."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def choose_device(name: str = "auto") -> torch.device:
    """The device a model runs on, proven to work by one allocation.

    Args:
        name: `auto` (CUDA, else MPS, else CPU), `cpu`, `cuda`, `cuda:N` or `mps`. N counts the GPUs that
            `CUDA_VISIBLE_DEVICES` leaves visible.

    Raises:
        ConfigError: Not the name of a device.
        ResourceError: The device was asked for and is absent or does not answer.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdecimal())):
        raise ConfigError(
            what=f"there is no device called {name!r}",
            why="known are auto, cpu, cuda, cuda:N and mps",
            mend="use --device auto",
        )
    if kind == "cuda":
        _require_gpu(name, int(index or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise _absent(name, "this build of torch or this machine has no MPS")
    return _probed(torch.device(name))


def _require_gpu(name: str, index: int) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        seen = f"torch sees {count} CUDA device{'' if count == 1 else 's'} (after CUDA_VISIBLE_DEVICES)"
        raise _absent(name, seen)


def _probed(device: torch.device) -> torch.device:
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:  # a driver that does not fit the build shows itself only here
        raise _absent(str(device), f"it does not answer: {str(error).splitlines()[0]}") from error
    return device


def _absent(name: str, why: str) -> ResourceError:
    return ResourceError(
        what=f"device {name} cannot be used", why=why, mend="use --device cpu, or --device auto to take what is there"
    )


def upload(values: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device; to CUDA from pinned memory, so that the copy goes on by itself while the caller does.

    On the CPU it may share the array's memory: it is for reading.
    """
    own = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    tensor = torch.from_numpy(own if own.flags.writeable else own.copy())
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def finishers(device: torch.device) -> int:
    """Threads that finish on the processor what the device has computed; none where that is the processor itself."""
    return 0 if device.type == "cpu" else min(FINISHERS, torch.get_num_threads())


def batch_for(device: torch.device, item_bytes: int, *, most: int, on_cpu: int) -> int:
    """How many items to compute at once where the user has not said it.

    Args:
        device: Where.
        item_bytes: Rough working memory of one item.
        most: More than so many are no faster.
        on_cpu: The answer where the device is no GPU of its own memory.
    """
    if device.type != "cuda":
        return on_cpu
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return fitting_batch(free_bytes, item_bytes, most)


def fitting_batch(free_bytes: int, item_bytes: int, most: int) -> int:
    """The largest power of two of items that fits into the free memory, from 1 to `most`.

    A power of two: results may differ in their last digits from one batch size to another, and memory that is a little
    less free than yesterday should rarely change it.
    """
    fits = int(free_bytes * FREE_SHARE) // max(1, item_bytes)
    return 1 << (max(1, min(most, fits)).bit_length() - 1)


def set_threads(count: int) -> None:
    """Let torch use `count` threads inside one operation, at least 1."""
    if count < 1:
        raise ConfigError(what=f"{count} threads", why="a process needs at least one", mend="use 1 or more")
    torch.set_num_threads(count)


def is_out_of_memory(error: BaseException) -> bool:
    """True when an exception means that memory ran out, on the accelerator or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU allocator and cuDNN raise plain RuntimeErrors.
    text = str(error)
    return isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text.lower())


def in_batches(run: Callable[[Sequence[Item]], list[Answer]], items: Sequence[Item], batch: int) -> list[Answer]:
    """`run` over all items, `batch` at a time; a batch that does not fit in memory is halved and tried again.

    Args:
        run: Gives one answer per item of the batch, in order; must not keep anything of a batch that failed.
        items: Everything to do.
        batch: Items in one call, at least 1.

    Returns:
        One answer per item, in order.

    Raises:
        ConfigError: A batch below 1.
        ResourceError: A single item does not fit.
    """
    if batch < 1:
        raise ConfigError(
            what=f"a batch of {batch}", why="a forward pass needs at least one", mend="use --batch 0 to let the model choose"
        )
    answers: list[Answer] = []
    while len(answers) < len(items):
        some = items[len(answers) : len(answers) + batch]
        given = _attempt(run, some)
        if given is not None:
            answers += given
            continue
        # Outside the except clause: its traceback holds the tensors of the batch that failed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch = len(some) // 2
        log.warning("out of memory with a batch of %d; going on with %d", len(some), batch)
    return answers


def _attempt(run: Callable[[Sequence[Item]], list[Answer]], some: Sequence[Item]) -> list[Answer] | None:
    """The answers of one batch, or None when it did not fit and can be made smaller."""
    try:
        return run(some)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(some) == 1:
            raise ResourceError(
                what="out of memory with a batch of 1",
                why=str(error).splitlines()[0],
                mend="use a smaller --tile, fewer --workers, or --device cpu",
            ) from error
    return None

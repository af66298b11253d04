"""Networks made faster for who asks for it, at the price of equal numbers: `torch.compile`, and bfloat16.

1. `in_bfloat16` lets torch's autocast choose the layers that compute in lower precision.
2. `compile_network` proves on a toy network that there is a compiler, so that its absence is told before the first tile.
3. The network's own forward pass is then compiled when it is first called. Shapes are fixed: a generated kernel for any
   shape is slower, and a job has few of them (`fill_batch` keeps the last batch from being another one).
4. What was compiled lies in the cache folder beside fetched weights, so that other processes and runs find it there.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from seggeo.errors import ResourceError
from seggeo.models.registry import cache_dir

log = logging.getLogger(__name__)

SHAPES = 64
"""Shapes of input that one network is compiled for; more run as they are. An image has up to 9, views and batches multiply."""

Network = TypeVar("Network", bound=nn.Module)


def compile_network(network: Network) -> Network:
    """The same network, whose calls from now on are compiled for the shape of their input.

    Args:
        network: In inference mode, on its device.

    Raises:
        ResourceError: There is no compiler for its device that works.
    """
    keep_compiled()
    device = next(network.parameters()).device
    _prove(device)
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    network.compile(dynamic=False)
    log.info("%s is compiled on %s when it is first called", type(network).__name__, device)
    return network


def in_bfloat16(network: Network) -> Network:
    """The same network, which from now on computes in bfloat16 where torch's autocast does, and answers in float32.

    Args:
        network: In inference mode, on its device; gives one tensor.
    """
    device, plain = next(network.parameters()).device, network.forward

    def forward(*inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            answer: Tensor = plain(*inputs)
        return answer.float()

    network.forward = forward
    return network


def keep_compiled() -> None:
    """Let this process keep what it compiles in the cache folder, unless `TORCHINDUCTOR_CACHE_DIR` says where."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "compiled"))


def fill_batch(items: Tensor, size: int) -> Tensor:
    """`items`, their first axis filled up with zeros to `size`, for networks that are compiled for that many.

    Args:
        items: `(n, ...)`, n at most `size`.
        size: Items of a whole batch.
    """
    missing = size - len(items)
    return items if missing <= 0 else torch.cat([items, items.new_zeros((missing, *items.shape[1:]))])


@cache
def _prove(device: torch.device) -> None:
    """Compile something small; what the compiler lacks shows itself only when it is run."""
    # Not a layer with weights: those are left to libraries, and need no compiler.
    tiny = nn.Sequential(nn.GELU(), nn.Softplus()).eval()
    tiny.compile(dynamic=False)
    try:
        with torch.inference_mode():
            tiny(torch.ones(3, 2, device=device))
    except (RuntimeError, OSError, ImportError) as error:
        raise _no_compiler(device, error) from error


def _no_compiler(device: torch.device, error: Exception) -> ResourceError:
    needs = "a C++ compiler (g++ or clang++, or what CXX names)" if device.type == "cpu" else "triton and a C compiler"
    first = next(iter(str(error).splitlines()), "")
    return ResourceError(
        what=f"--compile: nothing can be compiled for {device}",
        why=f"{type(error).__name__}: {first}",
        mend=f"install {needs}, see that {os.environ['TORCHINDUCTOR_CACHE_DIR']} can be written, or leave --compile out",
    )

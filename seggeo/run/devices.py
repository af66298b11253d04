"""Which GPU each of several processes predicts on."""

from __future__ import annotations

from seggeo.config import Execution
from seggeo.errors import ResourceError


def devices_of(execution: Execution) -> tuple[str, ...]:
    """The devices that `--devices` names, one for each process; none if it was not given.

    They are counted as `CUDA_VISIBLE_DEVICES`, or a batch system by it, leaves them.

    Raises:
        ResourceError: One of them is not there.
    """
    if execution.devices is None:
        return ()
    import torch

    return named_devices(execution.devices, torch.cuda.device_count())


def named_devices(wanted: str, count: int) -> tuple[str, ...]:
    """`cuda:0` and so on, of `all` or of numbers between commas, where there are `count`.

    Raises:
        ResourceError: Fewer are there.
    """
    numbers = range(count) if wanted == "all" else [int(number) for number in wanted.split(",")]
    if not numbers or max(numbers) >= count:
        raise ResourceError(
            what=f"--devices {wanted}", why=f"torch sees {count} CUDA device{'' if count == 1 else 's'}, counted from 0",
            mend="name those that are there, ask the batch system for more, or leave it out",
        )  # fmt: skip
    return tuple(f"cuda:{number}" for number in dict.fromkeys(numbers))

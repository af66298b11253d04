"""Two stages of work side by side: what the device computes of one tile, and what the processor makes of the one before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from seggeo.profiling import beside, span

Item = TypeVar("Item")
Between = TypeVar("Between")
Answer = TypeVar("Answer")


def overlapped(
    items: Iterable[Item], compute: Callable[[Item], Between], finish: Callable[[Item, Between], Answer], *, threads: int
) -> list[Answer]:  # fmt: skip
    """`finish(item, compute(item))` of every item, in order; the answers do not depend on `threads`.

    At most `threads + 1` items are between the two stages: what `compute` gives may be large.

    Args:
        items: Whatever is computed one after the other.
        compute: The first stage, in the calling thread.
        finish: The second stage; may not change what another call of it reads.
        threads: Threads for the second stage; 0 runs it in the calling thread, as suits a model on the processor itself.

    Raises:
        Exception: What either stage raises, of the first item that does.
    """
    if threads < 1:
        return [finish(item, compute(item)) for item in items]
    answers: list[Answer] = []
    coming: deque[Future[Answer]] = deque()
    timed = beside("encode", finish)
    with ThreadPoolExecutor(threads, thread_name_prefix="seggeo-finish") as pool:
        for item in items:
            between = compute(item)
            if len(coming) > threads:
                with span("encode"):
                    answers.append(coming.popleft().result())
            coming.append(pool.submit(timed, item, between))
            del between
        with span("encode"):
            answers += [one.result() for one in coming]
    return answers

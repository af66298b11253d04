"""What the next tiles show, made ready while the model is busy with others: read, and stretched for the model.

A thread reads one tile after the other, as many ahead as the model takes at once (`tiles_ahead`), so that an accelerator
does not wait for the decoder; memory bounds their number. The stretch happens there too: on the device it would cost an
upload of the raw values, two or four times the 8 bits of what the model sees.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from seggeo.job import Job
from seggeo.protocols import ModelInfo
from seggeo.run.watch import Care, Watch
from seggeo.tiling import Tile

AHEAD_BYTES = 256 << 20
"""Memory that tiles read ahead may take; one is always read."""
_BYTES_PER_VALUE = 5
"""Of a value of an image while it is made ready: up to 4 as it is read, and 1 as the model sees it."""

Ready = TypeVar("Ready")


def tiles_ahead(info: ModelInfo, job: Job) -> int:
    """How many tiles are read ahead: a whole batch of the model, or what memory allows; at least one."""
    side = job.tile + 2 * info.context
    tile_bytes = side * side * len(job.reading["bands"]) * _BYTES_PER_VALUE
    return max(1, min(info.batch, AHEAD_BYTES // tile_bytes))


def read_ahead(
    tiles: Sequence[Tile], read: Callable[[Tile], Ready], depth: int, care: Care, watch: Watch | None
) -> Iterator[tuple[Tile, Future[Ready] | None]]:  # fmt: skip
    """Each tile with what `read` gives of it, in order; `depth` more are being read meanwhile.

    Nothing is read of tiles that are barred, which come with None, and nothing meanwhile of or beside those that stand alone.

    Args:
        tiles: All tiles to come.
        read: Is called in another thread, for one tile at a time, in order.
        depth: How many tiles are read, or held ready, ahead; at least 1.
        care: Which tiles want it.
        watch: Is told of a tile before it is touched.
    """

    def begin(tile: Tile) -> Future[Ready]:
        if watch is not None:
            watch.begins(tile.index)
        return reader.submit(read, tile)

    coming: deque[Future[Ready]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="seggeo-read")
    try:
        for i, tile in enumerate(tiles):
            if tile.index in care.barred:
                yield tile, None
                continue
            now = coming.popleft() if coming else begin(tile)
            for after in () if tile.index in care.alone else tiles[i + 1 + len(coming) : i + 1 + depth]:
                if after.index in care.alone or after.index in care.barred:
                    break
                coming.append(begin(after))
            yield tile, now
    finally:
        reader.shutdown(cancel_futures=True)

"""Decoded blocks of one slide, shared by all threads that read it: each is decoded once while it is kept.

Two threads that want the same block do not both decode it: the second waits for the first. A thread claims one block
and decodes it before it claims another, so that waiting can never go round in a circle.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

from seggeo.io.slide_pyramid import Block

BLOCK_CACHE_BYTES = 192 * 2**20
"""As much as GDAL is given for rasters: a whole part of 8 x 8 RGB windows of 1024 px, so that its neighbours find the
blocks they share. A slide of 60 000 px in rows of tiles of 240 px keeps two rows of them."""


class BlockCache:
    """The blocks used last, up to a number of bytes."""

    def __init__(self, memory_bytes: int = BLOCK_CACHE_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Hashable, Block | None] = OrderedDict()
        self._coming: dict[Hashable, Future[Block | None]] = {}
        self._held_bytes = 0

    def get(self, key: Hashable, decode: Callable[[], Block | None]) -> Block | None:
        """The block of this key, from memory or from `decode`, whose exceptions pass through and are not kept."""
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
            other = self._coming.get(key)
            if other is None:
                mine: Future[Block | None] = Future()
                self._coming[key] = mine
        if other is not None:
            return other.result()
        try:
            block = decode()
        except BaseException as error:
            with self._lock:
                del self._coming[key]
            mine.set_exception(error)
            raise
        self._keep(key, block)
        mine.set_result(block)
        return block

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._blocks.clear()
            self._held_bytes = 0

    def _keep(self, key: Hashable, block: Block | None) -> None:
        with self._lock:
            del self._coming[key]
            self._blocks[key] = block
            self._held_bytes += _size(block)
            while self._held_bytes > self._memory_bytes and len(self._blocks) > 1:
                _, old = self._blocks.popitem(last=False)
                self._held_bytes -= _size(old)


def _size(block: Block | None) -> int:
    return 0 if block is None else block[0].nbytes + (0 if block[1] is None else block[1].nbytes)

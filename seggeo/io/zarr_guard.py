"""A Zarr store that hands out whole chunks only.

Blosc reads past the end of a short chunk, and gives what lies there in memory; zarr takes an empty shard for one that nobody
wrote, and gives zeros. A shard that was cut and mended badly has an index that leads into itself.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from seggeo.io.slide_pyramid import MAX_BLOCK_BYTES

_BLOSC_HEADER = 16
_CHECKSUM = 4
"""Bytes after the index of a shard."""
_NEVER = (1 << 64) - 1
"""Offset of a chunk that nobody wrote."""
_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def guarded(store: Any) -> Any:
    """A read-only store whose `watch(array)` makes it check the chunks of an array before they are decoded.

    Args:
        store: A store of zarr, or the path of a folder.
    """
    from zarr.storage import LocalStore, WrapperStore

    class GuardedStore(WrapperStore[Any]):
        """See `guarded`."""

        def __init__(self, store: Any) -> None:
            super().__init__(store)
            self._watched: tuple[str, ...] = ()
            self._sharded: dict[str, int] = {}
            self._index_at: dict[str, int] = {}

        def watch(self, array: Any) -> None:
            """Check chunks of an array from now on: lengths that Blosc states, and what the index of a shard says."""
            described, prefix = array.metadata.to_dict(), f"{array.path}/" if array.path else ""
            if _is_blosc(described):
                self._watched = (*self._watched, prefix)
            if (entries := _index_entries(described)) is not None:
                self._sharded[prefix] = entries

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            """See `zarr.abc.store.Store`."""
            found = await self._store.get(key, prototype, byte_range)
            if found is None or key.endswith(_METADATA):
                return found
            if len(found) == 0:
                raise EOFError("a chunk has 0 bytes")
            if byte_range is not None:
                _check_range(len(found), byte_range)
                if isinstance(self._store, LocalStore) and hasattr(byte_range, "suffix"):
                    self._index_at[key] = await self._store.getsize(key) - len(found)
                elif key in self._index_at and getattr(byte_range, "end", 0) > self._index_at[key]:
                    raise EOFError("a chunk of a shard reaches into the shard's index")
            elif key.startswith(self._watched):
                _check_blosc(found)
            else:
                for prefix, entries in self._sharded.items():
                    if key.startswith(prefix):
                        _check_index(found, entries)
            return found

    return GuardedStore(LocalStore(store, read_only=True) if isinstance(store, str) else store)


def _is_blosc(described: dict[str, Any]) -> bool:
    """True where the last step of packing, in version 2 or 3, is Blosc."""
    last = described.get("compressor") or (described.get("codecs") or (None,))[-1]
    return "blosc" in (str(last.get("id")), str(last.get("name"))) if isinstance(last, dict) else False


def _index_entries(described: dict[str, Any]) -> int | None:
    """Chunks in a shard of an array whose index lies plainly at the shard's end; None else."""
    codecs: Any = described.get("codecs") or ({},)
    last, grid = codecs[-1], described.get("chunk_grid", {})
    if not isinstance(last, dict) or last.get("name") != "sharding_indexed":
        return None
    said = last.get("configuration", {})
    names = [codec.get("name") for codec in said.get("index_codecs", ())]
    if said.get("index_location", "end") != "end" or names != ["bytes", "crc32c"]:
        return None
    shard, chunk = grid["configuration"]["chunk_shape"], said["chunk_shape"]
    return int(prod(whole // part for whole, part in zip(shard, chunk, strict=True)))


def _check_index(shard: Any, entries: int) -> None:
    """Chunks of a shard that was read whole must end where its index begins, or before."""
    start = len(shard) - 16 * entries - _CHECKSUM
    if start < 0:
        raise EOFError(f"a shard has {len(shard)} bytes, fewer than its index alone")
    offset, length = np.frombuffer(shard[start : len(shard) - _CHECKSUM].to_bytes(), "<u8").reshape(-1, 2).T
    written = offset != _NEVER
    # A damaged index may hold anything up to 2^64: no sums, which would wrap around.
    if np.any(offset[written] > start) or np.any(length[written] > start - np.minimum(offset[written], start)):
        raise EOFError("a chunk of a shard reaches beyond where its index begins")


def _check_range(length: int, asked: Any) -> None:
    """The length of a part of a shard must be the one that its index states."""
    wanted = asked.end - asked.start if hasattr(asked, "end") else getattr(asked, "suffix", length)
    if length != wanted:
        raise EOFError(f"a shard ends after {length} of {wanted} bytes")


def _check_blosc(packed: Any) -> None:
    head = packed[:_BLOSC_HEADER].to_bytes()
    unpacked, stored = (int.from_bytes(head[place : place + 4], "little") for place in (4, 12))
    if len(head) < _BLOSC_HEADER or stored != len(packed):
        raise EOFError(f"a chunk has {len(packed)} bytes and should have {stored if len(head) == _BLOSC_HEADER else 'more'}")
    if unpacked > MAX_BLOCK_BYTES:
        raise ValueError(f"a chunk claims {unpacked >> 20} MiB, and the limit is {MAX_BLOCK_BYTES >> 20} MiB")

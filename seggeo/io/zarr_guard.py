"""A Zarr store that hands out whole chunks only.

Blosc reads past the end of a short chunk, and gives what lies there in memory; zarr takes an empty shard for one that nobody
wrote, and gives zeros.
"""

from __future__ import annotations

from typing import Any

from seggeo.io.slide_pyramid import MAX_BLOCK_BYTES

_BLOSC_HEADER = 16
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

        def watch(self, array: Any) -> None:
            """Check chunks of an array from now on, if Blosc is what they are packed with last."""
            if _is_blosc(array.metadata.to_dict()):
                self._watched = (*self._watched, f"{array.path}/" if array.path else "")

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            """See `zarr.abc.store.Store`."""
            found = await self._store.get(key, prototype, byte_range)
            if found is None or key.endswith(_METADATA):
                return found
            if len(found) == 0:
                raise EOFError("a chunk has 0 bytes")
            if byte_range is not None:
                _check_range(len(found), byte_range)
            elif key.startswith(self._watched):
                _check_blosc(found)
            return found

    return GuardedStore(LocalStore(store, read_only=True) if isinstance(store, str) else store)


def _is_blosc(described: dict[str, Any]) -> bool:
    """True where the last step of packing, in version 2 or 3, is Blosc."""
    last = described.get("compressor") or (described.get("codecs") or (None,))[-1]
    return "blosc" in (str(last.get("id")), str(last.get("name"))) if isinstance(last, dict) else False


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

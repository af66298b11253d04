"""Zarr groups in local folders, and at http(s):// and s3:// addresses of which nothing but that origin is asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from seggeo.errors import SourceError
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.slide_pyramid import damaged_slide
from seggeo.io.zarr_guard import guarded

REMOTE_SCHEMES = ("http", "https", "s3")
_MAX_ANSWER = 512 * 2**20
"""More than any chunk that is allowed, packed."""
_TRIES = 4
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An open group."""

    group: Any
    name: str
    folder: str | None
    """Where it lies; None for an address."""
    close: Callable[[], None]


def is_address(path: str) -> bool:
    """True for what is read over the network."""
    return "://" in path and urlsplit(path).scheme.lower() in REMOTE_SCHEMES


def open_group(path: str, name: str) -> Opened:
    """The Zarr group in a folder or at an address.

    Raises:
        SourceError: There is none, it cannot be reached, or a library is missing.
    """
    try:
        import zarr
    except ImportError as error:
        raise SourceError(what=f"{name} needs zarr", why=str(error), mend='pip install "seggeo[volumes]"') from error
    store, close = _remote(path, name) if is_address(path) else (path, None)
    try:
        group = zarr.open_group(guarded(store), mode="r", use_consolidated=False)
    except READ_ERRORS as error:
        if close is not None:
            close()
            raise _unreachable(path, name, error) from error
        raise damaged_slide(name, error) from error
    folder = None if close is not None else os.path.abspath(path)
    return Opened(group=group, name=name, folder=folder, close=close or group.store.close)


def _remote(path: str, name: str) -> tuple[Any, Callable[[], None]]:
    """A store that reads from an address, and what ends its connections."""
    try:
        from zarr.storage import FsspecStore

        if urlsplit(path).scheme.lower() == "s3":
            store = FsspecStore.from_url(path.split("?")[0], storage_options={"asynchronous": True}, read_only=True)
            return store, store.close
        files = _http_files()
    except ImportError as error:
        lacking = "s3fs" if "s3" in str(error) else '"seggeo[volumes]"'
        raise SourceError(
            what=f"{name} is read over the network", why=str(error), mend=f"pip install {lacking}"
        ) from error  # fmt: skip
    return FsspecStore(files, read_only=True, path=path.rstrip("/")), files.hang_up


def _http_files() -> Any:
    """A file system of fsspec that follows no redirection, asks again where a server is busy, and takes no endless answer."""
    import aiohttp
    from fsspec.implementations.http import HTTPFileSystem

    class OneOrigin(HTTPFileSystem):  # type: ignore[misc]
        """Files of a server; the base class would follow it to any other."""

        _session: Any
        used_loop: Any
        is_closed = False

        async def _cat_file(self, url: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
            self.used_loop = asyncio.get_running_loop()
            headers = {} if start is None and end is None else {"Range": _range(start, end)}
            for attempt in range(_TRIES):
                try:
                    return await self._once(url, headers, start, end)
                except (aiohttp.ClientError, TimeoutError, _BusyError) as error:
                    if attempt == _TRIES - 1 or isinstance(error, aiohttp.InvalidURL):
                        raise OSError(f"{type(error).__name__}: {error}") from error
                    await asyncio.sleep(0.2 * 2**attempt)
            raise AssertionError

        async def _once(self, url: str, headers: dict[str, str], start: int | None, end: int | None) -> bytes:
            if self.is_closed:  # a read that was still waiting when another one failed
                raise OSError("the connection was closed")
            if self._session is None:  # without waiting in between, or every reader would make one of its own
                self._session = aiohttp.ClientSession()
            session: aiohttp.ClientSession = self._session
            limit = aiohttp.ClientTimeout(total=_TIMEOUT_S)
            async with session.get(self.encode_url(url), headers=headers, allow_redirects=False, timeout=limit) as answer:
                _check_status(answer.status)
                data = b"".join([piece async for piece in _limited(answer.content)])
            return data if answer.status == 206 or not headers else data[start:end]

        def hang_up(self) -> None:
            """End the connections."""
            self.is_closed = True
            session, self._session = self._session, None
            if session is not None:
                with suppress(RuntimeError, TimeoutError):
                    asyncio.run_coroutine_threadsafe(session.close(), self.used_loop).result(5)

    return OneOrigin(asynchronous=True, skip_instance_cache=True)


class _BusyError(Exception):
    """A server that may answer later."""


def _check_status(status: int) -> None:
    if status in (404, 410):
        raise FileNotFoundError(status)
    if 300 <= status < 400:
        raise OSError(f"the server answers {status}, a redirection; give the address it leads to")
    if status == 429 or status >= 500:
        raise _BusyError(f"the server answers {status}")
    if status not in (200, 206):
        raise OSError(f"the server answers {status}")


async def _limited(content: Any) -> Any:
    total = 0
    async for piece in content.iter_chunked(2**20):
        total += len(piece)
        if total > _MAX_ANSWER:
            raise OSError(f"the server sends more than {_MAX_ANSWER >> 20} MiB for one chunk")
        yield piece


def _range(start: int | None, end: int | None) -> str:
    if start is not None and start < 0:
        return f"bytes={start}"
    return f"bytes={start or 0}-{'' if end is None else end - 1}"


def _unreachable(path: str, name: str, error: BaseException) -> SourceError:
    secret = urlsplit(path).netloc.rpartition("@")[0]
    said = str(error).replace(path.rstrip("/"), name.rstrip("/"))
    reason = " ".join((said.replace(secret, "...") if secret else said).split())[:300] or type(error).__name__
    if reason.startswith("No group found"):
        reason = "there is no Zarr group at that address"
    return SourceError(
        what=f"{name} cannot be read", why=reason, mend="check the address: it is that of the folder with .zattrs or zarr.json"
    )

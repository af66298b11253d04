"""Outputs appear whole or not at all: written under a temporary name in the same folder, flushed to disk, renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seggeo.errors import OutputError, ResourceError, SeggeoError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_TEXTS = ("no space left", "disk is full", "file too large")  # C libraries pass on the text alone


@contextmanager
def publishing(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A temporary path to write; when the block ends without an error the file there becomes `path`.

    The temporary file has the (plain) name of `path` and lies in a hidden folder of its own beside it, so that side files of
    a driver (`-journal`, `.aux.xml`) never stay behind. On any error the temporaries are removed and `path` stays what it was.

    Args:
        path: Where the finished file shall be; an existing file is replaced, since the caller asked before.
        scratch: A folder for the temporary file, for instance on a local disk; default: beside `path`.

    Raises:
        OutputError: The folder does not exist or is not writable, or the block raised an `OSError`.
        ResourceError: The disk is full.
    """
    folder = _private_folder(path, path.parent if scratch is None else scratch)
    try:
        with translated(path):
            temporary = folder / plain_name(path)
            yield temporary
            publish(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(temporary: Path, path: Path) -> Path:
    """`path`, now with the content of `temporary`, which is gone; safe against a power cut.

    Raises:
        OSError: As the system says; `translated` makes it one of ours.
    """
    if _device(temporary) != _device(path.parent):
        temporary = _copy_beside(temporary, path)
    flush(temporary)
    os.replace(temporary, path)
    _flush_folder(path.parent)
    return path


def plain_name(path: Path) -> str:
    """The name of a file with `_` for `;` and `!`, which pyogrio takes for parts of an address."""
    return re.sub("[;!]", "_", path.name)


@contextmanager
def plain_folder(path: Path) -> Iterator[Path]:
    """`path`, whose name is plain, by way of a folder whose name is plain, too."""
    if not {";", "!"} & set(str(path.parent)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="seggeo-") as place:
        link = Path(place) / "link"
        link.symlink_to(path.parent.absolute(), target_is_directory=True)
        yield link / path.name


def flush(path: Path) -> None:
    """Wait until the content of a file is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what the system says about writing `path` into our errors; ours pass through unchanged.

    Raises:
        OutputError: Not writable.
        ResourceError: The disk is full.
    """
    try:
        yield
    except SeggeoError:
        raise
    except OSError as error:
        raise as_refusal(error, path) from error
    except (RuntimeError, sqlite3.Error) as error:  # pyogrio's and GDAL's own kinds carry no errno
        if not _is_writer_error(error):
            raise
        raise as_refusal(error, path) from error


def as_refusal(error: BaseException, path: Path) -> OutputError | ResourceError:
    """Our error for a failure to write `path`: ResourceError when the disk is full, else OutputError."""
    if (
        getattr(error, "errno", None) in _FULL
        or any(text in str(error).lower() for text in _FULL_TEXTS)
        or _is_full(path.parent)
    ):
        return ResourceError(
            what=f"{path} could not be written",
            why=f"the disk is full ({error})",
            mend="free some space or name another folder with -o, and run the same command again",
        )
    return OutputError(
        what=f"{path} could not be written",
        why=str(error) or type(error).__name__,
        mend="check that the folder exists and may be written to, or name another with -o",
    )


def has_room(folder: Path, count: int) -> bool:
    """True unless the system refuses a file of `count` bytes in the folder for want of space.

    Libraries that hide why a write failed make one ask like this.
    """
    if not hasattr(os, "posix_fallocate"):
        return not _is_full(folder)
    with tempfile.TemporaryFile(dir=folder) as probe:
        try:
            os.posix_fallocate(probe.fileno(), 0, max(count, 1))
        except OSError as error:
            return error.errno not in _FULL
    return True


def _is_writer_error(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("pyogrio", "rasterio", "sqlite3", "pyarrow")


def remove_leftovers(folder: Path, *, deep: bool = False) -> None:
    """Remove what killed writers of this machine left in a folder; `deep`: in the folders below, too."""
    ours = f".{_host()}-"
    patterns = [f"{'**/' if deep else ''}.*.{ending}" for ending in ("writing", "copying")]
    for path in [found for pattern in patterns for found in folder.glob(pattern)]:
        _, found, process = path.name.rpartition(".")[0].rpartition(ours)
        if found and process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _host() -> str:
    return re.sub("[^A-Za-z0-9]", "", socket.gethostname())[:32]


def _temporary(path: Path, parent: Path, ending: str) -> Path:
    # Machine and process keep two writers of one output apart; names have at most 255 bytes.
    return parent / f".{plain_name(path)[:120]}.{_host()}-{os.getpid()}.{ending}"


def _private_folder(path: Path, parent: Path) -> Path:
    folder = _temporary(path, parent, "writing")
    with translated(path):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    return folder


def _copy_beside(temporary: Path, path: Path) -> Path:
    near = _temporary(path, path.parent, "copying")
    try:
        shutil.copyfile(temporary, near)
    except OSError:
        with suppress(OSError):
            near.unlink()
        raise
    return near


def _device(path: Path) -> int:
    return os.stat(path).st_dev


def _is_full(folder: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 16
    return False


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems refuse to flush a folder; the rename itself has happened
        flush(folder)

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

_ENDINGS = ("writing", "copying", "replaced")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
"""What file systems without links say, such as FAT."""
_RACED = (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
_TRIES = 50
_LITTLE = 1 << 20
"""Bytes; where these do not fit the disk is called full if an error does not say what it is of."""
_FULL_TEXTS = ("no space left", "disk is full", "file too large")  # C libraries pass on the text alone


@contextmanager
def publishing(path: Path, scratch: Path | None = None) -> Iterator[Path]:
    """A temporary path to write; when the block ends without an error the file or folder there becomes `path`.

    The temporary file has the (plain) name of `path` and lies in a hidden folder of its own beside it, so that side files of
    a driver (`-journal`, `.aux.xml`) never stay behind. On any error the temporaries are removed and `path` stays what it was.

    Args:
        path: Where the finished file or folder shall be; what is there is replaced, since the caller asked before.
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


def claim(path: Path, data: bytes) -> bool:
    """Write a whole file under a name that nothing has; False, and nothing is written, where another was first.

    Raises:
        OutputError: The folder does not exist or is not writable.
        ResourceError: The disk is full.
    """
    folder = _private_folder(path, path.parent)
    try:
        with translated(path):
            temporary = folder / plain_name(path)
            temporary.write_bytes(data)
            flush(temporary)
            return _linked(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(temporary: Path, path: Path) -> Path:
    """`path`, now with the content of `temporary`, which is gone; safe against a power cut.

    A folder takes the place of what was there in two steps, since no system replaces a folder that holds something in one:
    killed between them, `path` is missing, never half written.

    Raises:
        OSError: As the system says; `translated` makes it one of ours.
    """
    if _device(temporary) != _device(path.parent):
        temporary = _copy_beside(temporary, path)
    if temporary.is_dir():
        os.sync()  # one flush of everything: fsync costs 3.5 ms for each of thousands of small files
        _move_folder(temporary, path)
    else:
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
        or (getattr(error, "errno", None) is None and not has_room(path.parent, _LITTLE))
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
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            os.posix_fallocate(probe.fileno(), 0, max(count, 1))
    except OSError as error:
        return error.errno not in _FULL
    return True


def _is_writer_error(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] in ("pyogrio", "rasterio", "sqlite3", "pyarrow")


def remove_leftovers(folder: Path, *, deep: bool = False) -> None:
    """Remove what killed writers of this machine left in a folder; `deep`: in the folders below, too."""
    ours = f".{_host()}-"
    for path in _temporaries(folder, deep=deep):
        _, found, process = path.name.rpartition(".")[0].rpartition(ours)
        if found and process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def holds_files(folder: Path) -> bool:
    """True when there are files in a folder or below it, besides those that a writer who was killed has left."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_temporary(name)]
        if not all(map(is_temporary, files)):
            return True
    return False


def is_temporary(name: str) -> bool:
    """True for the name of something that is still being written, or was when its writer was killed."""
    return name.startswith(".") and name.rpartition(".")[2] in _ENDINGS


def _temporaries(folder: Path, *, deep: bool) -> list[Path]:
    """Temporary files and folders of any writer; those of living ones may be gone by the time they are looked at."""
    found = []
    for place, folders, files in os.walk(folder):  # which passes over folders that vanish meanwhile, as a glob does not
        names = [name for name in (*folders, *files) if is_temporary(name)]
        found += [Path(place) / name for name in names]
        folders[:] = [name for name in folders if name not in names] if deep else []
    return found


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


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file its name, unless another has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.replace(temporary, path)
    _flush_folder(path.parent)
    return True


def _copy_beside(temporary: Path, path: Path) -> Path:
    near = _temporary(path, path.parent, "copying")
    _remove(near)
    try:
        if temporary.is_dir():
            shutil.copytree(temporary, near)
        else:
            shutil.copyfile(temporary, near)
    except OSError:
        _remove(near)
        raise
    return near


def _move_folder(temporary: Path, path: Path) -> None:
    old = _temporary(path, path.parent, "replaced")
    for _ in range(_TRIES):
        _remove(old)
        was_there = os.path.lexists(path)
        try:
            if was_there:
                os.replace(path, old)
            os.replace(temporary, path)
        except OSError as error:
            if error.errno in _RACED and temporary.is_dir():  # another writer has moved it, or put its own there
                continue
            if was_there:
                os.replace(old, path)
            raise
        break
    _remove(old)


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _device(path: Path) -> int:
    return os.stat(path).st_dev


def _is_full(folder: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 16
    return False


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # some network file systems refuse to flush a folder; the rename itself has happened
        flush(folder)

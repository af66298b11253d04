"""Checks of an input before GDAL sees it: that it is a file, of which format, complete, and whether it keeps to itself.

GDAL chooses a driver by content and follows references to other files and to the network. So that a file cannot
choose, its first bytes select the one driver that may open it, and every side file is looked at as well.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.tiff import Directory, check_complete, read_directories
from seggeo.io.vrt import vrt_sources

_MAGIC = (
    (b"II*\0", "GTiff"), (b"MM\0*", "GTiff"), (b"II+\0", "GTiff"), (b"MM\0+", "GTiff"), (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"\0\0\0\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
    (b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
)  # fmt: skip
REMOTE_DRIVERS = ("GTiff", "JP2OpenJPEG", "PNG", "JPEG", "WEBP")
_REMOTE = {"http": "/vsicurl/", "https": "/vsicurl/", "s3": "/vsis3/"}
_SIDE_FILES = (".ovr", ".msk", ".msk.ovr", ".ovr.msk")
_HEADER_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A path that passed the checks."""

    path: str
    """What GDAL is given: an absolute path, or a `/vsicurl/` or `/vsis3/` name made from the user's URL."""
    name: str
    """What the user is shown; never holds credentials or a query string."""
    drivers: tuple[str, ...]
    """The only drivers that may open it."""
    directories: tuple[Directory, ...] = ()
    """Block layout of a local TIFF, full resolution first."""

    @property
    def is_remote(self) -> bool:
        """True when reading it uses the network."""
        return self.path.startswith("/vsi")


def check_input(path: str, reading: Reading) -> Input:
    """What may be opened at `path`, a file or an http(s):// or s3:// address that the user typed.

    Raises:
        SourceError: Missing, not a regular file, not an image, cut off, or reaching for other files.
    """
    parts = urlsplit(path)
    if parts.scheme in _REMOTE:
        prefix = _REMOTE[parts.scheme]
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        target = path if prefix == "/vsicurl/" else f"{parts.netloc}{parts.path}"
        return Input(path=prefix + target, name=name, drivers=REMOTE_DRIVERS)
    full = os.path.abspath(path)
    if path.startswith("/vsi") or full.startswith("/vsi"):
        raise SourceError(
            what=f"{path} is refused",
            why="GDAL's virtual paths reach archives, memory and the network",
            mend="give a file or an https:// or s3:// address",
        )
    return _check_local(full, reading)


def _check_local(path: str, reading: Reading) -> Input:
    header = read_header(path)
    driver = sniff(header)
    if driver == "VRT":
        if not reading.allow_vrt:
            raise SourceError(
                what=f"{path} is a VRT, a text file that names other files",
                why="a VRT can read any file of this machine as pixels",
                mend="add --allow-vrt if it is yours; its sources must lie in its own folder",
            )
        for source in vrt_sources(path):
            _check_source(source)
        _check_side_files(path)
        return Input(path=path, name=_shown(path), drivers=("VRT",))
    if driver is None:
        raise _not_an_image(path, header)
    return Input(path=path, name=_shown(path), drivers=(driver,), directories=_check_content(path, driver))


def _check_source(path: str) -> None:
    header = read_header(path)
    driver = sniff(header)
    if driver is None or driver == "VRT":
        raise _not_an_image(path, header)
    _check_content(path, driver)


def _check_content(path: str, driver: str) -> tuple[Directory, ...]:
    _check_side_files(path)
    if driver != "GTiff":
        return ()
    directories = read_directories(path)
    check_complete(path, directories)
    if any(b"OVERVIEW_FILE" in d.metadata for d in directories):
        raise _reaches_out(path, "its metadata name another file as overview")
    return tuple(directories)


def read_header(path: str, size: int = 4096) -> bytes:
    """The first bytes of a regular file, which is never opened before it is known to be one.

    Raises:
        SourceError: Missing, not a regular file, empty or not readable.
    """
    try:
        mode = os.stat(path).st_mode
        path.encode()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(what=f"{path} does not exist", why=_near(path), mend="check the path") from error
    except UnicodeEncodeError as error:
        raise SourceError(
            what=f"the file name {os.fsencode(path)!r} is not UTF-8",
            why="image libraries take UTF-8 names only",
            mend="rename the file or give a link to it",
        ) from error
    except OSError as error:  # a loop of links, a name that is too long, no permission
        raise SourceError(what=f"{path} cannot be opened", why=str(error.strerror), mend="check the path") from error
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        mend = "give an image file, or all those in it: FOLDER/*.tif" if kind == "folder" else "give an image file"
        raise SourceError(what=f"{path} is not a file", why=f"it is a {kind}", mend=mend)
    try:
        with open(path, "rb") as file:
            header = file.read(size)
    except OSError as error:
        raise SourceError(what=f"{path} cannot be read", why=str(error.strerror), mend="check its permissions") from error
    if not header:
        raise SourceError(what=f"{path} is not an image", why="it has 0 bytes", mend="copy or download the file again")
    return header


def fingerprint_of(path: str) -> dict[str, Any]:
    """Size, time of change and SHA-256 of the first bytes of a file, to notice that it was replaced."""
    status = os.stat(path)
    header = read_header(path, _HEADER_BYTES)
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "header_sha256": hashlib.sha256(header).hexdigest()}


def sniff(header: bytes) -> str | None:
    """Name of the GDAL driver for a file's first bytes, None for anything seggeo does not read."""
    for magic, driver in _MAGIC:
        if header.startswith(magic):
            return driver
    if header[:4] == b"RIFF" and header[8:12] == b"WEBP":
        return "WEBP"
    return "VRT" if b"<VRTDataset" in header else None


def _check_side_files(path: str) -> None:
    """GDAL opens masks and overviews beside an image with any driver, so each must be what it claims."""
    for ending in _SIDE_FILES:
        side = path + ending
        if os.path.lexists(side) and sniff(read_header(side)) != "GTiff":
            raise _reaches_out(path, f"its side file {os.path.basename(side)} is not a TIFF")
    side = path + ".aux.xml"
    if os.path.lexists(side) and b"OVERVIEW_FILE" in read_header(side, 64 * 2**20):
        raise _reaches_out(path, f"its side file {os.path.basename(side)} names another file as overview")


def _reaches_out(path: str, why: str) -> SourceError:
    return SourceError(
        what=f"{path} is refused",
        why=f"{why}, and that could be any file of this machine",
        mend="remove that reference: gdal_translate IN OUT.tif in a folder of its own",
    )


def _not_an_image(path: str, header: bytes) -> SourceError:
    text = header.lstrip(b"\xef\xbb\xbf \t\r\n")[:15].lower()
    guess = "its first bytes are not those of a TIFF, JPEG 2000, PNG, JPEG, BMP or WebP"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        guess = "it is a web page or XML, often what a download link gives instead of the file"
    elif text.startswith((b"{", b"[")):
        guess = "it is JSON, often the error message of a server"
    return SourceError(
        what=f"{path} is not an image", why=guess, mend="download it again, or convert it: gdal_translate IN OUT.tif"
    )


def _shown(path: str) -> str:
    """A path on one line, whatever characters it has."""
    return path if path.isprintable() else repr(path)


def _near(path: str) -> str:
    folder, name = os.path.split(path)
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return f"there is no folder {folder}"
    if name in names:
        return "it is a link to what is not there"
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    return f"near names there: {', '.join(close)}" if close else f"nothing in {folder or 'the current folder'} is called so"

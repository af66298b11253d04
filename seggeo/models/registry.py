"""Weights by name: those that come along (see `bundled`), and checkpoints that can be fetched.

A checkpoint is pinned by size and SHA-256 before a byte of it is used. torchvision's file names end in the first eight
digits of the SHA-256, SAM's in the first six of the MD5; the full SHA-256 sums here agree with those digits and with what
other registries pin for the same addresses.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO

from seggeo.config import AUTO
from seggeo.errors import ModelError, ResourceError
from seggeo.models.bundled import bundled_models, find_bundled

log = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0

Progress = Callable[[int, int], None]
"""Called with the bytes received so far and the bytes expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """One checkpoint that can be fetched."""

    name: str
    """What `seggeo models pull` and `--weights` take."""
    kind: str
    """The segmenter it is for: maskrcnn or sam."""
    url: str
    size_bytes: int
    sha256: str
    licence: str
    note: str
    """What it was trained on and finds, one line."""
    cached: Path | None = None
    """Where a file of the right size lies, None when not fetched."""

    @property
    def file_name(self) -> str:
        """Name of the file in the cache, the publisher's own."""
        return self.url.rsplit("/", 1)[-1]


_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_TORCHVISION = "https://download.pytorch.org/models/"

_KNOWN = (
    KnownModel(
        name="maskrcnn_resnet50_fpn",
        kind="maskrcnn",
        url=_TORCHVISION + "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        size_bytes=178_090_079,
        sha256="bf2d0c1efbc936eeee2bc95a48e80ebc86b891f61b0106485937fc29f9315fc0",
        licence="BSD-3-Clause",
        note="torchvision Mask R-CNN, COCO 2017, 80 everyday classes",
    ),
    KnownModel(
        name="maskrcnn_resnet50_fpn_v2",
        kind="maskrcnn",
        url=_TORCHVISION + "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        size_bytes=185_828_065,
        sha256="73cbd0190fcbe3ba339921fbce2c3a0b6bb9126c9a133c85e43a2a8e060a109e",
        licence="BSD-3-Clause",
        note="torchvision Mask R-CNN v2, COCO 2017, 80 everyday classes",
    ),
    KnownModel(
        name="sam_vit_b",
        kind="sam",
        url=_SAM + "sam_vit_b_01ec64.pth",
        size_bytes=375_042_383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        licence="Apache-2.0",
        note="Segment Anything ViT-B, SA-1B, parts and objects without class; the quickest",
    ),
    KnownModel(
        name="sam_vit_l",
        kind="sam",
        url=_SAM + "sam_vit_l_0b3195.pth",
        size_bytes=1_249_524_607,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        licence="Apache-2.0",
        note="Segment Anything ViT-L, SA-1B, parts and objects without class",
    ),
    KnownModel(
        name="sam_vit_h",
        kind="sam",
        url=_SAM + "sam_vit_h_4b8939.pth",
        size_bytes=2_564_550_879,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        licence="Apache-2.0",
        note="Segment Anything ViT-H, SA-1B, parts and objects without class; the best",
    ),
)


def cache_dir() -> Path:
    """The folder for fetched checkpoints: `SEGGEO_CACHE`, else the platform's cache folder; it may not exist yet."""
    if chosen := os.environ.get("SEGGEO_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "seggeo"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "seggeo" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seggeo"


def known_models(cache: Path | None = None) -> list[KnownModel]:
    """Every checkpoint that can be fetched, in alphabetical order, with where it lies in `cache` (default `cache_dir()`)."""
    folder = cache or cache_dir()
    return [replace(model, cached=_cached(model, folder)) for model in _KNOWN]


def find(name: str, cache: Path | None = None) -> KnownModel:
    """The checkpoint of one name.

    Raises:
        ModelError: No checkpoint has that name.
    """
    models = {model.name: model for model in known_models(cache)}
    if name not in models:
        near = get_close_matches(name, models, n=1)
        raise ModelError(
            what=f"there is no checkpoint called {name!r}",
            why=f"known are {', '.join(models)}",
            mend=f"did you mean {near[0]!r}?" if near else "see them all with: seggeo models list",
        )
    return models[name]


def resolve_weights(value: str | None, model: str) -> Path | None:
    """The file that `--weights value` means for a segmenter called `model`; `auto` takes weights of any.

    A file of that name wins; then bundled weights, then the name of a known checkpoint means the fetched file; anything
    else is taken for a path, and the segmenter says what is wrong with it.

    Raises:
        ModelError: A known checkpoint that is not fetched yet, or weights of another segmenter.
    """
    if value is None:
        return None
    if Path(value).exists():
        return Path(value)
    bundled = find_bundled(value)
    if bundled is not None:
        if model not in (bundled.model, AUTO):
            others = [other.name for other in bundled_models() if other.model == model]
            raise _misfit(value, bundled.model, model, others)
        return bundled.path
    if value not in {known.name for known in _KNOWN}:
        return Path(value)
    known = find(value)
    if model not in (known.kind, AUTO):
        raise _misfit(value, known.kind, model, [other.name for other in _KNOWN if other.kind == model])
    if known.cached is None:
        raise ModelError(
            what=f"checkpoint {value} is not on this machine",
            why=f"{cache_dir() / known.file_name} does not exist or has another size than {known.size_bytes} bytes",
            mend=f"fetch it ({known.size_bytes / 1e6:.0f} MB) with: seggeo models pull {value}",
        )
    return known.cached


def _misfit(value: str, kind: str, model: str, fitting: list[str]) -> ModelError:
    return ModelError(
        what=f"checkpoint {value} is not for --model {model}",
        why=f"it holds a {kind} network; known for {model}: {', '.join(fitting) or 'none'}",
        mend=f"use --model {kind}, or weights of {model}",
    )


def pull(name: str, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The file of a known checkpoint, fetched if it is not in the cache yet.

    Raises:
        ModelError: Unknown name, no connection, or not the bytes that are pinned; nothing is left behind.
        ResourceError: The cache folder cannot be written or is full.
    """
    folder = cache or cache_dir()
    model = find(name, folder)
    return model.cached or download(model, folder, progress)


def download(model: KnownModel, cache: Path, progress: Progress | None = None) -> Path:
    """Fetch a checkpoint into `cache` under a temporary name, check it, and give it its own name.

    Raises:
        ModelError: No connection, or not the bytes that are pinned; nothing is left behind.
        ResourceError: The cache folder cannot be written or is full.
    """
    target = cache / model.file_name
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{model.file_name}.", dir=cache)
    except OSError as error:
        raise _no_room(cache, error) from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _transfer(model, file, target, progress)
            _flush(file, cache)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    log.info("%s: %d bytes, sha256 %s", target, model.size_bytes, model.sha256)
    return target


def _transfer(model: KnownModel, file: BinaryIO, target: Path, progress: Progress | None) -> None:
    """Write the bytes of the address to `file`, refusing all but the pinned ones."""
    digest, received = hashlib.sha256(), 0
    request = urllib.request.Request(model.url, headers={"User-Agent": "seggeo"})
    try:
        # The address is one of this file's or of a caller's record, never a command line's; urllib follows http(s) only here.
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            while block := response.read(CHUNK_BYTES):
                if received == 0 and block.lstrip().startswith((b"<", b"{")):
                    raise _not_pinned(model, "this is a web page, not weights")
                received += len(block)
                if received > model.size_bytes:
                    raise _not_pinned(model, f"it is longer than {model.size_bytes} bytes")
                digest.update(block)
                _write(file, block, target.parent)
                if progress:
                    progress(received, model.size_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        raise _offline(model, target, f"HTTP {error.code} {error.reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise _offline(model, target, str(getattr(error, "reason", error)) or type(error).__name__) from error
    if received < model.size_bytes:
        raise _not_pinned(model, f"the transfer ended after {received} of {model.size_bytes} bytes")
    if digest.hexdigest() != model.sha256:
        raise _not_pinned(model, f"its sha256 is {digest.hexdigest()}, pinned is {model.sha256}")


def _write(file: BinaryIO, block: bytes, folder: Path) -> None:
    try:
        file.write(block)
    except OSError as error:
        raise _no_room(folder, error) from error


def _flush(file: BinaryIO, folder: Path) -> None:
    try:
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise _no_room(folder, error) from error


def _cached(model: KnownModel, folder: Path) -> Path | None:
    path = folder / model.file_name
    return path if path.is_file() and path.stat().st_size == model.size_bytes else None


def _not_pinned(model: KnownModel, why: str) -> ModelError:
    return ModelError(
        what=f"what {model.url} sent is not {model.name}",
        why=f"{why}; nothing was kept",
        mend="try again; if it stays so, a proxy answers in its place or the publisher changed the file",
    )


def _offline(model: KnownModel, target: Path, reason: str) -> ModelError:
    return ModelError(
        what=f"{model.name} cannot be fetched from here",
        why=f"{model.url}: {reason}",
        mend=f"fetch that address on another machine, check size {model.size_bytes} and sha256 {model.sha256}, "
        f"and put the file at {target}",
    )


def _no_room(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(
        what=f"the cache folder {folder} cannot be written",
        why=error.strerror or str(error),
        mend="free some space there, or set SEGGEO_CACHE to another folder",
    )

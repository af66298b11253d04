"""Volumes for the tests of readers: boxes to compare by, and a server of one folder on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.io.volume_detect import open_volume_file
from seggeo.io.volume_file import Box, VolumeFile

SHARED = Path(__file__).parents[2] / "shared" / "data"


def boxes(shape: tuple[int, ...], count: int, seed: int = 0) -> Iterator[Box]:
    """The whole volume, its last voxel, and random boxes."""
    rng = np.random.default_rng(seed)
    yield slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])
    yield slice(shape[0] - 1, shape[0]), slice(shape[1] - 1, shape[1]), slice(shape[2] - 1, shape[2])
    for _ in range(count):
        ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
        first, second, third = (slice(int(a), int(b)) for a, b in ends)
        yield first, second, third


def assert_reads(volume: VolumeFile, expected: NDArray[Any], *, channel: int = 0, time: int = 0, count: int = 8) -> None:
    """Every box of `expected`, `(n0, n1, n2)`, is what the volume gives, in its type and native byte order."""
    assert volume.facts.shape == expected.shape
    for box in boxes(expected.shape, count):
        values = volume.read(box, channel, time)
        assert values.dtype == volume.facts.dtype
        assert values.dtype.isnative
        np.testing.assert_array_equal(values, expected[box])


@contextmanager
def closing_volumes() -> Iterator[Callable[..., VolumeFile]]:
    """A function that opens a volume with settings of `Reading`; what it opened is closed in the end."""
    with ExitStack() as volumes:

        def opened(path: Path | str, **settings: Any) -> VolumeFile:
            volume = open_volume_file(str(path), Reading(**settings))
            volumes.callback(volume.close)
            return volume

        yield opened


def read_or_refuse(path: Path, **settings: Any) -> NDArray[Any] | None:
    """All voxels of the first channel and time; None where the file is refused, in the one way that is allowed."""
    try:
        volume = open_volume_file(str(path), Reading(**settings))
    except SourceError:
        return None
    try:
        depth, height, width = volume.facts.shape
        return volume.read((slice(0, depth), slice(0, height), slice(0, width)), 0, 0)
    except SourceError:
        return None
    finally:
        volume.close()


class _Quiet(SimpleHTTPRequestHandler):
    moved_to = ""

    def do_GET(self) -> None:
        if self.moved_to:
            self.send_response(302)
            self.send_header("Location", self.moved_to + self.path)
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Nothing on stderr."""


@contextmanager
def served(folder: Path, *, moved_to: str = "") -> Iterator[str]:
    """Address of a server of a folder; `moved_to`: it sends everyone there instead."""
    handler = type("Handler", (_Quiet,), {"moved_to": moved_to})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

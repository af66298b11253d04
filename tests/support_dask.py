"""A Dask scheduler and its workers, started as a user starts them, on loopback alone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from support_flow import clean_environment

LOOPBACK = "127.0.0.1"

POISON = '''
import ctypes
import os


class Poison:
    """The input's own values as labels; one tile kills its process while a file is there."""

    native = True
    wants_places = True

    def predict(self, tiles, places):
        for place in places:
            if place.index == 4 and os.path.exists(os.environ["BROKEN"]):
                ctypes.string_at(0)
        return [tile[:, :, 0].astype("int32") for tile in tiles]
'''


def free_port() -> int:
    """A port of loopback that nobody listens to now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Farm:
    """A scheduler and its workers, each a process group of its own."""

    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"tcp://{LOOPBACK}:{self.port}"

    def start_scheduler(self) -> None:
        self.scheduler = self._start("dask_scheduler", "--port", str(self.port))
        until_open(self.port)

    def start_worker(self, *more: str) -> None:
        self.workers.append(self._start("dask_worker", self.address, "--nthreads", "1", *more))

    def kill_scheduler(self) -> None:
        assert self.scheduler is not None
        kill(self.scheduler)
        self.scheduler = None

    def close(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            kill(process)

    def _start(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        # Anything but here: workers must find every file by an absolute path.
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{program}", *args, "--host", LOOPBACK, "--no-dashboard"],
            cwd=tempfile.gettempdir(), env=clean_environment(**self.environment), start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


@contextlib.contextmanager
def farm(workers: int, **environment: str) -> Iterator[Farm]:
    """A scheduler and workers for as long as the block runs."""
    scratch = tempfile.TemporaryDirectory(prefix="seggeo-dask-")
    made = Farm(environment={"DASK_TEMPORARY_DIRECTORY": scratch.name, **environment})
    try:
        made.start_scheduler()
        for _ in range(workers):
            made.start_worker()
        yield made
    finally:
        made.close()
        scratch.cleanup()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its group, and wait for the end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until_open(port: int, timeout_s: float = 60) -> None:
    """Wait until somebody listens to a port."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens to port {port}")


def parts_in(folder: Path) -> int:
    """Finished parts of a run folder."""
    return len(list(folder.glob("parts/*/*.part")))

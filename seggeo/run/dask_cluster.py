"""Dask workers that predict: those of a running scheduler, processes of this machine, or jobs of SLURM.

Nothing here listens to the whole world: processes of this machine talk over loopback, jobs of SLURM over the interface
that Dask's own configuration names, or over the address of this host's name. Dask is imported where it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from seggeo.errors import ConfigError, ResourceError

LOOPBACK = "127.0.0.1"
_PRELOAD = "seggeo.run.dask_task"
_CONNECT_S = 15
_CLOSE_S = 2
_PATIENCE_S = 0.5
_MOST_JOBS = 8
"""Jobs of SLURM where nobody says how many."""
_LEAST_MEMORY = 1 << 30
_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # a part whose worker dies is ours to look after, at once
    "distributed.scheduler.work-stealing": False,  # few parts are in flight
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.nanny.http.routes": [],
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # a paused worker would wait for ever: what fills it is a model
    "distributed.worker.memory.terminate": False,
}
"""Of schedulers and workers that are started here."""
_LOST = "distributed.deploy.lost-worker-timeout"
_LOST_AFTER = {"local": "1h", "slurm": "1s"}
"""After this a worker that is gone is given up: a process of this machine is started anew by the one that watches it, however
long that takes, and with adapt(minimum=N) a job is replaced when it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Which workers predict."""

    where: str
    """`tcp://host:port`, `local:4`, `slurm` or `slurm:8`."""
    memory_bytes: int
    """What one of them needs; asked of SLURM."""
    folder: Path
    """Where jobs of SLURM leave what they say."""

    @property
    def is_started_here(self) -> bool:
        """True for workers that begin and end with this run."""
        return "://" not in self.where

    @property
    def count(self) -> int:
        """How many to start."""
        _, _, count = self.where.partition(":")
        return int(count) if count else _MOST_JOBS


def crew_of(where: str | None, *, memory_bytes: int, folder: Path) -> Crew | None:
    """The workers that `--dask` names; None where it is not given."""
    return None if where is None else Crew(where=where, memory_bytes=memory_bytes, folder=folder)


@dataclass(slots=True)
class _Shelf:
    """What stays open from one input to the next."""

    kept: ExitStack | None = None
    clients: dict[str, Any] = field(default_factory=dict)


@cache
def _shelf() -> _Shelf:
    return _Shelf()


@contextmanager
def kept_clusters() -> Iterator[None]:
    """Workers that are started inside serve every input after, and end with it."""
    shelf = _shelf()
    with ExitStack() as stack:
        shelf.kept = stack
        try:
            yield
        finally:
            shelf.kept = None
            shelf.clients.clear()


@contextmanager
def connected(crew: Crew) -> Iterator[Any]:
    """A `distributed.Client` of the workers.

    Raises:
        ConfigError: Dask is not installed.
        ResourceError: The scheduler does not answer, or jobs cannot be submitted.
    """
    shelf = _shelf()
    if shelf.kept is None:
        with ExitStack() as stack:
            yield _connect(crew, stack)
        return
    client = shelf.clients.get(crew.where)
    if client is None or client.status != "running":
        client = shelf.clients[crew.where] = _connect(crew, shelf.kept)
    yield client


def _connect(crew: Crew, stack: ExitStack) -> Any:
    dask, distributed = _imported("dask", crew), _imported("distributed", crew)
    _hush()
    address: Any = crew.where
    try:
        if crew.is_started_here:
            kind = crew.where.partition(":")[0]
            stack.enter_context(dask.config.set({**_SETTINGS, _LOST: _LOST_AFTER[kind]}))
            address = stack.enter_context(_local(crew) if kind == "local" else _slurm(crew))
        client = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, RuntimeError) as error:
        raise ResourceError(
            what=f"no Dask workers from --dask {crew.where}", why=" ".join(str(error).split()) or type(error).__name__,
            mend="see that the scheduler runs and can be reached from here; finished parts are kept",
        ) from error  # fmt: skip
    stack.callback(_close, client)
    return client


def _hush() -> None:
    """Keep Dask's loggers quiet, but for `--debug`: what goes wrong is told by us, in three lines."""
    if logging.getLogger("seggeo").isEnabledFor(logging.DEBUG):
        return
    for name in ("distributed", *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _close(client: Any) -> None:
    with suppress(OSError, TimeoutError):  # whoever has lost its scheduler cannot say goodbye
        client.close(timeout=_CLOSE_S)


def _imported(name: str, crew: Crew) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigError(
            what=f"--dask {crew.where} needs the package {error.name or name}", why="it is not installed",
            mend="pip install 'seggeo[dask]'",
        ) from error  # fmt: skip


@contextmanager
def _local(crew: Crew) -> Iterator[Any]:
    """Processes of this machine, one thread each, that can be reached from it alone."""
    from distributed import LocalCluster

    from seggeo.run.pool import without_main

    with without_main(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = LocalCluster(  # type: ignore[no-untyped-call,unused-ignore]
            n_workers=crew.count, threads_per_worker=1, processes=True, host=LOOPBACK, memory_limit=0,
            dashboard_address=f"{LOOPBACK}:0", scheduler_kwargs={"dashboard": False}, silence_logs=logging.CRITICAL,
            preload=[_PRELOAD],
        )  # fmt: skip
    try:
        yield cluster
    finally:
        _end(cluster)


@contextmanager
def _slurm(crew: Crew) -> Iterator[Any]:
    """Jobs of SLURM, one worker of one thread each, as many as are asked for: those that are lost are replaced.

    Queue, account, walltime and further directives are those of Dask's own configuration, `jobqueue.slurm`.
    """
    import dask

    jobqueue = _imported("dask_jobqueue", crew)
    said = dask.config.get("jobqueue.slurm", {})
    interface, extra = said.get("interface"), list(said.get("worker-extra-args") or [])
    # The job's shell fills in the name of its own machine.
    place = [] if interface else ["--host", "$(hostname)"]
    own_place = {} if interface else {"host": _own_ip()}
    cluster = jobqueue.SLURMCluster(
        cores=1, processes=1, memory=said.get("memory") or f"{max(_LEAST_MEMORY, int(crew.memory_bytes * 1.2))}B",
        **_logs(crew, said),
        worker_extra_args=[*extra, *place, "--no-dashboard", "--memory-limit", "0", "--preload", _PRELOAD],
        scheduler_options={"dashboard": False, "dashboard_address": f"{LOOPBACK}:0", **own_place},
        silence_logs=logging.CRITICAL,
    )  # fmt: skip
    try:
        cluster.adapt(minimum=crew.count, maximum=crew.count)
        yield cluster
    finally:
        _end(cluster)


def _logs(crew: Crew, said: Mapping[str, Any]) -> dict[str, Any]:
    """Where jobs leave what they say: in the run folder, unless its name is one that job scripts cannot hold."""
    folder = str((crew.folder / "dask").absolute())
    if said.get("log-directory"):
        return {}
    if re.fullmatch(r"[\w./+-]+", folder, re.ASCII):
        return {"log_directory": folder}
    return {"job_extra_directives": [*(said.get("job-extra-directives") or []), "--output=/dev/null"]}


def _own_ip() -> str:
    """The address that this host's name stands for: on clusters that of the network between its machines."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return LOOPBACK


def _end(cluster: Any) -> None:
    with suppress(OSError, TimeoutError, RuntimeError):
        cluster.sync(_end_processes, cluster)
    with suppress(OSError, TimeoutError, RuntimeError):
        cluster.close(timeout=_CLOSE_S)


async def _end_processes(cluster: Any) -> None:
    """End workers of this machine that may have a long tile in hand, for which a cluster waits."""
    from distributed import Nanny

    keepers = [keeper for keeper in cluster.workers.values() if isinstance(keeper, Nanny)]
    await asyncio.gather(*(keeper.close(timeout=_PATIENCE_S) for keeper in keepers), return_exceptions=True)

"""What this process may use of its machine: cores and memory, by affinity, control groups and the batch system's grant.

Control groups are nested and the tightest one holds, so that all from this process's own up to the root are looked at,
in the layout of either version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_GRANTS = ("NSLOTS", "LSB_DJOB_NUMPROC")
"""Cores that SGE and LSF grant a job."""
_UNKNOWN_MEMORY = 8 << 30


def available_cores(environment: Mapping[str, str] | None = None, root: Path = Path("/")) -> int:
    """Cores this process may use, at least 1.

    Args:
        environment: Variables of the process; default: this one's.
        root: Where `proc` and `sys` are.
    """
    given = os.environ if environment is None else environment
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, min([affinity, *_granted_cores(given), *_quotas(root)]))


def available_memory(environment: Mapping[str, str] | None = None, root: Path = Path("/")) -> int:
    """Bytes that this process and its children can still get; 8 GiB where nobody says.

    Args:
        environment: Variables of the process; default: this one's.
        root: Where `proc` and `sys` are.
    """
    given = os.environ if environment is None else environment
    amounts = [_free(root), *_granted_memory(given), *_limits(root)]
    return max(0, min(amounts))


def _granted_cores(given: Mapping[str, str]) -> Iterator[int]:
    names = list(_GRANTS)
    names.append("SLURM_CPUS_PER_TASK" if _number(given, "SLURM_CPUS_PER_TASK") else "SLURM_CPUS_ON_NODE")
    if "PBS_JOBID" in given:
        names.append("NCPUS")
    yield from (number for number in (_number(given, name) for name in names) if number)


def _granted_memory(given: Mapping[str, str]) -> Iterator[int]:
    """SLURM says it in MiB, for the node or for each core; 0 is all there is."""
    if node := _number(given, "SLURM_MEM_PER_NODE"):
        yield node << 20
    if core := _number(given, "SLURM_MEM_PER_CPU"):
        yield core * (_number(given, "SLURM_CPUS_ON_NODE") or _number(given, "SLURM_CPUS_PER_TASK") or 1) << 20


def _number(given: Mapping[str, str], name: str) -> int:
    said = given.get(name, "")
    return int(said) if said.isdigit() else 0


def _quotas(root: Path) -> Iterator[int]:
    """Cores by time quota, of each control group that has one."""
    for folder in _groups(root, "cpu"):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield max(1, int(quota) // int(period))
        with suppress(OSError, ValueError):
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                yield max(1, int(quota) // int(period))


def _limits(root: Path) -> Iterator[int]:
    """Bytes that each control group with a limit can still give; files in its cache can be dropped."""
    for folder in _groups(root, "memory"):
        for limit, usage, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with suppress(OSError, ValueError):
                most = int((folder / limit).read_text())
                yield most - max(0, int((folder / usage).read_text()) - _stat(folder, cache))


def _stat(folder: Path, name: str) -> int:
    lines = (folder / "memory.stat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.split()[0] == name), 0)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups for a controller, from its own to the root, as far as they can be seen."""
    mount = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            top = mount / controller if controllers else mount
            own = top / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top) and folder.is_dir())


def _free(root: Path) -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return _UNKNOWN_MEMORY

"""Cores and memory by control groups of both versions and by what batch systems grant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from seggeo.run.machine import available_cores, available_memory

GB = 10**9


def write(root: Path, files: dict[str, object]) -> Path:
    """A `proc` and `sys` of files; 64 GB are free."""
    for name, content in {"proc/meminfo": "MemTotal: 99000000 kB\nMemAvailable: 62500000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def second(folder: str, limit: object, used: int = 0, cache: int = 0) -> dict[str, object]:
    """A memory group of version 2."""
    at = f"sys/fs/cgroup/{folder}"
    return {f"{at}/memory.max": limit, f"{at}/memory.current": used, f"{at}/memory.stat": f"anon 1\ninactive_file {cache}"}


def first(folder: str, limit: object, used: int = 0, cache: int = 0) -> dict[str, object]:
    """One of version 1."""
    at, stat = f"sys/fs/cgroup/memory/{folder}", f"cache 1\ntotal_inactive_file {cache}"
    return {f"{at}/memory.limit_in_bytes": limit, f"{at}/memory.usage_in_bytes": used, f"{at}/memory.stat": stat}


OWN2 = {"proc/self/cgroup": "0::/slurm/job_7/step_0"}
OWN1 = {"proc/self/cgroup": "9:name=systemd:/x\n4:memory:/slurm/job_7\n2:cpu,cpuacct:/slurm/job_7\n0::/"}


@pytest.mark.parametrize(
    ("files", "memory"),
    [
        ({}, 64 * GB),
        ({**OWN2, **second("slurm/job_7/step_0", "max"), **second("slurm/job_7", 4 * GB)}, 4 * GB),
        ({**OWN2, **second("slurm/job_7/step_0", 6 * GB), **second("slurm", 4 * GB)}, 4 * GB),
        ({**OWN2, **second("slurm/job_7", 4 * GB, used=3 * GB, cache=2 * GB)}, 3 * GB),
        ({**OWN2, **second("slurm/job_7", 4 * GB, used=5 * GB)}, 0),
        ({**OWN2, **second("slurm/job_8", 1 * GB)}, 64 * GB),
        ({**OWN2, **second("", 5 * GB)}, 5 * GB),
        ({**OWN1, **first("slurm/job_7", 4 * GB, used=2 * GB, cache=1 * GB)}, 3 * GB),
        ({**OWN1, **first("slurm/job_7", 9223372036854771712), **first("slurm", 8 * GB)}, 8 * GB),
        ({"proc/self/cgroup": "4:memory:/docker/abc", **first("", 2 * GB)}, 2 * GB),
        ({"proc/self/cgroup": "0::/../../other", **second("", 2 * GB)}, 2 * GB),
    ],
)  # fmt: skip
def test_the_tightest_group_holds(tmp_path: Path, files: dict[str, object], memory: int):
    assert available_memory({}, write(tmp_path, files)) == memory


@pytest.mark.parametrize(
    ("given", "memory"),
    [({"SLURM_MEM_PER_NODE": "2000"}, 2000 << 20), ({"SLURM_MEM_PER_NODE": "0"}, 64 * GB),
     ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 2000 << 20),
     ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_PER_TASK": "2"}, 1000 << 20), ({"SLURM_MEM_PER_CPU": "much"}, 64 * GB)],
)  # fmt: skip
def test_slurms_grant_of_memory_counts(tmp_path: Path, given: dict[str, str], memory: int):
    assert available_memory(given, write(tmp_path, {})) == memory


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({**OWN2, "sys/fs/cgroup/slurm/job_7/cpu.max": "400000 100000"}, 4),
        ({**OWN2, "sys/fs/cgroup/slurm/cpu.max": "50000 100000", "sys/fs/cgroup/slurm/job_7/cpu.max": "max 100000"}, 1),
        ({**OWN1, "sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_quota_us": 300000,
          "sys/fs/cgroup/cpu/slurm/job_7/cpu.cfs_period_us": 100000}, 3),
        ({**OWN1, "sys/fs/cgroup/cpu/slurm/cpu.cfs_quota_us": -1, "sys/fs/cgroup/cpu/slurm/cpu.cfs_period_us": 100000}, 64),
    ],
)  # fmt: skip
def test_quotas_count(tmp_path: Path, files: dict[str, object], cores: int):
    assert available_cores({}, write(tmp_path, files)) == cores


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("given", "cores"),
    [({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "8"}, 3), ({"SLURM_CPUS_ON_NODE": "8"}, 8), ({"NSLOTS": "2"}, 2),
     ({"LSB_DJOB_NUMPROC": "5"}, 5), ({"NCPUS": "6"}, 64), ({"NCPUS": "6", "PBS_JOBID": "1.host"}, 6),
     ({"SLURM_CPUS_PER_TASK": "zero"}, 64), ({"NSLOTS": "0"}, 64)],
)  # fmt: skip
def test_grants_of_cores_count(tmp_path: Path, given: dict[str, str], cores: int):
    assert available_cores(given, write(tmp_path, {})) == cores


def test_this_machine_has_some_of_both():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    assert 10**7 < available_memory() < 10**15

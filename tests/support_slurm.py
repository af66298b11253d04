"""A real SLURM of two virtual nodes on this machine, for tests: brought up, asked, disturbed and taken down again."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from support_flow import clean_environment

SCRIPT = Path(__file__).parents[2] / "shared" / "slurm" / "slurm-up.sh"
_OWN = ("SLURM_", "SBATCH_", "PBS_", "LSB_", "SGE_", "JOB_ID")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """The running cluster."""

    folder: Path
    up_s: float
    """How long it took to bring it up."""

    def run(self, *words: str | Path, cwd: Path | None = None, **env: str) -> str:
        """Standard output of a command that must succeed, in the cluster's environment."""
        done = subprocess.run(
            [*map(str, words)], cwd=cwd, env=self.environment(**env), capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def environment(self, **more: str) -> dict[str, str]:
        """This process's, outside of any job, and the cluster's address."""
        outside = {name: value for name, value in clean_environment(**more).items() if not name.startswith(_OWN)}
        return {**outside, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def states(self) -> dict[str, str]:
        """State of every job and array task in the queue, by id."""
        return dict(line.split() for line in self.run("squeue", "-h", "-r", "-o", "%i %T").splitlines())

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job, or task of an array."""
        words = self.run("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def until_empty(self, timeout_s: float = 300) -> None:
        """Wait until no job is left."""
        assert until(lambda: not self.states(), timeout_s), f"{self.states()}\n{self.logs()}"

    def cancel_all(self) -> None:
        """Nothing runs or waits any more."""
        if self.states():
            self.run("scancel", "--full", "--signal=KILL", *self.states())
            self.run("scancel", *self.states())
        self.until_empty(60)

    def kill_node(self, name: str) -> None:
        """The daemon of a node, and all that runs on it, die at once."""
        os.kill(int((self.folder / f"slurmd-{name}.pid").read_text()), signal.SIGKILL)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("SLURMD_NODENAME") == name:
                    family = [process, *process.parents()]
                    for each in family:
                        if each.name().startswith("slurmstepd") or each is process:
                            each.kill()

    def start_node(self, name: str) -> None:
        """The node comes back."""
        subprocess.run(["slurmd", "-N", name], env=self.environment(), check=True)

    def logs(self) -> str:
        """The end of the controller's log."""
        return (self.folder / "log" / "slurmctld.log").read_text()[-2000:]


def until(is_so: Callable[[], object], timeout_s: float) -> bool:
    """Whether a condition came true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(0.1)
    return False


@contextmanager
def slurm_up() -> Iterator[Slurm]:
    """The cluster, alone on its ports; skips where it cannot be had."""
    if not SCRIPT.exists():
        pytest.skip(f"no {SCRIPT.parent.name}/{SCRIPT.name} beside the repository")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons are started by root")
    with (Path(tempfile.gettempdir()) / "slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # munge's own user must reach it, which pytest's folders forbid
        folder.chmod(0o755)
        try:
            done = subprocess.run(["bash", str(SCRIPT), str(folder)], capture_output=True, text=True, timeout=180, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            cluster = Slurm(folder=folder, up_s=time.monotonic() - began)
            yield cluster
            cluster.cancel_all()
        finally:
            _down(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _down(folder: Path) -> None:
    daemons = []
    for path in folder.glob("*.pid"):
        with suppress(ValueError, psutil.Error):
            daemons.append(psutil.Process(int(path.read_text())))
    for daemon in daemons:
        with suppress(psutil.Error):
            daemon.terminate()
    _, alive = psutil.wait_procs(daemons, timeout=20)
    for daemon in alive:
        daemon.kill()

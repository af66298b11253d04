"""Runs of the command in which writing fails at a chosen moment, each in a process of its own forked from a warm one.

`Faults` starts this file as a program with the library of `support_faults.c` preloaded; that program imports what a run
imports, and forks for every order. So a run costs a fraction of a second and is the real one, to the system call.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
from support_flow import below

HERE = Path(__file__).parent
_FORGOTTEN = ("SEGGEO_", "FAULT_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is to go wrong; with the defaults nothing does."""

    at: int = 0
    """Which call that changes files fails, from 1; 0: none."""
    error: int = 0
    """Its errno."""
    stays: bool = False
    """Whether all later calls fail, too, as on a full disk."""
    file_bytes: int = 0
    """Largest file that the system allows; 0: any."""
    locks_are_void: bool = False
    """Whether locks keep nobody out, as on some network file systems."""


NOTHING = Fault()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run ended."""

    code: int
    """Exit code; negative: of the signal that killed it."""
    out: str
    err: str
    calls: int
    """That changed files below the folder, where it is known."""
    cpu_s: float


class Faults:
    """The warm process."""

    def __init__(self, library: Path | None) -> None:
        preloaded = {} if library is None else {"LD_PRELOAD": str(library)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FORGOTTEN)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *([str(library)] if library else [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**kept, **preloaded, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}, text=True,
        )  # fmt: skip

    def run(self, *args: str | Path, cwd: Path, fault: Fault = NOTHING, timeout_s: float = 60) -> Ended:
        """Run `seggeo` with these arguments in `cwd`, below which writing fails as `fault` says."""
        return self.together(*args, cwd=cwd, delays_s=[0.0], fault=fault, timeout_s=timeout_s)[0]

    def together(
        self, *args: str | Path, cwd: Path, delays_s: Sequence[float], fault: Fault = NOTHING, timeout_s: float = 60
    ) -> list[Ended]:  # fmt: skip
        """The same command several times at once, each after a delay."""
        order = {"args": [str(arg) for arg in args], "cwd": os.path.realpath(cwd), "timeout_s": timeout_s, **asdict(fault)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([{**order, "delay_s": delay_s} for delay_s in delays_s]) + "\n")
        self._process.stdin.flush()
        return [Ended(**ended) for ended in json.loads(self._process.stdout.readline())]

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def shim(folder: Path) -> Path:
    """The library that makes writing fail, compiled; skips where that cannot be done."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler called cc, to make system calls fail")
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "support_faults.c"), "-ldl"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cc could not make the library: {done.stderr.decode()[:200]}")
    return library


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A file system mounted at an empty folder; skips where this process may not mount."""
    place.mkdir()
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount file systems: {done.stderr.decode().strip()[:200]}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def contents(folder: Path) -> dict[str, str]:
    """What lies in a folder: names, and digests of all files that do not tell of the run itself."""
    return {name: _digest(folder / name) for name in below(folder) if "__pycache__" not in name and "/nodes/" not in name}


def _digest(path: Path) -> str:
    tells_times = path.name in ("report.json", "batch.json")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not tells_times else ""


def serve(library: ctypes.CDLL | None) -> None:
    """Run orders from standard input, one JSON line each; imports what they have imported."""
    importlib.import_module("seggeo.cli.app")
    known = set(sys.modules)
    for line in sys.stdin:
        begun = [_begun(order, library) for order in json.loads(line)]
        ended = [_ended(*child) for child in begun]
        for name in {name for one in ended for name in one.pop("modules")} - known:
            known.add(name)
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        print(json.dumps(ended), flush=True)


def _begun(order: dict[str, Any], library: ctypes.CDLL | None) -> tuple[int, dict[str, int], float]:
    """One order in a child: its process, pipes by which it speaks, which no limit on files holds up, and its latest end."""
    pipes = {name: os.pipe() for name in ("out", "err", "told")}
    for _, end in pipes.values():
        fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 1 << 17)  # so that nobody need read before the child has ended
    child = os.fork()
    if child == 0:
        try:
            time.sleep(order["delay_s"])
            _run(order, library, {name: end for name, (_, end) in pipes.items()})
        finally:
            os._exit(1)
    for _, end in pipes.values():
        os.close(end)
    return child, {name: start for name, (start, _) in pipes.items()}, time.monotonic() + order["delay_s"] + order["timeout_s"]


def _ended(child: int, pipes: dict[str, int], latest: float) -> dict[str, Any]:
    """What became of a child."""
    status, cpu_s = _waited(child, latest)
    texts = {}
    for name, start in pipes.items():
        with open(start, encoding="utf-8", errors="backslashreplace") as stream:
            texts[name] = stream.read()
    told = json.loads(texts.pop("told") or '{"calls": 0, "modules": []}')
    return {"code": os.waitstatus_to_exitcode(status), "cpu_s": cpu_s, **texts, **told}


def _waited(child: int, end: float) -> tuple[int, float]:
    found = 0
    while not found:
        found, status, used = os.wait4(child, os.WNOHANG)
        if not found and time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return status, used.ru_utime + used.ru_stime


def _run(order: dict[str, Any], library: ctypes.CDLL | None, ends: dict[str, int]) -> NoReturn:
    """The command, in the child."""
    os.dup2(ends["out"], 1)
    os.dup2(ends["err"], 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["cwd"])
    sys.argv = ["seggeo", *order["args"]]
    if order["file_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_bytes"],) * 2)
    if library is not None:
        library.fault_void_locks(order["locks_are_void"])
        library.fault_arm(os.fsencode(order["cwd"]), order["at"], order["error"], order["stays"])
    code, calls = _main(), 0
    if library is not None:
        calls = library.fault_count()
        library.fault_arm(b"", 0, 0, 0)
    modules = [name for name in sys.modules if name.partition(".")[0] != "__main__"]
    with open(ends["told"], "w", encoding="utf-8") as stream:
        json.dump({"calls": calls, "modules": modules}, stream)
    os._exit(code)


def _main() -> int:
    from seggeo.cli.app import main

    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:  # noqa: BLE001 - told as Python itself would
        import traceback

        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    return 0


if __name__ == "__main__":
    found = None
    if len(sys.argv) > 1:
        found = ctypes.CDLL(sys.argv[1])
        found.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
        found.fault_arm.restype, found.fault_count.restype = None, ctypes.c_long
        found.fault_void_locks.argtypes, found.fault_void_locks.restype = [ctypes.c_int], None
    serve(found)

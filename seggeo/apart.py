"""Calls made in a process apart, which may crash or hang without harm to this one.

A C library that is given a damaged file may end the process it runs in, or never come back. So its work is done elsewhere:

1. `Apart.call` sends a function by name with its arguments; a process that `serve`s is started when there is none.
2. The answer, or the exception, comes back. Where the process died or kept silent, `LostError` says how; the next call gets
   a new one.
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any

_MAIN = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from seggeo.apart import serve; serve(int(sys.argv[2]))"
_LONGEST_WORDS = 200


class LostError(Exception):
    """The process apart gave no answer."""

    def __init__(self, why: str, *, hung: bool = False) -> None:
        super().__init__(why)
        self.hung = hung
        """True when it was still running, and was ended."""


class Apart:
    """One process that runs functions for this one, one at a time; safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection[Any, Any] | None = None
        self._words: IO[bytes] | None = None
        self._owner = os.getpid()
        atexit.register(self.close)

    def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float) -> Any:
        """What `function(*arguments)` gives in the other process, or its exception.

        Args:
            function: Found by its name in its module, which the other process imports.
            *arguments: They and the answer are pickled.
            timeout_s: Longest silence; the process is ended then.

        Raises:
            LostError: It died, or kept silent for `timeout_s`.
            Exception: What the function raised.
        """
        with self._lock:
            line = self._open()
            try:
                line.send_bytes(pickle.dumps((function, arguments)))
                answer = pickle.loads(line.recv_bytes()) if line.poll(timeout_s) else None
            except (EOFError, OSError) as error:
                raise LostError(self._last_words()) from error
            except BaseException:  # also a stop by a signal: the answer would be taken for that of the next call
                self._end()
                raise
            if answer is None:
                self._end()
                raise LostError(f"it gave no answer in {timeout_s:g} s", hung=True)
        is_value, value = answer
        if is_value:
            return value
        raise value

    def close(self) -> None:
        """End the process; the next call starts another."""
        with self._lock:
            self._end()

    def _open(self) -> Connection[Any, Any]:
        if self._owner != os.getpid():  # a fork of this process: the line is the parent's
            self._process = self._line = self._words = None
            self._owner = os.getpid()
        if self._line is None:
            ours, theirs = Pipe()
            self._words = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as the process lives
            # -I: nothing of the working directory may be imported, which may be a folder of anyone's files.
            command = [sys.executable, "-I", "-c", _MAIN, json.dumps(sys.path), str(theirs.fileno())]
            with theirs:
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=self._words, stderr=self._words
                )
            self._line = ours
        return self._line

    def _last_words(self) -> str:
        """How the process ended, and what it said last."""
        process, words = self._process, self._words
        assert process is not None
        assert words is not None
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        code = process.poll()
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        words.seek(0)
        said = [line for line in words.read().decode(errors="replace").splitlines() if line.strip()]
        self._end()
        return f"it ended the process that read it ({name})" + (f": {said[-1].strip()[:_LONGEST_WORDS]}" if said else "")

    def _end(self) -> None:
        process, line, words = self._process, self._line, self._words
        self._process = self._line = self._words = None
        if process is None or line is None or words is None or self._owner != os.getpid():
            return
        line.close()
        words.close()
        process.kill()
        process.wait()


def serve(number: int) -> None:
    """Answer calls that come over a file descriptor until the other end is gone."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):  # sent to the whole group; the parent decides what becomes of it
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _leave_no_core()
    line: Connection[Any, Any] = Connection(number)
    while True:
        try:
            function, arguments = pickle.loads(line.recv_bytes())
        except EOFError:
            return
        # 5: pixels are copied once less.
        line.send_bytes(pickle.dumps(_answer(function, arguments), 5))


def _answer(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, function(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
        return False, error


def _leave_no_core() -> None:
    """A crash must not write a memory dump beside the user's files."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also while a call hangs."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

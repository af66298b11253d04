"""What is being added up for the objects of a volume: a row of numbers each, most of them on disk.

Ids ascend by the first slice, so rows that are worked on lie together: a few blocks of them are kept in memory, and the
one that was used longest ago goes to a file when there are more. It comes back if an object is met again.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ROWS = 4096  # of a block: 1 MB with 30 columns
_BLOCKS = 48  # in memory


class Ledger:
    """Rows of float64 by 1-based id; close it, or use `with`, to remove its file."""

    def __init__(self, fresh: Sequence[float], folder: Path | None = None, *, blocks: int = _BLOCKS) -> None:
        """Every row begins as `fresh`; the file lies in `folder`, by default where the system has its temporary ones."""
        self._fresh = np.asarray(fresh, np.float64)
        self._most = blocks
        self._held: OrderedDict[int, FloatArray] = OrderedDict()
        self._filed: set[int] = set()
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """Forget everything."""
        self._file.close()
        self._held.clear()

    def take(self, ids: IntArray) -> FloatArray:
        """`(n, k)` copies of the rows of ids in ascending order."""
        rows = np.empty((len(ids), len(self._fresh)))
        for number, part in _parts(ids):
            rows[part] = self._block(number)[(ids[part] - 1) % _ROWS]
        return rows

    def put(self, ids: IntArray, rows: FloatArray) -> None:
        """Replace the rows of ids in ascending order, none of them twice."""
        for number, part in _parts(ids):
            self._block(number)[(ids[part] - 1) % _ROWS] = rows[part]

    def blocks(self) -> Iterator[tuple[IntArray, FloatArray]]:
        """All rows, touched or still fresh, in ascending order of id: ids `(n,)` and rows `(n, k)`."""
        for number in sorted(self._filed | set(self._held)):
            yield np.arange(number * _ROWS + 1, (number + 1) * _ROWS + 1), self._block(number).copy()

    def _block(self, number: int) -> FloatArray:
        block = self._held.get(number)
        if block is None:
            while len(self._held) >= self._most:
                self._write(*self._held.popitem(last=False))
            self._held[number] = block = self._read(number)
        self._held.move_to_end(number)
        return block

    def _read(self, number: int) -> FloatArray:
        shape = _ROWS, len(self._fresh)
        if number not in self._filed:
            return np.tile(self._fresh, (_ROWS, 1))
        self._file.seek(number * _ROWS * self._fresh.nbytes)
        return np.frombuffer(bytearray(self._file.read(_ROWS * self._fresh.nbytes)), np.float64).reshape(shape)

    def _write(self, number: int, block: FloatArray) -> None:
        self._file.seek(number * block.nbytes)
        self._file.write(block.tobytes())
        self._filed.add(number)


def _parts(ids: IntArray) -> Iterator[tuple[int, slice]]:
    """Numbers of blocks and the stretch of ids that lies in each."""
    number = (ids - 1) // _ROWS
    cuts = np.flatnonzero(np.diff(number)) + 1
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(ids)], strict=True):
        if last > first:
            yield int(number[first]), slice(first, last)

"""MetaImage (`.mha`, `.mhd`) and NRRD (`.nrrd`, `.nhdr`) volumes.

SimpleITK says what a file means: sizes, spacing, directions, types. Voxels are read from the file itself, box by box, since
SimpleITK reads most of these files only whole. What is packed is unpacked once to a nameless file in the folder for
temporary files, a piece at a time, and read from there.
"""

from __future__ import annotations

import bz2
import tempfile
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Reading
from seggeo.errors import ResourceError, SourceError
from seggeo.geometry import matrix_of
from seggeo.io.checks import fingerprint_of
from seggeo.io.volume_file import Box, VolumeFacts
from seggeo.io.volume_itk_head import Head, read_head

_PIECE = 4 * 2**20
_WHOLE = 512 * 2**20
"""Bytes of voxels up to which SimpleITK may read a volume of a rare form whole."""
_COLORS = ("red", "green", "blue")


def open_itk(path: Path, name: str, reading: Reading) -> ItkVolume:  # noqa: ARG001 - one signature for all backends
    """The volume of a MetaImage or NRRD file.

    Args:
        path: The file, or the head of one whose voxels lie beside it.
        name: What the user is shown.
        reading: Nothing of it matters here.

    Raises:
        SourceError: Damaged, cut off, voxels in another folder, or SimpleITK is not installed.
    """
    head = read_head(path, name)
    shape, facts = _facts(path, name, head)
    needed = int(np.prod(shape, dtype=np.int64)) * facts.dtype.itemsize
    size = head.data.stat().st_size
    if head.packing == "raw" and size < max(head.offset, 0) + needed:
        raise _cut_off(name, size - max(head.offset, 0), needed)
    if head.packing == "other" and needed > _WHOLE:
        raise SourceError(
            what=f"{name} would have to be read whole",
            why=f"it has {needed / 2**20:.0f} MiB of voxels as text or in an unusual order; the limit is {_WHOLE >> 20} MiB",
            mend='write it anew: SimpleITK.WriteImage(SimpleITK.ReadImage("IN"), "OUT.mha", useCompression=True)',
        )
    return ItkVolume(path, name, facts, (head, shape))


class ItkVolume:
    """An open volume; satisfies `VolumeFile`."""

    def __init__(self, path: Path, name: str, facts: VolumeFacts, layout: tuple[Head, tuple[int, ...]]) -> None:
        self.facts = facts
        self._path = path
        self._name = name
        self._head, self._shape = layout
        self._lock = threading.Lock()
        self._unpacked: IO[bytes] | None = None

    def read(self, box: Box, channel: int, time: int) -> NDArray[Any]:
        """Voxels of a box, `(n0, n1, n2)`, of one channel and time.

        Raises:
            SourceError: The file is damaged.
            ResourceError: There is no room to unpack it.
        """
        voxels = self._voxels()
        if self._head.is_list:
            time, channel = 0, time
        return np.array(voxels[time, *box, channel], self.facts.dtype, order="C")

    def is_empty(self, box: Box) -> bool:  # noqa: ARG002 - every voxel is written
        """False: these formats hold every voxel."""
        return False

    def fingerprint(self) -> dict[str, Any]:
        """Of the file, and of that with the voxels where it is another."""
        marks = fingerprint_of(str(self._path))
        return marks if self._head.data == self._path else {**marks, "voxels": fingerprint_of(str(self._head.data))}

    def close(self) -> None:
        """Release the unpacked voxels."""
        if self._unpacked is not None:
            self._unpacked.close()
            self._unpacked = None

    def _voxels(self) -> NDArray[Any]:
        """All voxels `(time, axis 0, 1, 2, channel)`, mapped anew so that pages read before are not kept."""
        kind = self.facts.dtype.newbyteorder(">" if self._head.is_big else "<")
        if self._head.packing == "raw":
            offset = self._head.offset
            if offset < 0:
                offset = self._head.data.stat().st_size - int(np.prod(self._shape, dtype=np.int64)) * kind.itemsize
            try:
                return np.memmap(self._head.data, kind, "r", offset, self._shape)
            except (OSError, ValueError) as error:
                raise SourceError(
                    what=f"{self._name} cannot be read", why=str(error), mend="it was changed or removed meanwhile: run again"
                ) from error
        with self._lock:
            if self._unpacked is None:
                self._unpacked = self._unpack()
        kind = self.facts.dtype if self._head.packing == "other" else kind
        return np.memmap(self._unpacked, kind, "r", 0, self._shape)

    def _unpack(self) -> IO[bytes]:
        needed = int(np.prod(self._shape, dtype=np.int64)) * self.facts.dtype.itemsize
        file: IO[bytes] = tempfile.TemporaryFile(prefix="seggeo-")  # noqa: SIM115 - stays open as long as the volume
        done = 0
        try:
            for piece in _pieces(self._path, self._name, self._head):
                done += len(piece)
                if done > needed:
                    break
                file.write(piece)
            file.flush()
        except OSError as error:
            file.close()
            if isinstance(error, SourceError):
                raise
            raise ResourceError(
                what=f"{self._name} could not be unpacked",
                why=f"it needs {needed / 2**30:.1f} GiB in {tempfile.gettempdir()}: {error}",
                mend="set TMPDIR to a folder on a disk with more room",
            ) from error  # fmt: skip
        if done != needed:
            file.close()
            raise _cut_off(self._name, done, needed)
        return file


def _pieces(path: Path, name: str, head: Head) -> Iterator[bytes]:
    """Unpacked bytes of all voxels, some at a time."""
    if head.packing == "other":
        yield _whole(path, name, head)
        return
    unpacker = bz2.BZ2Decompressor() if head.packing == "bz2" else zlib.decompressobj(47)  # 47: zlib's head or gzip's
    try:
        with head.data.open("rb") as file:
            file.seek(head.offset)
            while not unpacker.eof:
                waiting = unpacker.unconsumed_tail if head.packing == "zlib" else b""  # type: ignore[union-attr]
                packed = waiting
                if not waiting and (head.packing == "zlib" or unpacker.needs_input):  # type: ignore[union-attr]
                    packed = file.read(_PIECE)
                    if not packed:
                        return
                yield unpacker.decompress(packed, _PIECE)
    except (zlib.error, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise SourceError(
            what=f"{name} is damaged", why=f"its voxels cannot be unpacked: {error}", mend="copy or download the file again"
        ) from error


def _whole(path: Path, name: str, head: Head) -> bytes:
    import SimpleITK

    try:
        image = SimpleITK.ReadImage(str(path), imageIO=head.io)
    except RuntimeError as error:
        raise _refused(name, error) from error
    return SimpleITK.GetArrayViewFromImage(image).tobytes()


def _facts(path: Path, name: str, head: Head) -> tuple[tuple[int, ...], VolumeFacts]:
    """Shape of the file `(time, axis 0, 1, 2, channel)`, and what it says of itself."""
    reader = _information(path, name, head)
    size, dimension, parts = reader.GetSize(), reader.GetDimension(), reader.GetNumberOfComponents()
    if dimension not in (2, 3, 4) or min(size) < 1:
        raise SourceError(
            what=f"{name} has {dimension} axes of {size} voxels", why="a volume has 3, and perhaps one of time",
            mend="write one volume to a file of its own",
        )  # fmt: skip
    x, y, z, times = (*size, 1, 1)[:4]
    if head.is_list:
        times, parts = parts, 1
    dtype = _dtype(reader, name)
    is_rgb = parts == 3 and dtype == np.uint8
    shape = (1, z, y, x, times) if head.is_list else (times, z, y, x, parts)
    names = _COLORS if is_rgb else ("gray",) if parts == 1 else tuple(f"channel {i}" for i in range(1, parts + 1))
    matrix = _matrix(reader, dimension, name)
    return shape, VolumeFacts(
        kind=head.kind, family="itk", shape=(z, y, x), dtype=dtype, channels=names, is_rgb=is_rgb, times=times,
        matrix=matrix_of(matrix), space="LPS" if head.has_space else "", unit=head.unit, chunk=(1, y, x),
        header={"format": "nrrd" if head.kind == "NRRD" else "mha"}, notes={"packed": head.packing != "raw"},
    )  # fmt: skip


def _information(path: Path, name: str, head: Head) -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        raise SourceError(what=f"{name} needs SimpleITK", why=str(error), mend='pip install "seggeo[volumes-more]"') from error
    library: Any = SimpleITK  # whose types are not all told
    reader = library.ImageFileReader()
    reader.SetImageIO(head.io)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _refused(name, error) from error
    return reader


def _matrix(reader: Any, dimension: int, name: str) -> NDArray[np.float64]:
    """LPS from `(axis 0, axis 1, axis 2, 1)`."""
    ways = np.eye(4)
    ways[:dimension, :dimension] = np.reshape(reader.GetDirection(), (dimension, dimension))
    steps = np.array([*reader.GetSpacing(), 1.0, 1.0][:3])
    origin = np.array([*reader.GetOrigin(), 0.0, 0.0][:3])
    steps_way = ways[:3, :3] * steps
    if not np.isfinite([*steps_way.ravel(), *origin]).all() or abs(np.linalg.det(steps_way)) < 1e-12:
        raise SourceError(
            what=f"the axes of {name} do not span a volume",
            why=f"directions {ways[:3, :3].tolist()}, spacing {steps.tolist()}",
            mend="repair its header",
        )  # fmt: skip
    return np.column_stack([steps_way[:, ::-1], origin])


def _dtype(reader: Any, name: str) -> np.dtype[Any]:
    import SimpleITK

    library: Any = SimpleITK
    kinds = {"UInt": "u", "Int": "i", "Float": "f"}
    for prefix in ("", "Vector"):
        for kind, letter in kinds.items():
            for bits in (8, 16, 32, 64):
                number = getattr(library, f"sitk{prefix}{kind}{bits}", None)
                if number is not None and number == reader.GetPixelID():
                    return np.dtype(f"{letter}{bits // 8}")
    raise SourceError(
        what=f"{name} holds {library.GetPixelIDValueAsString(reader.GetPixelID())}",
        why="only whole and real numbers are read", mend="convert its voxels to one of these",
    )  # fmt: skip


def _cut_off(name: str, size: int, needed: int) -> SourceError:
    return SourceError(
        what=f"{name} is cut off or damaged", why=f"it has {size} bytes of voxels and should have {needed}",
        mend="copy or download the file again",
    )  # fmt: skip


def _refused(name: str, error: Exception) -> SourceError:
    text = str(error).strip().splitlines()
    return SourceError(
        what=f"{name} cannot be read", why=text[-1] if text else type(error).__name__, mend="copy or export the file again"
    )

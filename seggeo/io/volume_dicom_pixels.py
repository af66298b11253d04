"""Pixels of DICOM planes: decoded one at a time, and brought from stored values to what they mean."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.io.volume_dicom_headers import Plane, quiet, uid_name

_KEPT = 4
_DECODING = threading.Lock()
"""Held while pydicom is told not to complain, which it can be told for a whole process only."""
_INT_LIMIT = 2.0**31
_PACKAGES = {
    "1.2.840.10008.1.2.4.50": "pylibjpeg pylibjpeg-libjpeg", "1.2.840.10008.1.2.4.51": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.57": "pylibjpeg pylibjpeg-libjpeg", "1.2.840.10008.1.2.4.70": "pylibjpeg pylibjpeg-libjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg pylibjpeg-openjpeg", "1.2.840.10008.1.2.4.91": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg pylibjpeg-openjpeg", "1.2.840.10008.1.2.4.202": "pylibjpeg pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg pylibjpeg-openjpeg",
}  # fmt: skip


def check_decoder(syntax: str, name: str) -> None:
    """Refuse what no installed package decodes.

    Raises:
        SourceError: With the package that would.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    try:
        with quiet():
            is_known = not syntax or bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        is_known = False
    if not is_known:
        package = _PACKAGES.get(syntax)
        raise SourceError(
            what=f"{name} is compressed in a way that cannot be read here",
            why=f"its transfer syntax is {uid_name(syntax)}",
            mend=f"pip install {package}" if package else "convert it: gdcmconv --raw IN OUT, or dcmdjpeg IN OUT",
        )


def value_type(planes: Iterable[Plane]) -> np.dtype[Any]:
    """Of the rescaled values of all planes: the smallest integers that hold them where all are whole, else float32."""
    low, high = 0.0, 0.0
    for layout, slope, intercept in {(p.layout, p.slope, p.intercept) for p in planes}:
        if layout.is_float or not (slope.is_integer() and intercept.is_integer()):
            return np.dtype(np.float32)
        ends = (-(2.0 ** (layout.bits - 1)), 2.0 ** (layout.bits - 1) - 1) if layout.is_signed else (0.0, 2.0**layout.bits - 1)
        values = [end * slope + intercept for end in ends]
        low, high = min(low, *values), max(high, *values)
    kinds = (np.uint8, np.uint16, np.int16, np.int32, np.uint32)
    fitting = (kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return np.dtype(next(fitting, np.float32))


def padding_value(planes: Sequence[Plane]) -> float | None:
    """The rescaled value that means no data: NaN where it differs from plane to plane, None where nothing says so."""
    values = {p.layout.padding[0] * p.slope + p.intercept for p in planes if p.layout.padding is not None}
    if not values:
        return None
    if len(values) == 1 and all(p.layout.padding is not None for p in planes):
        return values.pop()
    return float("nan") if value_type(planes).kind == "f" else None


class PlaneReader:
    """Decodes planes; keeps the last few, which windows of one slice ask for again and again. Thread-safe."""

    def __init__(self, dtype: np.dtype[Any], nodata: float | None) -> None:
        self._dtype = dtype
        self._nodata = nodata
        self._kept: OrderedDict[tuple[str, int], NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, plane: Plane) -> NDArray[Any]:
        """`(rows, cols, samples)` of a plane, rescaled.

        Raises:
            SourceError: Its pixels are damaged.
        """
        key = (plane.path, plane.frame)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        values = self._rescaled(plane, self._decoded(plane))
        with self._lock:
            self._kept[key] = values
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return values

    def forget(self) -> None:
        """Drop what is kept."""
        with self._lock:
            self._kept.clear()

    def _decoded(self, plane: Plane) -> NDArray[Any]:
        layout = plane.layout
        try:
            with _DECODING, quiet():
                stored = np.asarray(_stored(plane))
        except Exception as error:  # noqa: BLE001 - decoders raise whatever the library behind them does
            raise SourceError(
                what=f"image {plane.frame + 1} of {plane.path} cannot be decoded", why=str(error) or type(error).__name__,
                mend="copy or export the file again",
            ) from error  # fmt: skip
        if stored.size != layout.rows * layout.cols * layout.samples:
            raise SourceError(
                what=f"image {plane.frame + 1} of {plane.path} is damaged",
                why=f"it has the shape {stored.shape}, and its header says {layout.rows} x {layout.cols} x {layout.samples}",
                mend="copy or export the file again",
            )
        return stored.reshape(layout.rows, layout.cols, layout.samples)

    def _rescaled(self, plane: Plane, stored: NDArray[Any]) -> NDArray[Any]:
        layout = plane.layout
        stored = stored if layout.is_float else _trimmed(stored, layout.bits, is_signed=layout.is_signed)
        if self._dtype.kind == "f":
            values = (stored * plane.slope + plane.intercept).astype(self._dtype)
        elif (plane.slope, plane.intercept) == (1.0, 0.0):
            values = stored.astype(self._dtype)
        else:
            values = (stored.astype(np.int64) * int(plane.slope) + int(plane.intercept)).astype(self._dtype)
        if self._nodata is not None and layout.padding is not None:
            low, high = layout.padding
            values[(stored >= low) & (stored <= high)] = self._nodata
        return values


def _stored(plane: Plane) -> NDArray[Any]:
    """Stored values of a plane, colours as red, green and blue."""
    import pydicom
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with open(plane.path, "rb") as stream:
        stream.seek(128)
        if stream.read(4) == b"DICM":
            return pixel_array(plane.path, index=plane.frame)
    dataset = pydicom.dcmread(plane.path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    return pixel_array(dataset, index=plane.frame)


def _trimmed(stored: NDArray[Any], bits: int, *, is_signed: bool) -> NDArray[Any]:
    """Values of the bits that hold one; some scanners keep overlays and rubbish in the others."""
    unused = 8 * stored.dtype.itemsize - bits
    if unused <= 0:
        return stored
    kind = np.dtype(f"{'i' if is_signed else 'u'}{stored.dtype.itemsize}")
    raised = stored.view(kind) << kind.type(unused)
    return np.asarray(raised >> kind.type(unused))

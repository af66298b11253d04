"""Label rasters: one integer per pixel, 0 and below background, pixels of one value one object.

1. The file is read in windows of whole blocks; each window's objects become runs at once (`_pieces`).
2. Objects found in one window only are finished; those of several are joined (`_joined`).
3. All are put in ascending order of id, a bounded number at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances, concat
from seggeo.io.annotations_record import Annotations, check_no_negative_ids, size_mismatch
from seggeo.io.checks import Input, check_input
from seggeo.io.frames import file_frame
from seggeo.io.opening import GDAL_ERRORS, check_dataset, damaged, gdal_settings, open_dataset
from seggeo.rle import Spans, labels_to_spans, normalise

IntArray = NDArray[np.int64]
_WINDOW_PX = 16 * 2**20
_TAKEN = 100_000
_OFF_PX = 0.5
"""Distance of corners from which labels lie elsewhere."""


def read_label_raster(path: Path, frame: Frame | None) -> Annotations:
    """The objects of a label raster; its own grid is the frame unless one is given, which must have its size.

    Raises:
        SourceError: Not a readable raster, several bands, not integers, or of another size than `frame`.
    """
    reading = Reading()
    entry = check_input(str(path), reading)
    ds = open_dataset(entry)
    try:
        with gdal_settings(entry):
            check_dataset(ds, entry, reading)
            _check_labels(ds, entry)
            own = file_frame(ds)
            if frame is not None and (frame.height, frame.width) != (own.height, own.width):
                raise size_mismatch(str(path), (own.height, own.width), frame)
            if frame is not None:
                _check_position(own, frame, str(path))
            instances, ids = _read(ds)
    except GDAL_ERRORS as error:
        raise damaged(entry, error) from error
    finally:
        ds.close()
    return Annotations(
        instances=instances, ids=ids, classes=("object",), scored=False, exclusive=True, frame=frame or own,
        crowd=np.zeros(len(ids), np.bool_),
    )  # fmt: skip


def _check_labels(ds: DatasetReader, entry: Input) -> None:
    kind = np.dtype(ds.dtypes[0])
    if ds.count != 1:
        raise SourceError(
            what=f"{entry.name} is no label raster",
            why=f"it has {ds.count} bands; labels are one band with one number for each object",
            mend="write the ids as one integer band; a picture of the labels in colours cannot be read back",
        )
    if kind.kind not in "iu":
        raise SourceError(
            what=f"{entry.name} is no label raster",
            why=f"its values are {kind.name}, and ids are integers",
            mend="convert it: gdal_translate -ot UInt32 IN OUT.tif",
        )


def _check_position(own: Frame, frame: Frame, name: str) -> None:
    """Two grids of one size may still show two places; without a position of its own a raster is taken to fit."""
    if own.crs is None or frame.crs is None or own.transform.is_identity:
        return
    rows, cols = np.array([0.0, 0.0, own.height, own.height]), np.array([0.0, own.width, 0.0, own.width])
    if CRS.from_wkt(own.crs).equals(CRS.from_wkt(frame.crs), ignore_axis_order=True):
        down, right = frame.world_to_pixel(*own.pixel_to_world(rows, cols))
        off = float(max(np.abs(down - rows).max(), np.abs(right - cols).max()))
        if off <= _OFF_PX:
            return
        why = f"its corners lie up to {off:.1f} px from the image's"
    else:
        why = f"its CRS is {CRS.from_wkt(own.crs).name} and the image's {CRS.from_wkt(frame.crs).name}"
    raise SourceError(
        what=f"{name} does not lie on its image", why=why, mend="warp the labels onto the image's grid: gdalwarp -r near"
    )


def _read(ds: DatasetReader) -> tuple[Instances, IntArray]:
    batches, ids = [Instances.empty()], [np.zeros(0, np.int64)]
    for instances, found in _pieces(ds):
        batches.append(instances)
        ids.append(found)
    pieces, names = concat(batches), np.concatenate(ids)
    order = np.argsort(names, kind="stable")
    ranked = names[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if len(ranked) else order
    count = np.diff(np.concatenate([starts, [len(ranked)]]))
    # Joining needs spans, eight times the memory of runs: only what lies in several windows pays it.
    joined = _joined(pieces.take(order[np.repeat(count > 1, count)]), count[count > 1])
    source = np.empty(len(starts), np.int64)
    source[count == 1] = order[starts[count == 1]]
    source[count > 1] = len(pieces) + np.arange(len(joined))
    both = concat([pieces, joined])
    del pieces
    return concat([both.take(source[i : i + _TAKEN]) for i in range(0, len(source), _TAKEN)]), ranked[starts]


def _pieces(ds: DatasetReader) -> Iterator[tuple[Instances, IntArray]]:
    nodata = ds.nodata
    for window in _windows(ds):
        values = ds.read(1, window=RasterWindow(window.col, window.row, window.width, window.height))
        if not values.any():
            continue
        spans, ids = labels_to_spans(_as_ids(values, nodata, ds.name))
        if len(ids):
            own = Spans(
                owner=spans.owner, row=spans.row + window.row, start=spans.start + window.col, stop=spans.stop + window.col
            )
            yield Instances.from_spans(own, score=np.ones(len(ids), np.float32), label=0), ids


def _as_ids(values: NDArray[Any], nodata: float | None, name: str) -> NDArray[Any]:
    if nodata is not None and nodata > 0:
        values = np.where(values == nodata, values.dtype.type(0), values)
    if values.dtype == np.uint64:
        if values.max() > np.iinfo(np.int64).max:
            raise SourceError(
                what=f"{name} holds ids above 9 223 372 036 854 775 807",
                why="ids are kept in 63 bits",
                mend="number the objects anew from 1",
            )
        return values.astype(np.int64)
    check_no_negative_ids(values, name, nodata)
    return values


def _windows(ds: DatasetReader) -> Iterator[Window]:
    """Windows of whole blocks, as wide as fits: a row of blocks is read once."""
    rows, cols = ds.block_shapes[0]
    width = min(ds.width, max(cols, _WINDOW_PX // max(rows, 1) // cols * cols))
    height = min(ds.height, max(rows, min(1024, _WINDOW_PX // width) // rows * rows))
    for row in range(0, ds.height, height):
        for col in range(0, ds.width, width):
            yield Window.from_bounds(row, col, min(row + height, ds.height), min(col + width, ds.width))


def _joined(pieces: Instances, count: IntArray) -> Instances:
    """One instance of every `count[k]` consecutive ones."""
    spans = pieces.spans()
    owner = np.repeat(np.arange(len(count)), count)[spans.owner]
    whole = normalise(Spans(owner=owner, row=spans.row, start=spans.start, stop=spans.stop))
    return Instances.from_spans(whole, score=np.ones(len(count), np.float32), label=0)

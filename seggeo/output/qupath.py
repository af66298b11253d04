"""Cells for QuPath: GeoJSON as its import reads it, streamed, and written as fast as numbers can be spelled.

What QuPath wants of a feature (its own type adapters, versions 0.5 and 0.6): an `id` that is a UUID; `geometry` in pixels of
the full-resolution image, x to the right and y down, with a `plane`; `objectType` in the properties, since a feature without
one becomes an annotation, which is slow by the hundred thousand; `classification` with name and colour; `measurements` that
map names to numbers and to nothing else: a null there fails the import of the whole file.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from hashlib import sha1
from pathlib import Path
from typing import IO, Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

from seggeo.files import publishing
from seggeo.output.cells_table import Cells, Extras, Scale, iter_cells, picture_of
from seggeo.output.features import class_names, provenance_text
from seggeo.output.polygons import Polygons, outlines, simplify, to_world
from seggeo.output.style import colour_of
from seggeo.protocols import Result, SinkOptions

_LEVEL = 4  # of gzip; a million cells in CPU s and MB: level 1 6.0 and 195, 4 10.5 and 162, 6 28.5 and 144
_POSITIVE, _NEGATIVE = (215, 50, 50), (90, 120, 220)
_NONE = Extras()


def write_qupath(result: Result, path: Path, options: SinkOptions, *, extras: Extras = _NONE) -> Path:
    """Write all cells as QuPath detections and return `path`; gzipped when it ends in `.gz`.

    Outlines run along pixel edges of the work grid, in whole pixels where the slide's scale allows, else in hundredths;
    exteriors are counter-clockwise as RFC 7946 counts. Ids are uuid5 of the job and the cell, so the same job gives the same
    bytes. `options.simplify_m` is in pixels of the work grid.

    Raises:
        OutputError: The result has several slices, or `path` cannot be written.
        ResourceError: The disk is full.
    """
    writer = _Writer(result, extras, options.simplify_m)
    with publishing(path, options.scratch) as temporary, ExitStack() as stack:
        out: IO[bytes] | gzip.GzipFile = stack.enter_context(temporary.open("wb"))
        if path.suffix == ".gz":  # no name and no time in the header: the same bytes every time
            out = stack.enter_context(gzip.GzipFile("", "wb", _LEVEL, out, mtime=0))
        out.write(f'{{"type":"FeatureCollection","seggeo":{provenance_text(result)},"features":['.encode())
        between = b"\n"
        for cells in iter_cells(result, extras, temporary.parent):
            out.write(between)
            out.write(",\n".join(writer.features(cells)).encode())
            between = b",\n"
        out.write(b"\n]}\n")
    return path


class _Writer:
    """Everything about a result that its features share."""

    def __init__(self, result: Result, extras: Extras, simplify_px: float) -> None:
        self._frame, self._simplify_px = picture_of(result.frame), simplify_px
        transform = tuple(self._frame.transform)[:6]
        self._number = "%d" if all(float(v).is_integer() for v in transform) else "%.2f"
        self._forms: dict[int, str] = {}
        self._space = uuid5(NAMESPACE_URL, f"seggeo:{provenance_text(result)}").bytes
        self._classes = _classifications(class_names(result.classes).to_pylist(), is_split=extras.positive is not None)
        self._positive = extras.positive
        self._names = _measurement_names(Scale.of(result.frame), extras)

    def features(self, cells: Cells) -> Iterator[str]:
        """One line for each cell, without commas between."""
        label = cells.objects.instances.label
        if self._positive is not None:
            label = 2 * label + (cells.extra[self._positive] == 0)
        rows = zip(
            self._uuids(cells.objects.id), self._geometries(self._outlines(cells)), label.tolist(),
            self._measurements(cells), strict=True,
        )  # fmt: skip
        for uuid, geometry, kind, measurements in rows:
            yield (
                f'{{"type":"Feature","id":"{uuid}","geometry":{{{geometry},"plane":{{"c":-1,"z":0,"t":0}}}},"properties":'
                f'{{"objectType":"detection","classification":{self._classes[kind]},"measurements":{{{measurements}}}}}}}'
            )

    def _uuids(self, ids: NDArray[np.uint32]) -> Iterator[str]:
        """Version 5 UUIDs of the ids' decimal digits, as `uuid.uuid5` makes them in four times the time."""
        prefix = sha1(self._space, usedforsecurity=False)
        for number in ids.tolist():
            digest = prefix.copy()
            digest.update(b"%d" % number)
            h = digest.hexdigest()
            yield f"{h[:8]}-{h[8:12]}-5{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:32]}"

    def _outlines(self, cells: Cells) -> Polygons:
        pixels = outlines(cells.objects.instances, cells.spans)
        if self._simplify_px > 0:
            pixels = simplify(pixels, self._simplify_px, np.tile([1.0, 0.0, 1.0], (len(pixels), 1)), self._frame)
        return to_world(pixels, self._frame)

    def _geometries(self, polygons: Polygons) -> Iterator[str]:
        xy = np.rint(polygons.xy).astype(np.int64) if self._number == "%d" else polygons.xy
        values, ring_start = tuple(xy.ravel().tolist()), (2 * polygons.ring_start).tolist()
        parts, masks = polygons.part_start.tolist(), polygons.mask_start.tolist()

        def ring(r: int) -> str:
            low, high = ring_start[r], ring_start[r + 1]
            return self._form(high - low) % values[low:high]

        for first, last in zip(masks[:-1], masks[1:], strict=True):
            if last == first + 1 and parts[last] == parts[first] + 1:  # one ring, as nearly all cells have
                yield f'"type":"Polygon","coordinates":[{ring(parts[first])}]'
                continue
            texts = ["[" + ",".join([ring(r) for r in range(parts[p], parts[p + 1])]) + "]" for p in range(first, last)]
            if len(texts) == 1:
                yield f'"type":"Polygon","coordinates":{texts[0]}'
            else:
                yield f'"type":"MultiPolygon","coordinates":[{",".join(texts)}]'

    def _form(self, numbers: int) -> str:
        if numbers not in self._forms:
            self._forms[numbers] = "[" + ",".join([f"[{self._number},{self._number}]"] * (numbers // 2)) + "]"
        return self._forms[numbers]

    def _measurements(self, cells: Cells) -> Iterator[str]:
        columns = _measured(cells)
        forms = [f"{name}:{_form_of(values)}" for name, values in zip(self._names, columns, strict=True)]
        table = [values.tolist() for values in columns]
        is_known = np.ones(len(cells.objects), bool)
        for values in columns:
            is_known &= np.isfinite(values)
        form = ",".join(forms)
        for row, known in zip(zip(*table, strict=True), is_known.tolist(), strict=True):
            yield form % row if known else ",".join([f % v for f, v in zip(forms, row, strict=True) if np.isfinite(v)])


_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _measurement_names(scale: Scale, extras: Extras) -> list[str]:
    """JSON strings, in the order of `_measured`; QuPath's own names where it has such a measurement."""
    unit = {"um": "\N{MICRO SIGN}m"}.get(scale.unit, scale.unit)
    plain = [
        "Score", f"Area {unit}^2", f"Perimeter {unit}", "Circularity", "Eccentricity", "Solidity", f"Major axis {unit}",
        f"Minor axis {unit}", f"Nearest neighbour {unit}",
    ]  # fmt: skip
    region = ["Region"] if extras.region else []
    return [json.dumps(n).replace("%", "%%") for n in [*plain, *region, *(extras.titles.get(n, n) for n in extras.columns)]]


def _measured(cells: Cells) -> list[NDArray[Any]]:
    shapes = cells.shapes
    return [
        cells.objects.instances.score, shapes.area, shapes.perimeter, shapes.circularity, shapes.eccentricity,
        shapes.solidity, shapes.major_axis, shapes.minor_axis, cells.neighbour,
        *([] if cells.region is None else [cells.region]), *cells.extra.values(),
    ]  # fmt: skip


def _form_of(values: NDArray[Any]) -> str:
    return "%.5g" if values.dtype.kind == "f" else "%d"


def _classifications(names: list[str], *, is_split: bool) -> list[str]:
    """A classification for each label; for twice the label, and that plus 1, where cells are positive or negative."""
    if not is_split:
        return [_classification(name, colour_of(i)) for i, name in enumerate(names)]
    signs = ("Positive", _POSITIVE), ("Negative", _NEGATIVE)
    return [_classification(f"{name}: {sign}", colour) for name in names for sign, colour in signs]


def _classification(name: str, colour: tuple[int, int, int]) -> str:
    return json.dumps({"name": name, "color": list(colour)}, separators=(",", ":"))

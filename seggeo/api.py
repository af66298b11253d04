"""seggeo from Python: the same job as the command line, and a small door for arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Merge, Tiling, converted, settings_from
from seggeo.errors import ConfigError, SeggeoError
from seggeo.instances import Instances, concat
from seggeo.merge.readings import owned
from seggeo.merge.sweep import sweep
from seggeo.models.custom_results import to_instances
from seggeo.protocols import ModelInfo, Prediction
from seggeo.tiling import PartGrid, Tile, TileGrid
from seggeo.values import refused


def segment(path: str | Path, out: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Segment one image file, as `seggeo segment` does; returns the summary that `--json` prints.

    Args:
        path: The input.
        out: Output file, or a folder, as what ends in a separator always is; default: the current folder.
        **settings: Options by their field name in `seggeo.config`, for example `model="sam"`, `tile=1024`; a value may be
            written as on the command line, or as what it means.

    Raises:
        SeggeoError: Of the kind that fits.
    """
    from seggeo.run.enrich import check_tables
    from seggeo.run.naming import target_of, with_format
    from seggeo.run.outcome import Summary
    from seggeo.run.segment import segment_file

    source, target = _path_text("path", path), None if out is None else target_of(_path_text("out", out))
    chosen, execution = settings_from(with_format(converted(settings), target))
    check_tables(chosen.output)
    summary: dict[str, Any] = {}
    for event in segment_file(source, chosen, execution, target):
        if isinstance(event, Summary):
            summary = event.to_json()
    return summary


def count_cells(paths: str | Path | Sequence[str | Path], out: str | Path, **settings: Any) -> dict[str, Any]:
    """Count the cells of slides, as `seggeo count-cells` does; writes the same files into `out` but for the report.

    Args:
        paths: Files, folders, globs or manifest CSVs.
        out: Folder of the results.
        **settings: Options by their field name in `seggeo.config`, and `pixels=True` to measure in pixels where the
            resolution is unknown.

    Returns:
        `counts`: a row for each slide, as in `counts.csv`; `regions`: rows as in `regions.csv`; `errors`: by slide id
        what was refused.

    Raises:
        SeggeoError: What concerns all slides; one that fails alone is among the errors.
    """
    from seggeo.run.count import COUNT_DEFAULTS, Counted, Counting, count_slide, refusal_of
    from seggeo.run.count_folder import check_folder, write_tables
    from seggeo.run.slides import Slide, find_slides

    given = list(paths) if isinstance(paths, Sequence) and not isinstance(paths, str | bytes) else [paths]
    folder = Path(_path_text("out", out))
    pixels = settings.pop("pixels", False)
    if not isinstance(pixels, bool):
        raise refused("pixels", pixels, "it is True or False")
    chosen, execution = settings_from({**COUNT_DEFAULTS, **settings})
    slides = find_slides([_path_text("paths", path) for path in given])
    check_folder(folder, overwrite=execution.overwrite)
    how = Counting(settings=chosen, execution=execution, out=folder, pixels=pixels)
    counted: list[Counted] = []
    failures: list[tuple[Slide, SeggeoError]] = []
    for slide in slides:
        try:
            counted += [event for event in count_slide(slide, how) if isinstance(event, Counted)]
        except Exception as error:  # noqa: BLE001 - whatever happens to one slide, the others are counted
            failures.append((slide, refusal_of(error)))
        write_tables(how.out, counted, failures)
    return {
        "counts": [dict(done.row) for done in counted], "regions": [dict(row) for done in counted for row in done.regions],
        "errors": {slide.id: str(error) for slide, error in failures},
    }  # fmt: skip


def _path_text(name: str, path: Any) -> str:
    """A path or address as text.

    Raises:
        ConfigError: It is something else.
    """
    if isinstance(path, str | os.PathLike):
        return os.fsdecode(path)
    raise ConfigError(
        what=f"{name} is of type {type(path).__name__}", why="it names a file or folder", mend="give a text or a pathlib.Path"
    )


def segment_array(
    image: NDArray[Any], predict: Callable[[NDArray[Any]], Any], *, tile: int, overlap: int,
    match_iou: float = 0.3, exclusive: bool = True,
) -> Instances:  # fmt: skip
    """Objects of an array in memory, tiled and merged by the same rules, in ascending order of position.

    Args:
        image: `(h, w)` or `(h, w, c)`.
        predict: Gets one window of `image`, returns what `predict` of a model of your own may return for a tile: a label
            image `(h, w)` of integers, 0 for background, tile-local `Instances`, or a dict of boolean `masks (n, h, w)`.
        tile: Side of a window, px.
        overlap: Pixels that neighbouring windows share, even.
        match_iou: Least IoU of two readings of one object.
        exclusive: True when objects never share a pixel; masks of a window that do are painted flat, with a warning.

    Returns:
        Merged instances in the image's pixels.

    Raises:
        ConfigError: An array, tile, overlap or IoU that cannot be.
        ModelError: An answer of `predict` that is none of these.
    """
    grid, least = _array_grid(image, {"tile": tile, "overlap": overlap, "match_iou": match_iou})
    parts = PartGrid(grid=grid)

    def predicted(part: int) -> tuple[int, Instances, NDArray[np.int64]]:
        found, tiles = [], []
        for place in parts.tiles(part):
            instances = _checked(predict(image[place.window.slices()]), place, exclusive=exclusive)
            mine = instances.take(owned(instances, place, grid)).shift(place.window.row, place.window.col)
            found.append(mine)
            tiles += [place.index] * len(mine)
        return part, concat(found), np.array(tiles, np.int64)

    merged = sweep((predicted(p) for p in range(len(parts))), parts, match_iou=least, exclusive=exclusive)
    objects = concat([batch.instances for batch in merged])
    return objects.take(np.lexsort((-objects.area, objects.box[:, 1], objects.box[:, 0])))


def _array_grid(image: NDArray[Any], asked: Mapping[str, Any]) -> tuple[TileGrid, float]:
    """The tiles of an array, and the least IoU; all three numbers checked as those of a job are."""
    if getattr(image, "ndim", None) not in (2, 3):
        raise ConfigError(
            what=f"an image of type {type(image).__name__}, shape {np.shape(image)}",
            why="windows are cut from rows and columns",
            mend="give an array (h, w) or (h, w, c)",
        )  # fmt: skip
    values = converted(asked)
    merge, tiling = Merge(match_iou=values["match_iou"]), Tiling(tile=values["tile"], overlap=values["overlap"])
    height, width = image.shape[:2]
    return TileGrid(height=height, width=width, tile=tiling.tile or 0, halo=(tiling.overlap or 0) // 2), merge.match_iou


def _checked(answer: Any, place: Tile, *, exclusive: bool) -> Instances:
    """One window's answer, by the rules for models of users; as many classes as it counts, for nobody has named them."""
    found = answer.instances if isinstance(answer, Prediction) else answer
    labels = found.label if isinstance(found, Instances) else found.get("labels") if isinstance(found, Mapping) else None
    values = np.asarray(() if labels is None else labels)
    count = 1 + (int(values.max(initial=0)) if values.dtype.kind in "iu" else 0)
    info = ModelInfo(name="your function", classes=tuple(map(str, range(min(count, _MOST_CLASSES)))), exclusive=exclusive)
    return to_instances(answer, place.window.shape, place.index, info, is_stated=False).instances


_MOST_CLASSES = 2**16

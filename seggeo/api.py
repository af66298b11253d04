"""seggeo from Python: the same job as the command line, and a small door for arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import settings_from
from seggeo.errors import SeggeoError
from seggeo.instances import Instances, concat
from seggeo.merge.readings import owned
from seggeo.merge.sweep import sweep
from seggeo.tiling import PartGrid, TileGrid


def segment(path: str | Path, out: str | Path | None = None, **settings: Any) -> dict[str, Any]:
    """Segment one image file, as `seggeo segment` does; returns the summary that `--json` prints.

    Args:
        path: The input.
        out: Output file or folder; default: the current folder.
        **settings: Options by their field name in `seggeo.config`, for example `model="sam"`, `tile=1024`.

    Raises:
        SeggeoError: Of the kind that fits.
    """
    from seggeo.run.enrich import check_tables
    from seggeo.run.naming import with_format
    from seggeo.run.outcome import Summary
    from seggeo.run.segment import segment_file

    target = Path(out) if out is not None else None
    chosen, execution = settings_from(with_format(settings, target))
    check_tables(chosen.output)
    summary: dict[str, Any] = {}
    for event in segment_file(str(path), chosen, execution, target):
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

    given = [paths] if isinstance(paths, str | Path) else list(paths)
    pixels = bool(settings.pop("pixels", False))
    chosen, execution = settings_from({**COUNT_DEFAULTS, **settings})
    slides = find_slides([str(path) for path in given])
    check_folder(Path(out))
    how = Counting(settings=chosen, execution=execution, out=Path(out), pixels=pixels)
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


def segment_array(
    image: NDArray[Any], predict: Callable[[NDArray[Any]], NDArray[np.integer] | Instances], *, tile: int, overlap: int,
    match_iou: float = 0.3, exclusive: bool = True,
) -> Instances:  # fmt: skip
    """Objects of an array in memory, tiled and merged by the same rules, in ascending order of position.

    Args:
        image: `(h, w)` or `(h, w, c)`.
        predict: Gets one window of `image`, returns a label image `(h, w)` or tile-local `Instances`.
        tile: Side of a window, px.
        overlap: Pixels that neighbouring windows share, even.
        match_iou: Least IoU of two readings of one object.
        exclusive: True when objects never share a pixel.

    Returns:
        Merged instances in the image's pixels.
    """
    grid = TileGrid(height=image.shape[0], width=image.shape[1], tile=tile, halo=overlap // 2)
    parts = PartGrid(grid=grid)

    def predicted(part: int) -> tuple[int, Instances, NDArray[np.int64]]:
        found, tiles = [], []
        for place in parts.tiles(part):
            answer = predict(image[place.window.slices()])
            instances = answer if isinstance(answer, Instances) else Instances.from_labels(answer)
            mine = instances.take(owned(instances, place, grid)).shift(place.window.row, place.window.col)
            found.append(mine)
            tiles += [place.index] * len(mine)
        return part, concat(found), np.array(tiles, np.int64)

    merged = sweep((predicted(p) for p in range(len(parts))), parts, match_iou=match_iou, exclusive=exclusive)
    objects = concat([batch.instances for batch in merged])
    return objects.take(np.lexsort((-objects.area, objects.box[:, 1], objects.box[:, 0])))

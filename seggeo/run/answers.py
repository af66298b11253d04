"""What a model answers about a tile: checked, and freed of pixels that are no data."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ModelError
from seggeo.instances import Instances
from seggeo.protocols import Prediction, Segmenter, TileImage
from seggeo.rle import Spans, encode, meetings, runs_to_spans, subtract


def checked(prediction: Prediction, image: TileImage, segmenter: Segmenter) -> Prediction:
    """The prediction, if its instances lie inside the tile and its scores are numbers.

    Raises:
        ModelError: It is not so.
    """
    found = prediction.instances
    height, width = image.tile.window.shape
    if len(found) and (found.box.min() < 0 or found.box[:, 2].max() > height or found.box[:, 3].max() > width):
        raise ModelError(
            what=f"{segmenter.info.name} reported an instance outside its tile",
            why=f"the tile is {height} x {width} px and boxes must lie in it",
            mend="return masks in tile pixels",
        )
    if not np.isfinite(found.score).all():
        raise ModelError(
            what=f"{segmenter.info.name} reported a score that is not a number",
            why="its arithmetic overflowed or its weights are damaged",
            mend="try without --autocast, or other weights",
        )
    return prediction


def without_invalid(instances: Instances, valid: NDArray[np.bool_]) -> Instances:
    """Tile-local instances without the pixels that are no data; those left with none are dropped."""
    if not len(instances) or valid.all():
        return instances
    spans = instances.spans()
    runs = encode(~valid)
    gaps = runs_to_spans(runs, np.array([0, len(runs)]), np.array([[0, 0, *valid.shape]], np.int32))
    width = valid.shape[1] + 1  # one column more, so that neighbouring rows never touch
    i, j = meetings(
        spans.row * width + spans.start, spans.stop - spans.start, gaps.row * width + gaps.start, gaps.stop - gaps.start
    )
    if not len(i):
        return instances
    start, stop = np.maximum(spans.start[i], gaps.start[j]), np.minimum(spans.stop[i], gaps.stop[j])
    holes = Spans(owner=spans.owner[i], row=spans.row[i], start=start, stop=stop)
    return instances.with_spans(subtract(spans, holes))[0]

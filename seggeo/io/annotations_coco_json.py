"""A COCO json in little memory: entries shrink while the text is parsed, each as soon as its closing bracket is read.

Numbers in Python lists take 32 bytes each, so that outlines would take most of the memory: they become arrays. Of an
annotation nothing stays that masks are not made of. Values of a wrong kind stay as they are, for their reader to refuse.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

_USED = ("id", "image_id", "category_id", "segmentation", "score")


def load_json(path: Path) -> Any:
    """The content of a COCO json, plain or gzipped; rings and plain run lengths of annotations are float64 and int64 arrays.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON.
        EOFError: The packed file ends too early.
        RecursionError: It is nested too deeply.
    """
    packed = path.read_bytes()
    if packed[:2] == b"\x1f\x8b":
        packed = gzip.decompress(packed)
    text = packed.decode(json.detect_encoding(packed))
    del packed  # a second copy of the text, at the moment when memory is needed most
    sizes: dict[tuple[int, int], tuple[int, int]] = {}

    def shrink(entry: dict[str, Any]) -> dict[str, Any]:
        return _annotation(entry, sizes) if "segmentation" in entry and "image_id" in entry else entry

    return json.loads(text, object_hook=shrink)


def _annotation(entry: dict[str, Any], sizes: dict[tuple[int, int], tuple[int, int]]) -> dict[str, Any]:
    kept = {name: entry[name] for name in _USED if name in entry}
    if entry.get("iscrowd"):
        kept["iscrowd"] = entry["iscrowd"]
    drawn = entry["segmentation"]
    if isinstance(drawn, list):
        kept["segmentation"] = [_array(ring, np.float64) for ring in drawn]
    elif isinstance(drawn, dict):
        size = drawn.get("size")
        if isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) for n in size):
            drawn["size"] = sizes.setdefault((size[0], size[1]), (size[0], size[1]))
        if "counts" in drawn:
            drawn["counts"] = _array(drawn["counts"], np.int64)
    return kept


def _array(values: Any, kind: type[np.generic]) -> Any:
    """A flat list of plain numbers as an array; anything else as it is."""
    if not isinstance(values, list) or not all(type(v) is int or type(v) is float for v in values):
        return values
    try:
        return np.array(values, kind)
    except (OverflowError, ValueError):
        return values

"""Slides of Zeiss scanners and microscopes: CZI, mosaics of subblocks at several sizes.

1. `CziFile` reads the directory; what is more than one plane is refused.
2. Subblocks of one reduction make a level; the rectangles of full resolution, wherever the stage was, the whole image.
3. A block of fixed size is put together from the subblocks that lie in it, the highest mosaic number on top as in ZEN; what
   none covers was not scanned. Scenes are parts of one stage, so those that lie apart are one slide with gaps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from math import ceil, prod
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import SourceError
from seggeo.io.mpp import Claim, claim, number, to_um
from seggeo.io.slide_array import READ_ERRORS
from seggeo.io.slide_blocks import BlockCache
from seggeo.io.slide_czi_file import CziFile, Subblock
from seggeo.io.slide_pyramid import MAX_BLOCK_BYTES, Block, PyramidLevel, SlideFacts, damaged_slide

BLOCK = 512
"""Side of a block, px."""
_CACHE_BYTES = 128 * 2**20
"""Decoded subblocks that are kept, since each, often 2048 px a side, holds many blocks."""
_LARGEST = 2**44
"""Pixels of an image of which the blocks can still be listed."""
_LEVEL_GAP = 0.01
"""Share of the image's blocks that a smaller level may lack and still stand for it."""
_AXES = {
    "Z": "z-slices", "T": "time points", "B": "blocks", "H": "phases", "I": "illuminations", "R": "rotations", "V": "views"
}  # fmt: skip
_Grid = NDArray[np.bool_]


def open_czi(path: str, name: str) -> CziPyramid:
    """The slide in a CZI.

    Raises:
        SourceError: It is damaged, of a compression or kind of pixel that nothing here reads, or not one plane.
    """
    file: CziFile | None = None
    try:
        file = CziFile(path, name)
        return CziPyramid(file, name)
    except BaseException as error:
        if file is not None:
            file.close()
        if isinstance(error, SourceError) or not isinstance(error, READ_ERRORS):
            raise
        raise damaged_slide(name, error) from error


class CziPyramid:
    """A `Pyramid` over the subblocks of a CZI."""

    def __init__(self, file: CziFile, name: str) -> None:
        self._file, self._name = file, name
        self._cache = BlockCache(_CACHE_BYTES)
        blocks = file.subblocks
        _check(blocks, name)
        full = [b for b in blocks if _reduction(b) == 1]
        self._top, self._left = min(b.row for b in full), min(b.col for b in full)
        shape = max(b.row + b.size[0] for b in full) - self._top, max(b.col + b.size[1] for b in full) - self._left
        if prod(shape) > _LARGEST:
            raise ValueError(f"an image of {shape[0]} x {shape[1]} px")
        self._numbers = sorted({b.index.get("C", 0) for b in blocks})
        self._samples = 3 if full[0].samples > 1 else 1
        self._levels = self._by_level(blocks, shape)
        facts = _metadata(file.xml)
        kinds = {b.compression for b in blocks}
        self.facts = SlideFacts(
            kind="Zeiss CZI",
            levels=tuple(level for level, _ in self._levels),
            dtype=np.result_type(*{b.dtype.newbyteorder("=") for b in full}),
            channels=("red", "green", "blue") if self._samples == 3 else _names(facts, self._numbers),
            is_rgb=self._samples == 3,
            claims=_claims(facts),
            notes={
                "subblocks": len(blocks), "scenes": len({b.index.get("S", 0) for b in blocks}),
                "stage_origin": [self._left, self._top], "compression": sorted(kinds),
            },
        )  # fmt: skip

    def block(self, level: int, row: int, col: int, channels: tuple[int, ...]) -> Block | None:
        """See `Pyramid`; pixels that no subblock of these channels covers were not scanned."""
        facts, places = self._levels[level]
        height, width = (min(BLOCK, n - i * BLOCK) for n, i in zip(facts.shape, (row, col), strict=True))
        data = np.zeros((height, width, len(channels)), self.facts.dtype)
        valid = np.zeros((height, width), np.bool_)
        for subblock, top, left in places.get((row, col), ()):
            wanted = [i for i, c in enumerate(channels) if self._numbers[c // self._samples] == subblock.index.get("C", 0)]
            if not wanted:
                continue
            pixels = self._decoded(subblock)
            here, there = _overlap((top, left), subblock.stored, (row * BLOCK, col * BLOCK), (height, width))
            for i in wanted:
                data[(*here, i)] = pixels[(*there, channels[i] % self._samples)]
            valid[here] = True
        if not valid.any():
            return None
        return data, None if valid.all() else valid

    def close(self) -> None:
        """Release the file."""
        self._cache.clear()
        self._file.close()

    def _decoded(self, subblock: Subblock) -> NDArray[Any]:
        decode = partial(self._decode, subblock)
        kept = self._cache.get(subblock.position, decode)
        assert kept is not None
        return kept[0]

    def _decode(self, subblock: Subblock) -> Block:
        try:
            return self._file.decode(subblock), None
        except SourceError:
            raise
        except READ_ERRORS as error:
            where = f" at row {subblock.row - self._top}, column {subblock.col - self._left}"
            raise damaged_slide(self._name, error, where) from error

    def _by_level(self, blocks: Sequence[Subblock], shape: tuple[int, int]) -> list[_Level]:
        """Levels with the subblocks of every block, lowest first; those that do not show all of the image are left out."""
        levels: list[_Level] = []
        whole: _Grid | None = None
        for factor in sorted({_reduction(b) for b in blocks}):
            size = ceil(shape[0] / factor), ceil(shape[1] / factor)
            places: dict[tuple[int, int], list[_Placed]] = {}
            for b in sorted((b for b in blocks if _reduction(b) == factor), key=lambda b: b.order):
                top, left = round((b.row - self._top) / factor), round((b.col - self._left) / factor)
                for cell in _cells((top, left), b.stored, size):
                    places.setdefault(cell, []).append((b, top, left))
            missing = np.ones((ceil(size[0] / BLOCK), ceil(size[1] / BLOCK)), np.bool_)
            for cell in places:
                missing[cell] = False
            if whole is None:
                whole = ~missing
            elif not _stands_for(whole, ~missing, factor):
                continue
            level = PyramidLevel(
                shape=size, downsample=(float(factor), float(factor)), block=(BLOCK, BLOCK),
                missing=missing if missing.any() else None,
            )  # fmt: skip
            levels.append((level, places))
        return levels


_Placed = tuple[Subblock, int, int]
_Level = tuple[PyramidLevel, dict[tuple[int, int], list[_Placed]]]


def _reduction(block: Subblock) -> int:
    """Full-resolution pixels along a side of one that is stored; the longer side says it best."""
    axis = int(block.size[1] > block.size[0])
    return max(1, round(block.size[axis] / block.stored[axis]))


def _cells(corner: tuple[int, int], size: tuple[int, int], shape: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """Rows and columns of the blocks that a rectangle meets inside the level."""
    rows, cols = (
        range(max(0, first) // BLOCK, ceil(min(first + n, limit) / BLOCK))
        for first, n, limit in zip(corner, size, shape, strict=True)
    )
    return [(row, col) for row in rows for col in cols]


def _overlap(
    corner: tuple[int, int], size: tuple[int, int], block: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What a subblock at a corner has of a block: places in the block and in the subblock."""
    here, there = [], []
    for first, n, start, length in zip(corner, size, block, shape, strict=True):
        low, high = max(first, start), max(first, start, min(first + n, start + length))
        here.append(slice(low - start, high - start))
        there.append(slice(low - first, high - first))
    return (here[0], here[1]), (there[0], there[1])


def _stands_for(whole: _Grid, found: _Grid, factor: int) -> bool:
    """True when a level has what full resolution has; its blocks are `factor` times as large."""
    rows, cols = (np.minimum(np.arange(n) // factor, limit - 1) for n, limit in zip(whole.shape, found.shape, strict=True))
    lacking = whole & ~found[np.ix_(rows, cols)]
    return bool(lacking.sum() <= _LEVEL_GAP * whole.sum())


def _check(blocks: Sequence[Subblock], name: str) -> None:
    """Refuse what is not one plane of one kind of pixel, and subblocks too large to decode whole."""
    full = [b for b in blocks if _reduction(b) == 1]
    if not full:
        raise SourceError(what=f"{name} holds no image", why="its directory has no pixels at full resolution", mend="check it")
    longer = {axis: len({b.index[axis] for b in blocks if axis in b.index}) for axis in _AXES}
    said = ", ".join(f"{n} {_AXES[axis]}" for axis, n in longer.items() if n > 1)
    if said:
        raise SourceError(
            what=f"{name} holds {said}",
            why="a slide is one plane, and which of them is meant would be a guess",
            mend="save the one that is meant, or a projection, as a file of its own in ZEN",
        )
    colours = {b.samples > 1 for b in blocks}
    if len(colours) > 1 or (True in colours and len({b.index.get("C", 0) for b in blocks}) > 1):
        raise SourceError(
            what=f"{name} mixes a colour camera with other channels", why="a slide has colours or channels of single values",
            mend="save one of them as a file of its own in ZEN",
        )  # fmt: skip
    largest = max(blocks, key=lambda b: prod(b.stored) * b.samples * b.dtype.itemsize)
    if prod(largest.stored) * largest.samples * largest.dtype.itemsize > MAX_BLOCK_BYTES:
        raise SourceError(
            what=f"{name} has subblocks of {largest.stored[0]} x {largest.stored[1]} px",
            why=f"each must be decoded whole, and the limit is {MAX_BLOCK_BYTES >> 20} MiB", mend="save it in tiles in ZEN",
        )  # fmt: skip
    _check_scenes(full, name)


def _check_scenes(full: Sequence[Subblock], name: str) -> None:
    boxes: dict[int, list[int]] = {}
    for b in full:
        box = boxes.setdefault(b.index.get("S", 0), [b.row, b.col, b.row, b.col])
        box[:] = [
            min(box[0], b.row), min(box[1], b.col), max(box[2], b.row + b.size[0]), max(box[3], b.col + b.size[1])
        ]  # fmt: skip
    scenes = sorted(boxes.items())
    for i, (first, one) in enumerate(scenes):
        for second, other in scenes[i + 1 :]:
            if max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3]):
                raise SourceError(
                    what=f"{name} holds {len(scenes)} scenes, of which {first + 1} and {second + 1} overlap",
                    why="which of them is meant where they do would be a guess",
                    mend="save each scene as a file of its own: Split Scenes in ZEN",
                )


def _metadata(xml: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return ElementTree.Element("none")


def _names(root: ElementTree.Element, numbers: Sequence[int]) -> tuple[str, ...]:
    """Names of the channels in the order of their numbers; some files have them with the display settings only."""
    told: dict[str, str] = {}
    for place in ("Metadata/DisplaySetting/Channels/Channel", "Metadata/Information/Image/Dimensions/Channels/Channel"):
        told |= {str(node.get("Id")): str(node.get("Name")) for node in root.findall(place) if node.get("Name")}
    return tuple(told.get(f"Channel:{n}") or f"band {i}" for i, n in enumerate(numbers, 1))


def _claims(root: ElementTree.Element) -> tuple[Claim, ...]:
    """Metres per pixel along X and Y."""
    metres = {node.get("Id"): number(node.findtext("Value")) for node in root.findall("Metadata/Scaling/Items/Distance")}
    row, col = (to_um(metres.get(axis), "m") for axis in "YX")
    return claim("vendor", row and float(f"{row:.12g}"), col and float(f"{col:.12g}"))

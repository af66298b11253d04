"""From cross-sections on disk to objects of a volume: one walk over the slices to link them, one to give them their ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.config import Merge
from seggeo.instances import Instances, concat
from seggeo.merge.chains import Breaks
from seggeo.merge.forks import Fork
from seggeo.merge.link import Linked, Linker, LinkRules, number
from seggeo.run.result import Band, by_slice, read_band, take, write_band
from seggeo.store import append_chunk, read_chunks

_CHAINS = "chains.spool"
_MOST_EVENTS = 10_000
"""Branches and merges that are told one by one; all are counted."""


def link_bands(folder: Path, bands: Sequence[Band], rules: Merge) -> tuple[list[Band], dict[str, Any], int]:
    """Give the cross-sections of one object the same id.

    Args:
        folder: Of the bands; new ones take their place.
        bands: Numbered cross-sections, slices ascending.
        rules: How slices are linked, and what is too small or too poor.

    Returns:
        The bands with ids of objects, what linking did (see `protocols.Result.linking`), and how many objects were dropped.
    """
    slices = by_slice(bands)
    linked = _link if rules.link == "iou" else _apart
    breaks, forks, bridged = linked(folder / _CHAINS, slices, rules)
    seen = _Seen(forks[:_MOST_EVENTS])
    new: list[Band] = []
    for z, ids in number(_chains(folder / _CHAINS, slices), breaks, rules.link_gap):
        seen.add(z, ids)
        new += _renumbered(slices[z], ids)
    (folder / _CHAINS).unlink(missing_ok=True)
    dropped = sum(map(len, breaks.dropped.values()))
    linking = {
        "objects": breaks.objects, "pieces": sum(band.count for band in new), "bridged": bridged, "parted": breaks.parted,
        "branches": sum(fork.kind == "branch" for fork in forks), "merges": sum(fork.kind == "merge" for fork in forks),
        "events": seen.events(),
    }  # fmt: skip
    return new, linking, dropped


def _link(path: Path, slices: Mapping[int, tuple[Band, ...]], rules: Merge) -> tuple[Breaks, list[Fork], int]:
    linker = Linker(
        LinkRules(
            iou=rules.link_iou, gap=rules.link_gap, neck=rules.link_neck, min_voxels=rules.min_area, min_score=rules.min_score
        )
    )
    forks: list[Fork] = []
    bridged = 0
    for one in linker.walk((z, _pieces(bands)) for z, bands in slices.items()):
        _keep(path, one)
        forks += one.forks
        bridged += one.bridged
    return linker.breaks, forks, bridged


def _apart(path: Path, slices: Mapping[int, tuple[Band, ...]], rules: Merge) -> tuple[Breaks, list[Fork], int]:
    """Every cross-section an object of its own."""
    breaks, count = Breaks(), 0
    for z, bands in slices.items():
        pieces = _pieces(bands)
        n = len(pieces)
        poor = (pieces.area < rules.min_area) | (pieces.score < rules.min_score)
        if poor.any():
            breaks.dropped[z] = np.flatnonzero(poor).tolist()
        breaks.objects += n - int(poor.sum())
        _keep(path, Linked(z=z, chain=count + np.arange(n), first_new=count, bridged=0, forks=[]))
        count += n
    return breaks, [], 0


def _pieces(bands: Sequence[Band]) -> Instances:
    return concat([read_band(band).instances for band in bands])


def _keep(path: Path, one: Linked) -> None:
    append_chunk(path, {"chain": one.chain, "first_new": np.array([one.first_new])})


def _chains(path: Path, slices: Mapping[int, tuple[Band, ...]]) -> Iterator[Linked]:
    if not slices:
        return
    for z, chunk in zip(slices, read_chunks(path), strict=True):
        yield Linked(z=z, chain=chunk["chain"], first_new=int(chunk["first_new"][0]), bridged=0, forks=[])


def _renumbered(bands: Sequence[Band], ids: NDArray[np.int64]) -> Iterator[Band]:
    """The bands of one slice with new ids, in ascending order of row as before; what has none is left out."""
    first = 0
    for band in bands:
        objects = read_band(band)
        mine = ids[first : first + len(objects)]
        first += len(objects)
        band.path.unlink()
        keep = np.flatnonzero(mine > 0)
        if len(keep):
            yield write_band(band.path, take(replace(objects, id=mine.astype(np.uint32)), keep))


class _Seen:
    """Ids of the cross-sections that branches and merges name, as they become known."""

    def __init__(self, forks: Sequence[Fork]) -> None:
        self._forks = forks
        self._wanted: dict[int, set[int]] = {}
        for fork in forks:
            for z, index in (fork.stem, *fork.others):
                self._wanted.setdefault(z, set()).add(index)
        self._ids: dict[tuple[int, int], int] = {}

    def add(self, z: int, ids: NDArray[np.int64]) -> None:
        """The ids of a slice."""
        for index in self._wanted.get(z, ()):
            self._ids[z, index] = int(ids[index])

    def events(self) -> list[dict[str, Any]]:
        """Branches and merges between objects that are still there, JSON values."""
        told = []
        for fork in self._forks:
            stem, others = self._ids[fork.stem], [self._ids[place] for place in fork.others]
            apart = sorted({other for other in others if other not in (0, stem)})
            if stem and apart:
                told.append({"kind": fork.kind, "z": fork.z, "id": stem, "others": apart})
        return told

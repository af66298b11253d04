"""A job: everything that decides its result, frozen before the first pixel is predicted.

`tile_key` covers what changes predictions and nothing else; `merge_key` adds what changes objects. So a new threshold
for merging or another output format never costs a prediction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import metadata
from typing import Any

from seggeo.geometry import Frame
from seggeo.tiling import PartGrid, TileGrid

SCHEMA = 1
"""Raised when files of an older seggeo would mean something else."""


@cache
def _own_version() -> str:
    return metadata.version("seggeo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One input, one model, one grid; JSON both ways."""

    source: Mapping[str, Any]
    """Path and fingerprint of the input."""
    reading: Mapping[str, Any]
    """How it is read: bands, GSD, AOI and the like."""
    frame: Frame
    tile: int
    """Side of a window, px."""
    overlap: int
    """Pixels neighbouring windows share."""
    stretch: Mapping[str, Any] | None
    """The job-wide stretch; None for models that take native values."""
    model: Mapping[str, Any]
    """Name, settings, weights sha256, classes, exclusive."""
    merge: Mapping[str, Any]
    choice: Mapping[str, Any] | None = None
    """How `--model auto` came to the model; None when the user named it. Says why, changes nothing."""
    schema: int = SCHEMA
    version: str = field(default_factory=_own_version)
    """Of the seggeo that planned it: another may predict otherwise."""

    @property
    def grid(self) -> TileGrid:
        """The job's tiles."""
        f = self.frame
        return TileGrid(height=f.height, width=f.width, depth=f.depth, tile=self.tile, halo=self.overlap // 2)

    @property
    def parts(self) -> PartGrid:
        """The job's blocks of tiles."""
        return PartGrid(grid=self.grid)

    @property
    def tile_key(self) -> str:
        """sha256 over what changes predictions; where the input lies and when it was written do not."""
        values = self.to_json()
        del values["merge"], values["choice"]
        values["source"] = {k: v for k, v in values["source"].items() if k not in ("path", "mtime_ns")}
        return _digest(values)

    @property
    def merge_key(self) -> str:
        """sha256 over what changes objects."""
        return _digest([self.tile_key, self.to_json()["merge"]])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain: dict[str, Any] = json.loads(json.dumps({**values, "frame": self.frame.to_json()}))
        return plain

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Job:
        """The job that `to_json` described."""
        return cls(**{**values, "frame": Frame.from_json(values["frame"])})


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lines `name was X there and is Y now` for every value that differs between two JSON trees."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted(old.keys() | new.keys())
        return [line for n in names for line in differences(old.get(n), new.get(n), f"{path}.{n}" if path else n)]
    return [] if old == new else [f"{path} was {old} there and is {new} now"]

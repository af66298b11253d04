"""What the report of a folder of slides is made of: plain records that a run fills, and keeps as JSON for when it goes on."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seggeo.output.density import Density, Ratio
from seggeo.output.report_html_time import TimeUse


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A small picture, packed."""

    jpeg: bytes
    caption: str = ""

    @classmethod
    def of(cls, image: NDArray[np.uint8], caption: str = "", *, most: int = 640) -> Picture:
        """Pack an image.

        Args:
            image: uint8 RGB `(h, w, 3)`.
            caption: Plain text.
            most: Pixels of the longer side; larger images are reduced.
        """
        return cls(jpeg=pack(Image.fromarray(image), most, 82), caption=caption)


def pack(image: Image.Image, most: int, quality: int) -> bytes:
    """JPEG of an image whose longer side has at most `most` pixels."""
    scale = min(most / max(image.size), 1.0)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    packed = io.BytesIO()
    image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC).save(packed, "JPEG", quality=quality)
    return packed.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideReport:
    """One slide that was counted."""

    name: str
    count: int
    """All cells."""
    density: Density | None = None
    """None where the resolution or the tissue is unknown."""
    positivity: Ratio | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    """Cells by class; left out where there is one."""
    sizes: tuple[int, ...] = ()
    """`CellMap.sizes`: cells between `density.SIZE_EDGES`."""
    size_unit: str = "um2"
    """`CellMap.unit`."""
    tissue: Picture | None = None
    """Thumbnail with the outline of the tissue, from `report_html_pictures.outline_tissue`."""
    density_map: Picture | None = None
    """From `density_map.render_density`."""
    suspicious: Sequence[Picture] = ()
    """Tiles worth a look, with outlines and a caption that says why, from `report_html_pictures.outline_tile`."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Further lines: um per px, level, tiles, capped tiles, seconds."""
    warnings: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Outputs by kind, paths relative to the report."""
    time: TimeUse | None = None
    """Where it went, if that was counted."""

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` turns back into the same record, but for the time, which is this run's alone."""
        density = None if self.density is None else {**_plain(self.density), "per_mm2": _plain(self.density.per_mm2)}
        values = {
            **_plain(self), "density": density, "positivity": self.positivity and _plain(self.positivity),
            "classes": dict(self.classes), "sizes": list(self.sizes), "facts": dict(self.facts), "files": dict(self.files),
            "warnings": list(self.warnings), "suspicious": [_packed(p) for p in self.suspicious],
        }  # fmt: skip
        del values["time"]
        return {**values, **{name: _packed(getattr(self, name)) for name in _PICTURES}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SlideReport:
        """The record that `to_json` described."""
        density, positivity = values["density"], values["positivity"]
        return cls(
            **{
                **values,
                "density": density and Density(**{**density, "per_mm2": Ratio(**density["per_mm2"])}),
                "positivity": positivity and Ratio(**positivity), "sizes": tuple(values["sizes"]),
                "suspicious": tuple(_unpacked(p) for p in values["suspicious"]), "warnings": tuple(values["warnings"]),
                **{name: _unpacked(values[name]) for name in _PICTURES},
            }
        )  # fmt: skip


_PICTURES = ("tissue", "density_map")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFailure:
    """One slide that could not be counted."""

    name: str
    what: str
    why: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderReport:
    """Everything one command did."""

    title: str
    slides: Sequence[SlideReport]
    failures: Sequence[SlideFailure] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    """What was asked for and what it was run with: command, model, weights, versions."""


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def _packed(picture: Picture | None) -> dict[str, str] | None:
    return None if picture is None else {"jpeg": base64.b64encode(picture.jpeg).decode(), "caption": picture.caption}


def _unpacked(values: Mapping[str, str] | None) -> Picture | None:
    return None if values is None else Picture(jpeg=base64.b64decode(values["jpeg"]), caption=values["caption"])

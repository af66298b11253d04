"""What a source, a segmenter and a sink must be, and the records that pass between them.

No base classes: anything of the right shape fits. `tests/contracts` holds the conformance tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ConfigError, GeometryError
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances, Objects
from seggeo.tiling import Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """What a source read: values and where they are real."""

    data: NDArray[Any]
    """`(h, w, c)` in the file's own dtype; may be a transposed view of band-first memory."""
    valid: NDArray[np.bool_]
    """`(h, w)`, True = real data."""


_OWN_WINDOW = Window(row=0, col=0, height=1, width=1)
"""Stands for the tile's own window where no extent is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TileImage:
    """One tile as a segmenter gets it."""

    image: NDArray[Any]
    """`(h, w, 3)` stretched uint8 RGB, or `(h, w, c)` in the file's own bands and dtype when `info.native`; of `extent`."""
    valid: NDArray[np.bool_]
    """`(h, w)`, True = real data; pixels of the result outside it are discarded by the pipeline."""
    tile: Tile
    """Where the tile lies, for models whose prompts or seeds are anchored to the raster."""
    extent: Window = _OWN_WINDOW
    """What `image` and `valid` cover, raster px: the tile's window, and the model's `context` around it."""

    def __post_init__(self) -> None:
        if self.extent is _OWN_WINDOW:
            object.__setattr__(self, "extent", self.tile.window)
        elif not self.extent.contains(self.tile.window) or self.valid.shape != self.extent.shape:
            raise GeometryError(
                what=f"pixels of {self.extent} for a tile whose window is {self.tile.window}",
                why=f"they are {self.valid.shape[0]} x {self.valid.shape[1]}, and must cover the window",
                mend="read what info.extent(tile.window, within=frame.window) says",
            )

    @property
    def inside(self) -> tuple[slice, slice]:
        """Rows and columns of `image` that are the tile's window; all of them for a model without context."""
        return self.tile.window.slices(self.extent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a segmenter found in one tile."""

    instances: Instances
    """In pixels of the tile's window, whatever context came with it."""
    capped: bool = False
    """True when the model hit one of its own limits (detections, queries), so that objects may be missing."""
    foreign: int = 0
    """Detections left out of `instances`, their masks never computed, since they have no pixel in `tile.heard`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What the pipeline needs to know of a model, and what provenance records."""

    name: str
    classes: tuple[str, ...] = ("object",)
    """Name of each label, 0-based."""
    exclusive: bool = True
    """True when masks of one tile never overlap; merged objects then never share a pixel either."""
    native: bool = False
    """True: give me the file's own bands and dtype; False: stretched uint8 RGB."""
    channels: int | None = None
    """Bands the model takes, None for any."""
    weights_sha256: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Everything that changes predictions, JSON values only."""
    tile: int | None = None
    """Preferred window side, px."""
    overlap: int | None = None
    """Preferred overlap of windows, px."""
    memory_bytes: int = 0
    """Rough memory of the model and one tile, for the plan."""
    batch: int = 1
    """Tiles worth handing over in one call."""
    device: str = "cpu"
    """Where it predicts: decides how many processes are worth starting."""
    context: int = 0
    """Pixels of image that the model wants to see beyond a tile's window, on sides that are not the image's edge."""
    stride: int = 1
    """What the model sees begins, and ends unless the image does, at multiples of this in the raster."""
    faster: tuple[str, ...] = ()
    """What of `autocast` and `compile` was asked for and is followed: each changes predictions, if only a little."""

    def __post_init__(self) -> None:
        if self.context < 0 or self.stride < 1:
            raise ConfigError(
                what=f"{self.name} asks for a context of {self.context} px and a stride of {self.stride} px",
                why="a context is 0 or more and a stride 1 or more",
                mend="declare them like context = 64 and stride = 16",
            )

    def extent(self, window: Window, *, within: Window) -> Window:
        """What the model sees of a window: `context` more on every side, out to multiples of `stride`, cut at `within`.

        A convolutional network with this stride and a context of at least its receptive field then computes the same
        for the window's pixels as from the whole image.
        """
        grown = window.grow(self.context, within=within)
        step = self.stride
        return Window.from_bounds(
            grown.row // step * step, grown.col // step * step,
            min(-(-grown.row_stop // step) * step, within.row_stop), min(-(-grown.col_stop // step) * step, within.col_stop),
        )  # fmt: skip


class Source(Protocol):
    """An image that gives windows of its work grid."""

    frame: Frame
    bands: tuple[str, ...]

    def read(self, window: Window, z: int = 0) -> Pixels:
        """Pixels of a window that lies in `frame.window`, of slice `z`."""
        ...

    def close(self) -> None:
        """Release the file; the source may not be read afterwards."""
        ...


class Segmenter(Protocol):
    """A model: tiles in, instances out, no memory between calls."""

    info: ModelInfo

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """One prediction per tile, in order."""
        ...


class Result(Protocol):
    """Everything a sink may ask for; objects come in ascending order of id.

    Of a volume (`frame.depth > 1`) they come as their cross-sections, slice by slice: an object has one `Objects` entry, with
    the same id, in every slice where it was found, at most one in each; ids ascend by the first slice, not within a batch.
    """

    @property
    def frame(self) -> Frame:
        """The work grid."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each label."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """JSON values: versions, settings, model, input."""
        ...

    @property
    def count(self) -> int:
        """All objects."""
        ...

    @property
    def exclusive(self) -> bool:
        """True when objects never share a pixel."""
        ...

    @property
    def linking(self) -> Mapping[str, Any]:
        """Of a volume what linking its slices did, JSON values; empty for an image.

        Counts `objects`, `pieces` (cross-sections), `bridged` (links over missed slices), `parted` (at necks), `branches`
        and `merges`; and `events`, a list of `{"kind": "branch" | "merge", "z", "id", "others"}`.
        """
        ...

    def iter_objects(self) -> Iterator[Objects]:
        """All objects in batches that fit in memory, each of one slice, slices ascending."""
        ...

    def in_window(self, window: Window, z: int = 0) -> Objects:
        """The objects whose boxes meet a window, masks uncut."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """What a user may ask of a sink."""

    simplify_m: float = 0.0
    """Tolerance of polygon simplification in metres (pixels where there is no CRS); 0 keeps pixel edges."""
    scratch: Path | None = None
    """Folder for temporary files; default: beside the output."""
    source: Path | None = None
    """The input, for formats that refer to it (DICOM-SEG)."""


Sink = Callable[[Result, Path, SinkOptions], Path]
"""Writes a result under a temporary name, renames it to the given path and returns that path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What a user asked of a model; a factory turns it into a segmenter."""

    name: str
    """Entry-point name, or `file.py:Class` for a model of the user's own."""
    weights: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """`--set key=value` pairs as JSON values, and what `calibrate` found."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    batch: int = 0
    """Tiles or prompts per forward pass; 0 lets the model choose."""
    autocast: bool = False
    """bfloat16 where the model allows it, off unless asked for."""
    compile: bool = False
    """The network compiled for its input's shape, off unless asked for."""
    cpu_fallback: bool = False
    """Open on the CPU where the device is absent."""

    @property
    def faster(self) -> tuple[str, ...]:
        """Which of `autocast` and `compile` is asked for: the `ModelInfo.faster` of a model that follows both."""
        return tuple(name for name, asked in (("autocast", self.autocast), ("compile", self.compile)) if asked)


class Look(Protocol):
    """A first look at a whole image, before any tile; pixels are stretched or native, as the model wants them."""

    frame: Frame
    """The work grid."""
    bands: tuple[str, ...]

    @property
    def overview(self) -> TileImage:
        """The whole image decimated; its tile is a tile of the overview, not of the work grid."""
        ...

    def windows(self, side: int, count: int) -> list[TileImage]:
        """Up to `count` windows of `side` px at the work grid's own resolution, the same in every call.

        They do not overlap, hold valid pixels, and are spread over what is not plain background; fewer come from a small
        image, and one smaller than `side` is one window.
        """
        ...


class SegmenterFactory(Protocol):
    """What an entry point of `seggeo.segmenters` names.

    A factory may carry two attributes. `calibrate(request, look)` is a function that gets the request and a `Look` at the
    image and returns settings to freeze into the job, so that what is found from the data is the same in every tile;
    a line of text called `sized` among them is told to the user. The model has been opened before, to learn whether it
    wants native pixels, and is opened again with these settings: what is found must not be missed the first time.
    `sizes = True` says that its models take the settings `diameter` (typical object, px) and `mpp` (um per px).
    """

    def __call__(self, request: ModelRequest) -> Segmenter:
        """A segmenter, ready to predict.

        Raises:
            ModelError: Weights missing, refused or not of this model.
            ConfigError: A setting the model does not know.
        """
        ...

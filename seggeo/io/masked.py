"""A source of which only the tissue is data."""

from __future__ import annotations

from typing import Any

from seggeo.geometry import Frame, Window
from seggeo.io.tissue import Tissue, is_brightfield
from seggeo.protocols import Pixels


class MaskedSource:
    """Another source with everything outside a mask not valid; windows without tissue are known to be empty unread."""

    def __init__(self, source: Any, tissue: Tissue, overview: Pixels) -> None:
        """`overview` is the whole source decimated, glass included."""
        self._source = source
        self.tissue = tissue
        self.is_brightfield = is_brightfield(overview)

    @property
    def frame(self) -> Frame:
        """The work grid."""
        frame: Frame = self._source.frame
        return frame

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that `read` gives, in order."""
        bands: tuple[str, ...] = self._source.bands
        return bands

    def read(self, window: Window, z: int = 0) -> Pixels:
        """Pixels of a window that lies in `frame.window`."""
        pixels = self._source.read(window, z)
        return Pixels(data=pixels.data, valid=pixels.valid & self.tissue.read(window))

    def is_empty(self, window: Window, z: int = 0) -> bool:
        """True when it is known without decoding that no pixel of a window is valid."""
        return self.tissue.is_empty(window) or bool(self._source.is_empty(window))

    def overview(self, max_side: int = 2048) -> Pixels:
        """The whole work grid in at most `max_side` pixels a side, glass not valid."""
        pixels = self._source.overview(max_side)
        shape = pixels.valid.shape
        here = Tissue(mask=self.tissue.mask, body=self.tissue.body, shape=shape, kind=self.tissue.kind)
        return Pixels(
            data=pixels.data, valid=pixels.valid & here.read(Window(row=0, col=0, height=shape[0], width=shape[1]))
        )  # fmt: skip

    def __enter__(self) -> MaskedSource:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def fingerprint(self) -> dict[str, Any]:
        """The source's own."""
        marks: dict[str, Any] = self._source.fingerprint()
        return marks

    def describe(self) -> dict[str, Any]:
        """What the file is and how it is read, as JSON values."""
        facts: dict[str, Any] = self._source.describe()
        return facts

    def close(self) -> None:
        """Close the source."""
        self._source.close()

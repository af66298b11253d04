"""The bundled kind of model: a U-Net whose fields are those of the whole image, and objects gathered by voting or by stars.

1. `load` reads weights and what they say of themselves; `calibrate` settles, once for the job, at which share of the
   image's resolution the network works.
2. A tile comes with its context; `compute_fields` gives the fields, of which the part within the context is exact.
3. `decode`, or `decode_stars`, gathers objects in a somewhat larger window, which is then cut to the tile's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seggeo.errors import ConfigError, ModelError
from seggeo.geometry import Window
from seggeo.instances import Instances
from seggeo.models.band_limits import limits_of
from seggeo.models.compiling import compile_network, in_bfloat16
from seggeo.models.device import choose_device, finishers, upload
from seggeo.models.finite import require_finite
from seggeo.models.overlap import overlapped
from seggeo.models.unet_arch import UNet, folded, without_rays
from seggeo.models.unet_decode import Decoded, decode
from seggeo.models.unet_fields import Fields, compute_fields, lattice_of
from seggeo.models.unet_resample import nearest_scale
from seggeo.models.unet_settings import NAME, UNetCard, UNetSettings, read_card, settings_of
from seggeo.models.unet_size import TRIED, WINDOW, WINDOWS, Sized, choose_scale, is_needless, is_sure, look_at, weigh
from seggeo.models.unet_stars import decode_stars
from seggeo.models.weights import load_state, load_strictly, sha256_of
from seggeo.profiling import span
from seggeo.protocols import Look, ModelInfo, ModelRequest, Prediction, TileImage
from seggeo.rle import labels_to_spans

log = logging.getLogger(__name__)

TILES_ON_GPU = 8
"""Tiles in one call on an accelerator, which computes one while the processor gathers the objects of those before."""
DECODE_REACH = 32
"""Pixels of fields, beyond a tile's window, in which its objects are gathered."""
_BYTES_PER_PIXEL = 340
"""Working memory of one image pixel at scale 1: peak RSS grew by 177 to 335 bytes a pixel, one to eight views."""
_BYTES_PER_RAY = 20
"""Likewise for each star distance, which comes back at the image's resolution: 5 bytes with one view, 19 with eight."""


def load(request: ModelRequest) -> UNetSegmenter:
    """A U-Net from its weights, ready to predict.

    Raises:
        ModelError: No weights, or weights of another network.
        ConfigError: A setting that does not exist, or a scale left open.
        ResourceError: The device is absent.
    """
    model, card = read_model(request)
    settings = settings_of(card, request.settings)
    device = choose_device(request.device)
    assert request.weights is not None  # noqa: S101 - read_model has refused it
    sha256 = sha256_of(request.weights)
    return UNetSegmenter(folded(model).to(device), card, settings, sha256=sha256, faster=request.faster)


def calibrate(request: ModelRequest, look: Look) -> dict[str, Any]:
    """The settings of the job: the scale the network works at, and what becomes 0 and 1 in bands that are not RGB.

    Raises:
        ModelError: No weights, or weights of another network.
        ConfigError: A setting that does not exist.
    """
    model, card = read_model(request)
    settings = settings_of(card, request.settings)
    if card.shape.bands != 3 and not settings.low:
        low, high = (",".join(f"{v:.9g}" for v in limits) for limits in limits_of(look.overview, card.stretch))
        settings = replace(settings, low=low, high=high)
    known = choose_scale(card, settings, look.frame)
    if known is None:
        known = _seen(folded(model).to(choose_device(request.device)), card, settings, look)
    return replace(settings, scale=str(known[0]), sized=known[1]).to_json()


load.calibrate = calibrate  # type: ignore[attr-defined]  # the protocol's optional attributes of a factory
load.sizes = True  # type: ignore[attr-defined]


def _seen(model: UNet, card: UNetCard, settings: UNetSettings, look: Look) -> tuple[Fraction, str]:
    """The scale at which the network is surest of what it finds in a few windows, then adjusted to the objects' size."""
    windows = look.windows(WINDOW, WINDOWS)
    if not windows:
        return Fraction(1), "no window with data was there to tell the objects' size by"
    looks: list[Sized] = []
    for scale in TRIED:
        if not is_needless(card, looks, scale):
            at_scale = UNetSegmenter(model, card, replace(settings, scale=str(scale), flips=1))
            looks.append(look_at(at_scale, windows, scale))
    best = weigh(card, looks)
    if not is_sure(best):
        return Fraction(1), "nothing was found to tell the objects' size by"
    return nearest_scale(card.diameter / best.diameter), f"objects seem about {best.diameter:.0f} px across"


def read_model(request: ModelRequest) -> tuple[UNet, UNetCard]:
    """Network and card of a request's weights, on the CPU.

    Raises:
        ModelError: No weights, or weights of another network.
    """
    if request.weights is None:
        raise ModelError(
            what="unet needs weights",
            why="a network without them finds nothing",
            mend="use bundled ones, --weights nuclei or --weights overhead; or make your own: seggeo train unet",
        )
    state, metadata = load_state(request.weights)
    card = read_card(metadata, request.weights)
    model = UNet(card.shape)
    load_strictly(model, {name: _single(value) for name, value in state.items()}, request.weights)
    return model.eval().requires_grad_(requires_grad=False), card


def _single(value: Tensor) -> Tensor:
    return value.float() if value.dtype.is_floating_point else value


class UNetSegmenter:
    """A `Segmenter` over a U-Net; objects of one tile never overlap."""

    def __init__(
        self, model: UNet, card: UNetCard, settings: UNetSettings, *, sha256: str | None = None, faster: tuple[str, ...] = ()
    ) -> None:  # fmt: skip
        scale = settings.ratio or Fraction(1)
        model = model if settings.group == "stars" else without_rays(model)
        model = in_bfloat16(model) if "autocast" in faster else model
        model = compile_network(model) if "compile" in faster else model
        self._model, self._settings, self._scale = model, settings, scale
        self._device = next(model.parameters()).device
        self._lattice = lattice_of(model, scale)
        bands = card.shape.bands
        self._limits = _limits(settings, bands)
        # A finer network works on more pixels than the image has.
        tile = settings.tile if scale <= 1 else max(256, int(settings.tile / scale) // 64 * 64)
        self.info = ModelInfo(
            name=NAME, classes=card.classes, exclusive=True, native=bands != 3, channels=bands, weights_sha256=sha256,
            settings={**settings.to_json(), "scale": str(scale)}, tile=tile, overlap=settings.overlap,
            memory_bytes=int((tile + 2 * self._lattice.context) ** 2 * _bytes_per_pixel(model.shape.rays, float(scale))),
            device=str(self._device), context=self._lattice.context + DECODE_REACH, stride=self._lattice.stride, faster=faster,
            batch=1 if self._device.type == "cpu" else TILES_ON_GPU,
        )  # fmt: skip

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """The objects of each tile.

        Raises:
            ModelError: The network gave values that are no numbers.
        """
        seen = overlapped(tiles, self._seen, self._one, threads=finishers(self._device))
        return [Prediction(instances=instances) for instances in seen]

    def fields(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> Fields:
        """Fields of a window that begins at a multiple of the stride: `(h, w, c)` as the pipeline gives it."""
        with torch.inference_mode():
            found = compute_fields(self._model, self._prepared(image, valid), self._scale, self._settings.flips)
        require_finite("fields", *map(torch.from_numpy, (found.chance, found.offset, found.seed, found.rays)))
        return found

    def _prepared(self, image: NDArray[Any], valid: NDArray[np.bool_]) -> Tensor:
        """`(c, h, w)`, 0 to 1, on the device; 0 where there is no data."""
        if self._limits is None:
            if image.shape[2] != 3:  # opened to be calibrated
                raise _no_limits("", "", image.shape[2])
            values = upload(image, self._device).float().div_(255)
        else:
            low, high = self._limits
            level = (image.astype(np.float32) - low) / np.maximum(high - low, 1e-12)
            values = upload(np.clip(np.nan_to_num(level), 0, 1), self._device)
        if not valid.all():
            values *= upload(valid, self._device)[..., None]
        return values.permute(2, 0, 1)  # as it lies in memory, which is how the network wants it

    def _seen(self, tile: TileImage) -> Fields:
        return self.fields(tile.image, tile.valid)

    def _one(self, tile: TileImage, fields: Fields) -> Instances:
        with span("encode"):
            return self._objects(fields, tile)

    def _objects(self, fields: Fields, tile: TileImage) -> Instances:
        """Objects gathered around the tile's window, and cut to it."""
        # The lattice may have given more context than was asked for: what is gathered must not depend on that.
        around = tile.tile.window.grow(DECODE_REACH, within=tile.extent)
        found = self._gathered(self._inside(fields, tile, around))
        labels = found.labels if self._scale <= 1 else coarser(found.labels, int(self._scale))
        valid = tile.valid[around.slices(tile.extent)]
        if not valid.all():
            labels = np.where(valid, labels, 0)
        return _instances(labels[tile.tile.window.slices(around)], found)

    def _gathered(self, fields: Fields) -> Decoded:
        d = self._settings.decoding()
        return decode_stars(fields, d) if self._settings.group == "stars" else decode(fields.chance, fields.offset, d)

    def _inside(self, fields: Fields, tile: TileImage, around: Window) -> Fields:
        """Fields of a window of the raster."""
        finer = max(1, int(self._scale))
        rows, cols = (slice(s.start * finer, s.stop * finer) for s in around.slices(tile.extent))
        return Fields(
            chance=fields.chance[:, rows, cols], seed=fields.seed[rows, cols], offset=fields.offset[:, rows, cols],
            rays=fields.rays[:, rows, cols],
        )  # fmt: skip


def _bytes_per_pixel(rays: int, scale: float) -> float:
    """Working memory of one image pixel."""
    return _BYTES_PER_PIXEL * max(scale, 0.25) ** 2 + _BYTES_PER_RAY * rays * max(scale, 1.0) ** 2


def coarser(labels: NDArray[np.int32], factor: int) -> NDArray[np.int32]:
    """Labels at 1 / `factor` of their resolution: what most of a block's middle pixels are, the first where all differ."""
    first = (factor - 1) // 2
    if factor % 2:
        return labels[first::factor, first::factor]
    a, b, c, d = (labels[r::factor, s::factor] for r in (first, first + 1) for s in (first, first + 1))
    return np.where((b == c) & (b != a) & (d != a) | (b == d) & (b != a) & (c != a), b, np.where((c == d) & (b != a), c, a))


def _instances(labels: NDArray[np.int32], found: Decoded) -> Instances:
    """Instances of the labels left in a window, with their objects' scores and classes."""
    spans, ids = labels_to_spans(labels)
    return Instances.from_spans(spans, score=found.score[ids - 1], label=found.label[ids - 1])


def _limits(settings: UNetSettings, bands: int) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Values that become 0 and 1, per band; None for images that come as 8 bits, and before they are found.

    Raises:
        ConfigError: Not one per band.
    """
    if bands == 3 or not (settings.low or settings.high):
        return None
    try:
        low, high = (np.array([float(v) for v in text.split(",")], np.float32) for text in (settings.low, settings.high))
    except ValueError:
        low = high = np.zeros(0, np.float32)
    if len(low) != bands or len(high) != bands:
        raise _no_limits(settings.low, settings.high, bands)
    return low, high


def _no_limits(low: str, high: str, bands: int) -> ConfigError:
    return ConfigError(
        what=f"low={low!r} and high={high!r} for a model of {bands} bands",
        why="every band needs the values that become 0 and 1",
        mend="leave them out and they are found in the whole image; or give one per band: --set low=0,0 --set high=255,255",
    )

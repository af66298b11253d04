"""Segment Anything in everything mode: a lattice of point prompts, up to three nested masks each, on original SAM weights.

1. `load`: the network from `--weights`, its size read off the tensors; settings checked.
2. `lattice_points`: the prompts of a tile. The lattice is anchored to the raster, and the tile whose core holds a point
   prompts it: no point twice, none on pixels without data, and no other points when the tiling changes.
3. `find_masks`: the stock generator's masks for these points. Masks cut by the tile's edge stay, for the merge to join.
4. `clean_regions` and `apply_nested`: what the settings ask for beyond that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seggeo.errors import ModelError
from seggeo.models.compiling import compile_network
from seggeo.models.device import batch_for, choose_device
from seggeo.models.sam_decode import LeanSam, SamNetwork, Way, open_network
from seggeo.models.sam_masks import Thresholds, Work, find_masks, generate
from seggeo.models.sam_nested import Nested, apply_nested
from seggeo.models.sam_network import build
from seggeo.models.sam_regions import clean_regions
from seggeo.models.settings import bad_setting, parse_settings, to_values
from seggeo.models.weights import load_state, sha256_of
from seggeo.profiling import span
from seggeo.protocols import ModelInfo, ModelRequest, Prediction, TileImage

log = logging.getLogger(__name__)

__all__ = ["SamSegmenter", "SamSettings", "generate", "lattice_points", "load"]

NAME = "sam"
LATTICE_PX = 1024
"""`points_per_side` counts the points along this many px of the raster."""
BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SamSettings:
    """What `--set` may change; defaults are the stock generator's."""

    points_per_side: int = 32
    """Point prompts along 1024 px of the raster; 32 makes a lattice of 32 px steps."""
    pred_iou_thresh: float = 0.88
    """Masks that the network itself rates lower are dropped, 0 to 1."""
    stability_score_thresh: float = 0.95
    """Masks whose outline moves more than this allows when the threshold moves are dropped, 0 to 1."""
    stability_score_offset: float = 1.0
    """How far the threshold moves for that test, logits."""
    box_nms_thresh: float = 0.7
    """Of two masks whose boxes overlap more than this IoU the lower score is dropped."""
    mask_threshold: float = 0.0
    """Logit above which a pixel belongs to a mask."""
    min_mask_region_area: int = 0
    """Holes and islands of a mask below this many px are removed; 0 for none."""
    nested: Nested = "all"
    """Masks inside masks: all; whole: only the outermost; part: only the innermost; flat: disjoint, the smaller wins."""
    network: Way = "lean"
    """lean: the published arithmetic rearranged, equal up to rounding; stock: segment-anything's own modules, to compare."""
    points_per_batch: int = 0
    """Prompts decoded at once; 0 for 64. Costs memory, changes no mask."""

    def __post_init__(self) -> None:
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"):
            if not 0 <= getattr(self, name) <= 1:
                raise _refuse(name, getattr(self, name), "lies between 0 and 1")
        for name, least in (
            ("points_per_side", 1),
            ("min_mask_region_area", 0),
            ("points_per_batch", 0),
            ("stability_score_offset", 0),
        ):
            if getattr(self, name) < least:
                raise _refuse(name, getattr(self, name), f"is at least {least}")
        if self.points_per_side > LATTICE_PX:
            raise _refuse("points_per_side", self.points_per_side, f"is at most {LATTICE_PX}, a point on every pixel")

    @property
    def point_step(self) -> float:
        """Raster pixels from one prompt to the next."""
        return LATTICE_PX / self.points_per_side

    @property
    def thresholds(self) -> Thresholds:
        """The settings that decide which masks survive."""
        return Thresholds(
            pred_iou_thresh=self.pred_iou_thresh, stability_score_thresh=self.stability_score_thresh,
            stability_score_offset=self.stability_score_offset, box_nms_thresh=self.box_nms_thresh,
            mask_threshold=self.mask_threshold,
        )  # fmt: skip


def load(request: ModelRequest) -> SamSegmenter:
    """Segment Anything from an original checkpoint: vit_b, vit_l, vit_h or any other size of the same network.

    Raises:
        ModelError: No weights given, or not those of an original Segment Anything network.
        ConfigError: A setting that sam does not know or cannot use.
        ResourceError: The device is not there.
    """
    settings = parse_settings(SamSettings, request.settings, model=NAME)
    if request.weights is None:
        raise ModelError(
            what="sam needs weights",
            why="none were given, and none come with seggeo",
            mend="fetch them with: seggeo models pull sam_vit_b, then use --weights sam_vit_b",
        )
    state, metadata = load_state(request.weights)
    device = choose_device(request.device)
    sam = build(state, metadata, request.weights).to(device)
    # What is compiled must be one call of a kernel, not a loop over parts that fit a cache.
    network = open_network(sam, settings.network, fused=True if request.compile else None)
    batch = settings.points_per_batch or request.batch or batch_for(device, point_bytes(network), most=BATCH, on_cpu=BATCH)
    work = Work(points_per_batch=batch, autocast=request.autocast)
    if request.compile:
        compile_network(network.encoder)
    sha256 = sha256_of(request.weights)
    return SamSegmenter(network=network, settings=settings, work=work, weights_sha256=sha256, faster=request.faster)


class SamSegmenter:
    """A Segment Anything network that prompts itself; see `load`."""

    info: ModelInfo

    def __init__(
        self,
        *,
        network: SamNetwork,
        settings: SamSettings,
        work: Work,
        weights_sha256: str | None,
        faster: tuple[str, ...] = (),
    ) -> None:
        self.network, self.settings, self.work = network, settings, work
        side: int = network.sam.image_encoder.img_size
        self.info = ModelInfo(
            name=NAME, exclusive=settings.nested == "flat", native=False, channels=3, weights_sha256=weights_sha256,
            settings=_key(settings, work), tile=side, overlap=side // 4, memory_bytes=memory_bytes(network, work),
            device=str(network.sam.device), faster=faster,
        )  # fmt: skip

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """Masks of each tile, in tile pixels; the score is the network's own estimate of the mask's IoU.

        Raises:
            ConfigError: A tile is not RGB uint8.
            ResourceError: Not even one prompt fits the accelerator's memory.
        """
        return [self._predict(tile) for tile in tiles]

    def _predict(self, tile: TileImage) -> Prediction:
        settings = self.settings
        points = lattice_points(tile, settings.point_step)
        if not len(points) and tile.valid.any() and tile.tile.core == tile.tile.window:  # the only tile
            log.warning("sam asks about no pixel: points lie %g px apart, and the image has less data", settings.point_step)
        masks = find_masks(self.network, tile.image, points, settings.thresholds, self.work).instances
        shape = tile.image.shape[0], tile.image.shape[1]
        with span("encode"):
            cleaned = clean_regions(masks, settings.min_mask_region_area, settings.box_nms_thresh, shape)
            kept = apply_nested(cleaned, settings.nested)
        # An estimate may leave 0 to 1; it is cut only here, where nothing is ranked by it any more.
        return Prediction(instances=replace(kept, score=np.clip(kept.score, 0, 1)))


def lattice_points(tile: TileImage, step: float) -> NDArray[np.float64]:
    """The prompts of one tile: lattice points in its core, on valid pixels, row by row.

    Args:
        tile: The tile; its core and window place it on the raster.
        step: Raster pixels between lattice points; the first lies at half a step from the raster's corner.

    Returns:
        `(n, 2)`, x and y in tile pixels.
    """
    core, window = tile.tile.core, tile.tile.window
    rows = _lattice(core.row, core.row_stop, step) - window.row
    cols = _lattice(core.col, core.col_stop, step) - window.col
    y, x = (grid.ravel() for grid in np.meshgrid(rows, cols, indexing="ij"))
    return np.stack([x, y], 1)[tile.valid[y.astype(np.intp), x.astype(np.intp)]]


def _lattice(first: int, stop: int, step: float) -> NDArray[np.float64]:
    """Lattice coordinates in `[first, stop)`; each is computed from its number alone, so that tiles agree to the last bit."""
    numbers = np.arange(int(first / step) - 1, int(stop / step) + 2)
    places = (numbers + 0.5) * step
    return np.asarray(places[(places >= max(first, 0)) & (places < stop)], np.float64)


def memory_bytes(network: SamNetwork, work: Work) -> int:
    """Rough working memory of one tile: weights, and the larger of the encoder's part and a batch of the decoder's."""
    sam = network.sam
    weights = sum(p.numel() * p.element_size() for p in sam.parameters())
    block = sam.image_encoder.blocks[0]
    tokens = sam.prompt_encoder.image_embedding_size[0] ** 2
    if isinstance(network, LeanSam):  # the hidden layer of a block, before and after its activation, and what leads to it
        encoder = 4 * tokens * block.mlp.lin1.out_features * 4
    else:  # global attention holds its scores, their sum with the relative positions, and the softmax
        encoder = 3 * block.attn.num_heads * tokens**2 * 4
    return int(weights + max(encoder, work.points_per_batch * point_bytes(network)))


def point_bytes(network: SamNetwork) -> int:
    """Rough working memory of one point in the decoder."""
    decoder = network.sam.mask_decoder
    tokens = network.sam.prompt_encoder.image_embedding_size[0] ** 2
    if isinstance(network, LeanSam):  # rows, their products and scores of all layers, beside the logits of three masks
        layers = decoder.transformer.depth + 1
        rows = layers * decoder.transformer.num_heads * (decoder.num_mask_tokens + 3)
        return int((3 * rows + decoder.num_mask_tokens * 16) * tokens * 4)
    # Its image tokens: keys, their sum with the positions, and projections of both in one layer.
    return int(6 * tokens * decoder.transformer_dim * 4)


def _key(settings: SamSettings, work: Work) -> dict[str, Any]:
    """What changes predictions; the batch size does not."""
    values = to_values(replace(settings, points_per_batch=0))
    del values["points_per_batch"]
    return {**values, "autocast": work.autocast}


def _refuse(name: str, value: Any, why: str) -> Exception:
    return bad_setting(SamSettings, name, value, model=NAME, why=why)

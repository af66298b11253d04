"""Mask R-CNN of torchvision on tiles: no hidden resize, raised limits that report when they bind, masks that stay small.

1. `load` reads the file, infers the network from its tensors, fills it, strictly, and makes it lean.
2. `predict` groups tiles of one padded size, so that a tile's answer does not depend on its neighbours in the batch.
3. `prepare` scales, normalises and pads to the stride of the pyramid; `_features`, `_proposals` and `_detections`
   run torchvision's own parts in torchvision's order, the box head on some regions at a time.
4. `_heard` leaves out boxes too far outside the tile's core to be its to report: their masks are never computed.
5. `_masks` runs the mask head on some regions at a time and computes the logits of each region's own class only.
6. `to_instances` encodes each mask inside its own box.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from seggeo.errors import ConfigError, ModelError
from seggeo.models.band_limits import limits_of
from seggeo.models.compiling import compile_network, fill_batch
from seggeo.models.device import batch_for, choose_device, in_batches, is_out_of_memory
from seggeo.models.finite import require_finite
from seggeo.models.maskrcnn_arch import Architecture, build_model, infer_architecture
from seggeo.models.maskrcnn_lean import make_lean
from seggeo.models.maskrcnn_paste import can_meet, to_instances
from seggeo.models.maskrcnn_pixels import padded, prepare
from seggeo.models.maskrcnn_regions import Detections, Pyramid
from seggeo.models.maskrcnn_settings import DetectorSettings, complete, read_settings
from seggeo.models.registry import known_models
from seggeo.models.weights import load_state, load_strictly, sha256_of
from seggeo.profiling import span
from seggeo.protocols import Look, ModelInfo, ModelRequest, Prediction, TileImage

log = logging.getLogger(__name__)

REGIONS = 256
"""Regions the box head sees at once, 13 MB of features, and four times what the mask head sees, 51 MB in its widest layer."""
REGIONS_ON_GPU = 1024
BATCH_ON_GPU = 4
BYTES_PER_PIXEL = 600
"""Working memory of a ResNet-50 tile, measured with `benchmarks/maskrcnn.py --network`."""


def load(request: ModelRequest) -> MaskRCNNSegmenter:
    """A Mask R-CNN from its weights, ready to predict.

    Raises:
        ModelError: No weights, weights that are refused, or weights of another network.
        ConfigError: A setting that does not exist or does not fit the network.
        ResourceError: The device is absent.
    """
    if request.weights is None:
        raise ModelError(
            what="maskrcnn needs weights",
            why="a network without them finds nothing",
            mend="give a file: --weights model.safetensors; or fetch COCO's: seggeo models pull maskrcnn_resnet50_fpn_v2",
        )
    file = read_file(request.weights)
    architecture = file.architecture
    chosen = read_settings(file.facts, request.settings)
    settings = complete(chosen, bands=architecture.bands, classes=architecture.classes)
    device = choose_device(request.device)
    model = _filled(architecture, settings, file.state, request.weights).to(device)
    make_lean(model, autocast=request.autocast)
    if request.compile:
        compile_network(model.backbone)
    tile_bytes = info_of(architecture, settings, None).memory_bytes
    batch = request.batch or batch_for(device, tile_bytes, most=BATCH_ON_GPU, on_cpu=1)
    log.info(
        "maskrcnn: %s, %d bands, %d classes on %s", architecture.name, architecture.bands, architecture.classes - 1, device
    )
    return MaskRCNNSegmenter(
        model,
        replace(
            info_of(architecture, settings, file.sha256, autocast=request.autocast),
            batch=batch,
            device=str(device),
            faster=request.faster,
        ),  # fmt: skip
        settings,
        batch=batch,
        autocast=request.autocast,
    )


def calibrate(request: ModelRequest, look: Look) -> dict[str, Any]:
    """Limits of the bands, from the whole image, for weights that learnt from stretched bands and are not of RGB."""
    if request.weights is None or len(look.bands) == 3 or "low" in request.settings:
        return {}
    facts = read_file(request.weights).facts
    if "stretch" not in facts or facts.get("low"):
        return {}
    low, high = limits_of(look.overview, str(facts["stretch"]))
    return {"low": list(low), "high": list(high)}


load.calibrate = calibrate  # type: ignore[attr-defined]  # the protocol's optional attribute of a factory


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorFile:
    """A weights file and what it says of itself."""

    state: Mapping[str, Tensor]
    architecture: Architecture
    facts: Mapping[str, Any]
    """Settings and information from its metadata; for torchvision's own files, what is known of them."""
    sha256: str


def read_file(path: Path) -> DetectorFile:
    """The weights of a Mask R-CNN, whoever saved it.

    Raises:
        ModelError: They cannot be read, are refused, or are of another network.
    """
    state, metadata = load_state(path)
    sha256 = sha256_of(path)
    facts = {**_published(sha256), **metadata.get("seggeo", {})}
    return DetectorFile(state=state, architecture=infer_architecture(state, path), facts=facts, sha256=sha256)


def _published(sha256: str) -> Mapping[str, float]:
    """Settings of the checkpoints torchvision publishes, which carry no metadata."""
    names = {model.sha256: model.name for model in known_models()}
    # torchvision loads these weights with epsilon 0; 1e-5 would shift features by 1e-4 of their size.
    return {"bn_eps": 0.0} if names.get(sha256) == "maskrcnn_resnet50_fpn" else {}


def _filled(a: Architecture, settings: DetectorSettings, state: Mapping[str, Tensor], path: Path) -> MaskRCNN:
    """The network with its weights, in inference mode, on the CPU."""
    with torch.device("meta"):  # random values that weights replace take longer to draw than the weights to read
        model = build_model(a, settings)
    model.to_empty(device="cpu")
    load_strictly(model, state, path)
    model.eval().requires_grad_(requires_grad=False)
    return model


def info_of(a: Architecture, settings: DetectorSettings, sha256: str | None, *, autocast: bool = False) -> ModelInfo:
    """What the pipeline needs to know of a network with these settings; one tile at a time, on the CPU."""
    regions = min(settings.rpn_post, REGIONS_ON_GPU) * a.pyramid * 49 * 4 * 2
    return ModelInfo(
        name="maskrcnn",
        classes=settings.classes,
        exclusive=False,
        native=a.bands != 3,
        channels=a.bands,
        weights_sha256=sha256,
        settings={"architecture": a.name, **settings.to_json(), "autocast": autocast},
        tile=settings.tile,
        overlap=settings.overlap,
        memory_bytes=settings.tile**2 * BYTES_PER_PIXEL + regions,
    )


class MaskRCNNSegmenter:
    """A torchvision Mask R-CNN behind the `Segmenter` protocol; detections come in descending order of score.

    Masks of one tile may overlap. A prediction is `capped` when the detections reach their limit, or when proposals that
    the network held for objects (objectness of at least one half) were cut off by theirs.
    """

    def __init__(
        self, model: MaskRCNN, info: ModelInfo, settings: DetectorSettings, *, batch: int = 1, autocast: bool = False
    ) -> None:  # fmt: skip
        self.info = info
        self._model = model
        self._settings = settings
        self._batch = batch
        self._autocast = autocast
        self._device = next(model.parameters()).device
        self._regions = REGIONS if self._device.type == "cpu" else REGIONS_ON_GPU

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """One prediction per tile, in order.

        Raises:
            ConfigError: A tile has other bands than the network.
            ModelError: The network gave NaN or infinite values.
            ResourceError: A single tile does not fit in memory.
        """
        for tile in tiles:
            self._check(tile)
        groups: dict[tuple[int, int], list[int]] = {}
        for position, tile in enumerate(tiles):
            groups.setdefault(padded(tile.image.shape[:2]), []).append(position)
        found: dict[int, Prediction] = {}
        for positions in groups.values():
            answers = in_batches(self._attempt, [tiles[i] for i in positions], self._batch)
            found.update(zip(positions, answers, strict=True))
        return [found[i] for i in range(len(tiles))]

    def _check(self, tile: TileImage) -> None:
        bands = tile.image.shape[2] if tile.image.ndim == 3 else 1
        if bands != self.info.channels or tile.image.ndim != 3:
            raise ConfigError(
                what=f"the tile has {bands} bands, the model takes {self.info.channels}",
                why="the first layer's weights are of one band each",
                mend=f"choose {self.info.channels} of the file's bands with --bands, repeats allowed",
            )

    def _attempt(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """As `_predict`; where that runs out of memory, batches stay smaller from then on, filled ones too."""
        try:
            return self._predict(tiles)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                self._batch = max(1, len(tiles) // 2)
            raise

    @torch.inference_mode()
    def _predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """Predictions of tiles of one padded size."""
        sizes = [(int(t.image.shape[0]), int(t.image.shape[1])) for t in tiles]
        images = ImageList(prepare(tiles, self._settings, self._device, native=self.info.native), sizes)
        features = self._features(images)
        proposals, cut = self._proposals(images, features)
        found = self._detections(images, features, proposals)
        told = found.cpu()
        wanted = self._heard(told, tiles)
        masks = self._masks(features, found.take(torch.nonzero(wanted)[:, 0].to(self._device)), padded(sizes[0]))
        predictions = []
        for i, size in enumerate(sizes):
            mine = told.tile == i
            with span("encode"):
                instances = to_instances(masks[mine[wanted]], told.take(mine & wanted), size, self._settings)
            capped = cut[i] or int(mine.sum()) >= self._settings.detections
            predictions.append(Prediction(instances=instances, capped=capped, foreign=int((mine & ~wanted).sum())))
        return predictions

    def _features(self, images: ImageList) -> dict[str, Tensor]:
        """The feature pyramid, level by level."""
        count = len(images.tensors)
        tensors = fill_batch(images.tensors, self._batch) if "compile" in self.info.faster else images.tensors
        with self._precision():
            features = self._model.backbone(tensors)
        return {level: values[:count].float() for level, values in features.items()}

    def _proposals(self, images: ImageList, features: dict[str, Tensor]) -> tuple[list[Tensor], list[bool]]:
        """Boxes worth a look in each tile, `(n, 4)`, and whether a limit cut off some that looked like objects."""
        rpn = self._model.rpn
        levels = list(features.values())
        with self._precision():
            raw, raw_deltas = rpn.head(levels)
        objectness, deltas = [o.float() for o in raw], [d.float() for d in raw_deltas]
        require_finite("region proposals", *objectness, *deltas)
        anchors = rpn.anchor_generator(images, levels)
        per_level = [o[0].numel() for o in objectness]
        likely = torch.stack([(o >= 0).flatten(1).sum(1) for o in objectness]).amax(0)
        flat, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = rpn.box_coder.decode(flat_deltas, anchors).view(len(anchors), -1, 4)
        kept, scores = rpn.filter_proposals(boxes, flat, images.image_sizes, per_level)
        s = self._settings
        lowest = torch.stack([p[-1] if len(p) >= s.rpn_post else p.new_zeros(()) for p in scores])
        return kept, ((likely > s.rpn_pre) | (lowest >= 0.5)).tolist()

    def _detections(self, images: ImageList, features: dict[str, Tensor], proposals: list[Tensor]) -> Detections:
        """What the box head makes of the proposals."""
        heads, pooler = self._model.roi_heads, self._model.roi_heads.box_roi_pool
        pyramid = Pyramid.of(features, pooler.featmap_names, padded(images.image_sizes[0]))
        regions, tile = torch.cat(proposals), _numbers(proposals)
        logits, deltas = [], []
        for some, of in zip(torch.split(regions, self._regions), torch.split(tile, self._regions), strict=True):
            with self._precision():
                raw_logits, raw_deltas = heads.box_predictor(heads.box_head(pyramid.pool(pooler, some, of)))
            logits.append(raw_logits.float())
            deltas.append(raw_deltas.float())
        require_finite("box head", *logits, *deltas)
        boxes, scores, labels = heads.postprocess_detections(
            torch.cat(logits), torch.cat(deltas), proposals, images.image_sizes
        )  # fmt: skip
        return Detections(boxes=torch.cat(boxes), scores=torch.cat(scores), labels=torch.cat(labels), tile=_numbers(boxes))

    def _heard(self, found: Detections, tiles: Sequence[TileImage]) -> Tensor:
        """Which detections `(n,)` may have a pixel that their tile answers for; the others' masks are nobody's concern."""
        side = 2 * self._model.roi_heads.mask_roi_pool.output_size[0]
        wanted = torch.zeros(len(found.tile), dtype=torch.bool)
        for i, tile in enumerate(tiles):
            mine, window = found.tile == i, tile.tile.window
            wanted[mine] = can_meet(found.boxes[mine], side, tile.tile.heard.shift(-window.row, -window.col))
        return wanted

    def _masks(self, features: dict[str, Tensor], found: Detections, shape: tuple[int, int]) -> Tensor:
        """Mask probabilities `(n, m, m)` of detections, each of its own class, on the CPU."""
        heads, predictor = self._model.roi_heads, self._model.roi_heads.mask_predictor
        pooler, final = heads.mask_roi_pool, predictor.mask_fcn_logits
        pyramid = Pyramid.of(features, pooler.featmap_names, shape)
        parts: list[Tensor] = []
        for start in range(0, len(found.tile), self._regions // 4):
            some = found.take(slice(start, start + self._regions // 4))
            with self._precision():
                hidden = heads.mask_head(pyramid.pool(pooler, some.boxes, some.tile))
                hidden = predictor.relu(predictor.conv5_mask(hidden)).float()
            weight = final.weight[some.labels].flatten(1)[:, None]
            logits = (weight @ hidden.flatten(2))[:, 0] + final.bias[some.labels][:, None]
            parts.append(logits.sigmoid().view(-1, *hidden.shape[2:]))
        if not parts:
            return torch.zeros(0, 1, 1)
        require_finite("mask head", *parts)
        return torch.cat(parts).cpu()

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._autocast else nullcontext()


def _numbers(of_tiles: Sequence[Tensor]) -> Tensor:
    """For each row of the tensors, one after the other, the position of its tensor."""
    device = of_tiles[0].device
    counts = torch.tensor([len(values) for values in of_tiles], device=device)
    return torch.repeat_interleave(torch.arange(len(of_tiles), device=device), counts, output_size=sum(map(len, of_tiles)))

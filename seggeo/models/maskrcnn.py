"""Mask R-CNN of torchvision on tiles: no hidden resize, raised limits that report when they bind, masks that stay small.

1. `load` reads the file, infers the network from its tensors and fills it, strictly.
2. `predict` groups tiles of one padded size, so that a tile's answer does not depend on its neighbours in the batch.
3. `_prepare` scales, normalises and pads to the stride of the pyramid; `_features`, `_proposals` and `_detections`
   run torchvision's own parts in torchvision's order.
4. `_masks` runs the mask head on some regions at a time and computes the logits of each region's own class only.
5. `paste_spans` encodes each mask inside its own box.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

from seggeo.errors import ConfigError, ModelError
from seggeo.instances import Instances, replace_owner
from seggeo.models.band_limits import limits_of
from seggeo.models.device import choose_device, in_batches
from seggeo.models.maskrcnn_arch import Architecture, build_model, infer_architecture
from seggeo.models.maskrcnn_paste import paste_spans
from seggeo.models.maskrcnn_settings import DetectorSettings, complete, read_settings
from seggeo.models.registry import known_models
from seggeo.models.weights import load_state, load_strictly, sha256_of
from seggeo.protocols import Look, ModelInfo, ModelRequest, Prediction, TileImage

log = logging.getLogger(__name__)

STRIDE = 32
MASK_REGIONS = 64
"""Regions the mask head sees at once: 64 are 51 MB in its widest layer, 1000 would be 803 MB."""
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
    batch = request.batch or (BATCH_ON_GPU if device.type == "cuda" else 1)
    log.info(
        "maskrcnn: %s, %d bands, %d classes on %s", architecture.name, architecture.bands, architecture.classes - 1, device
    )
    return MaskRCNNSegmenter(
        model,
        replace(info_of(architecture, settings, file.sha256, autocast=request.autocast), batch=batch, device=str(device)),
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
    regions = settings.rpn_post * a.pyramid * 49 * 4 * 2
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
            groups.setdefault(_padded(tile.image.shape[:2]), []).append(position)
        found: dict[int, Prediction] = {}
        for positions in groups.values():
            answers = in_batches(self._predict, [tiles[i] for i in positions], self._batch)
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

    @torch.inference_mode()
    def _predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        """Predictions of tiles of one padded size."""
        sizes = [(int(t.image.shape[0]), int(t.image.shape[1])) for t in tiles]
        images = ImageList(self._prepare(tiles), sizes)
        features = self._features(images)
        proposals, cut = self._proposals(images, features)
        detections = self._detections(images, features, proposals)
        predictions = []
        for i, (boxes, scores, labels) in enumerate(detections):
            one = {level: values[i : i + 1] for level, values in features.items()}
            masks = self._masks(one, boxes, labels, _padded(sizes[i]))
            instances = self._encode(masks, boxes.cpu(), scores.cpu(), labels.cpu(), sizes[i])
            predictions.append(Prediction(instances=instances, capped=cut[i] or len(boxes) >= self._settings.detections))
        return predictions

    def _prepare(self, tiles: Sequence[TileImage]) -> Tensor:
        """Tiles as one normalised float tensor `(n, bands, h, w)` on the device, zeros where padded."""
        height, width = _padded(tiles[0].image.shape[:2])
        mean = torch.tensor(self._settings.mean, device=self._device)[:, None, None]
        std = torch.tensor(self._settings.std, device=self._device)[:, None, None]
        batch = torch.zeros(len(tiles), len(mean), height, width, device=self._device)
        for target, tile in zip(batch, tiles, strict=True):
            rows, cols = tile.image.shape[:2]
            pixels = self._scaled(_bands_first(tile.image).to(self._device), tile.image.dtype)
            pixels = (pixels - mean) / std
            if self.info.native:  # what a file holds outside its data may be NaN or -9999
                valid = torch.from_numpy(np.ascontiguousarray(tile.valid)).to(self._device)
                pixels = torch.where(valid & torch.isfinite(pixels), pixels, 0.0)
            target[:, :rows, :cols] = pixels
        return batch

    def _scaled(self, pixels: Tensor, dtype: np.dtype[Any]) -> Tensor:
        """Bands as they are before mean and std."""
        if self._settings.low:
            low = torch.tensor(self._settings.low, device=self._device)[:, None, None]
            high = torch.tensor(self._settings.high, device=self._device)[:, None, None]
            level: Tensor = (pixels.to(torch.float32) - low) / (high - low).clamp_min(1e-12)
            return level.clamp(0, 1)
        largest = float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0
        return pixels.to(torch.float32) / (self._settings.scale or largest)

    def _features(self, images: ImageList) -> dict[str, Tensor]:
        """The feature pyramid, level by level."""
        with self._precision():
            features = self._model.backbone(images.tensors)
        return {level: values.float() for level, values in features.items()}

    def _proposals(self, images: ImageList, features: dict[str, Tensor]) -> tuple[list[Tensor], list[bool]]:
        """Boxes worth a look in each tile, `(n, 4)`, and whether a limit cut off some that looked like objects."""
        rpn = self._model.rpn
        levels = list(features.values())
        with self._precision():
            raw, raw_deltas = rpn.head(levels)
        objectness, deltas = [o.float() for o in raw], [d.float() for d in raw_deltas]
        _require_finite("region proposals", *objectness, *deltas)
        anchors = rpn.anchor_generator(images, levels)
        per_level = [o[0].numel() for o in objectness]
        likely = [torch.stack([(o[i] >= 0).sum() for o in objectness]).max() for i in range(len(anchors))]
        flat, flat_deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = rpn.box_coder.decode(flat_deltas, anchors).view(len(anchors), -1, 4)
        kept, scores = rpn.filter_proposals(boxes, flat, images.image_sizes, per_level)
        s = self._settings
        cut = [
            bool(n > s.rpn_pre) or (len(p) >= s.rpn_post and bool(p[-1] >= 0.5)) for n, p in zip(likely, scores, strict=True)
        ]
        return kept, cut

    def _detections(
        self, images: ImageList, features: dict[str, Tensor], proposals: list[Tensor]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
        """Boxes `(n, 4)`, scores and labels (0 is background) of each tile, by descending score."""
        heads = self._model.roi_heads
        # Padded sizes: the pooler rounds feature size over image size to a power of two, and remembers the first it saw.
        shapes = [_padded(size) for size in images.image_sizes]
        with self._precision():
            regions = heads.box_head(heads.box_roi_pool(features, proposals, shapes))
            raw_logits, raw_deltas = heads.box_predictor(regions)
        logits, deltas = raw_logits.float(), raw_deltas.float()
        _require_finite("box head", logits, deltas)
        boxes, scores, labels = heads.postprocess_detections(logits, deltas, proposals, images.image_sizes)
        return list(zip(boxes, scores, labels, strict=True))

    def _masks(self, features: dict[str, Tensor], boxes: Tensor, labels: Tensor, shape: tuple[int, int]) -> Tensor:
        """Mask probabilities `(n, m, m)` of one tile's detections, each of its own class, on the CPU."""
        heads, predictor = self._model.roi_heads, self._model.roi_heads.mask_predictor
        final = predictor.mask_fcn_logits
        parts: list[Tensor] = []
        for some, classes in zip(torch.split(boxes, MASK_REGIONS), torch.split(labels, MASK_REGIONS), strict=True):
            with self._precision():
                hidden = heads.mask_head(heads.mask_roi_pool(features, [some], [shape]))
                hidden = predictor.relu(predictor.conv5_mask(hidden)).float()
            side = hidden.shape[-1]
            weight = final.weight[classes].flatten(1)[:, None]
            logits = (weight @ hidden.flatten(2))[:, 0] + final.bias[classes][:, None]
            _require_finite("mask head", logits)
            parts.append(logits.sigmoid().view(-1, side, side).cpu())
        return torch.cat(parts) if len(boxes) else torch.zeros(0, 1, 1)

    def _encode(self, masks: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, shape: tuple[int, int]) -> Instances:
        """Instances of one tile; masks smaller than `min_area` are left out."""
        spans = paste_spans(masks, boxes, shape, self._settings.mask_threshold)
        keep = spans.areas(len(boxes)) >= self._settings.min_area
        spans = spans.take(keep[spans.owner])
        renumbered = replace_owner(spans, (np.cumsum(keep) - 1)[spans.owner])
        return Instances.from_spans(renumbered, score=scores.numpy()[keep], label=labels.numpy()[keep] - 1)

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._autocast else nullcontext()


def _padded(size: Sequence[int]) -> tuple[int, int]:
    """Height and width rounded up to the pyramid's stride."""
    return -(-int(size[0]) // STRIDE) * STRIDE, -(-int(size[1]) // STRIDE) * STRIDE


def _bands_first(image: NDArray[Any]) -> Tensor:
    """`(bands, h, w)` of an image `(h, w, bands)`, its dtype kept where torch has it."""
    bands = np.ascontiguousarray(np.moveaxis(image, 2, 0))
    if not bands.flags.writeable:
        bands = bands.copy()
    return torch.from_numpy(bands if bands.dtype.kind != "u" or bands.dtype == np.uint8 else bands.astype(np.float32))


def _require_finite(where: str, *values: Tensor) -> None:
    if not bool(torch.stack([torch.isfinite(v).all() for v in values]).all()):
        raise ModelError(
            what=f"the network gave NaN or infinite values ({where})",
            why="the weights are damaged, or the tile holds values far from those of the training",
            mend="compare the sha256 of the weights and check scale, mean and std; without --autocast if it was on",
        )

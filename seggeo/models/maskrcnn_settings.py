"""What a Mask R-CNN's tensors cannot say: defaults, overridden by the file's metadata, overridden by `--set`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from seggeo.errors import ConfigError

ANCHOR_SIZES = (32.0, 64.0, 128.0, 256.0, 512.0)
"""torchvision's, px."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """Everything besides the weights that changes what a Mask R-CNN predicts."""

    score: float = 0.5
    """Least class probability of a detection."""
    nms: float = 0.5
    """Boxes of one class that overlap by more than this IoU are one detection."""
    mask_threshold: float = 0.5
    """Least mask probability of an object's pixel."""
    detections: int = 2000
    """Most detections in a tile; a tile that reaches it is reported as capped."""
    rpn_pre: int = 4000
    """Most proposals of one pyramid level before their non-maximum suppression."""
    rpn_post: int = 2000
    """Most proposals of a tile after it."""
    rpn_nms: float = 0.7
    """IoU above which two proposals are one."""
    min_area: int = 1
    """Smallest mask that is kept, px."""
    anchors: tuple[Any, ...] = ()
    """Sides of the anchors, px: one a pyramid level, or a list for each; empty means torchvision's 32 to 512."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    mean: tuple[float, ...] = ()
    """Mean of each band after scaling; ImageNet's for three bands."""
    std: tuple[float, ...] = ()
    """Standard deviation of each band after scaling; ImageNet's for three bands."""
    scale: float = 0.0
    """Value that becomes 1 before mean and std; 0 means the largest of an integer image's type, and 1 for floats."""
    low: tuple[float, ...] = ()
    """Value of each band that becomes 0, for models that learnt from stretched bands; replaces `scale`."""
    high: tuple[float, ...] = ()
    """Value of each band that becomes 1; what lies beyond is cut off."""
    bn_eps: float = 1e-5
    """Epsilon of the backbone's batch norm; 0 in torchvision's first COCO weights and what was tuned from them."""
    classes: tuple[str, ...] = ()
    """Names of the classes, background left out."""
    tile: int = 1024
    """Window side the model is best used with, px."""
    overlap: int = 192
    """Overlap of windows it is best used with, px."""

    def __post_init__(self) -> None:
        for name in ("score", "nms", "mask_threshold", "rpn_nms"):
            if not 0 <= getattr(self, name) <= 1:
                raise _bad(name, getattr(self, name), "it lies between 0 and 1")
        for name in ("detections", "rpn_pre", "rpn_post", "min_area", "tile"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "it is at least 1")
        for name in ("scale", "bn_eps", "overlap"):
            if getattr(self, name) < 0:
                raise _bad(name, getattr(self, name), "it is not negative")
        if any(value <= 0 for value in self.std):
            raise _bad("std", self.std, "pixels are divided by it")
        if len(self.low) != len(self.high) or any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise _bad("low", self.low, f"every band needs a low that is not above its high, {_listed(self.high)}")
        if not self.aspect_ratios or any(value <= 0 for value in self.aspect_ratios):
            raise _bad("aspect_ratios", self.aspect_ratios, "a height over a width is positive")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {name: _listed(value) for name, value in asdict(self).items()}


def read_settings(metadata: Mapping[str, Any], chosen: Mapping[str, Any]) -> DetectorSettings:
    """Defaults, then what the weights file says of itself, then what the user set.

    Args:
        metadata: The file's `seggeo` entry; names that are no setting (licence, data) are information and pass.
        chosen: `--set` pairs; lists may be JSON lists or text such as `8,16,32,64,128`.

    Raises:
        ConfigError: A setting in `chosen` that does not exist, or a value that is not of its kind.
    """
    known = [field.name for field in fields(DetectorSettings)]
    for name in chosen:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ConfigError(
                what=f"maskrcnn has no setting called {name!r}",
                why=f"known are {', '.join(known)}",
                mend=f"did you mean --set {near[0]}=...?" if near else "leave it out",
            )
    values = {**{name: metadata[name] for name in known if name in metadata}, **chosen}
    return DetectorSettings(**{name: _converted(name, value) for name, value in values.items()})


def complete(settings: DetectorSettings, *, bands: int, classes: int) -> DetectorSettings:
    """The settings with mean, std, anchors and class names filled in for a network.

    Args:
        settings: As read.
        bands: Bands the network takes.
        classes: Outputs of its classifier, background included.

    Raises:
        ConfigError: As many values as bands or classes are needed, or nothing says how to normalise the bands.
    """
    mean, std = settings.mean, settings.std
    if bands == 3:
        mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != bands:
            raise ConfigError(
                what=f"{len(values)} values of {name} for a model of {bands} bands",
                why="a model sees what it was trained on only when its bands are normalised as they were then",
                mend=f"give {bands}: --set {name}={','.join(['0.5'] * bands)} with the values of the training",
            )
    if settings.low and len(settings.low) != bands:
        raise _bad("low", settings.low, f"the model has {bands} bands, and each needs its own")
    names = _class_names(settings.classes, classes)
    return replace(settings, mean=mean, std=std, classes=names, anchors=settings.anchors or ANCHOR_SIZES)


def _class_names(given: tuple[str, ...], classes: int) -> tuple[str, ...]:
    if given and len(given) != classes - 1:
        raise ConfigError(
            what=f"{len(given)} class names for a model of {classes - 1} classes",
            why=f"its classifier has {classes} outputs, the first of them background",
            mend=f"give {classes - 1} names, without background: --set classes=NAME,...",
        )
    if given:
        return given
    if classes == 91:
        from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

        return tuple(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:])
    return ("object",) if classes == 2 else tuple(f"class_{i}" for i in range(1, classes))


def anchor_sizes(settings: DetectorSettings, *, anchors: int, levels: int) -> tuple[tuple[float, ...], ...]:
    """Sides of the anchors of each pyramid level.

    Args:
        settings: Anchors and aspect ratios as set.
        anchors: Anchors at each place, from the network's tensors.
        levels: Pyramid levels.

    Raises:
        ConfigError: They do not multiply to `anchors` at every level.
    """
    given = settings.anchors or ANCHOR_SIZES
    if all(isinstance(size, tuple) for size in given):
        sizes = tuple(tuple(float(side) for side in size) for size in given)
    elif anchors == len(settings.aspect_ratios):
        sizes = tuple((float(side),) for side in given)
    else:
        sizes = (tuple(float(side) for side in given),) * levels
    if len(sizes) != levels or any(len(size) * len(settings.aspect_ratios) != anchors for size in sizes):
        each = anchors // len(settings.aspect_ratios)
        wanted = "size of each level" if each == 1 else f"{each} sizes"
        example = ",".join(str(8 << i) for i in range(levels if each == 1 else each))
        raise ConfigError(
            what=f"anchors {_listed(given)} with {len(settings.aspect_ratios)} aspect ratios do not fit the weights",
            why=f"the network has {levels} pyramid levels with {anchors} anchors at each place",
            mend=f"give the {wanted} of its training, as in --set anchors={example}",
        )
    return sizes


def _converted(name: str, value: Any) -> Any:
    """A value in the type of its field."""
    default = next(field.default for field in fields(DetectorSettings) if field.name == name)
    try:
        if name == "anchors":
            return tuple(_numbers(v) if isinstance(v, Sequence) and not isinstance(v, str) else float(v) for v in _items(value))
        if name == "classes":
            return tuple(str(item) for item in _items(value))
        if isinstance(default, tuple):
            return _numbers(value)
        number = float(value)
        if isinstance(default, int) and number != int(number):
            raise _bad(name, value, "it is a whole number")
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ConfigError):
            raise
        raise _bad(name, value, f"it is not like {_listed(default) or 'a list'}") from error
    return int(number) if isinstance(default, int) else number


def _items(value: Any) -> list[Any]:
    """A list from a list, one value, or text with commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, Sequence) else [value]


def _numbers(value: Any) -> tuple[float, ...]:
    return tuple(float(item) for item in _items(value))


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _bad(name: str, value: Any, why: str) -> ConfigError:
    return ConfigError(what=f"maskrcnn setting {name}={_listed(value)}", why=why, mend=f"use another value in --set {name}=...")

"""Small labelled scenes and small detectors for tests of their training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from seggeo.config import Reading
from seggeo.geometry import Frame, Window
from seggeo.instances import Instances
from seggeo.io import Stretch
from seggeo.models.maskrcnn_arch import LIGHT, Architecture
from seggeo.train.pixels import View
from seggeo.train.sampler import Sample
from seggeo.train.scenes import Scene


def discs(size=128, count=14, radius=(5.0, 9.0), seed=0):
    """Label image of discs that do not overlap, about `count`."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for _ in range(count):
        r = rng.uniform(*radius)
        row, col = rng.uniform(r + 1, size - r - 1, 2)
        disc = (rows - row) ** 2 + (cols - col) ** 2 <= r * r
        if not labels[disc].any():
            labels[disc] = labels.max() + 1
    return labels


def sample(labels, bands=3, classes=None, seed=0):
    """Bright objects on dark ground."""
    rng = np.random.default_rng(seed)
    image = np.clip(0.15 + 0.6 * (labels > 0) + rng.normal(0, 0.03, (bands, *labels.shape)), 0, 1).astype(np.float32)
    count = int(labels.max())
    given = np.zeros(count, np.int32) if classes is None else np.asarray(classes, np.int32)
    return Sample(image=image, labels=labels, classes=given, valid=np.ones(labels.shape, bool))


def scene_of(labels, bands=3, classes=("object",), kind="none"):
    """A scene whose pixels are never read."""
    height, width = labels.shape
    limits = {"low": (0.0,) * bands, "high": (255.0,) * bands}
    view = View(path="x.tif", reading=Reading(), all_bands=bands != 3, stretch=Stretch(kind=kind, **limits))
    objects = Instances.from_labels(labels)
    objects = replace(objects, label=(np.arange(len(objects)) % len(classes)).astype(np.int32))
    return Scene(
        name="x.tif", view=view, frame=Frame(height=height, width=width), bands=bands, dtype="uint8", objects=objects,
        ids=np.arange(1, len(objects) + 1), cut=np.zeros(len(objects), bool), classes=classes,
        crowd=objects.take(np.zeros(len(objects), bool)), areas=(Window(row=0, col=0, height=height, width=width),),
    )  # fmt: skip


def light(**changes):
    """A detector of the light kind, even lighter."""
    shape = LIGHT | {"widths": (8, 16, 16, 24, 32), "blocks": (1, 1, 1, 1), "pyramid": 16, "box_features": 32}
    return Architecture(classes=2, **(shape | {"mask_convs": (16,), "mask_hidden": 16} | changes))

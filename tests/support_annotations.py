"""Label files for tests, and masks to compare with what was read from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy import ndimage

from seggeo.geometry import Frame
from seggeo.instances import Instances

UTM = Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000)
SHARED = Path(__file__).parents[2] / "shared" / "data"


def utm_frame(height: int, width: int) -> Frame:
    """Half-metre pixels in UTM 33N."""
    return Frame(height=height, width=width, transform=UTM, crs=CRS.from_epsg(32633).to_wkt(), unit="m", spacing=(1, 0.5, 0.5))


def whole_masks(instances: Instances, height: int, width: int) -> NDArray[np.bool_]:
    """`(n, height, width)`."""
    masks = np.zeros((len(instances), height, width), np.bool_)
    for i, (box, mask) in enumerate(instances):
        masks[i, box[0] : box[2], box[1] : box[3]] = mask
    return masks


def blobs(height: int, width: int, seed: int, kind: str = "int32") -> NDArray[Any]:
    """A label image of smooth blobs that do not touch, of at least 5 px each."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 2)
    pieces: NDArray[Any] = ndimage.label(field > np.quantile(field, 0.7))[0]
    large = np.bincount(pieces.ravel()) >= 5
    large[0] = False
    return np.where(large, np.cumsum(large), 0)[pieces].astype(kind)


def polygon_file(
    path: Path, shapes: Sequence[Any], *, crs: str | None = "EPSG:32633", driver: str | None = None, layer: str = "things",
    **columns: Sequence[Any],
) -> Path:  # fmt: skip
    """A vector file of shapely geometries with attribute columns."""
    values = [np.asarray(v, object if isinstance(v[0], str | None) else None) for v in columns.values()]
    kinds = {shape.geom_type for shape in shapes}
    pyogrio.raw.write(
        str(path), shapely.to_wkb(np.asarray(shapes, object)), values, list(columns), layer=layer, driver=driver, crs=crs,
        geometry_type=kinds.pop() if len(kinds) == 1 else "Unknown", append=path.exists(),
    )  # fmt: skip
    return path


def at_pixels(shape: Any, frame: Frame) -> Any:
    """A geometry given in `(col, row)` pixels, in world coordinates."""
    return shapely.transform(shape, lambda xy: np.stack(frame.pixel_to_world(xy[:, 1], xy[:, 0]), axis=1))


def coco_file(path: Path, entries: Sequence[dict[str, Any]], *, size: tuple[int, int] = (60, 80), **more: Any) -> Path:
    """A COCO json of one image `a.png` unless `images` is given; entries get ids, image 1 and category 3."""
    filled = [{"id": i + 5, "image_id": 1, "category_id": 3, **entry} for i, entry in enumerate(entries)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": size[0], "width": size[1]}],
        "categories": [{"id": 3, "name": "cell"}, {"id": 1, "name": "other"}],
        "annotations": filled,
        **more,
    }
    path.write_text(json.dumps(content))
    return path

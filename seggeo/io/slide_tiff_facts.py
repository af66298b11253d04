"""What a TIFF says of the slide inside it: kind, channels and resolution, from its tags and its vendor's text."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile

from seggeo.errors import SourceError
from seggeo.io.channels import are_colours
from seggeo.io.mpp import Claim
from seggeo.io.slide_pyramid import PyramidLevel, SlideFacts
from seggeo.io.slide_tiff_layout import TiffLayout
from seggeo.io.slide_tiff_text import (
    OmeImage,
    aperio_claims,
    imagej_claims,
    lsm_claims,
    ome_claims,
    ome_images,
    pick_ome,
    tag_claims,
)

_GRAY, _RGB, _PALETTE, _YCBCR = (0, 1), 2, 3, 6
_ALPHA = {1, 2}
_COMPRESSIONS = {int(method): method.name for method in tifffile.COMPRESSION}
"""By number: a file without that tag, as ImageJ writes it, has the number 1 and no name."""


def tiff_facts(tif: Any, layout: TiffLayout, levels: tuple[PyramidLevel, ...], name: str) -> SlideFacts:
    """What a TIFF says about the slide inside it.

    Raises:
        SourceError: It holds neither gray values nor colours, or is one of several files of an image.
    """
    first = layout.images[0]
    keyframe = first.keyframe
    check_kind(keyframe, name)
    images = ome_images(tif.ome_metadata, name) if tif.is_ome else []
    ome = pick_ome(images, first.shape, layout.index)
    if ome is not None and len(ome.files) > 1:
        raise SourceError(
            what=f"{name} is one of {len(ome.files)} files of an image",
            why="its other planes lie in files that it names, and seggeo opens no file that another one names",
            mend="write them as one file: bfconvert IN OUT.ome.tif",
        )
    samples = int(keyframe.samplesperpixel)
    count = len(first.planes) * samples - has_alpha(keyframe)
    camera = keyframe.photometric in (_RGB, _YCBCR) and len(first.planes) == 1 and count >= 3
    names = _channel_names(tif, ome, count, is_rgb=camera)
    dtype = np.dtype(keyframe.dtype).newbyteorder("=")
    return SlideFacts(
        kind=layout.kind,
        levels=levels,
        dtype=dtype,
        channels=names,
        is_rgb=camera or (dtype == np.uint8 and are_colours(names)),
        claims=_claims(tif, ome, keyframe),
        notes={"compression": _COMPRESSIONS[int(keyframe.compression)], "other_images": list(layout.others)},
    )


def has_alpha(page: Any) -> bool:
    """True when the last sample of a page is its opacity."""
    extra = tuple(int(v) for v in page.extrasamples)
    return len(extra) == 1 and extra[0] in _ALPHA


def _claims(tif: Any, ome: OmeImage | None, page: Any) -> tuple[Claim, ...]:
    vendor = aperio_claims(page.description) if tif.is_svs else lsm_claims(tif.lsm_metadata or {}) if tif.is_lsm else ()
    tags = imagej_claims(tif.imagej_metadata or {}, page) if tif.is_imagej else tag_claims(page)
    return (*vendor, *ome_claims(ome), *tags)


def _channel_names(tif: Any, ome: OmeImage | None, count: int, *, is_rgb: bool) -> tuple[str, ...]:
    if is_rgb:
        return (*("red", "green", "blue"), *(f"band {i}" for i in range(4, count + 1)))
    names: tuple[str, ...] = ()
    if ome is not None:
        names = ome.channels
    elif tif.is_imagej:
        names = tuple(map(str, (tif.imagej_metadata or {}).get("Labels") or ()))
    elif tif.is_lsm:
        names = tuple(map(str, (tif.lsm_metadata or {}).get("ChannelColors", {}).get("ColorNames", ())))
    names = names if len(names) == count else ("",) * count
    return tuple(text or f"band {i}" for i, text in enumerate(names, 1))


def check_kind(page: Any, name: str) -> None:
    """Refuse pixels that are neither gray values nor colours, or are packed in a way that nothing here knows.

    Raises:
        SourceError: They are.
    """
    if int(page.compression) not in _COMPRESSIONS:
        raise SourceError(
            what=f"{name} is compressed by method {int(page.compression)}",
            why="no library here knows that method",
            mend="convert it where it was written: vips tiffsave IN OUT.tif --tile --pyramid --bigtiff",
        )
    known = page.photometric in (*_GRAY, _RGB, _YCBCR) or _is_lookup(page)
    if not known or page.imagedepth > 1 or np.dtype(page.dtype).kind not in "uif":
        raise SourceError(
            what=f"{name} holds {getattr(page.photometric, 'name', page.photometric)} pixels of {page.dtype}",
            why="slides are read as gray values or red, green and blue",
            mend="convert it: vips colourspace IN OUT.tif srgb",
        )


def _is_lookup(page: Any) -> bool:
    """True when a page's palette only says in which colour its intensities are shown: it rises from black."""
    if page.photometric != _PALETTE or page.colormap is None:
        return False
    colours = np.asarray(page.colormap, np.int64)
    return not colours[:, 0].any() and bool((np.diff(colours, axis=1) >= 0).all())

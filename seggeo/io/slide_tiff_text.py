"""What the texts inside a microscope's TIFF say of resolution and channels: Aperio, OME-XML, ImageJ, LSM, plain tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from seggeo.errors import SourceError
from seggeo.io.mpp import Claim, claim, number, tiff_claim, to_um

MAX_XML_BYTES = 64 * 2**20
_APERIO_MPP = re.compile(r"\bMPP\s*=\s*([0-9.,eE+-]+)")
_UNIT_UM = {2: 25400.0, 3: 10000.0}
_RESOLUTION_UNIT = 296


@dataclass(frozen=True, slots=True, kw_only=True)
class OmeImage:
    """One Image of an OME-XML."""

    shape: tuple[int, int]
    channels: tuple[str, ...]
    """Name of each channel, empty where it has none."""
    mpp: tuple[float | None, float | None]
    """Micrometres along rows and columns."""
    slice_um: float | None
    """Micrometres between two slices."""
    files: frozenset[str]
    """Identifiers of the files its planes lie in."""


def aperio_claims(description: str) -> tuple[Claim, ...]:
    """The scanner's own `MPP = ` of an Aperio ImageDescription."""
    found = _APERIO_MPP.search(description)
    value = None if found is None else number(found[1])
    return claim("vendor", value, value)


def tag_claims(page: Any) -> tuple[Claim, ...]:
    """The claim of a page's XResolution and YResolution in their unit."""
    cols, rows = (rational(page.tags.valueof(tag)) for tag in (282, 283))
    unit = _UNIT_UM.get(int(page.tags.valueof(_RESOLUTION_UNIT, 1) or 1))
    return () if cols is None or rows is None else tiff_claim(rows, cols, unit)


def imagej_claims(metadata: Mapping[str, Any], page: Any) -> tuple[Claim, ...]:
    """The claim of an ImageJ file: resolution tags in the unit that its text names."""
    cols, rows = (rational(page.tags.valueof(tag)) for tag in (282, 283))
    unit = to_um(1.0, str(metadata.get("unit", "")))
    return () if cols is None or rows is None else tiff_claim(rows, cols, unit)


def lsm_claims(metadata: Mapping[str, Any]) -> tuple[Claim, ...]:
    """The voxel size of a Zeiss LSM, which is in metres."""
    rows, cols = (number(metadata.get(f"VoxelSize{axis}")) for axis in "YX")
    return claim("vendor", to_um(rows, "m"), to_um(cols, "m"))


def ome_images(xml: str, name: str) -> list[OmeImage]:
    """The images of an OME-XML, in order; an empty list where it is no XML.

    Raises:
        SourceError: More text than any microscope writes.
    """
    if len(xml) > MAX_XML_BYTES:
        raise SourceError(
            what=f"{name} carries {len(xml) >> 20} MiB of OME-XML", why=f"the limit is {MAX_XML_BYTES >> 20}", mend="check it"
        )
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    return [_ome_image(pixels) for image in _children(root, "Image") for pixels in _children(image, "Pixels")]


def pick_ome(images: list[OmeImage], shape: tuple[int, int], index: int) -> OmeImage | None:
    """The description of the image with this shape, the one at `index` before any other."""
    ordered = [*images[index : index + 1], *images]
    return next((image for image in ordered if image.shape == shape), None)


def ome_claims(image: OmeImage | None) -> tuple[Claim, ...]:
    """The physical size of an OME image's pixels."""
    return () if image is None else claim("OME", *image.mpp)


def _ome_image(pixels: ElementTree.Element) -> OmeImage:
    sizes = [number(pixels.get(f"PhysicalSize{axis}")) for axis in "ZYX"]
    units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "ZYX"]
    slices, rows, cols = (to_um(size, unit) for size, unit in zip(sizes, units, strict=True))
    files = [node.text or "" for data in _children(pixels, "TiffData") for node in _children(data, "UUID")]
    return OmeImage(
        shape=(int(number(pixels.get("SizeY")) or 0), int(number(pixels.get("SizeX")) or 0)),
        channels=tuple(channel.get("Name") or "" for channel in _children(pixels, "Channel")),
        mpp=(rows, cols),
        slice_um=slices,
        files=frozenset(files),
    )


def _children(node: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Children of this name in any version of the OME name space."""
    return [child for child in node if child.tag.rpartition("}")[2] == name]


def rational(value: Any) -> float | None:
    """A TIFF rational, or what tifffile made of it."""
    if isinstance(value, tuple) and len(value) == 2:
        above, below = (number(v) for v in value)
        return None if above is None or not below else above / below
    return number(value)

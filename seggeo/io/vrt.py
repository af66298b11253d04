"""VRT files: an XML that names other files, opened only on request and only when it stays in its own folder."""

from __future__ import annotations

import os
from xml.etree import ElementTree

from seggeo.errors import SourceError

_MAX_BYTES = 64 * 2**20
_SOURCES = {"SourceFilename"}
_HARMLESS = {
    "VRTDataset", "SRS", "GeoTransform", "Metadata", "MDI", "VRTRasterBand", "ColorInterp", "NoDataValue", "HideNoDataValue",
    "ColorTable", "Entry", "SimpleSource", "ComplexSource", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "NODATA",
    "ScaleOffset", "ScaleRatio", "LUT", "UseMaskBand", "MaskBand", "OverviewList", "Overview", "Description", "UnitType",
    "Offset", "Scale", "CategoryNames", "Category", "Exponent", "SrcMin", "SrcMax", "DstMin", "DstMax", "Clamp",
    "ColorTableComponent", "Histograms", "HistItem", "HistMin", "HistMax", "BucketCount", "IncludeOutOfRange", "Approximate",
    "HistCounts", "BlockXSize", "BlockYSize",
}  # fmt: skip


def vrt_sources(path: str) -> list[str]:
    """Real paths of the files a VRT reads, all of them below the VRT's own folder.

    Raises:
        SourceError: The VRT computes pixels, reads raw bytes, or names anything outside its folder.
    """
    root = _parse(path)
    folder = os.path.realpath(os.path.dirname(path))
    sources: dict[str, None] = {}
    for element in root.iter():
        if element.get("subClass") is not None:
            raise _refusal(path, f"it holds a {element.get('subClass')}, which computes or reinterprets bytes")
        if element.tag in _SOURCES:
            sources[_resolve(path, folder, element)] = None
        elif element.tag not in _HARMLESS:
            raise _refusal(path, f"its element {element.tag} is not one of those that only place images side by side")
    return list(sources)


def _parse(path: str) -> ElementTree.Element:
    if os.path.getsize(path) > _MAX_BYTES:
        raise _refusal(path, f"it is larger than {_MAX_BYTES >> 20} MiB")
    with open(path, "rb") as file:
        text = file.read()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise _refusal(path, "it declares XML entities")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise _refusal(path, f"it is not well-formed XML ({error})") from error


def _resolve(path: str, folder: str, element: ElementTree.Element) -> str:
    name = (element.text or "").strip()
    # GDAL gives meaning to names with a colon, "<" or "{" (sub-datasets, inline VRT) before it looks for a file.
    if not name or any(sign in name for sign in ":<{?") or "/vsi" in name:
        raise _refusal(path, f"its source {name!r} is not the plain name of a file")
    relative = element.get("relativeToVRT") == "1"
    target = os.path.realpath(os.path.join(os.path.dirname(path), name) if relative else name)
    if os.path.commonpath([folder, target]) != folder:
        raise _refusal(path, f"its source {name} lies outside {folder}")
    return target


def _refusal(path: str, why: str) -> SourceError:
    return SourceError(
        what=f"the VRT {path} is refused",
        why=why,
        mend="make a plain copy first: gdal_translate IN.vrt OUT.tif",
    )

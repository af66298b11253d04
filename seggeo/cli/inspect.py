"""`seggeo info` and `seggeo plugins`: what a file is, what is installed."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer

from seggeo.cli import options as o
from seggeo.config import settings_from
from seggeo.errors import ConfigError

Versions = Annotated[bool, typer.Option("--versions", help="Versions of everything that matters in a bug report.")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def info(
    file: Annotated[str | None, typer.Argument(help="Raster, slide or volume to look at.", show_default=False)] = None,
    allow_vrt: o.AllowVrt = None,
    versions: Versions = False,
    json_: AsJson = False,
) -> None:
    """What an image or volume is: size, bands, place in the world, nodata, blocks."""
    if versions:
        _show(_versions(), json_)
        return
    if file is None:
        raise ConfigError(what="no file given", why="info needs one to look at", mend="seggeo info scene.tif, or --versions")
    import seggeo.io as image_io

    one = {} if image_io.volume_kind(file) is None else {"time": 1}
    settings, _ = settings_from({"allow_vrt": bool(allow_vrt), **one})
    source = image_io.open_source(file, settings.reading, native=True)
    try:
        _show(source.describe(), json_)
    finally:
        source.close()


def plugins(json_: AsJson = False) -> None:
    """Sources, segmenters and sinks that are installed, and where each comes from."""
    from seggeo.plugins import GROUPS, available

    _show({group: {name: point.value for name, point in available(group).items()} for group in GROUPS}, json_)


def _show(values: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values))
        return
    for name, value in values.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, inner in value.items():
                typer.echo(f"  {key}: {inner}")
        else:
            typer.echo(f"{name}: {value}")


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.platform()}
    for package in ("seggeo", "numpy", "rasterio", "pyogrio", "pyproj", "shapely", "torch", "torchvision", "segment-anything"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    import rasterio

    found["gdal"] = rasterio.__gdal_version__
    import torch

    found["cuda"] = torch.version.cuda if torch.cuda.is_available() else "no device"
    return found

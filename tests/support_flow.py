"""Whole runs of the command for tests: small georeferenced scenes, the real program, and what it left behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from support_io import write
from support_scenes import random_scene

COMMAND = Path(sys.executable).with_name("seggeo")
UTM = Affine(0.5, 0, 500000, 0, -0.5, 5200000)
FORMATS = ("gpkg", "cog", "fgb", "parquet", "geojson")
SMALL = ("--tile", "128", "--overlap", "32", "--workers", "1", "--no-preview")
PLAIN = ("--model", "threshold", *SMALL)
"""For what any model would show: which one `auto` takes depends on the weights that come along."""

ORACLE = '''
class Oracle:
    """The input's own values as labels."""

    native = True

    def predict(self, tiles):
        return [tile[:, :, 0].astype("int32") for tile in tiles]
'''

SLOW = '''
import os
import time


class Slow:
    """The input's own values as labels, slowly; notes each tile in a file."""

    native = True
    wants_places = True

    def predict(self, tiles, places):
        with open(os.environ["TILE_LOG"], "a") as log:
            for place in places:
                time.sleep(float(os.environ.get("TILE_SECONDS", "0.05")))
                log.write(f"{place.index}\\n")
        return [tile[:, :, 0].astype("int32") for tile in tiles]
'''

FRAGILE = '''
import os

import numpy as np


class Fragile:
    """The input's own values as labels, but fails in one tile while a file is there."""

    native = True
    wants_places = True

    def __init__(self, how="raise"):
        self.how = how

    def predict(self, tiles, places):
        return [self.one(tile[:, :, 0].astype("int32"), place) for tile, place in zip(tiles, places)]

    def one(self, labels, place):
        if place.index != 4 or not os.path.exists(os.environ["BROKEN"]):
            return labels
        if self.how == "raise":
            raise ValueError("the fifth tile is too much for me")
        masks = np.stack([labels == i for i in np.unique(labels) if i])
        return {"masks": masks, "scores": np.full(len(masks), np.nan)}
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def results(self) -> list[dict[str, Any]]:
        """Standard output as lines of JSON; fails when it holds anything else."""
        return [json.loads(line) for line in self.out.splitlines()]

    def refusal(self) -> list[str]:
        """The lines of the one error message; fails when there is none, more than one, or a traceback."""
        assert "Traceback" not in self.err, self.err
        lines = self.err.splitlines()
        first = [i for i, line in enumerate(lines) if line.startswith("error: ")]
        assert len(first) == 1, self.err
        message = lines[first[0] :]
        assert [line[:7] for line in message] == ["error: ", "  why: ", "  fix: "], self.err
        assert all(line[7:].strip() for line in message), self.err
        return message


def seggeo(*args: str | Path, cwd: Path, timeout: float = 120, **env: str) -> Ran:
    """Run the real program in a process of its own."""
    done = subprocess.run(
        [str(COMMAND), *map(str, args)],
        cwd=cwd,
        env=clean_environment(**env),
        timeout=timeout,
        capture_output=True,
        check=False,
    )
    return Ran(code=done.returncode, out=done.stdout.decode(), err=done.stderr.decode(errors="backslashreplace"))


def clean_environment(**more: str) -> dict[str, str]:
    """This environment without seggeo's own variables, one thread a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEGGEO_")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def call(*args: str | Path, cwd: Path, **env: str) -> Ran:
    """The program's own `main` in this process: the same streams and exit code, without a second for starting."""
    from seggeo.cli.app import main

    out, err = io.StringIO(), io.StringIO()
    code = 0

    def show(*what: Any) -> None:  # pytest puts its own recorder here
        err.write(warnings.formatwarning(*what[:4]))

    with (
        contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        mock.patch.dict(os.environ, clean_environment(**env), clear=True),
        mock.patch.object(sys, "argv", ["seggeo", *map(str, args)]),
        mock.patch.object(warnings, "formatwarning", warnings.formatwarning), warnings.catch_warnings(),
    ):  # fmt: skip
        warnings.resetwarnings()
        warnings.showwarning = show
        for hidden in (DeprecationWarning, PendingDeprecationWarning, ResourceWarning, ImportWarning):  # as Python does
            warnings.simplefilter("ignore", hidden)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            logging.getLogger("seggeo").setLevel(logging.NOTSET)
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())


def succeed(*args: str | Path, cwd: Path, **env: str) -> Ran:
    """`call` that must end with 0."""
    ran = call(*args, cwd=cwd, **env)
    assert ran.code == 0, ran.err
    return ran


def write_labels(path: Path, labels: NDArray[Any], **options: Any) -> Path:
    """Labels as a one-band uint16 raster, for the oracle; UTM 33N, 0.5 m."""
    write(path, labels[None].astype("uint16"), **{"compress": "deflate", "transform": UTM, **options})
    return path


def write_picture(path: Path, labels: NDArray[Any], bands: int = 3, **options: Any) -> Path:
    """Labels as an 8-bit picture: dark ground, objects in lighter grays, a dark line between neighbours."""
    inner = labels.astype(np.int64)
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= inner[:, 1:] != inner[:, :-1]
    edge[1:] |= inner[1:] != inner[:-1]
    gray = np.where((inner > 0) & ~edge, 110 + inner * 37 % 140, 10).astype("uint8")
    write(path, np.stack([gray] * bands), **{"compress": "deflate", "transform": UTM, **options})
    return path


def scene(kind: str = "voronoi", seed: int = 1, shape: tuple[int, int] = (300, 340)) -> NDArray[np.int32]:
    """Labels of one of `support_scenes.KINDS`."""
    return random_scene(kind, seed, shape)


def write_model(folder: Path, source: str, name: str = "oracle.py") -> Path:
    """A model file, made by hand as a user would."""
    path = folder / name
    path.write_text(source)
    return path


def label_raster(path: str | Path) -> NDArray[np.uint32]:
    """Ids of a label raster."""
    with rasterio.open(path) as ds:
        return ds.read(1)


def features(path: str | Path) -> gpd.GeoDataFrame:
    """Objects of any vector output, ordered by id."""
    path = Path(path)
    table = gpd.read_parquet(path) if path.suffix == ".parquet" else gpd.read_file(path, layer=0)
    return table.sort_values("id", ignore_index=True) if len(table) else table


def drawn(table: gpd.GeoDataFrame, like: str | Path) -> NDArray[np.uint32]:
    """Polygons drawn with their ids into the grid of a raster."""
    with rasterio.open(like) as ds:
        shape, transform = ds.shape, ds.transform
    if not len(table):
        return np.zeros(shape, np.uint32)
    return rasterize(zip(table.geometry, table["id"], strict=True), out_shape=shape, transform=transform, dtype="uint32")


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """sha256 of the files directly in a folder, by name."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob(pattern)) if p.is_file()}


def below(folder: Path) -> set[str]:
    """Every path in a folder, relative."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def has_escapes(text: str) -> bool:
    """True when a text holds terminal control codes or carriage returns."""
    return bool(re.search(r"\x1b|\r", text))

"""Cut the two real samples, `town.tif` and `nuclei.tif`, from public data; no bundled weights have learnt from them.

    python sample_data/make_real.py DATA

DATA holds `overhead/banepa/banepa_north.tif` (OpenAerialMap contributors through HOTOSM fAIr, CC BY 4.0) and
`nuclei/bbbc039_train.zip` (BBBC039v1, Caicedo et al., Broad Bioimage Benchmark Collection, CC0).
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import rasterio
import tifffile
from PIL import Image
from rasterio.windows import Window

HERE = Path(__file__).parent
TOWN = Window(col_off=2048, row_off=2048, width=1024, height=1024)
"""The block of Banepa that `scripts/weights/overhead_data.py` keeps for the test."""
FIELD = "I03_s4"
"""A field of a well that `scripts/weights/nuclei_data.py` keeps for the test."""


def town(scene: Path, out: Path) -> None:
    with rasterio.open(scene) as source:
        pixels = source.read([1, 2, 3], window=TOWN)
        profile = {
            "driver": "COG", "height": TOWN.height, "width": TOWN.width, "count": 3, "dtype": "uint8", "crs": source.crs,
            "transform": source.window_transform(TOWN), "compress": "JPEG", "quality": 88, "blocksize": 256,
            "overviews": "NONE",
        }  # fmt: skip
        with rasterio.open(out, "w", **profile) as target:
            target.write(pixels)


def nuclei(archive: Path, out: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        name = next(n for n in file.namelist() if n.startswith("images/") and Path(n).stem == FIELD)
        with file.open(name) as member:
            pixels = np.asarray(tifffile.imread(member) if name.endswith("tif") else Image.open(member))
    tifffile.imwrite(out, pixels.astype(np.uint16), compression="deflate", predictor=True, photometric="minisblack")


if __name__ == "__main__":
    data = Path(sys.argv[1])
    town(data / "overhead" / "banepa" / "banepa_north.tif", HERE / "town.tif")
    nuclei(data / "nuclei" / "bbbc039_train.zip", HERE / "nuclei.tif")

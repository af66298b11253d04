"""What models see beyond a window: the law of stitched fields, held by a real network over whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from support_flow import UTM
from support_io import write
from torch import nn
from torch.nn import functional as F

from seggeo.config import settings_from
from seggeo.errors import ConfigError, GeometryError
from seggeo.geometry import Window
from seggeo.instances import Instances, concat
from seggeo.merge.sweep import sweep
from seggeo.protocols import ModelInfo, Prediction, TileImage
from seggeo.run.part import Recipe, predict_part, set_up
from seggeo.run.plan import estimate, make_plan
from seggeo.tiling import TileGrid

TILINGS = [(32, 8), (48, 24), (64, 2)]
SHAPES = [(97, 83), (61, 150), (30, 41)]


class Network(nn.Module):
    """One convolution, one level down and up, one convolution: a pixel sees 6 px around it, in cells of 2.

    Weights are whole numbers in double precision, so that sums are exact and no library's order of adding matters.
    """

    context, stride = 8, 2

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.deep, self.last = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 1, 3, padding=1)
        self.double().requires_grad_(requires_grad=False)
        for weights in self.parameters():
            weights.copy_(torch.randint(-9, 10, weights.shape))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skip = F.relu(self.first(image))
        deep = F.relu(self.deep(F.relu(self.down(skip))))
        return self.last(skip + F.interpolate(deep, scale_factor=2.0, mode="nearest"))


class FieldModel:
    """Components of a network's field above its median, and the fields of all windows."""

    def __init__(self, context: int = Network.context, stride: int = Network.stride) -> None:
        torch.manual_seed(3)
        self.network = Network().eval()
        self.level = 0.0
        self.info = ModelInfo(name="fields", context=context, stride=stride)
        self.fields: dict[int, NDArray[np.float64]] = {}

    def field(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of an array, padded with zeros to whole cells."""
        height, width = image.shape[:2]
        values = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).double()[None]
        with torch.inference_mode():
            out = self.network(F.pad(values, (0, width % 2, 0, height % 2)))
        return out[0, 0, :height, :width].numpy()

    def predict(self, tiles: Sequence[TileImage]) -> list[Prediction]:
        return [self.one(tile) for tile in tiles]

    def one(self, tile: TileImage) -> Prediction:
        field = self.field(tile.image)[tile.inside]
        self.fields[tile.tile.index] = field
        return Prediction(instances=Instances.from_labels(ndimage.label(field > self.level)[0]))


def picture(folder: Path, shape: tuple[int, int], *, hole: Window | None = None) -> tuple[Path, NDArray[np.uint8]]:
    """Coloured noise on disk, 0 being no data, and its array."""
    rng = np.random.default_rng(shape[0])
    image = ndimage.gaussian_filter(rng.normal(size=(*shape, 3)), (2.5, 2.5, 0))
    image = (1 + 254 * (image - image.min()) / np.ptp(image)).astype(np.uint8)
    if hole is not None:
        image[hole.slices()] = 0
    path = folder / f"{shape[0]}.tif"
    write(path, image.transpose(2, 0, 1), transform=UTM, nodata=0)
    return path, image


def run(path: Path, model: FieldModel, tile: int, overlap: int) -> tuple[Instances, TileGrid, list[dict[str, int]]]:
    """Merged objects of a whole run in this process, its grid, and what the parts noted."""
    settings, execution = settings_from({"model": "threshold", "tile": tile, "overlap": overlap})
    plan = make_plan(str(path), settings, execution)
    bench = set_up(Recipe(path=str(path), reading=settings.reading, job=plan.job, request=plan.request), model)
    try:
        parts = [predict_part(bench, part) for part in range(len(plan.job.parts))]
    finally:
        bench.close()
    assert not [failure for part in parts for failure in part.notes["failures"]]
    merged = sweep(((p.part, p.instances, p.tile) for p in parts), plan.job.parts, match_iou=0.3, exclusive=True)
    objects = concat([batch.instances for batch in merged])
    order = np.lexsort((-objects.area, objects.box[:, 1], objects.box[:, 0]))
    return objects.take(order), plan.job.grid, [dict(part.notes) for part in parts]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("tile", "overlap"), TILINGS)
def test_fields_and_objects_are_those_of_the_whole_image(tmp_path: Path, shape: tuple[int, int], tile: int, overlap: int):
    path, image = picture(tmp_path, shape)
    model = FieldModel()
    whole = model.field(image)
    model.level = float(np.median(whole))
    wanted = Instances.from_labels(ndimage.label(whole > model.level)[0])

    objects, grid, _ = run(path, model, tile, overlap)

    assert len(grid) == len(model.fields)
    for place in grid:
        assert np.array_equal(model.fields[place.index], whole[place.window.slices()])
    order = np.lexsort((-wanted.area, wanted.box[:, 1], wanted.box[:, 0]))
    assert np.array_equal(objects.box, wanted.take(order).box)
    assert np.array_equal(objects.runs, wanted.take(order).runs)


@pytest.mark.parametrize(("context", "stride"), [(0, 1), (2, 2), (8, 1)])
def test_less_context_or_no_stride_is_not_enough(tmp_path: Path, context: int, stride: int):
    path, image = picture(tmp_path, (97, 83))
    model = FieldModel(context, stride)
    whole = model.field(image)

    _, grid, _ = run(path, model, 33, 8)

    assert not all(np.array_equal(model.fields[t.index], whole[t.window.slices()]) for t in grid)


def test_tiles_are_empty_by_their_window_and_holes_stay_holes(tmp_path: Path):
    hole = Window(row=0, col=0, height=33, width=33)
    path, _ = picture(tmp_path, (97, 83), hole=hole)
    model = FieldModel()
    model.level = -1e9  # everything is one object

    objects, grid, notes = run(path, model, 32, 8)

    assert sum(n["empty"] for n in notes) == 1
    assert set(range(len(grid))) - set(model.fields) == {0}, "its context holds data, its window none"
    assert objects.area.sum() == 97 * 83 - hole.area


def test_a_model_of_ones_own_gets_extents_and_makes_the_same_objects(tmp_path: Path):
    from support_docs import code_blocks
    from support_flow import label_raster, succeed

    _, image = picture(tmp_path, (97, 150))
    (code,) = [block for block in code_blocks("custom-model.md", "python") if "smooth.py" in block]
    level = int(np.median(ndimage.gaussian_filter(image.mean(axis=2), 4, radius=16, mode="constant")))
    (tmp_path / "smooth.py").write_text(code.replace("> 100", f"> {level}"))
    found = []
    for tile, overlap in ((160, 32), (48, 8), (64, 32)):
        size = ("--tile", str(tile), "--overlap", str(overlap), "--workers", "1", "--no-preview")
        succeed("segment", "97.tif", "--model", "smooth.py:Smooth", "-f", "cog", "-o", f"{tile}", *size, cwd=tmp_path)
        found.append(label_raster(tmp_path / f"{tile}" / "97_labels.tif"))

    assert found[0].max() > 1
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


sides = st.integers(1, 300)


@given(
    size=st.tuples(sides, sides), tile=st.integers(16, 90), halo=st.integers(1, 4), context=st.integers(0, 70),
    stride=st.sampled_from([1, 2, 8, 16]),
)  # fmt: skip
def test_extents_cover_begin_on_the_lattice_and_stay_in_the_image(
    size: tuple[int, int], tile: int, halo: int, context: int, stride: int
):
    info = ModelInfo(name="m", context=context, stride=stride)
    grid = TileGrid(height=size[0], width=size[1], tile=tile, halo=halo)
    whole = Window(row=0, col=0, height=size[0], width=size[1])
    for place in grid:
        extent = info.extent(place.window, within=whole)

        assert whole.contains(extent)
        assert extent.contains(place.window.grow(context, within=whole))
        assert extent.row % stride == extent.col % stride == 0
        for stop, end in zip(extent.bounds[2:], size, strict=True):
            assert stop % stride == 0 or stop == end
        assert extent.height <= place.window.height + 2 * (context + stride - 1)


def test_a_tile_without_context_is_its_window_and_a_wrong_extent_is_refused():
    place = TileGrid(height=50, width=60, tile=32, halo=4)[3]
    image, valid = np.zeros((*place.window.shape, 3), np.uint8), np.ones(place.window.shape, bool)
    tile = TileImage(image=image, valid=valid, tile=place)

    assert tile.extent == place.window
    assert tile.image[tile.inside].shape == image.shape
    assert replace(tile, image=image + 1).extent == place.window
    with pytest.raises(GeometryError, match="whose window is"):
        TileImage(image=image, valid=valid, tile=place, extent=place.window.shift(1, 0))
    with pytest.raises(GeometryError, match="whose window is"):
        TileImage(image=image, valid=valid, tile=place, extent=Window(row=0, col=0, height=50, width=60))


@pytest.mark.parametrize("wrong", [{"context": -1}, {"stride": 0}])
def test_context_and_stride_are_lengths(wrong: dict[str, int]):
    with pytest.raises(ConfigError, match="asks for a context"):
        ModelInfo(name="m", **wrong)


def test_context_counts_in_the_plans_memory(tmp_path: Path):
    path, _ = picture(tmp_path, (61, 70))
    settings, execution = settings_from({"model": "threshold", "tile": 32, "overlap": 8})
    plan = make_plan(str(path), settings, execution)
    seeing = FieldModel(context=500, stride=16)
    seeing.info = replace(plan.info, context=500, stride=16)

    more = estimate(replace(plan, segmenter=seeing))["memory_bytes"] - estimate(plan)["memory_bytes"]

    assert more == 8 * 3 * ((32 + 2 * 515) ** 2 - 32**2)

"""Rows of a volume's objects: equal to SciPy, scikit-image and nibabel on the whole label volume."""

import csv
import tracemalloc

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.ndimage import center_of_mass, gaussian_filter
from skimage.measure import marching_cubes, mesh_surface_area, regionprops
from support_volume import blobs, objects_in, placement, slice_objects, volume_of

from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.output.cells_table import Extras
from seggeo.output.volume_ledger import Ledger
from seggeo.output.volume_measures import rows_of, tally
from seggeo.output.volume_objects import iter_rows, read_rows, write_objects
from seggeo.output.volume_shape import cube_areas, mesh_area, pair_areas
from seggeo.protocols import SinkOptions
from seggeo.rle import Spans, labels_to_spans

STRAIGHT = np.array([[0, 0, 0.5, -20], [0, 0.7, 0, 11], [2.0, 0, 0, 300]])
OBLIQUE = np.array([[0.31, -0.12, 0.48, -20], [0.5, 0.69, 0.1, 11], [1.9, 0.05, -0.2, 300]])
MIRRORED = STRAIGHT * [1, 1, -1, 1]
NO_OPTIONS = SinkOptions()


def frame_of(labels, matrix=None, **fields):
    depth, height, width = labels.shape
    fields = {"unit": "mm", **fields}
    return Frame(
        depth=depth, height=height, width=width, placement=None if matrix is None else placement(matrix=matrix), **fields
    )


def table(result, **options):
    parts = list(iter_rows(result, **options))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def shapes(seed, shape=(14, 40, 50)):
    """Touching objects with holes, tunnels and several pieces each."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), 1.3)
    return np.where(
        field > 0.02, 1 + (np.arange(shape[2]) // 13)[None, None] + 4 * (np.arange(shape[1]) // 15)[None, :, None], 0
    )


@pytest.mark.parametrize("matrix", [STRAIGHT, OBLIQUE, MIRRORED])
@pytest.mark.parametrize("labels", [shapes(0), blobs(1, (12, 40, 30)), (shapes(2) > 0).astype(int)])
@pytest.mark.parametrize("batch", [3, 1000])
def test_rows_are_those_of_the_label_volume(labels, matrix, batch):
    found = table(volume_of(labels, frame_of(labels, matrix), batch=batch))
    ids = np.unique(labels[labels > 0])
    steps, corner = matrix[:, :3], np.vstack([matrix, [0, 0, 0, 1]])

    assert found["id"].tolist() == ids.tolist()
    np.testing.assert_array_equal(found["voxels"], np.bincount(labels.ravel())[ids])
    np.testing.assert_allclose(found["volume_mm3"], found["voxels"] * abs(np.linalg.det(steps)), rtol=1e-6)
    centres = np.array(center_of_mass(labels > 0, labels, ids))
    np.testing.assert_allclose(np.stack([found[f"{a}_index"] for a in ("z", "row", "col")], axis=1), centres, atol=1e-4)
    np.testing.assert_allclose(np.stack([found[f"{a}_mm"] for a in "xyz"], axis=1), apply_affine(corner, centres), atol=2e-6)
    for i, props in enumerate(regionprops(labels)):
        z = props.coords[:, 0]
        assert (found["first_slice"][i], found["last_slice"][i]) == (z.min(), z.max())
        assert found["slices"][i] == len(np.unique(z)) == z.max() - z.min() + 1 - found["missed_slices"][i]
        assert found["touches_edge"][i] == (z.min() == 0 or z.max() == len(labels) - 1)
        corners = (props.coords[:, None] + np.indices((2, 2, 2)).reshape(3, 8).T - 0.5).reshape(-1, 3)
        np.testing.assert_allclose(
            [found[f"extent_{a}_mm"][i] for a in "xyz"], np.ptp(apply_affine(corner, corners), axis=0), rtol=1e-6
        )
        points, faces, *_ = marching_cubes(np.pad(labels == props.label, 1).astype(np.float32), 0.5)
        area = mesh_surface_area(points @ steps.T, faces)
        np.testing.assert_allclose(found["surface_mm2"][i], area, rtol=1e-6)
        expected = np.pi ** (1 / 3) * (6 * found["volume_mm3"][i]) ** (2 / 3) / area
        np.testing.assert_allclose(found["sphericity"][i], expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_slices_add_up_to_the_whole_surface_even_of_noise(seed):
    """All 256 cubes occur, ambiguous ones too."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (9, 17, 23))
    steps = rng.normal(size=(3, 3)) + 2 * np.eye(3)
    areas, total = cube_areas(steps), np.zeros(3)

    padded = np.pad(labels, ((1, 1), (0, 0), (0, 0)))
    for z in range(len(padded) - 1):
        total += pair_areas(*(owned(padded[z + i]) for i in (0, 1)), 3, areas)

    for i in range(3):
        points, faces, *_ = marching_cubes(np.pad(labels == i + 1, 1).astype(np.float32), 0.5)
        assert total[i] == pytest.approx(mesh_area(points @ steps.T, faces), rel=1e-12)


def owned(labels):
    spans, ids = labels_to_spans(labels)
    return Spans(owner=(ids - 1)[spans.owner], row=spans.row, start=spans.start, stop=spans.stop)


@pytest.mark.parametrize(("spacing", "most"), [((1.0, 1.0, 1.0), 1.1), ((2.0, 0.5, 0.5), 1.2), ((6.0, 1.0, 1.0), 1.23)])
def test_surfaces_of_balls_and_boxes_are_near_the_analytic_ones(spacing, most):
    """Steps between voxels are part of the surface: more than the ball's, the more the coarser the slices."""
    radius = 18 * max(1.0, spacing[0] / 2)
    size = tuple(int(2 * radius / s) + 4 for s in spacing)
    ball = radius > np.linalg.norm((np.indices(size).T * spacing - np.array(size) * spacing / 2 + 0.1), axis=-1).T
    box = np.zeros((30, 60, 60), np.uint8)
    box[5:25, 10:50, 12:42] = 1
    matrix = [[0, 0, spacing[2], 0], [0, spacing[1], 0, 0], [spacing[0], 0, 0, 0]]

    round_one = table(volume_of(ball.astype(np.uint8), frame_of(ball, matrix)))
    straight = table(volume_of(box, frame_of(box, matrix)))

    assert round_one["volume_mm3"][0] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.02)
    assert 1.0 < round_one["surface_mm2"][0] / (4 * np.pi * radius**2) < most
    a, b, c = np.array([20, 40, 30]) * spacing
    assert straight["surface_mm2"][0] == pytest.approx(2 * (a * b + b * c + a * c), rel=0.06)
    assert straight["sphericity"][0] < round_one["sphericity"][0]


def test_scores_edges_and_tiles_are_gathered_over_slices(tmp_path):
    labels = np.zeros((6, 10, 10), int)
    labels[1:3, 2:4, 2:4], labels[4, 2:6, 2:6], labels[2:4, 7:9, 7:9] = 1, 1, 2

    def slice_of(z):
        plain = slice_objects(labels[z], z)
        i, n = plain.instances, len(plain)
        scored = Instances.from_spans(i.spans(), score=np.full(n, 0.1 * z), label=plain.id - 1, z=z)
        made = objects_in(scored, plain.id)
        made.n_tiles[:] = z
        made.cut[:] = plain.id == 2
        made.touches_edge[:] = (plain.id == 2) & (z == 3)
        return made

    whole = volume_of(labels, frame_of(labels))
    linking = {
        "events": [{"kind": "branch", "z": 2, "id": 1, "others": [2, 5]}, {"kind": "merge", "z": 3, "id": 2, "others": [1]}]
    }
    found = table(type(whole)(whole.frame, slice_of, 2, classes=("a", "=b()"), linking=linking))

    assert found["score"] == pytest.approx([(4 * 0.1 + 4 * 0.2 + 16 * 0.4) / 24, 0.25], rel=1e-6)
    assert found["class"].tolist() == ["a", "'=b()"]  # no formula for a spreadsheet
    assert found["n_tiles"].tolist() == [4, 3]
    assert found["cut"].tolist() == [False, True]
    assert found["touches_edge"].tolist() == [False, True]
    assert found["missed_slices"].tolist() == [1, 0]
    assert found["branches"].tolist() == found["merges"].tolist() == [1, 1]


def test_a_series_has_a_row_for_each_track():
    labels = np.zeros((6, 40, 40), int)
    for t, (row, col) in {0: (2, 2), 1: (5, 6), 3: (5, 16)}.items():
        labels[t, row : row + 4, col : col + 4] = 1
    labels[5, 30:32, 30:36] = 2
    matrix = [[0, 0, 0.5, 100], [0, -0.5, 0, 50], [7, 0, 0, 0]]
    found = table(volume_of(labels, frame_of(labels, matrix, unit="um", is_series=True)))

    assert found["frames"].tolist() == [3, 1]
    assert found["first_frame"].tolist() == [0, 5]
    assert found["last_frame"].tolist() == [3, 5]
    assert found["missed_frames"].tolist() == [1, 0]
    assert found["area_mean_um2"] == pytest.approx([4, 3])
    assert found["path_um"] == pytest.approx([2.5 + 5, 0])
    assert found["displacement_um"] == pytest.approx([np.hypot(1.5, 7), 0])
    assert found["speed_um_per_frame"] == pytest.approx([2.5, 0])
    assert found["start_x_um"] == pytest.approx([100 + 3.5 * 0.5, 100 + 32.5 * 0.5])
    assert found["end_y_um"] == pytest.approx([50 - 6.5 * 0.5, 50 - 30.5 * 0.5])
    assert not found["touches_edge"].any()


def test_the_file_says_the_same_in_the_same_bytes(tmp_path):
    labels = shapes(3)
    extras = Extras(columns={"mean_intensity": np.arange(16, dtype=np.float32), "max_intensity": np.full(16, np.nan)})
    files = [
        write_objects(volume_of(labels, frame_of(labels, OBLIQUE), batch=batch), tmp_path / name, NO_OPTIONS, extras=extras)
        for name, batch in {"one.csv": 2, "two.csv": 500}.items()
    ]

    assert files[0].read_bytes() == files[1].read_bytes()
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    expected = table(volume_of(labels, frame_of(labels, OBLIQUE)))
    assert [int(r["id"]) for r in rows] == expected["id"].tolist()
    assert [float(r["surface_mm2"]) for r in rows] == pytest.approx(expected["surface_mm2"], rel=1e-6)
    assert [float(r["mean_intensity"]) for r in rows] == (expected["id"] - 1).tolist()
    assert {r["max_intensity"] for r in rows} == {""}
    again = {name: np.concatenate([part[name] for part in read_rows(files[0])]) for name in expected}
    np.testing.assert_allclose(again["x_mm"], expected["x_mm"])
    assert again["class"].tolist() == expected["class"].tolist()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.csv", "two.csv"]


def test_a_single_plane_has_rows_too():
    labels = np.zeros((1, 9, 9), int)
    labels[0, 2:5, 2:6] = 1
    found = table(volume_of(labels, frame_of(labels, unit="px")))

    assert (found["voxels"].tolist(), found["volume_px3"].tolist()) == ([12], [12])
    assert [found[f"extent_{a}_px"][0] for a in "xyz"] == [4, 3, 1]
    assert found["touches_edge"].tolist() == [False]


def test_no_objects_make_a_header_alone(tmp_path):
    labels = np.zeros((3, 8, 8), int)
    path = write_objects(volume_of(labels, frame_of(labels, unit="px")), tmp_path / "none.csv", NO_OPTIONS)
    (line,) = path.read_text().splitlines()

    assert line.startswith('"id","class","score","voxels","volume_px3","surface_px2","sphericity","extent_x_px"')


def test_memory_is_that_of_two_slices_whatever_the_depth():
    """Balls in a lattice: as many objects in every slice, more of them the deeper the volume."""
    labels = np.zeros((20, 120, 120), int)
    ball = np.linalg.norm(np.indices((16, 16, 16)).T - 7.5, axis=-1).T < 7.5  # noqa: SIM300
    for i, (row, col) in enumerate(np.ndindex(7, 7)):
        labels[2:18, row * 17 : row * 17 + 16, col * 17 : col * 17 + 16][ball] = i + 1
    layers = [slice_objects(labels[z], z) for z in range(20)]

    def slice_of(z):
        one = layers[z % 20]
        return objects_in(one.instances.shift(0, 0, z - z % 20), one.id + np.uint32(49 * (z // 20)))

    def peak(depth):
        frame = Frame(depth=depth, height=120, width=120, placement=placement(), unit="mm")
        whole = type(volume_of(labels))(frame, slice_of, 49 * depth // 20)
        tracemalloc.start()
        with tally(whole, None) as ledger:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert sum(len(rows.id) for rows in rows_of(ledger)) == 49 * depth // 20
        return most

    peak(20)  # what is made once
    assert peak(240) < 1.05 * peak(60)


def test_a_ledger_that_keeps_one_block_forgets_nothing(tmp_path):
    rng = np.random.default_rng(0)
    truth = np.tile([1.0, -np.inf], (40_000, 1))
    with Ledger([1.0, -np.inf], tmp_path, blocks=1) as ledger:
        for _ in range(30):
            ids = np.unique(rng.integers(1, 40_001, 500))
            rows = ledger.take(ids)
            np.testing.assert_array_equal(rows, truth[ids - 1])
            truth[ids - 1] = rng.random((len(ids), 2))
            ledger.put(ids, truth[ids - 1])
        seen = np.concatenate([rows for _, rows in ledger.blocks()])[: len(truth)]
        np.testing.assert_array_equal(seen, truth)
        assert ledger.take(np.zeros(0, np.int64)).shape == (0, 2)
    assert list(tmp_path.iterdir()) == []

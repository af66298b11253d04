"""Meshes: closed, outside out and of the objects' own volume, in the world's coordinates; files read back by hand."""

import re

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes
from support_volume import blobs, placement, volume_of

from seggeo.errors import OutputError
from seggeo.geometry import Frame
from seggeo.output.mesh import signed_volume, smooth
from seggeo.output.meshes import iter_meshes, remarks_of, write_obj, write_ply
from seggeo.protocols import SinkOptions

STRAIGHT = np.array([[0, 0, 0.5, -20], [0, 0.5, 0, 11], [1.0, 0, 0, 300]])
OBLIQUE = np.array([[0.31, -0.12, 0.48, -20], [0.5, 0.69, 0.1, 11], [0.9, 0.05, -0.2, 300]])
MIRRORED = STRAIGHT * [1, -1, 1, 1]
NO_OPTIONS = SinkOptions()


def result_of(labels, matrix=STRAIGHT, **fields):
    depth, height, width = labels.shape
    place = placement(matrix=matrix, space=fields.pop("space", ""))
    frame = Frame(depth=depth, height=height, width=width, placement=place, **{"unit": "mm", **fields})
    return volume_of(labels, frame)


def ball(radius, size):
    return (radius > np.linalg.norm(np.indices(size).T - (np.array(size) - 1.2) / 2, axis=-1).T).astype(np.uint8)


def tissue(seed):
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(16, 30, 30)), 1.5)
    return (field > 0.05).astype(np.uint8) * (1 + (np.arange(30) > 14)).astype(np.uint8)


def read_ply(data):
    """Remarks, points and triangles of a binary PLY, read as its specification says."""
    head, _, body = data.partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    n, f = (int(re.search(rf"^element {kind} (\d+)$", head.decode(), re.M)[1]) for kind in ("vertex", "face"))
    points = np.frombuffer(body, "<f4", 3 * n).reshape(n, 3)
    faces = np.frombuffer(body, np.dtype([("n", "u1"), ("v", "<i4", 3)]), f, 12 * n)
    assert len(body) == 12 * n + 13 * f
    assert (faces["n"] == 3).all()
    return [line[8:] for line in lines if line.startswith("comment ")], points, faces["v"]


def read_obj(text):
    rows = [line.split() for line in text.splitlines()]
    points = np.array([r[1:] for r in rows if r[0] == "v"], float)
    return points, np.array([r[1:] for r in rows if r[0] == "f"], int) - 1


def assert_closed(faces):
    """Every side of a triangle is that of another one, gone the other way."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    top = faces.max() + 1
    np.testing.assert_array_equal(np.sort(edges[:, 0] * top + edges[:, 1]), np.sort(edges[:, 1] * top + edges[:, 0]))


@pytest.mark.parametrize("matrix", [STRAIGHT, OBLIQUE, MIRRORED])
@pytest.mark.parametrize("labels", [blobs(3, (12, 24, 24), 8), tissue(0), np.random.default_rng(1).integers(0, 3, (6, 9, 9))])
def test_surfaces_are_closed_and_show_their_outside(tmp_path, labels, matrix):
    folder = write_ply(result_of(labels, matrix), tmp_path / "meshes", NO_OPTIONS)

    ids = np.unique(labels[labels > 0])
    assert sorted(p.name for p in folder.iterdir()) == [f"object_{i:06d}.ply" for i in ids]
    for number in ids:
        _, points, faces = read_ply((folder / f"object_{number:06d}.ply").read_bytes())
        assert_closed(faces)
        assert signed_volume(points.astype(float), faces) > 0


@pytest.mark.parametrize("matrix", [STRAIGHT, OBLIQUE, MIRRORED])
def test_a_big_ball_keeps_its_volume_and_its_place(tmp_path, matrix):
    labels = np.pad(ball(14, (31, 33, 30)), ((3, 0), (0, 2), (1, 7)))
    folder = write_ply(result_of(labels, matrix, space="LPS"), tmp_path / "meshes", NO_OPTIONS)
    remarks, points, faces = read_ply((folder / "object_000001.ply").read_bytes())

    steps = np.asarray(matrix)[:, :3]
    assert signed_volume(points.astype(float), faces) == pytest.approx(labels.sum() * abs(np.linalg.det(steps)), rel=0.003)
    centre = steps @ np.argwhere(labels).mean(axis=0) + np.asarray(matrix)[:, 3]
    np.testing.assert_allclose(points.mean(axis=0), centre, atol=0.05)
    back = np.linalg.norm(np.linalg.solve(steps, (points - centre).T), axis=0)
    assert np.abs(back - 14).max() < 0.6  # voxels: every point lies on the ball
    normals = np.cross(points[faces[:, 1]] - points[faces[:, 0]], points[faces[:, 2]] - points[faces[:, 0]])
    assert (np.einsum("ij,ij->i", normals, points[faces].mean(axis=1) - centre) > 0).all()
    assert remarks[0] == "seggeo object 1, class object"
    assert remarks[1] == "world coordinates in mm, LPS: x to the left, y posterior, z superior"


@pytest.mark.parametrize(("radius", "within"), [(3, 0.05), (4, 0.03), (6, 0.01), (16, 0.002)])
def test_smoothing_shrinks_no_more_than_stated_and_smooths(radius, within):
    labels = ball(radius, (2 * radius + 4,) * 3)
    ((_, _, mesh),) = iter_meshes(result_of(labels, [[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0]]))
    points, faces, *_ = marching_cubes(np.pad(labels, 1).astype(np.float32), 0.5)

    assert mesh.volume == pytest.approx(float(labels.sum()), rel=within)
    np.testing.assert_allclose(smooth(points, faces, 0), points)
    roughness = [np.linalg.norm(p - p.mean(axis=0), axis=1).std() for p in (points, mesh.points)]
    assert roughness[1] < 0.75 * roughness[0]


def test_a_large_object_is_meshed_from_blocks_and_says_so():
    labels = np.pad(ball(20, (44, 44, 44)), ((1, 0), (5, 3), (2, 6)))
    whole = result_of(labels)
    ((_, _, fine),), ((_, _, coarse),) = iter_meshes(whole), iter_meshes(whole, most=16_000)

    assert fine.joined == (1, 1, 1)
    assert coarse.joined == (1, 2, 2)  # planes are twice as far apart
    assert coarse.volume == pytest.approx(fine.volume, rel=0.01)
    np.testing.assert_allclose(coarse.points.min(axis=0), fine.points.min(axis=0), atol=0.5)
    np.testing.assert_allclose(coarse.points.max(axis=0), fine.points.max(axis=0), atol=0.5)
    assert_closed(coarse.faces)
    assert len(remarks_of(whole, (1, 0), fine)) == 3
    assert remarks_of(whole, (1, 0), coarse)[3:] == [
        "coarser than the volume: blocks of 1 x 2 x 2 voxels (z, row, col) were taken as one"
    ]


def test_obj_holds_what_ply_holds_and_the_same_bytes_come_again(tmp_path):
    labels = tissue(4)
    folders = [write_ply(result_of(labels, OBLIQUE), tmp_path / name, NO_OPTIONS) for name in "ab"]
    text = write_obj(result_of(labels, OBLIQUE), tmp_path / "c", NO_OPTIONS)

    for number in (1, 2):
        one, two = ((folder / f"object_{number:06d}.ply").read_bytes() for folder in folders)
        assert one == two
        _, points, faces = read_ply(one)
        other_points, other_faces = read_obj((text / f"object_{number:06d}.obj").read_text())
        np.testing.assert_allclose(other_points, points, rtol=1e-6)
        np.testing.assert_array_equal(other_faces, faces)


def test_objects_with_missed_slices_and_none_at_all(tmp_path):
    labels = np.zeros((7, 9, 9), np.uint8)
    labels[1:3, 2:6, 2:6], labels[4:6, 2:6, 2:6] = 1, 1
    ((number, label, mesh),) = iter_meshes(result_of(labels))
    assert (number, label) == (1, 0)
    assert_closed(mesh.faces)
    assert list(write_obj(result_of(labels * 0), tmp_path / "none", NO_OPTIONS).iterdir()) == []


@pytest.mark.parametrize("fields", [{"is_series": True}, {"plane": True}])
def test_what_has_no_surface_is_refused(tmp_path, fields):
    labels = np.ones((1 if fields.pop("plane", False) else 3, 5, 5), np.uint8)
    with pytest.raises(OutputError, match="no surfaces"):
        write_ply(result_of(labels, **fields), tmp_path / "meshes", NO_OPTIONS)
    assert list(tmp_path.iterdir()) == []

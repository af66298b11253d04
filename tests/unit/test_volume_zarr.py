"""OME-Zarr volumes in folders and at addresses, read as zarr reads them."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
import zarr
from support_volumes_read import SHARED, assert_reads, boxes, closing_volumes, read_or_refuse, served
from zarr.core.buffer import default_buffer_prototype

from seggeo.config import Reading
from seggeo.errors import SourceError
from seggeo.geometry import Placement
from seggeo.io.slide import open_slide
from seggeo.io.volume_detect import volume_kind
from seggeo.io.zarr_guard import _check_index

RNG = np.random.default_rng(3)
VOLUME = RNG.integers(0, 4000, (9, 37, 41)).astype(np.uint16)
UNITS = {"z": "micrometer", "y": "micrometer", "x": "micrometer", "t": "second"}


def write(path, levels, axes="zyx", *, version="0.4", said=None, **options):
    """An OME-Zarr of arrays, the full resolution first.

    `said`: `units` of the axes, `steps` (the transformations of each level), `common` ones, `names` of channels.
    """
    told = said or {}
    units, steps, common = told.get("units", UNITS), told.get("steps"), told.get("common")
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": a, "type": kinds.get(a, "space")} | ({"unit": units[a]} if a in units else {}) for a in axes]
    datasets = []
    for i, data in enumerate(levels):
        group.create_array(str(i), data=data, **{"chunks": tuple(min(16, n) for n in data.shape), **options})
        scale = [1.0 if a == "c" else (2.0 if a == "z" else 0.5) * 2**i for a in axes]
        own = [{"type": "scale", "scale": scale}] if steps is None else steps[i]
        datasets.append({"path": str(i), **({"coordinateTransformations": own} if own else {})})
    image = {"version": version, "axes": named, "datasets": datasets}
    if common:
        image["coordinateTransformations"] = common
    attributes = {"multiscales": [image], "omero": {"channels": [{"label": name} for name in told.get("names", ())]}}
    group.attrs.update(attributes if version == "0.4" else {"ome": {"version": version, **attributes}})
    return path


@pytest.fixture
def opened():
    with closing_volumes() as opener:
        yield opener


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "i2", "u4", ">f4", "f8"])
def test_every_type_reads_as_with_zarr(tmp_path, version, dtype, opened):
    data = VOLUME.astype(dtype)
    volume = opened(write(tmp_path / "a.zarr", [data], version=version))

    assert (volume.facts.kind, volume.facts.family) == (f"OME-Zarr {version}", "ome-zarr")
    assert volume.facts.chunk == (9, 16, 16)
    assert_reads(volume, np.asarray(zarr.open_array(tmp_path / "a.zarr" / "0", mode="r")))


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("tczyx", (2, 3, 4, 17, 18)), ("czyx", (3, 4, 17, 18)), ("tzyx", (2, 4, 17, 18)), ("zyx", (4, 17, 18)),
     ("tyx", (5, 17, 18)), ("tcyx", (5, 2, 17, 18)), ("tczyx", (5, 2, 1, 17, 18)), ("xyz", (18, 17, 4))],
)  # fmt: skip
def test_every_set_of_axes(tmp_path, axes, shape, opened):
    data = RNG.integers(0, 255, shape).astype(np.uint8)
    volume = opened(write(tmp_path / "a.zarr", [data], axes, said={"names": ("a", "b", "c")[: shape[axes.find("c")]]}))

    full = data.transpose([axes.index(a) for a in "tczyx" if a in axes])
    full = full.reshape([dict(zip(axes, shape, strict=True)).get(a, 1) for a in "tczyx"])
    if full.shape[2] == 1:
        assert (volume.facts.axes, volume.facts.times) == (("t", "y", "x"), 1)
        assert volume.facts.matrix[2] == (1.0, 0.0, 0.0, 0.0)
        full = full.transpose(2, 1, 0, 3, 4)
    else:
        assert (volume.facts.axes, volume.facts.times) == (("z", "y", "x"), full.shape[0])
    assert len(volume.facts.channels) == full.shape[1]
    for t in range(full.shape[0]):
        for c in range(full.shape[1]):
            assert_reads(volume, full[t, c], time=t, channel=c, count=3)


def test_one_plane_is_no_volume(tmp_path, opened):
    path = write(tmp_path / "a.zarr", [VOLUME[:1]])

    assert volume_kind(str(path)) is None
    with pytest.raises(SourceError, match="is no volume"):
        opened(path)


def test_scales_and_translations_place_the_voxels(tmp_path, opened):
    own = [{"type": "scale", "scale": [2000.0, 0.5, 0.25]}, {"type": "translation", "translation": [100.0, 3.0, -4.0]}]
    common = [{"type": "scale", "scale": [1.0, 2.0, 2.0]}, {"type": "translation", "translation": [0.0, 1.0, 0.0]}]
    units = {"z": "nanometer", "y": "micrometer", "x": "millimeter"}
    facts = opened(write(tmp_path / "a.zarr", [VOLUME], said={"units": units, "steps": [own], "common": common})).facts

    placed = Placement(matrix=facts.matrix)
    np.testing.assert_allclose(placed.world([[0, 0, 0], [1, 2, 3]]), [[-8000, 7, 0.1], [-8000 + 1500, 9, 2.1]])
    assert (facts.unit, facts.space) == ("um", "")


def test_axes_without_a_unit_are_told_and_measured_in_voxels(tmp_path, opened):
    facts = opened(write(tmp_path / "a.zarr", [VOLUME], said={"units": {"y": "micrometer", "x": "micrometer"}})).facts

    assert (facts.unit, Placement(matrix=facts.matrix).spacing) == ("px", (2.0, 0.5, 0.5))
    assert len(facts.warnings) == 1
    assert "axis z" in facts.warnings[0]
    facts = opened(write(tmp_path / "b.zarr", [VOLUME], said={"units": {}, "steps": [[]]})).facts
    assert (facts.unit, Placement(matrix=facts.matrix).spacing, facts.warnings) == ("px", (1.0, 1.0, 1.0), ())


@pytest.mark.parametrize(("work_mpp", "level"), [(None, 0), (0.4, 0), (0.9, 0), (1.0, 1), (1.9, 1), (50.0, 2)])
def test_the_level_is_just_fine_enough_for_the_work_grid(tmp_path, work_mpp, level, opened):
    levels = [VOLUME, VOLUME[:, ::2, ::2], VOLUME[:, ::4, ::4]]
    steps = [[{"type": "scale", "scale": [2.0, 0.5 * 2**i, 0.5 * 2**i]}] for i in range(3)]
    volume = opened(write(tmp_path / "a.zarr", levels, said={"steps": steps}), work_mpp=work_mpp)

    assert volume.facts.notes["level"] == level
    assert Placement(matrix=volume.facts.matrix).spacing == (2.0, 0.5 * 2**level, 0.5 * 2**level)
    assert_reads(volume, levels[level])
    assert opened(tmp_path / "a.zarr", work_mpp=work_mpp, mpp=50.0).facts.notes["level"] == 0


def test_a_level_without_a_scale_covers_what_the_first_does(tmp_path, opened):
    steps, levels = [[{"type": "scale", "scale": [2.0, 0.5, 0.5]}], []], [VOLUME[:, :36, :40], VOLUME[:, :36:2, :40:2]]
    facts = opened(write(tmp_path / "a.zarr", levels, said={"steps": steps}), work_mpp=1.0).facts

    np.testing.assert_allclose(facts.matrix, [[0, 0, 1, 0.25], [0, 1, 0, 0.25], [2, 0, 0, 0]])


@pytest.mark.parametrize(
    ("version", "options"), [("0.4", {}), ("0.5", {}), ("0.5", {"chunks": (3, 8, 8), "shards": (9, 16, 16)})]
)  # fmt: skip
def test_boxes_without_chunks_are_known_to_be_empty(tmp_path, version, options, opened):
    data = np.zeros((2, 32, 64, 64), np.uint16)
    data[1, 16:, :16, 16:32] = 7
    options = {"chunks": (1, 16, 16, 16)} | ({k: (1, *v) for k, v in options.items()} if options else {})
    path = write(tmp_path / "a.zarr", [data], "czyx", version=version, fill_value=0, **options)

    volume = opened(path)
    for box in boxes((32, 64, 64), 60):
        if volume.is_empty(box):
            assert not data[:, *box].any()
    assert volume.is_empty((slice(0, 9), slice(0, 64), slice(0, 64)))
    assert volume.is_empty((slice(0, 32), slice(32, 64), slice(0, 64)))
    assert not volume.is_empty((slice(20, 21), slice(0, 1), slice(20, 21)))


def test_emptiness_is_that_of_the_chosen_time(tmp_path, opened):
    data = np.zeros((2, 4, 8, 8), np.uint8)
    data[1] = 1
    path = write(tmp_path / "a.zarr", [data], "tzyx", fill_value=0, chunks=(1, 4, 8, 8))
    whole = slice(0, 4), slice(0, 8), slice(0, 8)

    assert [opened(path, time=t).is_empty(whole) for t in (None, 1, 2)] == [False, True, False]


def test_an_address_reads_as_the_folder_does(tmp_path, opened):
    write(tmp_path / "a.zarr", [VOLUME], version="0.4")
    write(tmp_path / "b", [VOLUME], version="0.5", chunks=(3, 8, 8), shards=(9, 16, 16))
    write(tmp_path / "plane.zarr", [VOLUME[0]], "yx")
    with served(tmp_path) as address:
        assert [volume_kind(f"{address}/{name}") for name in ("a.zarr", "b", "plane.zarr")] == ["ome-zarr", "ome-zarr", None]
        assert [volume_kind(f"{address}/{name}") for name in ("nothing", "a.tif")] == [None, None]
        for name in ("a.zarr", "b"):
            volume, local = opened(f"{address}/{name}/"), opened(tmp_path / name)
            assert volume.facts == local.facts
            assert volume.fingerprint()["metadata_sha256"] == local.fingerprint()["metadata_sha256"]
            assert_reads(volume, VOLUME, count=2)
        with pytest.raises(SourceError, match="cannot be read"):
            opened(f"{address}/lost.zarr")


def test_a_server_that_sends_elsewhere_is_not_followed(tmp_path, opened):
    write(tmp_path / "a.zarr", [VOLUME])
    (tmp_path / "empty").mkdir()
    with (
        served(tmp_path) as other,
        served(tmp_path / "empty", moved_to=other) as address,
        pytest.raises(SourceError, match="redirection"),
    ):
        opened(f"{address}/a.zarr")


def test_credentials_are_never_shown(tmp_path, opened):
    with served(tmp_path) as address, pytest.raises(SourceError) as refused:
        opened(address.replace("http://", "http://me:secret@") + "/lost.zarr")
    assert "secret" not in str(refused.value)
    assert "no Zarr group" in str(refused.value)


def test_threads_read_the_same(tmp_path, opened):
    volume = opened(write(tmp_path / "a.zarr", [VOLUME]))
    places = list(boxes(VOLUME.shape, 40))
    with ThreadPoolExecutor(4) as pool:
        for box, found in zip(places, pool.map(lambda box: volume.read(box, 0, 0), places), strict=True):
            np.testing.assert_array_equal(found, VOLUME[box])


def change(path, **values):
    text = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
    text["multiscales"][0] |= values
    (path / ".zattrs").write_text(json.dumps(text), encoding="utf-8")


@pytest.mark.parametrize(
    "values",
    [{"datasets": [{"path": "../b.zarr/0"}]}, {"datasets": [{"path": "/b.zarr/0"}]}, {"datasets": [{"path": "9"}]},
     {"datasets": []}, {"datasets": None}, {"datasets": [{}]}, {"datasets": [{"path": ""}]},
     {"axes": [{"name": "a"}, {"name": "y"}, {"name": "x"}]}, {"axes": [{"name": "z"}, {"name": "z"}, {"name": "x"}]},
     {"axes": [{"name": "y"}, {"name": "x"}]}, {"axes": ["z", "y", "x", "c"]}, {"axes": 5}],
)  # fmt: skip
def test_damaged_metadata_are_no_volume_and_no_crash(tmp_path, values):
    write(tmp_path / "b.zarr", [VOLUME])
    path = write(tmp_path / "a.zarr", [VOLUME])
    change(path, **values)

    assert read_or_refuse(path) is None


@pytest.mark.parametrize("scale", [[1, 1], [1, 0, 1], [1, float("nan"), 1], ["a", 1, 1], None])
def test_scales_that_give_no_size_are_refused(tmp_path, scale):
    path = write(tmp_path / "a.zarr", [VOLUME])
    change(path, datasets=[{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}])

    assert read_or_refuse(path) is None


def test_links_that_lead_out_and_huge_chunks_are_refused(tmp_path, opened):
    write(tmp_path / "b.zarr", [VOLUME])
    path = write(tmp_path / "a.zarr", [VOLUME])
    (path / "1").symlink_to(tmp_path / "b.zarr" / "0")
    change(path, datasets=[{"path": "0"}, {"path": "1"}])
    with pytest.raises(SourceError, match="leads out"):
        opened(path)
    array = {"shape": [600, 600, 600], "chunks": [600, 600, 600], "dtype": "<u2", "fill_value": 0, "order": "C"}
    path = write(tmp_path / "c.zarr", [VOLUME])
    settings = json.dumps({**array, "zarr_format": 2, "compressor": None, "filters": None})
    (path / "0" / ".zarray").write_text(settings, encoding="utf-8")
    with pytest.raises(SourceError, match="chunks of 411 MiB"):
        opened(path)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_pickled_chunks_are_refused_and_never_run(tmp_path, place, opened):
    """`numcodecs` unpickles whatever such a chunk holds."""
    path = write(tmp_path / "a.zarr", [VOLUME], chunks=VOLUME.shape)
    described = json.loads((path / "0" / ".zarray").read_text(encoding="utf-8"))
    codec = numcodecs.Pickle().get_config()
    described |= {"compressor": None, "filters": None} | ({place: codec if place == "compressor" else [codec]})
    (path / "0" / ".zarray").write_text(json.dumps(described), encoding="utf-8")
    (path / "0" / "0.0.0").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))

    with pytest.raises(SourceError, match="pickle"):
        opened(path)
    change(path, axes=[{"name": "c"}, {"name": "y"}, {"name": "x"}])
    with pytest.raises(SourceError, match="pickle"):
        open_slide(str(path), Reading(), native=True)
    assert not (tmp_path / "ran").exists()


def name_of(value):
    """A test's name; a codec's own words hold a set, whose order changes from process to process."""
    return value if isinstance(value, str) else type(value).__name__


CODECS = {
    "0.4": [None, numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.Zlib(), numcodecs.LZ4(), numcodecs.BZ2(), numcodecs.LZMA()],
    "0.5": [None, zarr.codecs.BloscCodec(), zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()],
}


@pytest.mark.parametrize(("version", "codec"), [(v, codec) for v, codecs in CODECS.items() for codec in codecs], ids=name_of)
def test_a_chunk_cut_off_anywhere_is_never_read_as_zeros_or_as_other_memory(tmp_path, version, codec):
    path = write(tmp_path / "a.zarr", [VOLUME], version=version, chunks=VOLUME.shape, compressors=codec)
    chunk = next(p for p in (path / "0").rglob("*") if p.is_file() and p.name in ("0.0.0", "0"))
    whole = chunk.read_bytes()
    np.testing.assert_array_equal(read_or_refuse(path), VOLUME)
    for place in [0, 1, 3, 4, 8, 15, 16, 17, *RNG.integers(0, len(whole) - 1, 5).tolist(), len(whole) - 1]:
        chunk.write_bytes(whole[:place])
        assert read_or_refuse(path) is None, place


@pytest.mark.parametrize("codec", [None, zarr.codecs.BloscCodec()], ids=name_of)
def test_a_shard_cut_off_anywhere_is_refused(tmp_path, codec):
    """Its index lies at its end, so that a cut one has none; one put in its place points beyond."""
    path = write(
        tmp_path / "a.zarr", [VOLUME], version="0.5", chunks=(3, 16, 16), shards=(9, 48, 48), compressors=codec
    )  # fmt: skip
    shard = next(p for p in (path / "0" / "c").rglob("*") if p.is_file())
    whole = shard.read_bytes()
    index = 3 * 3 * 3 * 16 + 4
    for place in [0, 3, 100, *RNG.integers(0, len(whole) - index, 6).tolist(), len(whole) - 1]:
        shard.write_bytes(whole[:place])
        assert read_or_refuse(path) is None, place
        shard.write_bytes(whole[:place] + whole[-index:])
        found = read_or_refuse(path)
        assert found is None or np.array_equal(found, VOLUME), place


@pytest.mark.parametrize(("offset", "length"), [(2**64 - 8, 16), (10**6, 5), (5, 2**63), (0, 401)])
def test_an_index_that_leads_out_of_its_shard_is_refused(offset, length):
    """Also where a sum of the two would wrap around to something small."""
    entries = np.array([[0, 400], [offset, length], [2**64 - 1, 2**64 - 1]], "<u8").tobytes()
    shard = default_buffer_prototype().buffer.from_bytes(bytes(400) + entries + bytes(4))

    with pytest.raises(EOFError, match="beyond where its index begins"):
        _check_index(shard, 3)
    fine = np.array([[0, 400], [300, 100], [2**64 - 1, 2**64 - 1]], "<u8").tobytes()
    _check_index(default_buffer_prototype().buffer.from_bytes(bytes(400) + fine + bytes(4)), 3)


def test_a_change_of_the_image_is_noticed(tmp_path, opened):
    path = write(tmp_path / "a.zarr", [VOLUME])
    before = opened(path).fingerprint()

    assert opened(path).fingerprint() == before
    change(path, name="other")
    assert opened(path).fingerprint() != before


@pytest.mark.skipif(not SHARED.exists(), reason="the shared data set is not beside the repository")
def test_the_real_ovule_reads_as_with_zarr(opened):
    path = SHARED / "microscopy3d" / "ovule_nuclei_1136.ome.zarr"
    volume = opened(path)

    assert volume.facts.unit == "um"
    assert volume.facts.matrix[2][0] == 0.2837183895131086
    assert_reads(volume, np.asarray(zarr.open_array(path / "0", mode="r")))
    assert_reads(opened(path, work_mpp=0.26), np.asarray(zarr.open_array(path / "1", mode="r")))

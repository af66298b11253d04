"""Files of a run are whole or not there, and a folder belongs to one job."""

import json
from dataclasses import replace

import numpy as np
import pytest

from seggeo.errors import OutputError, StoreError
from seggeo.geometry import Frame
from seggeo.instances import Instances
from seggeo.job import Job
from seggeo.run.execute import pending
from seggeo.store import Part, RunStore, append_chunk, pack, publish, read_chunks, read_notes, unpack

NOTES = {
    "tiles": 2, "empty": 0, "predicted": 3, "foreign": 1, "capped": 0, "failures": [], "tile_key": "k",
}  # fmt: skip


def make_job(**changes):
    values = {
        "source": {"path": "a.tif", "size": 12}, "reading": {"bands": [1]}, "frame": Frame(height=300, width=400), "tile": 128,
        "overlap": 16, "stretch": None, "model": {"name": "oracle", "settings": {"x": 1}, "exclusive": True},
        "merge": {"match_iou": 0.3},
    }  # fmt: skip
    return Job(**{**values, **changes})


def make_part(number, notes=NOTES):
    labels = np.zeros((20, 30), np.int32)
    labels[2:7, 3:9], labels[10:19, 20:30] = 1, 2
    return Part(part=number, instances=Instances.from_labels(labels), tile=np.array([4, 5]), notes=notes)


@pytest.fixture
def store(tmp_path):
    opened = RunStore(tmp_path / "run")
    opened.open(make_job())
    return opened


def test_arrays_of_every_type_and_shape_come_back():
    arrays = {
        "a": np.arange(6, dtype=np.uint32).reshape(2, 3), "b": np.zeros((0, 4), np.int32), "c": np.array([1.5, -2], np.float32),
        "d": np.array([True, False]), "e": np.arange(12).reshape(3, 4)[:, ::2],
    }  # fmt: skip
    back, notes = unpack(pack(arrays, {"n": [1, "é", None]}))

    assert notes == {"n": [1, "é", None]}
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert np.array_equal(back[name], array)
        assert back[name].dtype == array.dtype


def test_equal_content_gives_equal_bytes():
    first, second = (pack({"a": np.arange(3)}, notes) for notes in ({"x": 1, "y": 2}, {"y": 2, "x": 1}))

    assert first == second


def test_a_flipped_byte_is_found_wherever_it_is():
    data = pack({"a": np.arange(5, dtype=np.int16)}, {"tiles": 2})
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(ValueError, match="checksum"):
            unpack(bytes(broken))


def test_a_missing_tail_is_found_whatever_its_length():
    data = pack({"a": np.arange(5, dtype=np.int16)}, {"tiles": 2})
    for length in range(len(data)):
        with pytest.raises(ValueError, match="checksum"):
            unpack(data[:length])


def test_a_part_comes_back_as_it_was_saved(store):
    part = make_part(7)
    store.save(part)
    back = store.load(7)

    assert back.tile.tolist() == [4, 5]
    assert np.array_equal(back.instances.box, part.instances.box)
    assert np.array_equal(back.instances.runs, part.instances.runs)
    assert back.notes == {**NOTES, "part": 7}
    assert read_notes(store.part_path(7)) == back.notes


def test_saving_twice_writes_the_same_bytes(store):
    first = store.save(make_part(1)).read_bytes()

    assert store.save(make_part(1)).read_bytes() == first


def test_a_missing_or_damaged_part_is_named(store):
    with pytest.raises(StoreError, match="part 3 cannot be read"):
        store.load(3)
    path = store.save(make_part(3))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match="checksum"):
        store.load(3)


def test_done_means_whole_and_without_failed_tiles(store):
    store.save(make_part(0))
    store.save(make_part(1, {**NOTES, "failures": [{"tile": 4, "error": "x"}]}))
    store.save(make_part(2))
    damaged = store.part_path(2)
    damaged.write_bytes(damaged.read_bytes().replace(b"tiles", b"tilez"))
    todo, done = pending(store, range(5))

    assert [store.is_done(part) for part in range(5)] == [True, False, False, False, False]
    assert todo == [1, 2, 3, 4]
    assert [(report.part, report.instances, report.resumed) for report in done] == [(0, 2, True)]


def test_publishing_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "deep" / "file"
    publish(path, b"first, longer content")
    publish(path, b"second")

    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = publish(tmp_path / "file", b"old")

    def refuse(*_):
        raise OSError(5, "input/output error")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OutputError):
        publish(path, b"new")

    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        RunStore(tmp_path / "file" / "run").open(make_job())


def test_the_same_job_continues_in_its_folder(store):
    store.save(make_part(0))
    store.open(make_job())
    store.open(make_job(merge={"match_iou": 0.5}))
    store.open(make_job(source={"path": "moved/a.tif", "size": 12}))

    assert store.is_done(0)
    assert json.loads((store.folder / "job.json").read_text())["source"]["path"] == "moved/a.tif"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tile": 64}, "tile was 128 there and is 64 now"),
        ({"overlap": 32}, "overlap was 16 there and is 32 now"),
        ({"model": {"name": "oracle", "settings": {"x": 2}, "exclusive": True}}, "model.settings.x was 1 there and is 2 now"),
        ({"source": {"path": "a.tif", "size": 13}}, "source.size was 12 there and is 13 now"),
        ({"reading": {}}, r"reading.bands was \[1\] there and is None now"),
    ],
)
def test_another_job_is_refused_with_what_differs(store, changes, words):
    store.save(make_part(0))
    with pytest.raises(OutputError, match=words):
        store.open(make_job(**changes))

    assert store.is_done(0)
    store.open(make_job(**changes), overwrite=True)
    assert not store.is_done(0)


def test_a_folder_with_other_files_is_never_taken_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not a run folder"):
            RunStore(tmp_path).open(make_job(), overwrite=overwrite)

    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_discarding_spares_what_seggeo_did_not_make(store):
    store.save(make_part(0))
    (store.folder / "parts" / "notes.txt").write_text("mine")
    store.discard()

    assert [p.name for p in store.folder.rglob("*") if p.is_file()] == ["notes.txt"]


def test_a_damaged_job_file_is_a_store_error(store):
    (store.folder / "job.json").write_text("{")
    with pytest.raises(StoreError, match=r"job\.json cannot be read"):
        store.open(make_job())


def test_chunks_come_back_in_order(tmp_path):
    path = tmp_path / "spool"
    for i in range(3):
        append_chunk(path, {"a": np.full(i, i)})

    assert [chunk["a"].tolist() for chunk in read_chunks(path)] == [[], [1], [2, 2]]


def test_a_damaged_chunk_is_found(tmp_path):
    path = tmp_path / "spool"
    append_chunk(path, {"a": np.arange(9)})
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(ValueError, match="checksum"):
        list(read_chunks(path))


def test_a_job_with_another_depth_has_other_parts():
    job = make_job()
    deep = replace(job, frame=replace(job.frame, depth=3))

    tiles = [tile.index for part in range(len(deep.parts)) for tile in deep.parts.tiles(part)]
    assert sorted(tiles) == list(range(3 * len(job.grid)))
    assert len(deep.parts) > len(job.parts)

"""A training's folder: what is in it, who may go on with it, and that going on changes nothing."""

import json
import os
import resource
import shutil
import stat

import numpy as np
import pytest
from safetensors import safe_open
from support_threads import one_thread
from support_train import FAST, data_folder, discs, lit, write_pair

from seggeo.config import Reading
from seggeo.errors import BusyError, ConfigError, ModelError, OutputError, ResourceError, SourceError
from seggeo.models.unet import read_model
from seggeo.protocols import ModelRequest
from seggeo.train import folder, session
from seggeo.train.examples import find_examples
from seggeo.train.fit import Progress
from seggeo.train.recipe import Recipe
from seggeo.train.session import About, Epoch, Running, Started, train


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_folder(tmp_path_factory.mktemp("data") / "discs")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An undisturbed training."""
    out = tmp_path_factory.mktemp("whole") / "out"
    events = list(go(data, out))
    return out, events


def go(data, out, about=None, running=None, **recipe):
    return train(find_examples([data]), Recipe(**{**FAST, **recipe}), out, about, running or Running(device="cpu"))


def history(out):
    rows = [json.loads(line) for line in (out / folder.HISTORY).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "judged_in_s")} for row in rows]


def tensors(out):
    with safe_open(out / folder.WEIGHTS, "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def said(out):
    with safe_open(out / folder.WEIGHTS, "numpy") as file:
        return json.loads(file.metadata()["seggeo"])


def same_result(a, b):
    one, other = tensors(a), tensors(b)
    return history(a) == history(b) and one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def stop_after(events, condition):
    """Iterate until an event is as asked, then close, as a user who stops does."""
    for event in events:
        if condition(event):
            break
    events.close()


def at_step(number):
    return lambda event: isinstance(event, Progress) and event.step == number


def test_the_events_tell_the_story(whole):
    out, events = whole
    kinds = [type(event).__name__ for event in events]

    assert kinds == ["Started", *["Progress"] * 3, "Epoch", *["Progress"] * 3, "Epoch"]
    assert (events[0].train, events[0].val, events[0].step, events[0].is_finished) == (1, 1, 0, False)
    assert [e.progress.step for e in events if isinstance(e, Epoch)] == [3, 6]
    assert sorted(p.name for p in out.iterdir()) == sorted(folder.FILES)


def test_what_is_published_may_be_read_as_any_other_file(whole):
    out, _ = whole
    (out / "by_hand").write_text("")
    usual = stat.S_IMODE((out / "by_hand").stat().st_mode)
    (out / "by_hand").unlink()

    assert {name: stat.S_IMODE((out / name).stat().st_mode) for name in folder.FILES} == dict.fromkeys(folder.FILES, usual)


def test_the_weights_say_what_they_are(data, tmp_path):
    about = About(title="discs", licence="CC0-1.0", credit="nobody")
    list(go(data, tmp_path / "out", about, steps=1, reading=Reading(stretch="percent:1,99")))
    facts = said(tmp_path / "out")

    assert facts["model"] == "unet"
    assert facts["classes"] == ["object"]
    assert facts["shape"]["bands"] == 3
    assert facts["gsd"] == pytest.approx(0.5, rel=0.01)
    assert facts["diameter"] > 0
    assert facts["stretch"] == "percent:1,99"
    assert (facts["title"], facts["licence"], facts["credit"]) == ("discs", "CC0-1.0", "nobody")
    assert facts["trained"]["recipe"]["crop"] == 32
    assert (facts["trained"]["images"], facts["step"]) == (1, 1)
    assert len(facts["trained"]["data_sha256"]) == 64
    assert "pq" in facts["metrics"]
    assert str(tmp_path) not in json.dumps(facts), "paths of this machine are nobody's business"


@pytest.mark.parametrize("step", [1, 3, 5])
def test_stopped_and_resumed_is_uninterrupted(data, whole, tmp_path, step):
    out = tmp_path / "out"
    stop_after(go(data, out), at_step(step))

    events = list(go(data, out, running=Running(device="cpu", threads=2)))

    assert events[0].step == step
    assert not events[0].is_finished
    assert same_result(out, whole[0])


def test_a_killed_training_goes_on_from_the_last_state_and_tells_no_epoch_twice(data, whole, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "state.pt"
    stop_after(go(data, out), at_step(2))
    shutil.copy(out / folder.STATE, kept)
    stop_after(go(data, out), lambda event: isinstance(event, Epoch))
    shutil.copy(kept, out / folder.STATE)  # as if what came after had never been saved

    list(go(data, out))

    assert [row["step"] for row in history(out)] == [3, 6]
    assert same_result(out, whole[0])


def test_the_state_is_saved_now_and_then(data, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "SAVE_EVERY_S", 0.0)
    events = go(data, tmp_path / "out")
    seen = []
    for event in events:
        if isinstance(event, Progress):
            seen.append((tmp_path / "out" / folder.STATE).stat().st_mtime_ns)
        if len(seen) == 2:
            break

    assert seen[0] < seen[1]


def test_a_finished_training_says_so_and_a_longer_budget_prolongs_it(data, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)

    again = list(go(data, out))
    longer = list(go(data, out, steps=8))

    assert [type(e) for e in again] == [Started]
    assert again[0].is_finished
    assert [e.progress.step for e in longer if isinstance(e, Epoch)] == [8]
    assert [row["step"] for row in history(out)] == [3, 6, 8]
    assert json.loads((out / folder.RECIPE).read_text())["recipe"]["steps"] == 8


def test_minutes_count_over_all_runs(data, tmp_path):
    out = tmp_path / "out"
    stop_after(go(data, out, steps=0, minutes=600.0), at_step(2))
    seconds = next(go(data, out, steps=0, minutes=600.0)).seconds

    events = list(go(data, out, steps=0, minutes=seconds / 60 / 2))

    assert seconds > 0
    assert [type(e) for e in events] == [Started, Progress, Epoch], "used up: only the validation is left"
    assert events[-1].progress.step == 2
    assert (out / folder.WEIGHTS).exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"crop": 96}, "crop was 32 and is 96"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"reading": Reading(gsd=1.0)}, "gsd was None and is 1.0"),
        ({"set": {"widths": "8,8"}}, "set was"),
    ],
)
def test_other_settings_are_another_training(data, whole, change, named):
    before = {p.name: p.read_bytes() for p in whole[0].iterdir()}

    with pytest.raises(OutputError, match=named) as refused:
        next(go(data, whole[0], **change))

    assert "holds another training" in refused.value.what
    assert "--overwrite" in refused.value.mend
    assert {p.name: p.read_bytes() for p in whole[0].iterdir()} == before


def test_other_data_are_another_training_and_moved_data_are_not(data, whole, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(data, moved)
    assert next(go(moved, whole[0])).is_finished

    write_pair(moved, "img1", discs(7))
    with pytest.raises(OutputError, match=r"img1.*tif"):
        next(go(moved, whole[0]))
    write_pair(moved, "img1", discs(1))
    (moved / "index.csv").write_text("name,weight\nimg0,5\n")
    with pytest.raises(OutputError, match="splits, groups, weights or classes"):
        next(go(moved, whole[0]))


def test_other_weights_to_begin_with_are_another_training(data, whole):
    with pytest.raises(OutputError, match="the weights to begin with"):
        next(go(data, whole[0], running=Running(device="cpu", weights=whole[0] / folder.WEIGHTS)))


def test_overwrite_removes_what_a_training_writes_and_nothing_else(data, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    (out / "notes.txt").write_text("mine")
    (out / "sub").mkdir()
    over = Running(device="cpu", overwrite=True)

    assert next(go(data, out, running=over)).is_finished, "the same training just goes on"
    events = go(data, out, running=over, seed=5)
    assert next(events).step == 0
    assert sorted(p.name for p in out.iterdir()) == ["notes.txt", folder.RECIPE, "sub"]
    assert (out / "notes.txt").read_text() == "mine"


def test_a_folder_without_anything_to_lose_is_taken(data, tmp_path):
    out = tmp_path / "out"
    next(go(data, out)).step  # noqa: B018 - begun, and nothing learnt
    (out / "notes.txt").write_text("mine")

    assert next(go(data, out, seed=3)).step == 0
    assert (out / "notes.txt").exists()


@pytest.mark.parametrize("name", [folder.WEIGHTS, folder.STATE, folder.HISTORY])
def test_files_of_somebody_else_are_not_written_over(data, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("precious")

    with pytest.raises(OutputError, match="recipe.json is missing"):
        next(go(data, tmp_path / "out"))
    assert (tmp_path / "out" / name).read_text() == "precious"


def test_a_lost_state_is_not_a_reason_to_begin_silently_anew(data, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    (tmp_path / "out" / folder.STATE).unlink()

    with pytest.raises(OutputError, match="state.pt is missing"):
        next(go(data, tmp_path / "out"))


def test_lost_weights_are_judged_and_written_again(data, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    (tmp_path / "out" / folder.WEIGHTS).unlink()

    list(go(data, tmp_path / "out"))

    assert same_result(tmp_path / "out", whole[0])


@pytest.mark.parametrize(("place", "kind"), [("file", OutputError), ("file/below", OutputError), ("data", ConfigError)])
def test_places_that_cannot_be_are_refused_before_anything_is_read(data, tmp_path, place, kind):
    (tmp_path / "file").write_text("")

    with pytest.raises(kind):
        next(go(data, data if place == "data" else tmp_path / place))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_two_trainings_do_not_share_a_folder(data, tmp_path):
    first = go(data, tmp_path / "out")
    next(first)

    with pytest.raises(BusyError):
        next(go(data, tmp_path / "out"))
    first.close()
    next(go(data, tmp_path / "out"))


def test_a_full_disk_keeps_the_last_state(data, tmp_path):
    out = tmp_path / "out"
    stop_after(go(data, out), at_step(2))
    kept = (out / folder.STATE).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for bytes_ in (100_000, len(kept) + 1000):  # the state does not fit; it does, the pictures may not
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_ if bytes_ < len(kept) else 20_000, limits[1]))
        try:
            with pytest.raises(ResourceError, match="disk is full"):
                list(go(data, out))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (out / folder.STATE).read_bytes() == kept
        assert not [p for p in out.iterdir() if p.name not in folder.FILES]


def test_weights_that_do_not_fit_on_the_disk_are_said_to(data, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    (tmp_path / "out" / folder.WEIGHTS).unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="model.safetensors could not be written"):
            list(go(data, tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_weights_of_another_network_are_refused(data, whole, tmp_path):
    begin = Running(device="cpu", weights=whole[0] / folder.WEIGHTS)
    five = tmp_path / "five"
    write_pair(five, "a", discs(0), lit(discs(0), 5))
    write_pair(five, "b", discs(1), lit(discs(1), 5))
    (tmp_path / "junk.safetensors").write_bytes(os.urandom(200))

    with pytest.raises(ModelError, match="takes 3 bands"):
        next(go(five, tmp_path / "out", running=begin, all_bands=True))
    with pytest.raises(ConfigError, match="cannot become one of 8,4,16"):
        next(go(data, tmp_path / "out", running=begin, set={"widths": "8,4,16"}))
    with pytest.raises(ModelError):
        next(go(data, tmp_path / "out", running=Running(device="cpu", weights=tmp_path / "junk.safetensors")))
    with pytest.raises(ModelError):
        next(go(data, tmp_path / "out", running=Running(device="cpu", weights=tmp_path / "nowhere.safetensors")))
    assert not (tmp_path / "out").exists()


def test_weights_grow_to_the_widths_asked_for(data, whole, tmp_path):
    begin = Running(device="cpu", weights=whole[0] / folder.WEIGHTS)
    list(go(data, tmp_path / "out", running=begin, steps=2, set={"widths": "8,12,24"}))
    model, card = read_model(ModelRequest(name="unet", weights=tmp_path / "out" / folder.WEIGHTS))
    assert card.shape.widths == (8, 12, 24) == model.shape.widths


def test_training_begins_with_given_weights(data, whole, tmp_path):
    begin = Running(device="cpu", weights=whole[0] / folder.WEIGHTS)

    events = list(go(data, tmp_path / "out", running=begin, steps=1, rate=1e-9, set={}))

    before = whole[1][-1].judgement.metrics["pq"]
    assert events[-1].judgement.metrics["pq"] == pytest.approx(before, abs=0.1)
    assert len(said(tmp_path / "out")["trained"]["weights_sha256"]) == 64


def test_images_to_learn_from_need_objects(tmp_path):
    none = np.zeros((160, 192), np.int32)
    write_pair(tmp_path / "d", "a", none, lit(none))
    write_pair(tmp_path / "d", "b", discs(1))
    (tmp_path / "d" / "index.csv").write_text("name,split\na,train\nb,val\n")

    with pytest.raises(SourceError, match="hold no objects"):
        next(go(tmp_path / "d", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_all_files_of_a_shapefile_are_part_of_the_data(tmp_path):
    from seggeo.train.examples import Example

    for end in (".shp", ".dbf", ".prj", ".tif"):
        (tmp_path / f"a{end}").write_text(end)
    found = folder.digests([Example(image=tmp_path / "a.tif", labels=tmp_path / "a.shp")])

    assert sorted(path[-4:] for path in found) == [".dbf", ".prj", ".shp", ".tif"]


@pytest.mark.parametrize("wrong", [{"set": {"depth": 3}}, {"set": {"widths": "8"}}, {"set": {"widths": "8,8,8,8,8,8"}}])
def test_shapes_that_cannot_be_are_refused(data, tmp_path, wrong):
    with pytest.raises(ConfigError):
        next(go(data, tmp_path / "out", crop=96, **wrong))


def test_images_of_very_different_resolution_are_warned_of(tmp_path):
    from affine import Affine

    from seggeo.errors import SeggeoWarning

    for i, size in enumerate((0.1, 0.5)):
        write_pair(tmp_path / "d", f"i{i}", discs(i), transform=Affine(size, 0, 500000, 0, -size, 5200000))
        write_pair(tmp_path / "d", f"j{i}", discs(i + 5), transform=Affine(size, 0, 500000, 0, -size, 5200000))

    with pytest.warns(SeggeoWarning, match="give --gsd"):
        next(go(tmp_path / "d", tmp_path / "out"))

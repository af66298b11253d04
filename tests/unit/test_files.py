"""Outputs appear whole or not at all."""

import errno
import sqlite3
import sys

import pytest

from seggeo import files
from seggeo.errors import ConfigError, OutputError, ResourceError


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with files.publishing(path) as temporary:
        temporary.write_text("new")
        (temporary.parent / "out.txt-journal").write_text("side file")
        assert path.read_text() == "old"

    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), ResourceError),
        (sqlite3.OperationalError("database or disk is full"), ResourceError),
        (PermissionError(errno.EACCES, "Permission denied"), OutputError),
        (sqlite3.DatabaseError("file is not a database"), OutputError),
        (ConfigError(what="a", why="b", mend="c"), ConfigError),
        (ZeroDivisionError("a bug"), ZeroDivisionError),
        (RuntimeError("another bug"), RuntimeError),
    ],
)
def test_errors_are_told_apart_and_leave_the_old_file(error, kind, tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def write():
        with files.publishing(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(kind) as caught:
        write()

    assert type(caught.value) is kind
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_scratch_on_another_disk_is_copied_beside_first(tmp_path, monkeypatch):
    scratch, folder = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    folder.mkdir()
    monkeypatch.setattr(files, "_device", lambda path: len(path.parts))
    with files.publishing(folder / "a.txt", scratch) as temporary:
        assert scratch in temporary.parents
        temporary.write_text("content")

    assert (folder / "a.txt").read_text() == "content"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "out", "scratch"]


def test_a_copy_that_fails_is_removed(tmp_path, monkeypatch):
    def full(source, target):
        target.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_device", lambda path: len(path.parts))
    monkeypatch.setattr(files.shutil, "copyfile", full)
    with pytest.raises(ResourceError, match="disk is full"), files.publishing(tmp_path / "a.txt") as temporary:
        temporary.write_text("content")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for room by posix_fallocate")
def test_room_is_asked_of_the_system(tmp_path):
    assert files.has_room(tmp_path, 1000)
    assert not files.has_room(tmp_path, 1 << 62)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("old", ["nothing", "folder", "file", "link"])
def test_a_folder_appears_as_a_whole_and_takes_the_place_of_anything(tmp_path, monkeypatch, old, devices):
    scratch, path = tmp_path / "scratch", tmp_path / "out" / "a.zarr"
    for folder in (scratch, path.parent, tmp_path / "elsewhere"):
        folder.mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    make = {
        "nothing": lambda: None, "folder": path.mkdir, "file": path.touch,
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
    }  # fmt: skip
    make[old]()
    if old == "folder":
        (path / "stale").touch()
    if devices == 2:
        monkeypatch.setattr(files, "_device", lambda path: "scratch" in path.parts)

    with files.publishing(path, scratch) as temporary:
        (temporary / "0").mkdir(parents=True)
        (temporary / "0" / "0").write_text("content")

    assert not path.is_symlink()
    assert [str(p.relative_to(path)) for p in sorted(path.rglob("*"))] == ["0", "0/0"]
    assert (tmp_path / "elsewhere" / "kept").exists()
    assert sorted(p.name for p in [*scratch.iterdir(), *path.parent.iterdir()]) == ["a.zarr"]


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "old").touch()
    replace = files.os.replace

    def refusing(source, target):
        if ".writing" in str(source):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", refusing)
    with pytest.raises(OutputError), files.publishing(path) as temporary:
        temporary.mkdir()

    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["a.zarr", "a.zarr/old"]

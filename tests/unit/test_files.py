"""Files and folders that are whole or not there, whatever goes wrong."""

import errno
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, exclusive, replaced_folder


class Interrupted(BaseException):
    """Like KeyboardInterrupt."""


def no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def tree(folder):
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Files -----------------------------------------------------------------------


@pytest.mark.parametrize("old", [None, "old"])
def test_writes(tmp_path, old):
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)
    with atomic_write(str(path)) as file:
        file.write("é\nß\r\n")
        file.flush()
        # Until it is complete, readers see what was there.
        assert path.exists() == (old is not None)
        assert old is None or path.read_text() == old
    assert path.read_bytes() == "é\nß\r\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_bytes_and_folders_on_the_way(tmp_path):
    path = tmp_path / "new" / "newer" / "a.bin"
    with atomic_write(path, "wb") as file:
        file.write(b"\x00\xff\r\n")
    assert path.read_bytes() == b"\x00\xff\r\n"


def test_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_write("a.txt") as file:
        file.write("x")
    assert tree(tmp_path) == {"a.txt": "x"}


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [ValueError, KeyError, Interrupted])
def test_an_exception_leaves_the_old_content(tmp_path, old, error):
    path = tmp_path / "a.txt"
    if old is not None:
        path.write_text(old)
    with pytest.raises(error):
        with atomic_write(path) as file:
            file.write("half")
            file.flush()
            raise error
    assert tree(tmp_path) == ({} if old is None else {"a.txt": "old"})


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, step, no_space)
    with pytest.raises(InputError, match=r"a\.txt cannot be written: No space"):
        with atomic_write(path) as file:
            file.write("new")
    assert tree(tmp_path) == {"a.txt": "old"}


def test_content_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    path = tmp_path / "a.txt"

    def recorded_fsync(handle):
        calls.append(("fsync", os.fstat(handle).st_size))
        fsync(handle)

    def recorded_replace(source, target):
        calls.append(("replace", os.path.getsize(source)))
        assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    with atomic_write(path) as file:
        file.write("12345")
    assert calls == [("fsync", 5), ("replace", 5)]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in ("file/a.txt", "folder"):
        with pytest.raises(InputError, match="cannot be written"):
            with atomic_write(tmp_path / path) as file:
                file.write("y")
    assert tree(tmp_path) == {"file": "x"}
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_permissions_are_the_usual_ones(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a") as file:
            file.write("x")
        with replaced_folder(tmp_path / "b"):
            pass
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "a").st_mode) == mode
    assert stat.S_IMODE(os.stat(tmp_path / "b").st_mode) == 0o777 & ~umask


# Folders ---------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True])
def test_folder(tmp_path, old):
    target = tmp_path / "new" / "model"
    if old:
        (target / "deep").mkdir(parents=True)
        (target / "deep" / "old.txt").write_text("old")
    with replaced_folder(target) as folder:
        assert folder.parent == target.parent
        (folder / "a.txt").write_text("whole")
        assert target.exists() == old
    assert tree(tmp_path) == {"new/model/a.txt": "whole"}
    assert os.listdir(target.parent) == ["model"]


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [ValueError, Interrupted, OSError])
def test_an_exception_leaves_the_old_folder(tmp_path, old, error):
    target = tmp_path / "model"
    if old:
        target.mkdir()
        (target / "old.txt").write_text("old")
    with pytest.raises(InputError if error is OSError else error):
        with replaced_folder(target) as folder:
            (folder / "a.txt").write_text("half")
            raise error("no")
    assert tree(tmp_path) == ({"model/old.txt": "old"} if old else {})
    assert os.listdir(tmp_path) == (["model"] if old else [])


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_exchange_leaves_the_old_folder(
    tmp_path, monkeypatch, failing
):
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")
    rename, calls = Path.rename, []

    def failing_rename(self, to):
        calls.append(to)
        if len(calls) == failing:
            no_space()
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing_rename)
    with pytest.raises(InputError, match="model cannot be written: No space"):
        with replaced_folder(target) as folder:
            (folder / "a.txt").write_text("new")
    assert tree(tmp_path) == {"model/old.txt": "old"}
    assert os.listdir(tmp_path) == ["model"]


def test_what_a_killed_process_left_is_no_obstacle(tmp_path, monkeypatch):
    target = tmp_path / "model"
    rmtree = "amsincnet_sb.utils.files.shutil.rmtree"
    with monkeypatch.context() as patch:
        patch.setattr(rmtree, lambda *args, **kwargs: None)
        for i in range(3):
            with replaced_folder(target) as folder:
                (folder / "a.txt").write_text(str(i))
    with replaced_folder(target) as folder:
        (folder / "a.txt").write_text("last")
    assert tree(target) == {"a.txt": "last"}


def test_no_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        with replaced_folder(tmp_path / "file" / "model"):
            pass
    assert tree(tmp_path) == {"file": "x"}


# Locks -----------------------------------------------------------------------


def test_one_at_a_time(tmp_path):
    lock, counter = tmp_path / "lock", tmp_path / "counter"
    lock.write_text("as it was")
    counter.write_text("0")

    def count(_):
        with exclusive(lock):
            number = int(counter.read_text())
            time.sleep(0.002)  # long enough for others to come between
            counter.write_text(str(number + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    assert counter.read_text() == "40"
    assert lock.read_text() == "as it was"


def test_a_lock_is_given_back_after_an_error(tmp_path):
    (tmp_path / "lock").touch()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "lock"):
            raise ZeroDivisionError


def test_nothing_to_lock(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        with exclusive(tmp_path / "none"):
            pass
    assert not list(tmp_path.iterdir())

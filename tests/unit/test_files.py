"""Files and folders that are whole or not there, whatever goes wrong."""

import errno
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import (
    atomic_write,
    exclusive,
    growing_file,
    replaced_folder,
)


def tree(folder):
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def file_in_folder(path):
    """Writes a.txt in a folder that is replaced."""
    with replaced_folder(path.parent) as folder:
        with open(folder / path.name, "w") as file:
            yield file


WRITERS = pytest.mark.parametrize("write", [atomic_write, file_in_folder])
OLD = pytest.mark.parametrize("old", [None, "old"])


def target(tmp_path, old):
    """A file that is to be written, with what is there already."""
    path = tmp_path / "model" / "a.txt"
    if old is not None:
        path.parent.mkdir()
        path.write_text(old)
    return path


@WRITERS
@OLD
def test_readers_see_the_old_content_or_the_new(tmp_path, write, old):
    path = target(tmp_path, old)
    with write(path) as file:
        file.write("whole")
        file.flush()
        assert path.exists() == (old is not None)
        assert old is None or path.read_text() == old
    assert tree(tmp_path) == {"model/a.txt": "whole"}
    assert os.listdir(tmp_path) == ["model"]


@WRITERS
@OLD
@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_content(tmp_path, write, old, error):
    path = target(tmp_path, old)
    with pytest.raises(InputError if error is OSError else error):
        with write(path) as file:
            file.write("half")
            file.flush()
            raise error("no")
    assert tree(tmp_path) == ({} if old is None else {"model/a.txt": "old"})


@WRITERS
@pytest.mark.parametrize(
    "owner, step",
    [(os, "fsync"), (os, "replace"), (os, "chmod")]
    + [(Path, "rename"), (Path, "chmod")],
)
@pytest.mark.parametrize("failing", [1, 2])
def test_a_full_disk_leaves_the_old_content(
    tmp_path, monkeypatch, write, owner, step, failing
):
    path = target(tmp_path, "old")
    usual, calls = getattr(owner, step), []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) == failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return usual(*args, **kwargs)

    monkeypatch.setattr(owner, step, full)
    try:
        with write(path) as file:
            file.write("new")
    except InputError as error:
        assert "cannot be written: No space" in str(error)
        assert len(calls) >= failing
        assert tree(tmp_path) == {"model/a.txt": "old"}
    else:
        assert len(calls) < failing
        assert tree(tmp_path) == {"model/a.txt": "new"}
    assert os.listdir(tmp_path) == ["model"]


def test_a_file_that_grows(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "new" / "a.txt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(InputError, match=r"a\.txt cannot be written: File too"):
        with growing_file(path) as add:
            add("ann \udcff\n")
            assert path.read_bytes() == b"ann \xff\n"
            resource.setrlimit(resource.RLIMIT_FSIZE, (6, limits[1]))
            try:
                add("bob\n")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@WRITERS
def test_content_is_on_the_disk_before_the_name_changes(
    tmp_path, monkeypatch, write
):
    path, calls, fsync = target(tmp_path, None), [], os.fsync

    def logged_fsync(handle):
        if stat.S_ISREG(os.fstat(handle).st_mode):
            calls.append(("fsync", os.fstat(handle).st_size))
        fsync(handle)

    def logged(move, source, to):
        assert Path(source).parent == Path(to).parent
        calls.append(("move", Path(to)))
        return move(source, to)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    for owner, name in ((os, "replace"), (Path, "rename")):
        move = partial(logged, getattr(owner, name))
        # A function, so that it becomes a method of Path.
        monkeypatch.setattr(owner, name, lambda a, b, move=move: move(a, b))
    with write(path) as file:
        file.write("12345")
    named = path if write is atomic_write else path.parent
    assert calls == [("fsync", 5), ("move", named)]


def test_text_and_bytes_are_written_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_write("a.txt") as file:
        file.write("é\nß\r\n")
    with atomic_write(str(tmp_path / "new" / "a.bin"), "wb") as file:
        file.write(b"\x00\xff\r\n")
    assert Path("a.txt").read_bytes() == "é\nß\r\n".encode()
    assert Path("new/a.bin").read_bytes() == b"\x00\xff\r\n"


@WRITERS
def test_up_from_a_link_is_up_from_where_it_leads(tmp_path, write):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    with write(tmp_path / "link" / ".." / "new" / "a.txt") as file:
        file.write("new")
    assert tree(tmp_path) == {"real/new/a.txt": "new"}


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for place in (
        atomic_write(tmp_path / "file" / "a.txt"),
        atomic_write(tmp_path / "folder"),
        replaced_folder(tmp_path / "file" / "model"),
        exclusive(tmp_path / "none"),
    ):
        with pytest.raises(InputError, match="cannot be written"), place:
            pass
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


def test_folders_that_a_killed_process_left_are_no_obstacle(
    tmp_path, monkeypatch
):
    folders = tmp_path / "model"
    rmtree = "amsincnet_sb.utils.files.shutil.rmtree"
    for i in range(4):
        with monkeypatch.context() as patch, replaced_folder(folders) as folder:
            patch.setattr(rmtree, lambda *args, **kwargs: None)
            (folder / "a.txt").write_text(str(i))
    assert tree(folders) == {"a.txt": "3"}


def test_one_at_a_time(tmp_path):
    lock, counter = tmp_path / "lock", tmp_path / "counter"
    lock.write_text("as it was")
    counter.write_text("0")

    def count(number):
        with exclusive(lock):
            before = int(counter.read_text())
            time.sleep(0.002)  # long enough for others to come between
            counter.write_text(str(before + 1))
            if number % 2:
                raise ZeroDivisionError  # gives the lock back

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(count, number) for number in range(40)]
    assert sum(future.exception() is not None for future in done) == 20
    assert counter.read_text() == "40"
    assert lock.read_text() == "as it was"

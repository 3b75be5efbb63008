"""Writers killed at any of their operations: nothing lost, nothing left."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

import pytest
from kills import forked, killed

from amsincnet_sb.utils import files
from amsincnet_sb.utils.files import (
    atomic_write,
    exclusive,
    replaced_folder,
    restore_folder,
)

OPERATIONS = ("open", "os.", "shutil.", "tempfile.")


def write_file(path):
    with atomic_write(path / "a.txt") as file:
        file.write("new")


def write_folder(path):
    with replaced_folder(path) as folder:
        (folder / "a.txt").write_text("new")
        (folder / "inner").mkdir()
        (folder / "inner" / "b.txt").write_text("new")


@pytest.mark.parametrize(
    "write, swaps",
    [(write_file, True), (write_folder, True)] + [(write_folder, False)],
)
def test_killed_at_each_operation(tmp_path, monkeypatch, write, swaps):
    if not swaps:  # as on other systems than Linux
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    path, seen, between = tmp_path / "model", set(), 0
    for at in count(1):
        path.mkdir(exist_ok=True)
        (path / "a.txt").write_text("old")
        if not killed(at, partial(write, path), OPERATIONS):
            break
        between += not path.exists()
        restore_folder(path)
        content = (path / "a.txt").read_text()
        seen.add(content)
        assert content in ("old", "new")
        # What the next writer finds does not disturb it, and goes.
        write(path)
        assert (path / "a.txt").read_text() == "new"
        assert not [p for p in tmp_path.rglob(".*")], at
    assert at > 5 and "old" in seen
    assert bool(between) == (not swaps)


@pytest.mark.parametrize("make", [atomic_write, replaced_folder])
def test_what_another_process_is_writing_is_left_alone(tmp_path, make):
    path = tmp_path / "model"
    ready, go = os.pipe(), os.pipe()

    def write():
        with make(path):
            os.write(ready[1], b"x")
            os.read(go[0], 1)

    child = forked(write)
    os.close(ready[1])  # if the other ends, nothing is waited for
    assert os.read(ready[0], 1)
    (being_written,) = tmp_path.iterdir()
    with make(path):
        assert being_written.exists()
    assert being_written.exists()
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_names_that_only_resemble_leftovers_stay(tmp_path):
    names = [
        ".model.tmp",
        ".model.abc.tmp",
        ".models.abcdefgh.tmp",
        "model.old",
    ]
    for name in names:
        (tmp_path / name).write_text("mine")
    write_folder(tmp_path / "model")
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "model"])


def test_the_lock_is_that_of_the_file_that_has_the_name(tmp_path):
    """Whoever waited for a lock while the folder was replaced gets the new."""
    path = tmp_path / "model" / "a.txt"
    path.parent.mkdir()
    path.write_text("old")

    def read_locked():
        with exclusive(path):
            return path.read_text()

    with ThreadPoolExecutor(1) as pool:
        with exclusive(path):
            waiting = pool.submit(read_locked)
            time.sleep(0.05)
            write_folder(path.parent)
        assert waiting.result(timeout=10) == "new"

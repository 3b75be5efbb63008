"""What no output replaces, and what no reader waits for."""

import os
import stat
from pathlib import Path

import pytest

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import (
    atomic_write,
    check_output,
    is_plain_file,
    replaced_folder,
    spreadsheet_cell,
)
from amsincnet_sb.utils.reading import read_json

# What has the name already: how it is made, and a word about it.
OCCUPANTS = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("other.txt"),
    "dangling link": lambda path: path.symlink_to("none.txt"),
    "link to a folder": lambda path: path.symlink_to("."),
}


def writes(path):
    with atomic_write(path) as file:
        file.write("new")


def places(path):
    with replaced_folder(path):
        pass


@pytest.mark.parametrize("write", [check_output, writes, places])
@pytest.mark.parametrize("kind", OCCUPANTS)
def test_what_is_no_file_is_not_replaced(tmp_path, kind, write):
    (tmp_path / "other.txt").write_text("mine")
    path = tmp_path / "out"
    OCCUPANTS[kind](path)
    before = os.lstat(path)
    with pytest.raises(InputError, match="cannot be written: it is a "):
        write(path)
    assert os.lstat(path) == before
    assert (tmp_path / "other.txt").read_text() == "mine"
    assert len(os.listdir(tmp_path)) == 2


def test_a_device_and_a_folder_are_not_replaced(tmp_path):
    for path, kind in ((Path(os.devnull), "a device"), (tmp_path, "a folder")):
        for write in (check_output, writes):
            with pytest.raises(InputError, match=f"it is {kind}"):
                write(path)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="it is a file"):
        places(tmp_path / "file")


def test_an_input_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("mine")
    Path("folder").symlink_to(".")
    for same in ("./a.csv", tmp_path / "a.csv", "folder/a.csv"):
        with pytest.raises(InputError, match="it is an input as well"):
            check_output("a.csv", "b.csv", same)
    check_output("a.csv", "b.csv")
    check_output("new/folder/a.csv")


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is no folder that may be"):
        check_output(tmp_path / "file" / "new" / "a.csv")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="is no folder that may be written"):
        check_output(tmp_path / "a.csv")


def test_no_reader_waits_for_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    for read in (is_plain_file, lambda path: read_json(path, "do")):
        with pytest.raises(InputError, match="is a pipe and not a file"):
            read(tmp_path / "a.json")


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"[1]", "does not hold a JSON object; do that."),
        (b"[" * 10**5, "cannot be read as JSON .*; do that."),
        (b'{"a": ' * 10**5, "cannot be read as JSON .*; do that."),
        (b'{"a": ' + b"9" * 9999 + b"}", "cannot be read as JSON"),
        (b"{\xff}", "is not text in UTF-8; do that."),
        (None, "a.json does not exist; do that."),
    ],
)
def test_json_of_another_shape(tmp_path, content, complaint):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        read_json(path, "do that")


def test_cells_of_spreadsheets():
    for formula in ("=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", " =1", "＝1"):
        assert spreadsheet_cell(formula) == f"'{formula}"
    for text in ("ann", "a=b", "7", "", "O'Neil", "1-2"):
        assert spreadsheet_cell(text) == text

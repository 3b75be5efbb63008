"""Checkpoints that are whole or not there."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from amsincnet_sb.training.checkpoints import CHECKSUMS, AtomicCheckpointer
from amsincnet_sb.utils.errors import InputError


def make(folder, value=0.0, kind=AtomicCheckpointer):
    layer = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(layer.weight, value)
    return kind(folder, {"layer": layer}), layer


def save(folder, value, **options):
    return make(folder, value)[0].save_checkpoint(**options)


def recovered(folder):
    """Value of the weights found, None if there is no checkpoint."""
    checkpointer, layer = make(folder, -1.0)
    if checkpointer.recover_if_possible() is None:
        return None
    return layer.weight[0, 0].item()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_found(tmp_path):
    assert recovered(tmp_path) is None
    for value in (1.0, 2.0, 3.0):
        path = save(tmp_path, value, name=f"v{value}").path
    assert recovered(tmp_path) == 3.0
    sums = json.loads((path / CHECKSUMS).read_text())
    assert sorted([*sums, CHECKSUMS]) == names(path)


def test_speechbrain_reads_ours_and_we_read_its(tmp_path):
    save(tmp_path / "ours", 4.0)
    theirs, layer = make(tmp_path / "ours", kind=Checkpointer)
    theirs.recover_if_possible()
    assert layer.weight[0, 0] == 4.0
    make(tmp_path / "its", 5.0, Checkpointer)[0].save_checkpoint()
    assert recovered(tmp_path / "its") == 5.0


@pytest.mark.parametrize("name", ["layer.ckpt", "CKPT.yaml", CHECKSUMS])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: bytes(255 - byte for byte in data),
        None,
    ],
    ids=["cut", "empty", "garbled", "missing"],
)
def test_a_damaged_one_is_passed_over_and_left_alone(tmp_path, name, damage):
    save(tmp_path, 1.0, name="a")
    newest = save(tmp_path, 2.0, name="b").path
    if damage is None:
        (newest / name).unlink()
    else:
        (newest / name).write_bytes(damage((newest / name).read_bytes()))
    left = {path.name: path.read_bytes() for path in newest.iterdir()}
    if name == CHECKSUMS and damage is None:
        assert recovered(tmp_path) == 2.0  # like one of SpeechBrain's own
        return
    assert recovered(tmp_path) == 1.0
    assert left == {path.name: path.read_bytes() for path in newest.iterdir()}


@pytest.mark.parametrize("name, step", [("layer.ckpt", 97), ("CKPT.yaml", 1)])
def test_every_byte_counts(tmp_path, name, step):
    save(tmp_path, 1.0, name="a")
    path = save(tmp_path, 2.0, name="b").path / name
    data = path.read_bytes()
    for at in range(0, len(data), step):
        changed = bytearray(data)
        changed[at] ^= 1 if at % 2 else 64
        path.write_bytes(changed)
        assert recovered(tmp_path) == 1.0


def test_a_full_disk_keeps_the_older_ones(tmp_path, monkeypatch):
    save(tmp_path, 1.0)

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left.* before it are int"):
        save(tmp_path, 2.0)
    assert recovered(tmp_path) == 1.0 and len(names(tmp_path)) == 1


def test_a_disk_that_fills_up_under_torch(tmp_path):
    """Whose writer keeps the system's reason to itself."""
    resource = pytest.importorskip("resource")
    save(tmp_path, 1.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(InputError, match="is the disk full.* are intact"):
            save(tmp_path, 2.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert recovered(tmp_path) == 1.0 and len(names(tmp_path)) == 1


def test_scalars_of_torch_and_numpy_in_the_meta_data(tmp_path):
    meta = {"a": torch.tensor(1.5), "b": np.float32(2.5), "c": "text"}
    save(tmp_path, 1.0, meta=meta)
    found = make(tmp_path)[0].find_checkpoint(max_key="a")
    assert (found.meta["a"], found.meta["b"]) == (1.5, 2.5)


def test_keep_the_best_and_the_latest(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, {})
    for error in (3.0, 1.0, 2.0):
        checkpointer.save_checkpoint({"error": error}, name=str(error))
    checkpointer.save_checkpoint({"other": 1}, name="other")
    checkpointer.save_and_keep_only(
        {"error": 5.0, "kind": "a"},
        name="last",
        min_keys=["error"],
        ckpt_predicate=lambda c: "other" not in c.meta,
    )
    assert names(tmp_path) == ["CKPT+1.0", "CKPT+last", "CKPT+other"]
    with pytest.raises(ValueError, match="must not be negative"):
        checkpointer.delete_checkpoints(num_to_keep=-1)
    checkpointer.delete_checkpoints(num_to_keep=0)
    assert not names(tmp_path)


def test_killed_while_saving(tmp_path):
    """A process that dies at its n-th flush leaves the older checkpoint."""
    folders = [tmp_path / str(after) for after in range(1, 5)]
    for folder in folders:
        folder.mkdir()
        save(folder, 1.0)
    script = textwrap.dedent(f"""
        import os, signal, torch
        from amsincnet_sb.training.checkpoints import AtomicCheckpointer
        fsync = os.fsync
        def save(folder, left):
            def dying(handle):
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                fsync(handle)
            os.fsync = dying
            layer = torch.nn.Linear(3, 2)
            torch.nn.init.constant_(layer.weight, 2.0)
            AtomicCheckpointer(folder, {{"layer": layer}}).save_checkpoint()
        for after, folder in enumerate({[*map(str, folders)]!r}, 1):
            child = os.fork()  # imports take longest
            if not child:
                save(folder, [after])
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert status == -signal.SIGKILL, (after, status)
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=os.getcwd())
    assert done.returncode == 0
    for folder in folders:
        assert len(names(folder)) == 2
        assert recovered(folder) == 1.0
        save(folder, 3.0, name="next")
        assert recovered(folder) == 3.0
        assert all(name.startswith("CKPT") for name in names(folder))


def test_killed_while_deleting(tmp_path, monkeypatch):
    """A half deleted checkpoint does not count, and is removed later."""
    checkpointer, _ = make(tmp_path)
    checkpointer.save_checkpoint(name="old")
    remove = shutil.rmtree

    def killed(path, **options):
        if "old" not in path.name:
            return remove(path, **options)
        (path / "layer.ckpt").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save_and_keep_only(name="new")
    (left,) = checkpointer.list_checkpoints()
    assert left.path.name == "CKPT+new" and len(names(tmp_path)) == 2
    checkpointer.save_and_keep_only(name="newest")
    assert names(tmp_path) == ["CKPT+newest"]

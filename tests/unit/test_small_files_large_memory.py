"""Small files that state large sizes are refused before memory is taken."""

import io
import json
import pickle
import resource
import zipfile

import numpy as np
import pytest
import torch

from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import read_pretrained
from amsincnet_sb.training.checkpoints import AtomicCheckpointer
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.reading import (
    TooLarge,
    check_tensors,
    read_arrays,
    read_tensors,
)

MIB = 2**20
HUGE = 10**10


def repacked(path, change):
    """The members of a zip, changed and compressed."""
    with zipfile.ZipFile(path) as archive:
        members = {m: archive.read(m) for m in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def zeros_in_the_weights(folder):
    path = folder / "embedding_model.ckpt"
    repacked(path, lambda name, data: data + bytes("/data/" in name) * MIB)


def zeros_in_enrolled(folder):
    np.savez_compressed(
        folder / "enrolled.npz",
        speakers=np.array(["x"]),
        vectors=np.zeros((2**20, 16), np.float32),
    )


def array_header(shape, dtype="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def header_of_enrolled(folder):
    with zipfile.ZipFile(folder / "enrolled.npz", "w") as archive:
        archive.writestr("speakers.npy", array_header((HUGE,), "<U0"))
        archive.writestr("vectors.npy", array_header((HUGE, 16)))


def stretched_weights(folder):
    path = folder / "classifier.ckpt"
    torch.save({"weight": torch.ones(1, 1).expand(HUGE, 16)}, path)


class Allocates:
    def __reduce__(self):
        return bytearray, (HUGE,)


def call_in_the_weights(folder):
    path = folder / "classifier.ckpt"
    call = pickle.dumps(Allocates(), protocol=2)
    repacked(path, lambda name, data: call if name.endswith(".pkl") else data)


def old_pickle(folder):
    (folder / "classifier.ckpt").write_bytes(pickle.dumps(Allocates(), 2))


def long_json(folder):
    (folder / "calibration.json").write_bytes(b'{"a":' + b" " * 2**25)


def config(**changes):
    def change(folder):
        path = folder / "config.json"
        found = json.loads(path.read_text())
        found["embedding_model"].update(changes)
        path.write_text(json.dumps(found))

    return change


BOMBS = {
    "weights that unpack": zeros_in_the_weights,
    "weights that are stretched": stretched_weights,
    "a call among the weights": call_in_the_weights,
    "a call in an old file": old_pickle,
    "enrolled speakers that unpack": zeros_in_enrolled,
    "enrolled speakers by their header": header_of_enrolled,
    "thresholds": long_json,
    "many neurons": config(fc_neurons=[30_000, 30_000, 16]),
    "many channels": config(cnn_channels=[60_000, 6]),
    "a long window": config(window=2**22),
    "long kernels": config(
        cnn_kernel_sizes=[65_001, 5], cnn_channels=[2000, 6], window=2**17
    ),
    "many layers": config(fc_neurons=[16] * 100_000),
    "a rate": config(sample_rate=10**12),
}


@pytest.fixture
def bounded():
    """This process may take half a gigabyte more than it has."""
    pages = int(open("/proc/self/statm").read().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + 512 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", BOMBS)
def test_a_model_with_a_bomb(saved, tmp_path, bounded, kind):
    folder = tmp_path / "pretrained"
    BOMBS[kind](folder)
    with pytest.raises(InputError) as refused:
        SpeakerIdentifier.from_results(tmp_path)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert "memory" not in str(refused.value).lower()


@pytest.mark.parametrize("compress", [True, False])
def test_a_checkpoint(tmp_path, bounded, compress):
    layer = torch.nn.Linear(3, 2)
    run = AtomicCheckpointer(tmp_path, {"layer": layer})
    path = run.save_checkpoint().path / "layer.ckpt"
    if compress:
        repacked(path, lambda name, data: data + bytes(MIB))
    else:
        state = {"weight": torch.ones(1).expand(HUGE), "bias": torch.ones(2)}
        torch.save(state, path)
    (path.parent / "CHECKSUMS.json").unlink()
    with pytest.raises(InputError, match="unpacks|claim to be larger"):
        run.recover_if_possible()


def test_honest_files_are_read(tmp_path):
    tensors = {"a": [torch.ones(3, dtype=torch.bfloat16)], "b": {"c": 1.5}}
    for zipped in (True, False):
        options = {"_use_new_zipfile_serialization": zipped}
        torch.save(tensors, tmp_path / "a.ckpt", **options)
        check_tensors(tmp_path / "a.ckpt")
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.array("é"))
    assert read_arrays(tmp_path / "a.npz")["y"] == "é"
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(9999))
    with pytest.raises(TooLarge):
        read_arrays(tmp_path / "a.npz")


def test_a_model_of_lower_precision_is_read(saved, tmp_path):
    path = tmp_path / "pretrained" / "embedding_model.ckpt"
    state = torch.load(path)
    torch.save({k: v.half() for k, v in state.items()}, path)
    net, *_ = read_pretrained(tmp_path)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert net.fc_norms[0].num_batches_tracked.dtype == torch.int64


def test_what_the_compiler_marks_is_read(tmp_path):
    # As it does with an optimizer's state, on GPUs.
    tensor = torch.ones(3)
    tensor._dynamo_static_input_type = "guarded"
    torch.save({"state": {0: {"exp_avg": tensor}}}, tmp_path / "a.ckpt")
    found = read_tensors(tmp_path / "a.ckpt")
    assert torch.equal(found["state"][0]["exp_avg"], tensor)

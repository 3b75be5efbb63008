"""The process that compiles a training's kernels before they are needed."""

import json
import os
import subprocess
import sys

import pytest
import torch

from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.training import kernels_ahead
from amsincnet_sb.training.kernels_ahead import compile_ahead, compile_kernels


@pytest.fixture
def net():
    return SincTDNN(sinc_channels=8, tdnn_channels=[8] * 4, fc_neurons=[16, 8])


def test_does_what_a_step_does(net):
    """With a network of the same architecture, whose parameters it moves."""
    for given in (net, SincNet(fc_neurons=[16, 8])):
        kind = [type(given).__module__, type(given).__qualname__]
        mode = torch.get_float32_matmul_precision()
        made = compile_kernels(
            kind, given.arguments, 4, "bfloat16", "cpu", mode
        )
        assert made.arguments == given.arguments and made.training
        assert all(p.grad.isfinite().all() for p in made.parameters())


def test_its_program(net, tmp_path, monkeypatch):
    """Takes what the training tells it, and no module from where it is."""
    (tmp_path / "json.py").write_text("open('executed', 'w')")
    monkeypatch.chdir(tmp_path)
    options = {
        "kind": [type(net).__module__, type(net).__qualname__],
        "arguments": net.arguments,
        "batch_size": 2,
        "dtype": "float32",
        "device": "cpu",
        "matmuls": "high",
    }
    assert kernels_ahead._start(options).wait() == 0
    assert not (tmp_path / "executed").exists()


# A training that ends before its step was captured, where the system does not
# end children.
TRAINING = """
from amsincnet_sb.training import kernels_ahead
kernels_ahead.PROGRAM = "import time; time.sleep(60)"
kernels_ahead.end_with = lambda parent: None
print(kernels_ahead._start({}).pid, flush=True)
raise SystemExit(3)
"""


def test_ends_with_the_training():
    command = [sys.executable, "-c", TRAINING]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_is_not_started_where_it_would_not_help(net):
    assert compile_ahead(net, 8, torch.float32, "cpu") is None
    if torch.cuda.is_available():
        other = torch.nn.Linear(3, 2)
        assert compile_ahead(other, 8, torch.bfloat16, "cuda") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fills_the_cache(tmp_path, monkeypatch):
    """So that a step finds all of its kernels there."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels_ahead, "CORES", 1)
    process = compile_ahead(SincTDNN(), 128, torch.bfloat16, "cuda")
    assert process.wait() == 0
    found = {path.name for path in tmp_path.rglob("*.cubin")}
    assert {"implicit_gemm.cubin", "implicit_gemm_grad.cubin"} <= found
    options = json.loads(process.args[-1])
    before = set(os.listdir(tmp_path / "cache"))
    assert kernels_ahead._start(options).wait() == 0
    assert set(os.listdir(tmp_path / "cache")) == before

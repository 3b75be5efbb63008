"""The device of a process and its precisions."""

import platform

import pytest
import torch

from amsincnet_sb.training.device import (
    best_precisions,
    has_bfloat16,
    own_device,
    visible_gpus,
)
from amsincnet_sb.utils.errors import InputError


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_each_local_rank_has_its_own_gpu(four_gpus, monkeypatch):
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == "cuda:3"
    assert own_device("cuda:1") == "cuda:1"
    assert own_device("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "4")
    for asked in ("cuda", "cuda:4", "cuda:17"):  # not there
        with pytest.raises(InputError, match="cuda:"):
            own_device(asked)


@pytest.mark.parametrize("asked", ["meta", "xyz"])
def test_no_device(asked):
    with pytest.raises(InputError, match=f"--device={asked}: there is no such"):
        own_device(asked)


def test_gpus_are_named_as_for_other_processes(four_gpus, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_gpus() == []


@pytest.mark.parametrize(
    "capability, precisions",
    [((7, 5), ("fp32", "fp32")), ((8, 0), ("bf16", "fp16"))],
)
def test_precisions_are_those_of_the_tensor_cores(
    monkeypatch, capability, precisions
):
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: capability
    )
    found = tuple(best_precisions("cuda:1").values())
    assert found == precisions


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "machine, place, name",
    [
        ("x86_64", torch.cpu, "_is_avx512_bf16_supported"),
        ("aarch64", torch.ops.mkldnn, "_is_mkldnn_bf16_supported"),
    ],
)
def test_bfloat16_of_a_cpu(monkeypatch, machine, place, name, known):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(place, name, lambda: known)
    assert has_bfloat16("cpu") is known
    precisions = {"precision": "bf16" if known else "fp32"}
    assert best_precisions("cpu") == {**precisions, "eval_precision": "fp32"}


@pytest.mark.parametrize("device", ["foo", "cuda:abc", "cpu:x", "mps"])
def test_a_device_that_is_none(device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match=f"--device={device}: there is no"):
        own_device(device)

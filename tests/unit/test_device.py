"""Which device a process takes."""

import pytest
import torch

from amsincnet_sb.utils.device import own_device
from amsincnet_sb.utils.errors import InputError


@pytest.fixture
def four_gpus(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def test_each_process_of_torchrun_has_its_own(four_gpus, monkeypatch):
    assert own_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device("cuda") == "cuda:3"
    assert own_device("cuda:1") == "cuda:1"
    assert own_device("cpu") == "cpu"


@pytest.mark.parametrize("asked", ["cuda:4", "cuda:17"])
def test_a_gpu_that_is_not_there(four_gpus, asked):
    with pytest.raises(InputError, match=asked):
        own_device(asked)


def test_more_processes_than_gpus(four_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(InputError, match="cuda:4"):
        own_device("cuda")

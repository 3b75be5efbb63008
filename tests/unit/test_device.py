"""Which device a process takes."""

import pytest
import torch

from amsincnet_sb.utils.device import own_device, visible_gpus
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


def test_other_processes_get_the_gpus_that_this_one_sees(
    four_gpus, monkeypatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1", "2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert visible_gpus() == []

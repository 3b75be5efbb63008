"""Audio in memory: not a sample changed, and 16 bits where they do."""

import numpy as np
import pytest
import torch

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.utils.errors import InputError


def steps(*values):
    return torch.tensor(values, dtype=torch.float32) / 32768


def read(audio, i):
    start, length = audio.starts[i], audio.lengths[i]
    return audio.gather(torch.arange(start, start + length))


def test_all_16_bit_values_survive():
    wave = torch.tensor(np.arange(-32768, 32768) / 32768, dtype=torch.float32)
    audio = ResidentAudio([wave], [0], ["a"])
    assert audio.samples.dtype == torch.int16
    assert torch.equal(read(audio, 0), wave)


@pytest.mark.parametrize(
    "value",
    [
        1.0,  # one step beyond 16 bits
        1.5,
        -32769 / 32768,
        0.5 / 32768,  # 24 bits
        1e-30,
        float("nan"),
        float("inf"),
    ],
)
def test_one_value_that_does_not_fit_keeps_all_in_float32(value):
    waves = [steps(1, 2, 3), torch.tensor([0.25, value]), steps(-32768)]
    audio = ResidentAudio(waves, [0, 1, 0], ["a", "b", "c"])
    assert audio.samples.dtype == torch.float32
    for i, wave in enumerate(waves):
        assert read(audio, i).dtype == torch.float32
        torch.testing.assert_close(
            read(audio, i), wave, rtol=0, atol=0, equal_nan=True
        )


def test_random_floats_are_exact():
    torch.manual_seed(0)
    waves = [torch.rand(n) * 2 - 1 for n in (5, 1, 300)]
    audio = ResidentAudio(waves, [2, 0, 1], ["x", "y", "z"])
    assert audio.samples.dtype == torch.float32
    for i, wave in enumerate(waves):
        assert torch.equal(read(audio, i), wave)


def test_layout():
    waves = [steps(1, 2), steps(3), steps(4, 5, 6)]
    audio = ResidentAudio(waves, [7, 8, 9], ("a", "b", "c"))
    assert audio.samples.tolist() == [1, 2, 3, 4, 5, 6]
    assert audio.starts.tolist() == [0, 2, 3]
    assert audio.lengths.tolist() == [2, 1, 3]
    assert audio.labels.tolist() == [7, 8, 9]
    assert audio.labels.dtype == torch.int64
    assert audio.ids == ["a", "b", "c"] and len(audio) == 3
    index = torch.tensor([[5, 0], [2, 2]])
    assert torch.equal(audio.gather(index) * 32768, index + 1.0)
    assert audio.to("cpu") is audio


def test_from_a_data_set_in_its_order():
    class Items:
        def __len__(self):
            return 50

        def __getitem__(self, i):
            wave = steps(*range(i, 2 * i + 1))
            label = torch.tensor(i % 7)
            return {"sig": wave, "spk_id_encoded": label, "id": f"s{i}"}

    audio = ResidentAudio.from_dataset(Items())
    assert audio.ids == [f"s{i}" for i in range(50)]
    assert audio.labels.tolist() == [i % 7 for i in range(50)]
    for i in (0, 1, 20, 49):
        assert (read(audio, i) * 32768).tolist() == list(range(i, 2 * i + 1))


def test_nothing_to_work_on():
    with pytest.raises(InputError, match="no utterance"):
        ResidentAudio([], [], [])

"""Audio in memory: not a sample changed; in its files: the same samples."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch.utils.data import DataLoader

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.audio_store import (
    ResidentAudio,
    StreamingAudio,
    _resident_gigabytes,
    open_audio,
)
from amsincnet_sb.dataio.batches import RandomChunks, SlidingWindows
from amsincnet_sb.utils.errors import InputError

WINDOW = 320
RATE = 16000


def dataset(folder, files):
    """A data set as the recipe makes it, of files that are written here."""
    random = np.random.default_rng(0)
    rows = {}
    for number, (rate, frames, channels, options) in enumerate(files):
        suffix = options.get("format", "WAV").lower()
        path = folder / f"{number}.{suffix}"
        wave = random.uniform(-0.9, 0.9, (frames, channels))
        soundfile.write(path, wave, rate, **options)
        start, stop = number, frames - 2 * number
        rows[f"s{number}"] = {
            "wav": str(path),
            "start": str(start),
            "stop": str(stop),
            "duration": repr((stop - start) / rate),
            "spk_id": "ab"[number % 2],
        }
    indices = {"a": 0, "b": 1}

    def audio(wav, start, stop):
        return read_audio(wav, int(start), int(stop), RATE)

    items = DynamicItemDataset(
        rows,
        [
            {
                "func": audio,
                "takes": ["wav", "start", "stop"],
                "provides": "sig",
            },
            {
                "func": indices.get,
                "takes": ["spk_id"],
                "provides": "spk_id_encoded",
            },
        ],
        ["id", "wav", "sig", "spk_id_encoded"],
    )
    return items, indices


PLAIN = [(RATE, 3000, 1, {}), (RATE, 700, 1, {}), (RATE, 200, 1, {})] * 2
MIXED = [
    (RATE, 3000, 1, {}),
    (8000, 1500, 1, {}),
    (44100, 9000, 2, {"subtype": "FLOAT"}),
    (RATE, 2000, 2, {"format": "FLAC", "subtype": "PCM_24"}),
    (22050, 300, 1, {}),
    (48000, 5001, 1, {"format": "FLAC"}),
    (RATE, 4000, 1, {"format": "NIST"}),
    (RATE, 150, 1, {}),
    (11025, 8000, 1, {"format": "OGG", "subtype": "VORBIS"}),
]


@pytest.fixture(params=[PLAIN, MIXED], ids=["plain", "mixed"])
def both(request, tmp_path):
    items, indices = dataset(tmp_path, request.param)
    exact = request.param is PLAIN
    tolerance = {"rtol": 0, "atol": 0 if exact else 2e-6}
    resident = open_audio(items, indices, RATE, 1)
    return resident, open_audio(items, indices, RATE, 0), tolerance


def test_chunks_are_the_same(both):
    """Those of a resident run, with reading ahead and without."""
    resident, streaming, tolerance = both
    assert torch.equal(resident.lengths, streaming.lengths)
    assert torch.equal(resident.labels, streaming.labels)
    assert resident.ids == streaming.ids and resident.names == streaming.names
    assert len(resident) == len(streaming)
    chunks = [
        RandomChunks(
            audio,
            WINDOW,
            16,
            batches_per_epoch=20,
            seed=1,
            splice_probability=0.5,
        )
        for audio in (resident, streaming)
    ]
    every = torch.ones(16, dtype=torch.bool)
    assert chunks[1].describe(3, every) == chunks[0].describe(3, every)
    for epoch in (1, 3):
        for one in chunks:
            one.set_epoch(epoch)
        loaders = [DataLoader(one, batch_size=None) for one in chunks]
        batches = 0
        for ours, theirs in zip(*loaders, strict=True):
            assert torch.equal(ours.utterance, theirs.utterance)
            assert torch.equal(
                ours.spk_id_encoded.data, theirs.spk_id_encoded.data
            )
            torch.testing.assert_close(
                ours.sig.data, theirs.sig.data, **tolerance
            )
            batches += 1
        assert batches == 20
    for ours, theirs in zip(*(one.draw(77) for one in chunks)):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_windows_are_the_same(both):
    resident, streaming, tolerance = both
    ours, theirs = (
        SlidingWindows(audio, WINDOW, 50, 37) for audio in (resident, streaming)
    )
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        assert torch.equal(a.utterance, b.utterance)
        torch.testing.assert_close(a.sig.data, b.sig.data, **tolerance)


def test_the_limit_decides(tmp_path):
    items, indices = dataset(tmp_path, PLAIN)
    samples = sum(
        int(row["stop"]) - int(row["start"]) for row in items.data.values()
    )
    size = 2 * samples / 1e9
    assert _resident_gigabytes(items, RATE) == pytest.approx(size)
    assert _resident_gigabytes(items, 8000) == pytest.approx(size)
    resident = open_audio(items, indices, RATE, size * 1.01)
    streaming = open_audio(items, indices, RATE, size * 0.99)
    assert not resident.streams and streaming.streams
    assert resident.samples.numel() * 2 / 1e9 == pytest.approx(size)


def test_a_file_that_changed(tmp_path):
    items, indices = dataset(tmp_path, PLAIN)
    audio = open_audio(items, indices, RATE, 0)
    chunks = RandomChunks(audio, WINDOW, 4, batches_per_epoch=2, seed=1)
    for name in audio.names:
        soundfile.write(name, np.zeros(5000), 8000)
    with pytest.raises(InputError, match="8000 samples per second where"):
        list(chunks[0].sig)
    for name in audio.names:
        soundfile.write(name, np.zeros(3), RATE)
    with pytest.raises(InputError, match="asked for, but the file has 3"):
        chunks.draw(5)


def test_nothing_to_work_on():
    for make in (
        lambda: StreamingAudio([], [], {}, RATE),
        lambda: ResidentAudio([], [], []),
    ):
        with pytest.raises(InputError, match="no utterance"):
            make()


# In memory --------------------------------------------------------------------


def steps(*values):
    return torch.tensor(values, dtype=torch.float32) / 32768


def assert_kept(waves, dtype):
    """Bit by bit, in this form."""
    audio = ResidentAudio(waves, [0] * len(waves), map(str, range(len(waves))))
    assert audio.samples.dtype == dtype
    for i, wave in enumerate(waves):
        kept = audio.chunks(torch.tensor([i]), torch.tensor([0]), len(wave))
        assert kept.dtype == torch.float32
        torch.testing.assert_close(
            kept[0], wave, rtol=0, atol=0, equal_nan=True
        )


def test_all_16_bit_values_survive():
    assert_kept([steps(*range(-32768, 32768))], torch.int16)


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
    assert_kept(waves, torch.float32)

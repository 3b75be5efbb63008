"""Whatever soundfile, torchaudio and librosa give is a recording."""

import copy
import io
import os
import pickle
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import torch

from amsincnet_sb.inference import recordings
from amsincnet_sb.inference.answers import Analysis, ranked
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.recordings import (
    as_source,
    from_command_line,
    several,
)
from amsincnet_sb.utils.errors import InputError

STEPS = (np.random.default_rng(0).uniform(-0.5, 0.5, 800) * 2**15).round()
WAVE = torch.from_numpy(STEPS / 2**15).float()
BOTH = np.stack([STEPS, STEPS], 1) / 2**15
# The same waveform as others keep it.
KEPT = {
    "float64 [time]": BOTH[:, 0],
    "float32 tensor [time]": WAVE,
    "float32 tensor that learns": WAVE.clone().requires_grad_(),
    "bfloat16": WAVE.bfloat16(),
    "[time, channels]": BOTH,
    "[channels, time]": torch.from_numpy(BOTH.T),
    "[1, time]": WAVE[None],
    "[time, 1]": BOTH[:, :1],
    "int16": STEPS.astype("int16"),
    "int16 tensor [1, time]": torch.from_numpy(STEPS).short()[None],
    "int32": (STEPS * 2**16).astype("int32"),
    "uint8": (STEPS / 256 + 128).round().astype("uint8"),
    "big endian": BOTH[:, 0].astype(">f4"),
    "reversed twice": BOTH[::-1, 0][::-1],
    "with its rate": (WAVE, 16000),
    "with a rate of numpy": (BOTH, np.float64(16000)),
    "as in JSON": [WAVE[None], 16000],
}


@pytest.mark.parametrize("kind", KEPT)
def test_waveforms(kind):
    assert several(KEPT[kind]) is None
    found = as_source(KEPT[kind], 16000)
    assert found.dtype == torch.float32
    coarse = 2**-7 if kind in ("uint8", "bfloat16") else 1e-7
    torch.testing.assert_close(found, WAVE, atol=coarse, rtol=0)


@pytest.mark.parametrize("rate", [8000, 48000])
def test_another_rate_is_resampled(tmp_path, who, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, STEPS.astype("int16"), rate)
    samples, same = soundfile.read(path)
    assert who.identify((samples, same)) == who.identify(path)


def test_beyond_full_scale(who, tmp_path):
    """A file that was mixed too loud is the same as its samples."""
    path = tmp_path / "a.wav"
    for rate in (16000, 8000):
        soundfile.write(path, 7 * WAVE.numpy(), rate, "FLOAT")
        assert who.identify(path) == who.identify((7 * WAVE, rate))


def test_file_like_objects(who, tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, STEPS.astype("int16"), 16000)
    expected = who.identify(path)
    upload = io.BytesIO(path.read_bytes())
    upload.read()  # as after writing it
    assert who.identify(upload) == expected
    assert who.identify(upload) == expected
    with open(path, "rb") as file:
        assert who.identify(file) == who.identify(str(path)) == expected
    (tmp_path / "b.wav").write_text("text")
    with open(tmp_path / "b.wav", "rb") as file:
        with pytest.raises(InputError, match=r"b\.wav: it cannot be read as"):
            who.identify(file)


@pytest.mark.parametrize("named", [False, True])
def test_copies_leave_nothing_behind(tmp_path, monkeypatch, named):
    """Not even if the process is killed, where they have no name."""
    if named:
        monkeypatch.setattr(recordings, "HANDLES", "/none")
    elif not os.path.exists(recordings.HANDLES):
        pytest.skip("the system gives every file a name")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    copied = recordings.FileLike(io.BytesIO(b"abc"))
    assert len(os.listdir(tmp_path)) == named
    for _ in range(2):
        with open(copied, "rb") as file:
            assert file.read() == b"abc"
    path = os.fspath(copied)
    del copied
    assert not os.listdir(tmp_path) and not os.path.exists(path)


def test_what_cannot_be_copied_is_one_recording(monkeypatch, tmp_path):
    """As where the disk of temporary files is full; the others are answered."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    monkeypatch.setattr("sys.stdin", Mock(buffer=io.BytesIO(b"abc")))
    (name, error), other = from_command_line(["-", "a.wav"])
    assert name == "-" and other == ("a.wav", "a.wav")
    assert str(error).startswith("-: ") and "TMPDIR" in str(error)
    assert "No such file" in str(error)


NO_RECORDINGS = {
    "None": (None, "NoneType"),
    "a number": (3, "int"),
    "bytes": (b"RIFF", "bytes"),
    "a dictionary": ({"array": WAVE}, "dict"),
    "numbers": ([0.1, 0.2], "float"),
    "a rate that is none": ((WAVE, None), "NoneType"),
    "an infinite rate": ((WAVE, float("inf")), "sample rate is inf"),
    "text": (io.StringIO("RIFF"), "gives str"),
    "a batch": (torch.zeros(65, 999), "several recordings go into a list"),
    "three axes": (torch.zeros(1, 1, 9), r"shape \(1, 1, 9\)"),
    "one sample": (np.array(0.1), r"shape \(\)"),
    "int64": (STEPS.astype(int), "int64"),
    "complex": (WAVE.to(torch.complex64), "complex64"),
    "objects": (np.array(["a"], object), "object"),
    "sparse": (WAVE.to_sparse(), "Sparse"),
    "no data": (WAVE.to("meta"), "no data"),
    "no rate": ((WAVE, float("nan")), "sample rate is nan"),
    "a negative rate": ((WAVE, -8000), "sample rate is -8000"),
    "a rate in kHz": ((WAVE, 16), "sample rate is 16 but must be .* Hz"),
    "nothing": (np.zeros(0), "empty"),
    "no channel": (np.zeros((0, 9)), "empty"),
    "NaN": (np.full(9, np.nan), "NaN"),
    "too large for float32": (np.full(9, 1e300), "infinite"),
}


@pytest.mark.parametrize("kind", NO_RECORDINGS)
def test_anything_else_is_a_sentence_about_it(who, kind):
    given, complaint = NO_RECORDINGS[kind]
    with pytest.raises(InputError, match=complaint):
        who.identify(given)


def test_iterables_of_recordings(who, voice, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, STEPS.astype("int16"), 16000)
    two = [path, voice(300)]
    for together, one in zip(who.identify(two), two, strict=True):
        for a, b in zip(together, who.identify(one), strict=True):
            assert a.speaker == b.speaker  # but for rounding in batches
            assert a[1:] == pytest.approx(b[1:], abs=1e-5)
    assert who.identify(one for one in two) == who.identify(tuple(two))
    assert torch.equal(who.embed(iter(two)), who.embed(two))
    assert who.identify([]) == [] and who.embed([]).shape == (0, 16)


def test_one_recording_is_enough_to_enrol(who, voice, tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(2500).numpy(), 16000, "FLOAT")
    for name, one in (
        ("a", tmp_path / "a.wav"),
        ("b", str(tmp_path / "a.wav")),
        ("c", voice(2500).numpy()),
        ("d", voice(2500)[None]),
        ("e", [voice(2500)]),
    ):
        who.enroll(name, one)
    enrolled = who.classifier.enrolled.values()
    vectors = torch.cat([one.vectors for one in enrolled])
    assert torch.allclose(vectors, vectors[0].expand_as(vectors), atol=1e-5)
    with pytest.raises(InputError, match="cannot be the name"):
        who.enroll(3, voice(2500))


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("copied", [pickled, copy.deepcopy])
def test_a_model_goes_into_other_processes(saved, voice, copied):
    expected = saved.identify(voice(300))
    identify = copied(saved.identify)
    assert copied(identify(voice(300))) == expected
    model = copied(saved)
    model.enroll("dan", voice(1500))
    assert "dan" not in saved.speakers
    model.save()
    again = SpeakerIdentifier.from_results(saved.folder)
    assert again.speakers == model.speakers
    (found,) = model.analyse_all([voice(300)])
    assert torch.equal(copied(found).embedding, found.embedding)


@pytest.mark.parametrize(
    "posteriors, expected",
    [
        # The mean of the third's posteriors is above that of the second's.
        (
            [[0.6, 0.1, 0.3], [0.6, 0.399, 0.001]],
            [("ann", 0.6), ("bob", 0.2495), ("cat", 0.1505)],
        ),
        (
            [[0.5, 0.001, 0.499], [0.5, 0.4, 0.1]],
            [("ann", 0.5), ("cat", 0.2995), ("bob", 0.2005)],
        ),
        (
            [[0.2, 0.798, 0.002], [0.6, 0.002, 0.398]],
            [("ann", 0.4), ("bob", 0.4), ("cat", 0.2)],
        ),
        (
            [[0.1, 0.9, 0.0001], [0.1, 0.00001, 0.89]],
            [("ann", 0.1), ("cat", 0.1), ("bob", 0.1)],
        ),
        # Equal ones in the order of the speakers.
        ([[1 / 3] * 3], [("ann", 1 / 3), ("bob", 1 / 3), ("cat", 1 / 3)]),
        ([[1.0]], [("ann", 1.0)]),
    ],
)
def test_the_probability_falls_with_the_rank(posteriors, expected):
    windows = torch.tensor(posteriors)
    analysis = Analysis(windows.log().mean(0), windows.mean(0), None, None)
    found = ranked(["ann", "bob", "cat"], analysis, 5)
    assert [c.speaker for c in found] == [name for name, _ in expected]
    for candidate, (_, probability) in zip(found, expected, strict=True):
        assert candidate.probability == pytest.approx(probability)
    # A threshold is one of this probability.
    best = found[0].probability
    assert ranked(["ann"] * 3, analysis, 1, best - 1e-6)[0].speaker == "ann"
    assert ranked(["ann"] * 3, analysis, 1, best)[0] == ("unknown", None, None)


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 1.5}, r"top_k is 1\.5"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "0.5"}, "threshold is '0.5'"),
        ({"threshold": 30}, "threshold is 30 but must be from 0 to 1"),
        ({"threshold": -0.1}, "threshold is -0.1 but must be from 0 to 1"),
    ],
)
def test_options_that_cannot_be(who, voice, options, complaint):
    with pytest.raises(InputError, match=complaint):
        who.identify(voice(300), **options)
    if options.get("threshold") not in (None, 30, -0.1):  # scores may be
        with pytest.raises(InputError, match=complaint):
            who.verify(voice(300), voice(700), **options)


def test_a_model_that_answers_with_nan(who, voice):
    who = copy.deepcopy(who)
    torch.nn.init.constant_(who.classifier.trained.weight, float("nan"))
    for ask in (who.identify, who.embed, partial(who.enroll, "zoe")):
        with pytest.raises(InputError, match="answers with NaN or infinite"):
            ask(voice(300))


def test_folders_and_standard_input(tmp_path, monkeypatch):
    for name in ("b/c/2.FLAC", "b/1.wav", "b/notes.txt", ".hidden/3.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    stream = io.TextIOWrapper(io.BytesIO(b"abc"))
    monkeypatch.setattr("sys.stdin", stream)
    found = list(from_command_line(["x.wav", "b", "empty", "-"]))
    assert found[:3] == [(f, f) for f in ("x.wav", "b/1.wav", "b/c/2.FLAC")]
    (empty, error), (name, copied) = found[3:]
    assert empty == "empty" and isinstance(error, InputError)
    assert name == str(copied) == "-"
    assert open(copied, "rb").read() == b"abc"

"""The generated corpus is TIMIT's layout, repeatable, and a fair task."""

import re

import demo_corpus
import numpy as np
import pytest
import soundfile
from demo_corpus import generate_demo_corpus, make_voice, sentence_words, speak

from amsincnet_sb.utils.errors import InputError

RATE = 16000
SPEAKERS = 10


def generate(folder, speakers=3, **options):
    return generate_demo_corpus(folder, speakers, **options)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def rows(path):
    lines = path.read_text("ascii").splitlines()
    fields = (line.split(" ", 2) for line in lines)
    return [(int(start), int(stop), word) for start, stop, word in fields]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("demo") / "a", SPEAKERS)


@pytest.fixture(scope="module")
def spoken():
    """(samples, words) of five SX and three SI sentences of each speaker."""
    numbers = (3, 50, 111, 222, 333, 500, 1000, 2000)
    return [
        [speak(make_voice(index), number) for number in numbers]
        for index in range(20)
    ]


def test_layout(corpus):
    assert {path.name for path in corpus.iterdir()} == {"TRAIN", "README.TXT"}
    folders = sorted(corpus.glob("TRAIN/*/*"))
    assert len(folders) == SPEAKERS
    dialects = [folder.parent.name for folder in folders]
    assert sorted(set(dialects)) == [f"DR{n}" for n in range(1, 9)]
    assert max(map(dialects.count, dialects)) == 2
    assert {folder.name[0] for folder in folders} == {"F", "M"}
    for folder in folders:
        assert re.fullmatch(r"[FM][A-Z]{3}0", folder.name)
        stems = sorted(path.stem for path in folder.glob("*.WAV"))
        assert stems == sorted(path.stem for path in folder.glob("*.WRD"))
        assert 2 * len(stems) == len(list(folder.iterdir()))
        kinds = [re.fullmatch("(S[IX])[0-9]+", stem)[1] for stem in stems]
        assert kinds == ["SI"] * 3 + ["SX"] * 5
    text = (corpus / "README.TXT").read_text()
    for words in ("GENERATED", "CC0", "seed: 0", "speakers: 10"):
        assert words in text


def test_names_and_texts_are_unique_and_dialects_even():
    voices = [make_voice(index) for index in range(2500)]
    assert len({voice.name for voice in voices}) == 2500
    dialects = np.bincount([voice.dialect for voice in voices])[1:]
    assert len(dialects) == 8 and np.ptp(dialects) <= 1
    women = {v.dialect for v in voices[:16] if v.name[0] == "F"}
    assert women == set(range(1, 9))
    texts = {str(sentence_words(number)) for number in range(1, 2343)}
    assert len(texts) == 2342


def test_audio_is_sphere_and_its_words_lie_inside(corpus):
    for path in corpus.rglob("*.WAV"):
        info = soundfile.info(path)
        assert (info.format, info.subtype) == ("NIST", "PCM_16")
        assert (info.samplerate, info.channels) == (RATE, 1)
        # The header's own count is what other readers of SPHERE rely on.
        data = path.read_bytes()
        assert f"sample_count -i {info.frames}\n".encode() in data[:1024]
        assert len(data) == 1024 + 2 * info.frames
        words = rows(path.with_suffix(".WRD"))
        assert 0 < words[0][0] and words[-1][1] < info.frames
        assert all(start < stop for start, stop, _ in words)
        assert all(a[1] <= b[0] for a, b in zip(words, words[1:]))


def test_sound_is_sane(spoken):
    seconds = []
    for samples, words in (s for speaker in spoken for s in speaker):
        wave = samples / 32768
        first, last = words[0][0], words[-1][1]
        inside = wave[first:last].std()
        outside = np.r_[wave[: first - 400], wave[last + 400 :]].std()
        assert 0.01 < inside < 0.3
        assert 0 < outside < inside / 10
        assert 0.05 < np.abs(wave).max() <= 0.9
        assert abs(wave.mean()) < 0.01 * inside + 1e-4
        seconds.append(len(wave) / RATE)
    assert 2.2 < np.mean(seconds) < 3.4
    assert min(seconds) > 1.2 and max(seconds) < 6


def mean_log_spectrum(samples, words):
    """Mean log energy in bands of 250 Hz, level removed."""
    frames = np.lib.stride_tricks.sliding_window_view(
        samples[words[0][0] : words[-1][1]] / 32768, 512
    )[::256]
    power = np.abs(np.fft.rfft(frames * np.hanning(512))[:, :256]) ** 2
    bands = np.log(power.reshape(-1, 32, 8).sum(2) + 1e-9).mean(0)
    return bands - bands.mean()


def test_speakers_differ_more_than_their_sentences_but_not_trivially(spoken):
    features = np.array([[mean_log_spectrum(*s) for s in k] for k in spoken])
    train, test = features[:, :5], features[:, 5:]
    centres = train.mean(axis=1)
    distances = ((test[:, :, None] - centres) ** 2).sum(-1)
    right = distances.argmin(-1) == np.arange(len(spoken))[:, None]
    assert 0.4 < right.mean() < 0.97


def test_a_larger_corpus_contains_the_smaller(corpus, tmp_path):
    common = contents(corpus)
    del common["README.TXT"]
    assert len(common) == SPEAKERS * 8 * 2
    large = contents(generate(tmp_path / "a", SPEAKERS + 1))
    assert common.items() <= large.items()
    other = contents(generate(tmp_path / "b", 1, seed=1))
    assert not set(common.values()) & set(other.values())


def test_complete_corpus_is_left_alone(tmp_path, monkeypatch):
    before = contents(generate(tmp_path))
    monkeypatch.setattr(demo_corpus, "speak", None)
    assert generate(tmp_path) == tmp_path
    assert contents(tmp_path) == before
    for change in ({"speakers": 2}, {"seed": 1}):
        with pytest.raises(InputError, match="describes another corpus"):
            generate(tmp_path, **{"speakers": 3, **change})
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "error, seen",
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), InputError),
    ],
)
def test_a_corpus_is_whole_or_not_there(tmp_path, monkeypatch, error, seen):
    calls = []

    def stopped(voice, number):
        calls.append(number)
        if len(calls) > 11:
            raise error
        return speak(voice, number)

    monkeypatch.setattr(demo_corpus, "speak", stopped)
    with pytest.raises(seen):
        generate(tmp_path / "cut")
    assert not any(tmp_path.iterdir())


def test_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        generate(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}
    for where in ("thesis.tex", "thesis.tex/below"):
        with pytest.raises(InputError, match="cannot be written"):
            generate(tmp_path / where)


@pytest.mark.parametrize(
    "change", [{"speakers": 0}, {"speakers": 17577}, {"seed": -1}], ids=str
)
def test_options_out_of_range_are_refused(tmp_path, change):
    with pytest.raises(InputError, match=next(iter(change))):
        generate(tmp_path / "new", **change)
    assert not (tmp_path / "new").exists()

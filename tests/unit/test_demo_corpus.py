"""The generated corpus is TIMIT's layout, repeatable, and a fair task."""

import re

import numpy as np
import pytest
import soundfile

from amsincnet_sb.dataio import demo_corpus
from amsincnet_sb.dataio.demo_corpus import (
    generate_demo_corpus,
    make_voice,
    sentence_words,
    speak,
)
from amsincnet_sb.utils.errors import InputError

RATE = 16000
SPEAKERS = 10
VOWELS = ("aa", "ae", "ah", "ao", "eh", "er", "ey", "ih", "iy", "ow")


def generate(folder, speakers=3, **options):
    return generate_demo_corpus(folder, speakers, progress=False, **options)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def rows(path):
    lines = path.read_text("ascii").splitlines()
    fields = (line.split(" ", 2) for line in lines)
    return [(int(start), int(stop), label) for start, stop, label in fields]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("demo"), SPEAKERS, sa=True)


@pytest.fixture(scope="module")
def spoken():
    """Five SX and three SI sentences of each speaker."""
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
        stems = {path.stem for path in folder.iterdir()}
        assert {"SA1", "SA2"} < stems
        assert (
            sum(re.fullmatch(r"SX\d{1,3}", s) is not None for s in stems) == 5
        )
        assert (
            sum(re.fullmatch(r"SI\d{3,4}", s) is not None for s in stems) == 3
        )
        assert {path.name for path in folder.iterdir()} == {
            f"{s}.{kind}"
            for s in stems
            for kind in ("WAV", "WRD", "TXT", "PHN")
        }


def test_names_stay_unique_and_dialects_even():
    voices = [make_voice(index) for index in range(2500)]
    assert len({voice.name for voice in voices}) == 2500
    dialects = np.bincount([voice.dialect for voice in voices])[1:]
    assert len(dialects) == 8 and np.ptp(dialects) <= 1
    women = {v.dialect for v in voices[:16] if v.name[0] == "F"}
    assert women == set(range(1, 9))


def test_texts(corpus):
    texts = {tuple(sentence_words(number)) for number in range(1, 2343)}
    assert len(texts) == 2342
    shared = {path.read_bytes() for path in corpus.rglob("SA1.WRD")}
    assert len(shared) == SPEAKERS
    shared = {
        " ".join(word for *_, word in rows(path))
        for path in corpus.rglob("SA1.WRD")
    }
    assert len(shared) == 1
    for folder in corpus.glob("TRAIN/*/*"):
        said = {tuple(r[2] for r in rows(p)) for p in folder.glob("*.WRD")}
        assert len(said) == 10


def test_audio_is_sphere(corpus):
    for path in corpus.rglob("*.WAV"):
        info = soundfile.info(path)
        assert (info.format, info.subtype) == ("NIST", "PCM_16")
        assert (info.samplerate, info.channels) == (RATE, 1)
        data = path.read_bytes()
        assert data.startswith(b"NIST_1A\n   1024\n")
        assert len(data) == 1024 + 2 * info.frames
        # The header's own count is what SPHERE readers other than
        # libsndfile rely on.
        assert f"sample_count -i {info.frames}\n".encode() in data[:1024]
        raw = np.frombuffer(data[1024:], "<i2")
        assert np.array_equal(soundfile.read(path, dtype="int16")[0], raw)


def test_annotations_fit_the_audio(corpus):
    for path in corpus.rglob("*.WAV"):
        length = soundfile.info(path).frames
        words = rows(path.with_suffix(".WRD"))
        phones = rows(path.with_suffix(".PHN"))
        ((start, stop, text),) = rows(path.with_suffix(".TXT"))
        assert (start, stop) == (0, length)
        spelled = " ".join(word for *_, word in words)
        assert text == spelled.capitalize() + "."
        assert all(start < stop for start, stop, _ in words + phones)
        assert all(a[1] <= b[0] for a, b in zip(words, words[1:]))
        assert phones[0][0] == 0 and phones[-1][1] == length
        assert all(a[1] == b[0] for a, b in zip(phones, phones[1:]))
        assert phones[0][2] == phones[-1][2] == "h#"
        assert phones[0][1] == words[0][0]
        assert phones[-1][0] == words[-1][1]
        edges = {edge for start, stop, _ in phones for edge in (start, stop)}
        assert {e for start, stop, _ in words for e in (start, stop)} <= edges


def test_sound_is_sane(spoken):
    seconds = []
    for sentence in (s for speaker in spoken for s in speaker):
        wave = sentence.samples / 32768
        first, last = sentence.words[0][0], sentence.words[-1][1]
        inside = wave[first:last].std()
        outside = np.r_[wave[: first - 400], wave[last + 400 :]].std()
        assert 0.01 < inside < 0.3
        assert 0 < outside < inside / 10
        assert 0.05 < np.abs(wave).max() <= 0.9
        assert abs(wave.mean()) < 0.01 * inside + 1e-4
        seconds.append(len(wave) / RATE)
    assert 2.6 < np.mean(seconds) < 3.4
    assert min(seconds) > 1.5 and max(seconds) < 5.5


def centroid(wave):
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) ** 2
    return np.average(np.fft.rfftfreq(len(wave), 1 / RATE), weights=power)


def test_phones_are_where_the_annotation_says(spoken):
    heard = {"s": [], "sh": [], "aa": [], "iy": []}
    for sentence in (s for speaker in spoken for s in speaker):
        for start, stop, label in sentence.phones:
            if label in heard:
                heard[label].append(centroid(sentence.samples[start:stop]))
    middle = {label: np.median(values) for label, values in heard.items()}
    assert middle["s"] > 5000
    assert 2800 < middle["sh"] < 5000
    assert middle["iy"] < 1500 and middle["aa"] < 1500
    assert min(heard["s"]) > max(heard["aa"])


def linear_prediction_peaks(wave, order=18):
    """Resonances (Hz) by the autocorrelation method."""
    wave = np.append(wave[0], wave[1:] - 0.97 * wave[:-1])
    wave = wave * np.hamming(len(wave))
    lags = np.correlate(wave, wave, "full")[len(wave) - 1 :][: order + 1]
    matrix = lags[np.abs(np.subtract.outer(range(order), range(order)))]
    matrix = matrix + 1e-6 * lags[0] * np.eye(order)
    predictor = np.r_[1, -np.linalg.solve(matrix, lags[1:])]
    bins = 20 * np.log10(np.abs(1 / np.fft.rfft(predictor, 2048)))
    peaks = (bins[1:-1] > bins[:-2]) & (bins[1:-1] > bins[2:])
    return (np.flatnonzero(peaks) + 1) * RATE / 2048


@pytest.mark.parametrize("index", [0, 1, 4])
def test_formants_are_the_speakers_own(index):
    voice = make_voice(index)
    row = demo_corpus.PHONE_NAMES.index("ae")
    wanted = (demo_corpus.FORMANTS[row] * voice.formants[row])[1]
    found = []
    for number in range(3, 25):
        sentence = speak(voice, number)
        for start, stop, label in sentence.phones:
            if label == "ae":
                middle = (start + stop) // 2
                wave = sentence.samples[middle - 320 : middle + 320]
                peaks = linear_prediction_peaks(wave.astype(float))
                found.append(peaks[np.abs(peaks - wanted).argmin()])
    assert len(found) > 4
    assert np.median(found) == pytest.approx(wanted, rel=0.06)


def pitch(sentence):
    """Median fundamental frequency (Hz) of the vowels by autocorrelation."""
    periods = []
    for start, stop, label in sentence.phones:
        if label in VOWELS and stop - start > 960:
            middle = (start + stop) // 2
            wave = sentence.samples[middle - 480 : middle + 480].astype(float)
            lags = np.correlate(wave, wave, "full")[960 - 1 :]
            # The taper of the lags would favour half the true period.
            lags = lags / (960 - np.arange(960))
            window = lags[RATE // 400 : RATE // 55]
            # The first lag nearly as good as the best is one period.
            periods.append(
                RATE // 400 + np.flatnonzero(window > 0.9 * window.max())[0]
            )
    return RATE / np.median(periods)


def test_pitch_is_near_the_speakers_own_and_moves(spoken):
    for index, sentences in enumerate(spoken):
        measured = np.log([pitch(sentence) for sentence in sentences])
        wanted = np.log(make_voice(index).pitch)
        assert abs(np.median(measured) - wanted) < 0.12
        assert np.ptp(measured) > 0.02


def test_speakers_overlap_in_pitch():
    voices = [make_voice(index) for index in range(100)]
    men = sorted(v.pitch for v in voices if v.name[0] == "M")
    women = sorted(v.pitch for v in voices if v.name[0] == "F")
    assert np.median(women) > 1.4 * np.median(men)
    assert women[2] < men[-3]
    # No two speakers can be told apart by pitch alone: neighbours are closer
    # than one speaker's sentences are.
    assert np.median(np.diff(np.log(men))) < 0.03


def mean_log_spectrum(sentence):
    """Mean log energy in 32 mel-spaced bands, level removed."""
    first, last = sentence.words[0][0], sentence.words[-1][1]
    frames = np.lib.stride_tricks.sliding_window_view(
        sentence.samples[first:last] / 32768, 400
    )[::160]
    power = np.abs(np.fft.rfft(frames * np.hanning(400), 512)) ** 2
    edges = 700 * (10 ** (np.linspace(0.05, 1.09, 33)) - 1)
    bins = np.minimum((edges * 512 / RATE).astype(int), 255)
    bands = [power[:, a : max(b, a + 1)].sum(1) for a, b in zip(bins, bins[1:])]
    bands = np.log(np.array(bands) + 1e-9).mean(axis=1)
    return bands - bands.mean()


def test_speakers_differ_more_than_their_sentences_but_not_trivially(spoken):
    features = np.array([[mean_log_spectrum(s) for s in k] for k in spoken])
    train, test = features[:, :5], features[:, 5:]
    centres = train.mean(axis=1)
    deviations = train - centres[:, None]
    within = (deviations**2).sum(-1).sum() / (len(spoken) * 4)
    between = ((centres - centres.mean(0)) ** 2).sum() / (len(spoken) - 1)
    # A variance ratio of 1 / 5 would come from sentences alone.
    assert between > within

    def accuracy(project):
        distances = (test @ project)[:, :, None] - centres @ project
        decisions = (distances**2).sum(-1).argmin(-1)
        return (decisions == np.arange(len(spoken))[:, None]).mean()

    assert 0.4 < accuracy(np.eye(32)) < 0.97
    spread = np.cov(deviations.reshape(-1, 32).T) + 1e-3 * np.eye(32)
    assert accuracy(np.linalg.inv(np.linalg.cholesky(spread)).T) > 0.8


def test_same_bytes_whatever_the_size_and_the_workers(corpus, tmp_path):
    large = contents(generate(tmp_path / "a", SPEAKERS + 1, workers=2))
    alone = contents(generate(tmp_path / "b", SPEAKERS + 1, workers=1))
    assert large == alone
    small = contents(corpus)
    common = {
        name: data
        for name, data in small.items()
        if "SA" not in name.rsplit("/")[-1] and name != "README.TXT"
    }
    assert len(common) == SPEAKERS * 8 * 4
    assert common.items() <= large.items()


def test_another_seed_gives_other_voices(tmp_path):
    first = contents(generate(tmp_path / "a", 1, seed=0))
    other = contents(generate(tmp_path / "b", 1, seed=1))
    assert not {d for n, d in first.items() if n.endswith("WAV")} & set(
        other.values()
    )
    assert make_voice(0, seed=0).pitch != make_voice(0, seed=1).pitch


def test_complete_corpus_is_left_alone(tmp_path, monkeypatch):
    generate(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(demo_corpus, "speak", None)
    assert generate(tmp_path) == tmp_path
    assert contents(tmp_path) == before


def test_missing_speakers_are_restored(tmp_path):
    generate(tmp_path)
    before = contents(tmp_path)
    lost = next(tmp_path.glob("TRAIN/DR2/*"))
    for path in lost.iterdir():
        path.unlink()
    lost.rmdir()
    generate(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("at", [0, 3, 11])
def test_interrupted_corpus_looks_unfinished_and_is_completed(
    tmp_path, monkeypatch, at
):
    whole = contents(generate(tmp_path / "whole", 2))
    calls = []

    def interrupted(voice, number):
        calls.append(number)
        if len(calls) > at:
            raise KeyboardInterrupt
        return speak(voice, number)

    with monkeypatch.context() as patch:
        patch.setattr(demo_corpus, "speak", interrupted)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "cut", 2)
    partial = contents(tmp_path / "cut")
    assert "README.TXT" not in partial
    done = {n: d for n, d in partial.items() if n.startswith("TRAIN")}
    assert len(done) == at // 8 * 8 * 4
    assert done.items() <= whole.items()
    assert contents(generate(tmp_path / "cut", 2)) == whole


def test_stopped_before_the_first_speaker(tmp_path):
    (tmp_path / "UNFINISHED").mkdir()
    generate(tmp_path, 1)
    assert not (tmp_path / "UNFINISHED").exists()


def test_readme_says_what_it_is(corpus):
    text = (corpus / "README.TXT").read_text()
    for words in ("GENERATED", "CC0", "seed: 0", "speakers: 10", "demo_corpus"):
        assert words in text


def test_foreign_folder_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        generate(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize(
    "change", [{"speakers": 2}, {"seed": 1}, {"sa": True}], ids=str
)
def test_corpus_of_other_parameters_is_refused(tmp_path, change):
    generate(tmp_path, 1)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="describes another corpus"):
        generate(tmp_path, **{"speakers": 1, **change})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_folder_that_cannot_be_made_is_refused(tmp_path, where):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        generate(tmp_path / where)


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_ends_in_one_sentence(tmp_path, monkeypatch, workers):
    def full(folder, sa, voice):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_corpus, "_write_speaker", full)
    with pytest.raises(InputError, match="No space left on device"):
        generate(tmp_path, 20, workers=workers)
    assert not (tmp_path / "README.TXT").exists()


@pytest.mark.parametrize(
    "change", [{"speakers": 0}, {"speakers": 17577}, {"seed": -1}], ids=str
)
def test_numbers_out_of_range_are_refused(tmp_path, change):
    with pytest.raises(InputError, match=next(iter(change))):
        generate(tmp_path / "new", **change)
    assert not (tmp_path / "new").exists()

"""The generated corpus is TIMIT's layout, repeatable, and a fair task."""

import re

import demo_corpus
import pytest
import soundfile
from demo_corpus import generate_demo_corpus, make_voice, speak

from amsincnet_sb.utils.errors import InputError

SPEAKERS = 10


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return generate_demo_corpus(tmp_path_factory.mktemp("demo"), SPEAKERS)


def test_layout(corpus):
    assert {path.name for path in corpus.iterdir()} == {"TRAIN", "README.TXT"}
    folders = sorted(corpus.glob("TRAIN/*/*"))
    assert len(folders) == SPEAKERS
    assert {f.parent.name for f in folders} == {f"DR{n}" for n in range(1, 9)}
    for folder in folders:
        assert re.fullmatch(r"[FM][A-Z]{3}0", folder.name)
        stems = sorted(path.stem for path in folder.glob("*.WAV"))
        assert stems == sorted(path.stem for path in folder.glob("*.WRD"))
        kinds = [re.fullmatch("(S[IX])[0-9]+", stem)[1] for stem in stems]
        assert kinds == ["SI"] * 3 + ["SX"] * 5
    for path in corpus.rglob("*.WAV"):
        info = soundfile.info(path)
        assert (info.format, info.subtype) == ("NIST", "PCM_16")
        assert (info.samplerate, info.channels) == (16000, 1)
        words = path.with_suffix(".WRD").read_text("ascii").splitlines()
        limits = [int(at) for word in words for at in word.split()[:2]]
        assert limits == sorted(limits)
        assert 0 < limits[0] and limits[-1] < info.frames
    names = [make_voice(index).name for index in range(2500)]
    assert len(set(names)) == len(names)


def test_a_larger_corpus_contains_the_smaller(corpus, tmp_path):
    common = contents(corpus)
    del common["README.TXT"]
    large = contents(generate_demo_corpus(tmp_path / "a", SPEAKERS + 1))
    assert common.items() <= large.items()
    other = contents(generate_demo_corpus(tmp_path / "b", 1, seed=1))
    assert not set(common.values()) & set(other.values())


def test_a_complete_corpus_is_left_alone(corpus, monkeypatch):
    before = contents(corpus)
    monkeypatch.setattr(demo_corpus, "speak", None)
    assert generate_demo_corpus(corpus, SPEAKERS) == corpus
    for change in ({"speakers": 2}, {"seed": 1}):
        with pytest.raises(InputError, match="describes another corpus"):
            generate_demo_corpus(corpus, **{"speakers": SPEAKERS, **change})
    assert contents(corpus) == before


@pytest.mark.parametrize(
    "error, seen",
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, ""), InputError)],
)
def test_a_corpus_is_whole_or_not_there(tmp_path, monkeypatch, error, seen):
    voices = []

    def stopped(voice, number):
        voices.append(voice)
        if len(voices) > 11:
            raise error
        return speak(voice, number)

    monkeypatch.setattr(demo_corpus, "speak", stopped)
    with pytest.raises(seen):
        generate_demo_corpus(tmp_path / "cut", 3)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "where, options, words",
    [
        (".", {}, "holds other files"),
        ("thesis.tex/below", {}, "cannot be written"),
        ("new", {"speakers": 0}, "speakers"),
        ("new", {"speakers": 17577}, "speakers"),
        ("new", {"seed": -1}, "seed"),
    ],
)
def test_what_is_refused(tmp_path, where, options, words):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=words):
        generate_demo_corpus(tmp_path / where, **{"speakers": 3, **options})
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}

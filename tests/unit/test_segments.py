"""Who speaks when, with the voices of bands.py."""

import json
from types import SimpleNamespace
from unittest.mock import ANY

import bands
import numpy as np
import pytest
import soundfile
import torch
from bands import RATE, conversation, voice

from amsincnet_sb import cli
from amsincnet_sb.inference import activity, segments, voices
from amsincnet_sb.inference.live import LiveSegments
from amsincnet_sb.inference.segments import Segment, Wanted
from amsincnet_sb.inference.timelines import as_csv, as_labels, as_rttm
from amsincnet_sb.utils.errors import InputError


@pytest.fixture
def who(monkeypatch):
    bands.by_energy(monkeypatch)
    return bands.model()


TURNS = (0, 2), (1, 1.5), (None, 1), (7, 2), (None, 0.3), (7, 1), (2, 0.8)
TURNS += (None, 1), (9, 2), (0, 1), (7, 1.5)
RIGHT = [
    (0, 2, "ann"),
    (2, 3.5, "bob"),
    (4.5, 7.8, "unknown 1"),
    (7.8, 8.6, "cat"),
    (9.6, 11.6, "unknown 2"),
    (11.6, 12.6, "ann"),
    (12.6, 14.1, "unknown 1"),
]


def check(found, right, tolerance=0.12):
    assert [s.speaker for s in found] == [name for *_, name in right]
    times = np.array([s[:2] for s in found])
    assert abs(times - [row[:2] for row in right]).max() < tolerance


def test_voices_known_and_unknown(who):
    found = who.segments(conversation(*TURNS))
    check(found, RIGHT)
    assert found[2].speech == pytest.approx(3, abs=0.2)  # without the pause
    assert all(0.5 < s.probability <= 1 and s.margin > 0 for s in found)


def test_file_by_blocks_is_the_same(who, tmp_path, monkeypatch):
    """A stereo file at another rate, in pieces of a second."""
    wave = conversation(*TURNS)
    twice = np.stack([np.repeat(wave, 2)] * 2, 1)
    soundfile.write(tmp_path / "a.wav", twice, 2 * RATE, "FLOAT")
    monkeypatch.setattr("amsincnet_sb.inference.segments.PIECE", 2 * RATE)
    check(who.segments(tmp_path / "a.wav"), RIGHT)


def test_who_can_be_there(who):
    wave = conversation((0, 2), (1, 2), (2, 2))
    names = [s.speaker for s in who.segments(wave, among=["ann", "cat"])]
    assert names == ["ann", "unknown 1", "cat"]
    names = {s.speaker for s in who.segments(wave, count=1)}
    assert len(names) == 1


def test_a_name_in_another_form_of_unicode_can_be_there(who):
    composed, apart = "\u00e9ve", "e\u0301ve"
    who.enroll(composed, [torch.from_numpy(voice(7, 2))])
    wave = conversation((0, 2), (7, 2))
    live = LiveSegments(who, Wanted(among=("ann", apart)))
    heard = live.hear(torch.from_numpy(wave)) + live.finish()
    for found in (who.segments(wave, among=["ann", apart]), heard):
        names = [s.speaker for s in found if s.end is not None]
        assert names == ["ann", composed]


def test_nobody_comes_second_where_nobody_else_can_be_there(who):
    wave = conversation((None, 1), (0, 1))
    (segment,) = who.segments(wave, among=[])
    live = LiveSegments(who, Wanted(among=()))
    *_, last = live.hear(torch.from_numpy(wave)) + live.finish()
    for found in (segment, last):
        assert found[2:] == ("unknown", ANY, ANY, None, 1.0)
        assert 0.9 < found.probability < 1


def test_little_speech_and_little_certainty(who):
    wave = conversation((0, 2), (None, 1), (1, 0.6))
    assert [s.speaker for s in who.segments(wave)] == ["ann", "bob"]
    found = who.segments(wave, least_speech=1)
    assert [s.speaker for s in found] == ["ann", "unknown"]
    assert {s.speaker for s in who.segments(wave, threshold=1)} == {"unknown"}


def test_enrolled_speaker_is_named(who):
    who.enroll("eve", voice(7, 3))
    found = who.segments(conversation((0, 2), (7, 2)))
    assert [s.speaker for s in found] == ["ann", "eve"]


def test_speech_is_within_its_segment(who):
    for seconds in (0.43, 0.62, 1.27, 2.05):
        wave = conversation((None, 1), (0, seconds), (None, 1), (1, seconds))
        for s in who.segments(wave):
            assert s.speech <= s.end - s.start + 1e-6


def test_no_speech(who, tmp_path):
    assert who.segments(1e-4 * np.ones(RATE, np.float32)) == []
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    with pytest.raises(InputError, match="a.wav: it is silent"):
        who.segments(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "bytes_kept, sentence",
    [(0, "the file is empty"), (9000, "it is cut short")],
)
def test_a_file_that_is_cut(who, tmp_path, bytes_kept, sentence):
    path = tmp_path / "a.wav"
    soundfile.write(path, voice(0, 1), RATE)
    path.write_bytes(path.read_bytes()[:bytes_kept])
    with pytest.raises(InputError, match=f"a.wav: {sentence}"):
        who.segments(path)


def test_music_is_no_speech():
    """But for the half second in which silero-vad has not heard enough."""
    pytest.importorskip("silero_vad")
    time = np.arange(4 * RATE) / RATE
    chords = [
        sum(np.sin(2 * np.pi * root * step * time) for step in (1, 1.25, 1.5))
        for root in (220, 330, 262)
    ]
    music = 0.1 * np.concatenate(chords) * (1 - 0.5 * (np.tile(time, 3) % 0.5))
    found = bands.model().segments(music.astype(np.float32))
    assert sum(s.speech for s in found) < 1


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ({"among": ["zoe"]}, "'zoe' in among is no speaker"),
        ({"minimum": -1}, "minimum is -1 but must be"),
        ({"minimum": 11}, "minimum is 11 but must be"),
        ({"minimum": None}, "minimum is None but must be a number"),
        ({"least_speech": None}, "least_speech is None but must be"),
        ({"threshold": "x"}, "threshold is 'x' but must be"),
        ({"count": 0}, "count is 0 but must be"),
        ({"count": 1.5}, "count is 1.5 but must be a whole number"),
        ({"threshold": 2}, "threshold is 2 but must be at most 1"),
    ],
)
def test_wrong_wishes(who, wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        who.segments(voice(0, 1), **wrong)


def test_level_of_an_unknown_voice():
    """It rises with the likeness of the others, but not with the best's."""
    rng = np.random.default_rng(0)
    means = rng.normal(0, 0.1, 243)
    means[5] = 1
    level = voices.unknown_level(means, 0.8, 0.3)
    assert 0.25 < level < 0.6
    means[5] = 3
    assert voices.unknown_level(means, 0.8, 0.3) == level
    raised = voices.unknown_level(means + 0.2, 0.8, 0.3)
    assert raised == pytest.approx(level + 0.2)
    assert voices.unknown_level(means, 0.5, 0.3) == pytest.approx(level - 0.09)
    assert voices.unknown_level(means[:20], 0.8) == pytest.approx(0.44)


def test_unknown_voices_are_counted_as_they_speak():
    """Two known speakers, three unknown voices and the rest; one is silent."""
    made = SimpleNamespace(of_voice=np.zeros((9, 5)))
    names = segments._unknown_names(np.array([4, 0, 2, 4]), made, known=2)
    assert names == ["unknown 2", "unknown", "unknown 1", "unknown"]


def test_formats():
    rows = [Segment(0.5, 2, "ann b", 0.9, 1.5, None, 1.0)]
    assert as_labels(rows) == "0.50\t2.00\tann b\n"
    assert as_rttm(rows, "x/my file.wav").split() == (
        "SPEAKER my_file 1 0.50 1.50 <NA> <NA> ann_b 0.900 <NA>".split()
    )
    assert as_csv(rows).splitlines()[1] == "0.5,2,ann b,0.9,1.5,,1.0"
    formula = as_csv([rows[0]._replace(speaker="=1+1", second="@a", start=-1)])
    assert formula.splitlines()[1].startswith("-1,2,'=1+1,")
    assert ",'@a," in formula


@pytest.mark.parametrize("live", [False, True])
def test_silero_hears_no_speech_in_noise(live):
    pytest.importorskip("silero_vad")
    threads = torch.get_num_threads()
    detect = activity.Silero(RATE, live)
    assert torch.get_num_threads() == threads
    noise = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(detect.frame * 60, generator=noise)
    found = detect(noise)
    assert found.shape == (60,) and found[20:].max() < activity.ON


def test_without_silero_it_is_told(monkeypatch, caplog):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert isinstance(activity.speech_detector(RATE), activity.Energy)
    assert "pip install 'amsincnet_sb[segments]'" in caplog.text


def test_the_command_writes_what_it_prints(who, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("amsincnet_sb.commands.segments.load", lambda _: who)
    path = tmp_path / "meeting.wav"
    soundfile.write(path, conversation(*TURNS), RATE)
    line = f"segments model {path} --minimum 0.3"
    for kind in ("rttm", "labels", "csv"):
        line += f" --{kind} {tmp_path / kind}"
    line += f" --plot {tmp_path / 'timeline.png'}"
    assert cli.main(line.split()) == 0
    assert (tmp_path / "timeline.png").read_bytes()[1:4] == b"PNG"
    found = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    check([Segment(**row) for row in found], RIGHT)
    rows = (tmp_path / "csv").read_text().splitlines()
    assert len(rows) == len(RIGHT) + 1
    for kind in ("rttm", "labels"):
        assert len((tmp_path / kind).read_text().splitlines()) == len(RIGHT)
    with pytest.raises(SystemExit):
        cli.main(f"segments model {path} --plot a.jpg".split())
    assert "--plot=a.jpg must end with .png" in capsys.readouterr().err

"""Who speaks when in noise: where speech ends, and whose it is."""

import bands
import numpy as np
import pytest
import torch

from amsincnet_sb.inference import (
    activity,
    borders,
    listening,
    running_voices,
    segments,
)
from amsincnet_sb.inference.live import LiveSegments
from amsincnet_sb.inference.voices import (
    NAMED,
    NAMED_ALONE,
    NOISE,
    TAKEN,
    Voices,
    asked_of,
)

RATE, FRAME = 16000, 512
SPEAKERS, SIZE = 120, 64
SPREAD = 1.4  # of a voice's frames around their mean, as of real ones


class Late:
    """A detector that hears a turn begin 0.1 s and end 0.2 s late."""

    frame, rate = FRAME, RATE

    def __init__(self, turns):
        self.turns, self.now = turns, 0

    def __call__(self, wave):
        """Sure of it, but for the first frames of a turn."""
        times = (
            np.arange(self.now, self.now + len(wave) // FRAME) * FRAME / RATE
        )
        self.now += len(times)
        found = np.full(len(times), 0.01, np.float32)
        for start, end in self.turns:
            found[(times > start + 0.1) & (times < end + 0.2)] = 0.95
        return found


@pytest.mark.parametrize("decibels", [10, 40])
@pytest.mark.parametrize("piece", [3 * FRAME, 10**7])
def test_borders_are_where_the_energy_has_them(decibels, piece):
    rng = np.random.default_rng(0)
    turns = [(t, t + 1.5) for t in np.arange(1, 40, 3.0)]
    wave = rng.standard_normal(42 * RATE) * 0.05 * 10 ** (-decibels / 20)
    for start, end in turns:
        voiced = slice(int(start * RATE), int(end * RATE))
        wave[voiced] += 0.05 * rng.standard_normal(int(1.5 * RATE))
    wave = torch.from_numpy(wave).float()[: len(wave) // FRAME * FRAME]
    detect = borders.Spoken(Late(turns))
    told = np.concatenate([detect(part) for part in wave.split(piece)])
    assert detect.above == pytest.approx(min(decibels, borders.MOST), abs=1.5)
    assert len(told) == len(wave) // FRAME - detect.lag
    found = activity.stretches(told, FRAME / RATE)
    assert len(found) == len(turns)
    late = (np.array(found) - turns)[4 if piece < 10**7 else 0 :]
    # The detector is late by 0.15 s on average.
    assert abs(late).mean() < 0.06 and np.median(abs(late)) < 0.03
    assert abs(late).max() < 0.35


def test_a_frame_is_told_alike_in_any_piece():
    """Whatever lies farther away, once the levels are known."""
    rng = np.random.default_rng(1)
    chances = np.repeat(np.tile([0.01, 0.95], 6), 40).astype(np.float32)
    levels = rng.standard_normal((len(chances), borders.BANDS))
    levels += 20 * chances[:, None]
    found = borders.features(levels, chances)
    again = borders.features(np.roll(levels, 80, 0), np.roll(chances, 80))
    inside = slice(100, 300)
    moved = np.roll(found, 80, 0)
    np.testing.assert_allclose(again[inside], moved[inside], atol=0.05)
    assert borders.features(levels[:60], chances[:60]) is None


def test_nothing_is_speech_far_from_the_detector():
    """However loud it is."""
    rng = np.random.default_rng(0)
    wave = 0.001 * rng.standard_normal(20 * RATE)
    for second in (2, 5, 8, 11, 14, 17):
        wave[second * RATE : (second + 1) * RATE] *= 100
    turns = [(s, s + 1) for s in (2, 5, 11, 14)]
    detect = borders.Spoken(Late(turns))
    told = detect(torch.from_numpy(wave).float()[: 625 * FRAME])
    assert told[250:281].max() == 0 and told[540:].max() == 0
    assert len(activity.stretches(told, FRAME / RATE)) == 4


def talk(turns, noise, rng, own=1.0):
    """Likeness and directions of turns: speaker, frames; with a noise.

    Speakers are directions, those from 100 on of nobody known. All frames
    share the noise's direction, to which the last speaker is near; number 110
    is nobody, but resembles 5.
    """
    axes = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    people = rng.standard_normal((SPEAKERS, SIZE - 1)) @ axes[1:]
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    people[110] = 0.55 * people[5] + 0.83 * people[110]
    people[99] = 0.8 * people[99] + 0.6 * axes[0]
    rows = [
        own * people[speaker]
        + noise * axes[0]
        + SPREAD / np.sqrt(SIZE) * rng.standard_normal(SIZE)
        for speaker, frames in turns
        for _ in range(frames)
    ]
    directions = np.stack(rows)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    # In quiet, frames reach 1.
    return directions @ people[:100].T * np.hypot(1, SPREAD), directions


def heard(likeness, directions, starts):
    """Voices of frames, all of whom can be there."""
    return Voices(
        likeness.astype(np.float16),
        directions.astype(np.float16),
        starts,
        np.ones(100, bool),
        4,
    )


TURNS = [(0, 30), (1, 25), (105, 30), (0, 30), (2, 30), (1, 25), (105, 20)]
TURNS += [(2, 25), (1, 20), (0, 25)]


@pytest.mark.parametrize("noise", [0, 0.6, 1.2])
def test_noise_makes_nobody_unknown_or_alike(noise):
    """Nor the speaker to whom it is near the one who speaks."""
    found, directions = talk(TURNS, noise, np.random.default_rng(0))
    starts = np.cumsum([0, *(frames for _, frames in TURNS)])[:-1].tolist()
    voices = heard(found, directions, starts)
    labels = voices.decode()
    right = np.repeat([min(s, 100) for s, _ in TURNS], [n for _, n in TURNS])
    assert (labels == right).mean() > 0.97


@pytest.mark.parametrize("speaker, label", [(3, 3), (107, 100)])
def test_a_recording_of_one_voice(speaker, label):
    found, directions = talk([(speaker, 40)] * 6, 0, np.random.default_rng(1))
    voices = heard(found, directions, list(range(0, 240, 40)))
    assert set(voices.decode()) == {label}


@pytest.mark.parametrize("other", [0, 1, 2])
def test_who_resembles_a_speaker_is_unknown(other):
    """In a dialogue; no other speaker is as near."""
    turns = [(other, 40), (110, 40)] * 4
    found, directions = talk(turns, 0.3, np.random.default_rng(other))
    right = np.repeat([min(speaker, 100) for speaker, _ in turns], 40)
    assert found[right == 100].mean(0).argmax() == 5
    voices = heard(found, directions, list(range(0, 320, 40)))
    assert (voices.decode() == right).mean() > 0.97


@pytest.mark.parametrize("speakers", [99, 100])
def test_less_is_asked_in_noise_and_of_few_people(speakers):
    many, few = np.ones(speakers, bool), np.arange(speakers) < 3
    noisy, quiet = NOISE
    least, most = NAMED if speakers == 100 else NAMED_ALONE
    in_quiet, in_noise = asked_of(many, quiet), asked_of(many, noisy)
    assert asked_of(many, None) == in_quiet == (1.0, most, 0.0)
    assert asked_of(many, noisy - 3) == in_noise
    assert in_noise == (1.0, least, TAKEN[0] if speakers == 100 else 0.0)
    assert least < asked_of(many, (noisy + quiet) / 2).named < most
    asked = asked_of(few, quiet)
    assert asked.ahead < 1 and asked.named < most


def test_noise_makes_all_speakers_alike():
    """What all are like says less than who is nearer than all."""
    direct = np.full(100, 0.3)
    direct[7] = 0.9
    for all_of_them in (0.0, 0.4):
        asked = asked_of(np.ones(100, bool), NOISE[0])
        assert asked.stand_out(direct + all_of_them)[7] > 0
        assert (asked.stand_out(direct + all_of_them) > 0).sum() == 1
    assert (asked.stand_out(np.full(100, 1.3)) < 0).all()


@pytest.mark.parametrize("rest, voices", [(0, 1), (1800, 0)])
def test_a_new_voice_is_a_part_of_the_recording(rest, voices):
    """Of a long one, twenty frames do not make a voice; they are unknown."""
    turns = [(0, 60), (105, 20), (1, 60), *[(0, 60), (1, 60)] * (rest // 120)]
    found, directions = talk(turns, 0, np.random.default_rng(2))
    frames = np.cumsum([0, *(frames for _, frames in turns)])
    voices_here = heard(found, directions, frames[:-1].tolist())
    labels = voices_here.decode()
    assert voices_here.of_voice.shape[1] == 100 + voices
    right = np.repeat([min(s, 100) for s, _ in turns], [n for _, n in turns])
    assert (labels == right).mean() > 0.97


@pytest.mark.parametrize("decibels", [10, 40])
def test_voices_know_how_far_speech_is_above_noise(monkeypatch, decibels):
    """In recordings and in streams."""
    told = []

    class Recording(segments.Voices):
        def __init__(self, *args):
            told.append(args[-1])
            super().__init__(*args)

    def spoken(rate, live=False):
        return borders.Spoken(Late([(t, t + 2) for t in range(1, 30, 4)]))

    monkeypatch.setattr(segments, "Voices", Recording)
    monkeypatch.setattr(listening, "speech_detector", spoken)
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(32 * RATE) * 0.05 * 10 ** (-decibels / 20)
    for start in range(1, 30, 4):
        wave[start * RATE : (start + 2) * RATE] += bands.voice(0, 2, start) / 2
    wave = torch.from_numpy(wave).float()
    model = bands.model()
    assert {s.speaker for s in model.segments(wave)} == {"ann"}
    live = LiveSegments(model, segments.Wanted())
    for piece in wave.split(1600):
        live.hear(piece)
    live.finish()
    # The voice is in a sixteenth of the frequencies, and a quarter of the bands.
    assert told[0] == pytest.approx({10: 4, 40: 7}[decibels], abs=1)
    asked = asked_of(np.ones(4, bool), told[0]).named
    assert live.voices.asked.named == pytest.approx(asked, abs=0.02)


def test_running_voices_learn():
    """What a voice is like here sets it apart from the others."""
    found, directions = talk([(0, 60), (1, 60)], 0.6, np.random.default_rng(0))
    voices = running_voices.RunningVoices(np.ones(100, bool))
    scores = []
    for again in range(2):
        for speaker in (0, 1):
            frames = slice(60 * speaker, 60 * speaker + 60)
            rows = [
                (
                    likeness,
                    voices.scores(likeness.astype(np.float32), direction),
                )
                for likeness, direction in zip(
                    found[frames], directions[frames]
                )
            ]
            scores.append(np.mean([row for _, row in rows], 0))
            likeness = np.sum([one for one, _ in rows], 0)
            total = directions[frames].sum(0)
            assert voices.learn(speaker, 60, likeness, total) is None
            voices.restart()
    assert scores[2][1] < scores[0][1] - 0.1
    assert scores[2][0] - scores[2][1] > scores[0][0] - scores[0][1] + 0.1
    assert voices.learn(100, 30, 0.0, directions[:30].sum(0)) == 0
    assert voices.learn(100, 30, 0.0, directions[:30].sum(0)) == 0
    assert voices.learn(100, 30, 0.0, directions[60:90].sum(0)) == 1

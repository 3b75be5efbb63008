"""d-vectors, verification, enrolment, unknown speakers, long recordings."""

import json
import logging

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F

from amsincnet_sb.inference import audio_windows as recordings
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

WINDOW, HOP, RATE = 200, 50, 16000
SPEAKERS = ["ann", "bob"]


def voice(pitch, seconds=0.2, seed=0):
    """A tone in noise: recordings of one pitch embed alike."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(seconds * RATE)) / RATE
    noise = torch.randn(len(time), generator=generator)
    return 0.3 * torch.sin(2 * torch.pi * pitch * time) + 0.01 * noise


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    net = SincNet(
        window=WINDOW,
        hop=HOP,
        cnn_channels=(8, 6),
        cnn_kernel_sizes=(51, 5),
        cnn_pools=(3, 3),
        fc_neurons=[32, 16],
        linear_embedding=True,
        released_init=False,
    )
    # Taught five voices, of which it is to name two.
    pitches = [300, 700, 1500, 2500, 4000]
    five = CosineClassifier(16, 5)
    learn = torch.optim.Adam([*net.parameters(), *five.parameters()], 5e-3)
    for step in range(60):
        windows = [
            voice(pitch, 0.05, 5 * step + i).unfold(0, WINDOW, HOP)
            for i, pitch in enumerate(pitches)
        ]
        labels = torch.arange(5).repeat_interleave(len(windows[0]))
        scores = five(net(torch.cat(windows))).squeeze(1)
        learn.zero_grad()
        F.cross_entropy(10 * scores, labels).backward()
        learn.step()
    net.eval().requires_grad_(False)
    classify = CosineClassifier(16, 2).requires_grad_(False)
    classify.weight.copy_(five.weight[:2])
    return net, classify


@pytest.fixture
def who(models):
    return SpeakerIdentifier(*models, SPEAKERS, scale=10.0)


def test_a_d_vector_is_the_mean_over_windows(models, who):
    wave = voice(500)
    expected = models[0](wave[None]).flatten().detach()
    assert torch.allclose(who.embed(wave), expected, atol=1e-4)
    both = who.embed([wave, voice(900)])
    assert torch.equal(both[0], who.embed(wave)) and both.shape == (2, 16)


def test_verification_is_a_cosine(who):
    a, b, c = voice(2500), voice(2500, 0.3, seed=1), voice(300)
    same, other = who.verify(a, b, 0.7), who.verify(a, c, 0.7)
    for found, second in ((same, b), (other, c)):
        x, y = (who.analyse(one).direction for one in (a, second))
        cosine = (x @ y / x.norm() / y.norm()).item()
        assert found.score == pytest.approx(cosine, abs=1e-6)
        assert found.accepted is (cosine > 0.7)
    assert same.accepted and not other.accepted
    assert not who.verify(a, b, same.score).accepted


def test_verification_against_a_cohort(who):
    a, b = voice(2500), voice(2500, 0.3, seed=1)
    pitches = [300, 700, 1500, 2000, 3000, 3500, 4000]
    who.cohort = torch.stack(
        [who.analyse(voice(pitch, seed=5)).direction for pitch in pitches]
    )
    x, y = (who.analyse(one).direction.numpy() for one in (a, b))

    def cosine(u, v):
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    expected = 0
    for side in (x, y):
        nearest = sorted(cosine(side, c) for c in who.cohort.numpy())[-5:]
        spread = np.std(nearest, ddof=1)
        expected += (cosine(x, y) - np.mean(nearest)) / spread / 2
    found = who.verify(a, b, 1.0)
    assert found.score == pytest.approx(expected, rel=1e-3)
    assert found.accepted is bool(expected > 1.0)


def test_a_cohort_is_kept_with_the_threshold(saved, tmp_path):
    plain = saved.verify(voice(300), voice(700), 0.0).score
    saved.cohort = torch.stack(
        [saved.analyse(voice(p)).direction for p in (300, 1500, 2500, 4000)]
    )
    saved.save()
    expected = saved.verify(voice(300), voice(700), 0.0)
    assert expected.score != pytest.approx(plain)
    saved.save(tmp_path / "copy")
    for folder in (tmp_path, tmp_path / "copy"):
        again = SpeakerIdentifier.from_results(folder)
        assert again.verify(voice(300), voice(700), 0.0) == expected
    (tmp_path / "copy" / "calibration.json").unlink()
    again = SpeakerIdentifier.from_results(tmp_path / "copy")
    assert again.verify(voice(300), voice(700), 0.0).score == pytest.approx(
        plain
    )
    for vectors in (np.zeros((4, 9), np.float32), np.zeros((2, 16), "f4")):
        np.savez(tmp_path / "pretrained" / "cohort.npz", vectors=vectors)
        with pytest.raises(InputError, match="does not hold a cohort"):
            SpeakerIdentifier.from_results(tmp_path)


def test_thresholds(who, caplog):
    with caplog.at_level(logging.WARNING):
        assert who.threshold("verification") == 0.8
    assert "no calibrated threshold" in caplog.text
    caplog.clear()
    who.calibration = {"verification": {"threshold": 2.0}}
    assert not who.verify(voice(300), voice(300)).accepted
    assert not caplog.records


def test_an_enrolled_speaker_is_recognised_and_the_others_still_are(who):
    wrong = who.identify(voice(2500, seed=9), 1)[0].speaker
    assert wrong in SPEAKERS
    who.enroll("cat", [voice(2500, seed=i) for i in range(3)])
    assert who.speakers == ["ann", "bob", "cat"]
    for name, pitch in (("ann", 300), ("bob", 700), ("cat", 2500)):
        assert who.identify(voice(pitch, seed=9), 1)[0].speaker == name
    who.remove("cat")
    assert who.identify(voice(2500, seed=9), 1)[0].speaker == wrong


def test_an_enrolled_class_vector_is_scaled_as_trained_ones_are(who):
    files = [voice(2500, seed=i) for i in range(3)]
    who.enroll("cat", files)
    directions = [
        F.normalize(
            torch.cat([who._embed(w) for w in who._windows(wave)]).squeeze(1),
            dim=-1,
        ).mean(0)
        for wave in files
    ]
    own = 0
    for i, mean in enumerate(directions):
        others = sum(directions) - mean
        own += (mean @ others / others.norm()).item() / 3
    vector = F.normalize(sum(directions), dim=0)
    for cosine in (0.3, 0.4, 0.5):
        if cosine == 0.4:  # what a model's own file may say
            who.own_cosine = cosine
        elif cosine != 0.3:
            who.calibration = {
                "identification": {"threshold": 0.1, "own_cosine": cosine}
            }
        output = who.analyse(files[0]).outputs[2].item()
        expected = cosine / own * (directions[0] @ vector).item()
        assert output == pytest.approx(expected, abs=1e-4)


def test_the_unknown_win_below_the_threshold_and_not_above(who):
    best, other = who.identify(voice(4000), 2)
    assert best.share + other.share == pytest.approx(1)
    named = who.identify(voice(4000), 3, best.share - 0.001)
    refused = who.identify(voice(4000), 3, best.share + 0.001)
    assert named == [best, other]
    assert refused == [("unknown", None, None), best, other]
    assert who.identify(voice(4000), 1, best.share) == refused[:1]
    who.calibration = {"identification": {"threshold": best.share + 0.001}}
    assert who.identify(voice(4000), 3, "calibrated") == refused


def test_as_if_the_model_did_not_know_a_speaker(models, who):
    pitches = {"cat": 2500, "dog": 4000}
    for name, pitch in pitches.items():
        who.enroll(name, [voice(pitch)])
    waves = [voice(700), voice(1500), voice(2500, 0.4)]
    lacking = [who.speakers.index(name) for name in pitches] + [-1]
    who.windows_per_batch = 20  # several batches a recording
    found = list(who.analyse_all(waves, lacking))
    for one, wave, own, left in zip(found, waves, lacking, ("dog", "cat")):
        less = SpeakerIdentifier(*models, SPEAKERS, scale=10.0)
        less.enroll(left, [voice(pitches[left])])
        expected = less.analyse(wave)
        for ours, theirs in (
            (one.other_scores, expected.scores),
            (one.other_posteriors, expected.posteriors),
        ):
            rest = [i for i in range(4) if i != own]
            assert torch.allclose(ours[rest], theirs, atol=1e-4)
        assert one.other_posteriors[own] == 0
        assert one.other_scores[own] == -torch.inf
    assert torch.equal(found[2].other_scores, found[2].scores)
    for one, wave in zip(found, waves):
        assert torch.allclose(one.scores, who.analyse(wave).scores, atol=1e-4)


def test_several_at_once(who):
    waves = [voice(300), voice(700), voice(300)]
    assert who.identify(waves, 2) == [who.identify(w, 2) for w in waves]


@pytest.mark.parametrize(
    "name, files, complaint",
    [
        ("ann", [voice(300)], "has a speaker 'ann' already"),
        ("", [voice(300)], "cannot be the name"),
        ("unknown", [voice(300)], "cannot be the name"),
        ("a\nb", [voice(300)], "cannot be the name"),
        ("cat", [], "no recording to enrol 'cat'"),
        ("cat", ["none.wav"], "no such file"),
        ("cat", [voice(300), torch.full((500,), torch.nan)], "not numbers"),
    ],
)
def test_who_cannot_be_enrolled(who, name, files, complaint):
    with pytest.raises(InputError, match=complaint):
        who.enroll(name, files)
    assert who.speakers == SPEAKERS


def test_a_plain_softmax_cannot_enrol(models):
    net = models[0]
    who = SpeakerIdentifier(net, SoftmaxClassifier(16, 2), SPEAKERS)
    with pytest.raises(InputError, match="plain softmax"):
        who.enroll("cat", [voice(300)])
    share = who.identify(voice(300), 1)[0].share
    assert who.identify(voice(300), 1, share + 0.1)[0].speaker == "unknown"
    assert who.verify(voice(300), voice(300), 0.9).accepted


def test_only_the_enrolled_can_be_removed(who):
    for name in ("ann", "zed"):
        with pytest.raises(InputError, match="not an enrolled speaker"):
            who.remove(name)


@pytest.fixture
def saved(models, who, tmp_path):
    write_pretrained(tmp_path / "pretrained", *models, SPEAKERS, 10.0)
    loaded = SpeakerIdentifier.from_results(tmp_path)
    loaded.enroll("çat", [voice(2500)])
    loaded.calibration = {"verification": {"threshold": 0.25}}
    loaded.save()
    return loaded


def test_saved_and_loaded(saved, tmp_path):
    expected = saved.identify(voice(2000), 3)
    saved.save(tmp_path / "copy")
    for folder in (tmp_path, tmp_path / "pretrained", tmp_path / "copy"):
        again = SpeakerIdentifier.from_results(folder)
        assert again.speakers == ["ann", "bob", "çat"]
        assert again.identify(voice(2000), 3) == expected
        assert again.threshold("verification") == 0.25
    with pytest.raises(InputError, match="exists already"):
        saved.save(tmp_path / "copy")
    again.remove("çat")
    again.save()
    assert SpeakerIdentifier.from_results(folder).speakers == SPEAKERS


def test_several_enrol_at_once(saved, tmp_path):
    first, second, third = (
        SpeakerIdentifier.from_results(tmp_path) for _ in range(3)
    )
    first.enroll("dog", [voice(700)])
    first.calibration = {"verification": {"threshold": 0.5}}
    second.enroll("eel", [voice(4000)])
    second.remove("çat")
    third.enroll("dog", [voice(300)])
    first.save()
    second.save()
    assert second.speakers == ["ann", "bob", "dog", "eel"]
    again = SpeakerIdentifier.from_results(tmp_path)
    assert again.speakers == second.speakers
    assert again.threshold("verification") == 0.5  # second had the old one
    assert again.identify(voice(700)) == second.identify(voice(700))
    with pytest.raises(InputError, match="'dog' has been changed by another"):
        third.save()
    assert SpeakerIdentifier.from_results(tmp_path).speakers == again.speakers
    # Saved twice, the second time with nothing new.
    first.save()
    assert first.speakers == ["ann", "bob", "dog", "eel"]


def pickled(path):
    np.savez(path, speakers=np.array(["x"], object), vectors=np.zeros((1, 16)))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
        pickled,
        lambda path: np.savez(
            path, speakers=["x"], vectors=np.zeros((1, 9), np.float32)
        ),
        lambda path: np.savez(
            path, speakers=["x"], vectors=np.full((1, 16), np.nan, np.float32)
        ),
        lambda path: np.savez(path, other=[1]),
    ],
)
def test_damaged_enrolment(saved, tmp_path, damage):
    damage(tmp_path / "pretrained" / "enrolled.npz")
    with pytest.raises(InputError, match="does not hold enrolled speakers"):
        SpeakerIdentifier.from_results(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"verification": 3}', '{"verification": {"threshold": NaN}}']
    + ['{"other": {"threshold": 1}}', '{"verification": {"threshold": "x"}}']
    + ['{"identification": {"threshold": Infinity}}'],
)
def test_damaged_calibration(saved, tmp_path, text):
    (tmp_path / "pretrained" / "calibration.json").write_text(text)
    with pytest.raises(InputError, match="does not hold thresholds"):
        SpeakerIdentifier.from_results(tmp_path)


def test_no_such_device(saved, tmp_path):
    with pytest.raises(InputError, match="cannot be used here"):
        SpeakerIdentifier.from_results(tmp_path, device="nonsense")


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("seconds", [3, 3.37])
def test_a_file_in_pieces(who, tmp_path, monkeypatch, rate, seconds):
    generator = np.random.default_rng(0)
    samples = 0.1 * generator.standard_normal((int(rate * seconds), 2))
    path = tmp_path / "long.wav"
    soundfile.write(path, samples, rate)
    whole = torch.cat(
        list(recordings.blocks_of(path, who.embedding_model.sample_rate))
    )
    expected = who.analyse(path)
    monkeypatch.setattr(recordings, "BLOCK", rate)
    pieces = list(recordings.blocks_of(path, who.embedding_model.sample_rate))
    assert len(pieces) == np.ceil(seconds)
    assert torch.equal(torch.cat(pieces), whole) or torch.allclose(
        torch.cat(pieces), whole, atol=1e-6
    )
    count = sum(len(batch) for batch in who._windows(path))
    assert count == (len(whole) - WINDOW) // HOP + 1
    for a, b in zip(who.analyse(path), expected):
        assert torch.allclose(a, b, atol=1e-4)


def test_silent_files(who, tmp_path):
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(5000), RATE)
    for use in (who.identify, who.embed, lambda p: who.enroll("cat", [p])):
        with pytest.raises(InputError, match="it is silent"):
            use(path)


def test_calibration_is_plain_json(saved, tmp_path):
    text = (tmp_path / "pretrained" / "calibration.json").read_text()
    assert json.loads(text) == {"verification": {"threshold": 0.25}}

"""EER, detection cost and DET curve; open-set scores; lists of trials."""

import pytest
import soundfile
import torch
from hypothesis import (
    given,
    settings,
    strategies as st,
)
from speechbrain.utils.metric_stats import EER, minDCF

from amsincnet_sb.dataio.manifest import Utterance
from amsincnet_sb.inference.evaluation import _score_utterances, read_trials
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.scoring import det_points, eer, error_rates, min_dcf
from amsincnet_sb.utils.errors import InputError


def together(positive, negative):
    scores = torch.cat([positive, negative])
    labels = torch.arange(len(scores)) < len(positive)
    order = torch.randperm(len(scores))
    return scores[order], labels[order]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    targets=st.integers(1, 70),
    others=st.integers(1, 70),
    steps=st.sampled_from([0, 1, 3]),
    shift=st.sampled_from([-1.0, 0.0, 1.0, 4.0]),
)
def test_the_same_as_speechbrain(seed, targets, others, steps, shift):
    torch.manual_seed(seed)
    positive, negative = torch.randn(targets) + shift, torch.randn(others)
    if steps:  # ties
        positive = (positive * steps).round() / steps
        negative = (negative * steps).round() / steps
    scores, labels = together(positive, negative)
    assert eer(scores, labels) == EER(positive, negative)
    cost, threshold = min_dcf(scores, labels, p_target=0.2)
    theirs, _ = minDCF(positive, negative, p_target=0.2)
    # Theirs never accepts everything, which costs 4 here.
    assert cost == pytest.approx(min(theirs / 0.2, 4.0), rel=1e-5)
    miss = (positive <= threshold).double().mean()
    alarm = (negative > threshold).double().mean()
    assert cost == pytest.approx((0.2 * miss + 0.8 * alarm).item() / 0.2)


def test_det_points_are_on_the_curve_and_few():
    torch.manual_seed(2)
    scores, labels = together(torch.randn(3000) + 2, torch.randn(90_000))
    miss, alarm = det_points(scores, labels)
    _, every_miss, every_alarm = error_rates(scores, labels)
    curve = set(
        zip(every_miss.double().tolist(), every_alarm.double().tolist())
    )
    assert set(zip(miss, alarm)) <= curve and len(miss) < 1000
    assert miss == sorted(miss) and alarm == sorted(alarm, reverse=True)
    rate, _ = eer(scores, labels)
    gap = min(abs(m - a) + abs(m + a - 2 * rate) for m, a in zip(miss, alarm))
    assert gap < 0.01


@pytest.mark.parametrize(
    "score, labels, complaint",
    [
        (0.2, [0, 0], "at least one of each"),
        (0.2, [1, 1], "at least one of each"),
        (float("nan"), [0, 1], "NaN"),
    ],
)
def test_useless_trials(score, labels, complaint):
    for errors in (eer, min_dcf, det_points):
        with pytest.raises(InputError, match=complaint):
            errors(torch.tensor([0.1, score]), torch.tensor(labels))


def test_as_if_the_model_did_not_know_a_speaker(
    models, who, voice, analyse, tmp_path
):
    pitches = {"cat": 2500, "dog": 4000}
    for name, pitch in pitches.items():
        who.enroll(name, [voice(pitch)])
    utterances = []
    for name, wave in (("cat", voice(700)), ("dog", voice(1500, 0.4))):
        soundfile.write(tmp_path / f"{name}.wav", wave, 16000, "FLOAT")
        utterances.append(
            Utterance(name, 0.2, f"{name}.wav", 0, len(wave), name)
        )
    labels = torch.tensor([who.speakers.index(name) for name in pitches])
    who.windows_per_batch = 20  # several batches per utterance
    found, _ = _score_utterances(who, utterances, tmp_path, labels, None)
    for i, left in enumerate(("dog", "cat")):
        less = SpeakerIdentifier(*models, ["ann", "bob"], scale=10.0)
        less.enroll(left, [voice(pitches[left])])
        path = tmp_path / utterances[i].wav
        expected, whole = analyse(less, path), analyse(who, path)
        rest = [n for n in range(4) if n != labels[i]]
        for ours, theirs in (
            (found.other_scores[i, rest], expected.scores),
            (found.other_posteriors[i, rest], expected.posteriors),
            (found.scores[i], whole.scores),
            (found.direction[i], whole.direction),
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
        assert found.other_posteriors[i, labels[i]] == 0
        assert found.other_scores[i, labels[i]] == -torch.inf
    labels[0] = -1  # a stranger, to whom the others are compared as they are
    found, _ = _score_utterances(who, utterances, tmp_path, labels, None)
    assert torch.equal(found.other_scores, found.scores)
    assert found.right[0] == 0


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("1 a b\n2 a c\n", "line 2: a trial is '1 a b' or '0 a b'"),
        ("1 a b\n\n0 a\n", "line 3: this trial is unlabelled"),
        ("a b\na c\n", "does not say which"),
        ("1 a b\n0 a zed\n", "'zed' is no utterance"),
        ("1 a b\n", "at least one of each"),
        ("", "lists no trials"),
        (None, "No such file|does not exist|cannot be read"),
    ],
)
def test_bad_trials(tmp_path, text, complaint):
    path = tmp_path / "trials.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_trials(path, ["a", "b", "c"])

"""Enrolled speakers, thresholds and cohort, in the model and on the disk."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
from amsincnet_sb.utils.errors import InputError

SPEAKERS = ["ann", "bob"]


def test_an_enrolled_speaker_is_recognised_and_the_others_still_are(who, voice):
    wrong = who.identify(voice(2500, seed=9), 1)[0].speaker
    assert wrong in SPEAKERS
    who.enroll("cat", [voice(2500, seed=i) for i in range(3)])
    assert who.speakers == ["ann", "bob", "cat"]
    for name, pitch in (("ann", 300), ("bob", 700), ("cat", 2500)):
        assert who.identify(voice(pitch, seed=9), 1)[0].speaker == name
    who.remove("cat")
    assert who.identify(voice(2500, seed=9), 1)[0].speaker == wrong


@pytest.mark.parametrize("change", ["remove", "enroll"])
@pytest.mark.parametrize("windows_per_batch", [8, 100])
def test_answers_that_have_begun_keep_their_speakers(
    models, voice, change, windows_per_batch
):
    who = SpeakerIdentifier(
        *models, SPEAKERS, scale=10.0, windows_per_batch=windows_per_batch
    )
    pitches = {"cat": 1500, "dog": 2500, "eel": 4000}
    for name, pitch in pitches.items():
        who.enroll(name, [voice(pitch)])
    asked = ["dog", "eel"] * 3
    waves = [voice(pitches[name], seed=9) for name in asked]
    answers = who.identify_all(waves, 1)
    found = [next(answers)[0].speaker]
    if change == "remove":
        who.remove("cat")
    else:
        who.enroll("fox", [voice(5000)])
    assert [*found, *(answer[0].speaker for answer in answers)] == asked
    assert [a[0].speaker for a in who.identify(waves, 1)] == asked


def test_an_enrolled_class_vector_is_scaled_as_trained_ones_are(models, voice):
    files = [voice(2500, seed=i) for i in range(3)]
    windows = [wave.unfold(0, 200, 100) for wave in files]
    directions = [
        F.normalize(models[0](each).squeeze(1), dim=-1).mean(0)
        for each in windows
    ]
    own = 0
    for mean in directions:
        others = sum(directions) - mean
        own += (mean @ others / others.norm()).item() / 3
    vector = F.normalize(sum(directions), dim=0) / own
    embeddings = models[0](windows[0])
    expected = (F.normalize(embeddings, dim=-1) @ vector).squeeze(1)
    # The default, what the model's file says, what a calibration has found.
    for said, found, cosine in (
        (0.3, None, 0.3),
        (0.4, None, 0.4),
        (0.4, 0.5, 0.5),
    ):
        who = SpeakerIdentifier(*models, SPEAKERS, own_cosine=said)
        who.enroll("cat", files)
        if found:
            task = {"threshold": 0.1, "own_cosine": found}
            who.calibration = {"identification": task}
        outputs = who.classifier(embeddings)[:, 0, 2]
        torch.testing.assert_close(
            outputs, cosine * expected, rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(
    "name, pitches, complaint",
    [
        ("ann", [300], "has a speaker 'ann' already"),
        ("", [300], "cannot be the name"),
        ("unknown", [300], "what unknown voices are called"),
        ("unknown 12", [300], "what unknown voices are called"),
        ("a\nb", [300], "cannot be the name"),
        ("cat", [], "no recording to enrol 'cat'"),
        ("cat", [300, 4000], "nothing in common"),
        ("cat", [300, float("nan")], "contains NaN"),
    ],
)
def test_who_cannot_be_enrolled(who, voice, name, pitches, complaint):
    with pytest.raises(InputError, match=complaint):
        who.enroll(name, [voice(pitch) for pitch in pitches])
    assert who.speakers == SPEAKERS


def test_a_plain_softmax_cannot_enrol(models, voice):
    who = SpeakerIdentifier(models[0], SoftmaxClassifier(16, 2), SPEAKERS)
    with pytest.raises(InputError, match="plain softmax"):
        who.enroll("cat", [voice(300)])
    share = who.identify(voice(300), 1)[0].share
    assert who.identify(voice(300), 1, share + 0.1)[0].speaker == "unknown"
    assert who.verify(voice(300), voice(300), 0.9).accepted


def test_a_name_in_another_form_of_unicode(who, voice):
    """Manifests have the composed form; a file's name may have the other."""
    composed, apart = "\u00e9ve", "e\u0301ve"
    who.enroll(apart, [voice(2500)])
    assert who.speakers[-1] == composed
    with pytest.raises(InputError, match="already .enrolled"):
        who.enroll(apart, [voice(2500)])
    who.enroll(apart, [voice(2510)], extend=True)
    assert len(who.classifier.enrolled[composed].directions) == 2
    who.remove(apart)
    assert composed not in who.speakers
    # One of an earlier version keeps its name.
    who.classifier.enroll(apart, torch.ones(1, 16))
    assert who.classifier.spelling(composed) == apart


def test_saved_and_loaded(saved, voice, tmp_path):
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


@pytest.mark.parametrize("shape", [(4, 9), (2, 16)])
def test_damaged_cohort(saved, tmp_path, shape):
    path = tmp_path / "pretrained" / "cohort.npz"
    np.savez(path, vectors=np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="does not hold a cohort"):
        SpeakerIdentifier.from_results(tmp_path)


def test_several_enrol_at_once(saved, voice, tmp_path):
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
    again = SpeakerIdentifier.from_results(tmp_path)
    assert again.speakers == second.speakers == ["ann", "bob", "dog", "eel"]
    assert again.threshold("verification") == 0.5  # second had the old one
    assert again.identify(voice(700)) == second.identify(voice(700))
    with pytest.raises(InputError, match="'dog' has been changed by another"):
        third.save()
    assert SpeakerIdentifier.from_results(tmp_path).speakers == again.speakers
    # Saved twice, the second time with nothing new.
    first.save()
    assert first.speakers == ["ann", "bob", "dog", "eel"]


def arrays(speakers=("x",), vectors=((0.0,) * 16,), dtype=np.float32):
    return {"speakers": np.array(speakers), "vectors": np.array(vectors, dtype)}


@pytest.mark.parametrize(
    "content",
    [
        lambda whole: whole[:-40],
        lambda whole: b"",
        arrays(np.array(["x"], object)),  # a pickle
        arrays(vectors=np.zeros((1, 9))),
        arrays(vectors=np.full((1, 16), np.nan)),
        arrays(dtype=np.float64),
        arrays(["x", "x"], np.zeros((2, 16))),
        arrays([1]),
        {"other": [1]},
    ],
)
def test_damaged_enrolment(saved, tmp_path, content):
    path = tmp_path / "pretrained" / "enrolled.npz"
    if callable(content):
        path.write_bytes(content(path.read_bytes()))
    else:
        np.savez(path, **content)
    with pytest.raises(InputError, match="does not hold enrolled speakers"):
        SpeakerIdentifier.from_results(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"verification": 3}',
        '{"verification": {"threshold": NaN}}',
        '{"other": {"threshold": 1}}',
        '{"verification": {"threshold": "x"}}',
        '{"identification": {"threshold": Infinity}}',
    ],
)
def test_damaged_calibration(saved, tmp_path, text):
    (tmp_path / "pretrained" / "calibration.json").write_text(text)
    with pytest.raises(
        InputError,
        match=r"calibration.json .*; remove it and run amsincnet evaluate",
    ):
        SpeakerIdentifier.from_results(tmp_path)

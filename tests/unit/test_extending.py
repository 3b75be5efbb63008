"""Enrolled speakers are extended, and listed."""

import numpy as np
import pytest
import torch

from amsincnet_sb import cli
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.utils.errors import InputError


def test_as_if_enrolled_from_all_recordings(saved, voice):
    """In any portions, and across a file."""
    waves = [voice(4000, seed=i) for i in range(4)]
    saved.enroll("zoe", waves)
    expected = saved.classifier.enrolled["zoe"]
    saved.remove("zoe")
    saved.enroll("zoe", waves[:1])
    saved.save()
    again = SpeakerIdentifier.from_results(saved.folder)
    again.enroll("zoe", waves[1:3], extend=True)
    again.save()
    again.enroll("zoe", waves[3], extend=True)
    for ours, theirs in zip(again.classifier.enrolled["zoe"], expected):
        torch.testing.assert_close(ours, theirs)
    assert again.speakers == ["ann", "bob", "çat", "zoe"]


def test_who_is_not_extended(saved, voice):
    before = saved.classifier.enrolled
    for name, pitches, words in (
        ("ann", [300], "'ann' is not an enrolled speaker of this model"),
        ("zoe", [300], "enrolled so far: 'çat'"),
        ("çat", [], "no recording"),
        ("çat", [300, 700, 4000], "nothing in common"),
    ):
        with pytest.raises(InputError, match=words):
            saved.enroll(name, [voice(p) for p in pitches], extend=True)
    assert saved.classifier.enrolled is before


def test_speakers_of_earlier_versions(saved, voice, capsys):
    """They are recognised and listed, and cannot be extended."""
    path = saved.folder / "enrolled.npz"
    with np.load(path) as file:
        raw = {k: file[k] for k in ("speakers", "vectors")}
    np.savez(path, **raw)
    who = SpeakerIdentifier.from_results(saved.folder)
    assert who.identify(voice(2500, seed=9), 1)[0].speaker == "çat"
    with pytest.raises(InputError, match="by an earlier version"):
        who.enroll("çat", voice(2500), extend=True)
    cli.main(["speakers", str(saved.folder)])
    assert '"recordings": null' in capsys.readouterr().out.splitlines()[-1]


def test_the_list(saved, voice, capsys, monkeypatch):
    saved.enroll("çat", [voice(2500, seed=5)], extend=True)
    saved.save()
    assert cli.main(["speakers", str(saved.folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        '{"speaker": "ann", "kind": "trained"}',
        '{"speaker": "bob", "kind": "trained"}',
        '{"speaker": "\\u00e7at", "kind": "enrolled", "recordings": 2}',
    ]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    cli.main(["speakers", str(saved.folder)])
    *_, last = capsys.readouterr().out.splitlines()
    assert last.split() == "çat enrolled from 2 recording(s)".split()


@pytest.mark.parametrize(
    "change",
    [
        {"recordings": [2]},
        {"recordings": [-1]},
        {"recordings": [1.0]},
        {"recordings": []},
        {"recordings": [[1]]},
        {"directions": np.zeros((1, 3), np.float32)},
        {"directions": np.full((1, 16), np.nan, np.float32)},
    ],
)
def test_a_damaged_file_of_recordings(saved, change):
    path = saved.folder / "enrolled.npz"
    with np.load(path) as file:
        raw = dict(file)
    np.savez(path, **{**raw, **change})
    with pytest.raises(InputError, match="does not hold enrolled speakers"):
        SpeakerIdentifier.from_results(saved.folder)

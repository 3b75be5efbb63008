"""What people made beside a model survives whatever replaces the model."""

import json
import os
import shutil
from itertools import count, takewhile

import numpy as np
import pytest
import soundfile
import torch
from kills import killed

from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.inference.segments import certainty_of
from amsincnet_sb.inference.trials import TrialList, score_trials
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

NAMES = ["ann", "bob"]


@pytest.fixture
def folder(saved, voice, analyse, tmp_path):
    """A model with an enrolled speaker, thresholds, a cohort and notes."""
    saved.cohort = torch.stack(
        [analyse(saved, voice(p)).direction for p in (300, 1500, 2500, 4000)]
    )
    saved.calibration = {"verification": {"threshold": 0.25}}
    saved.save()
    folder = tmp_path / "pretrained"
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    (folder / "link").symlink_to("notes")
    return folder


def load(folder):
    return SpeakerIdentifier.from_results(folder)


@pytest.fixture
def other():
    """Another network of another embedding size, untrained."""
    torch.manual_seed(1)
    net = SincNet(fc_neurons=[8, 12], window=1600, cnn_channels=[4, 4, 4])
    return net.eval(), CosineClassifier(12, 2)


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_weights_again(folder, models, voice):
    before = load(folder)
    for _ in range(2):
        write_pretrained(folder, *models, NAMES, 10.0)
    again = load(folder)
    assert again.speakers == ["ann", "bob", "çat"] and not again.outdated
    trial = voice(300), voice(2500)
    assert again.verify(*trial) == before.verify(*trial)
    assert (folder / "notes" / "a.txt").read_text() == "mine"
    assert os.readlink(folder / "link") == "notes"


@pytest.mark.parametrize("marked", [True, False])
def test_other_weights(folder, models, other, voice, caplog, marked):
    if not marked:  # as version 0.2.0 wrote them
        for name in ("enrolled.npz", "cohort.npz"):
            with np.load(folder / name) as file:
                arrays = {k: file[k] for k in file if k != "weights"}
            np.savez(folder / name, **arrays)
        thresholds = json.loads((folder / "calibration.json").read_text())
        del thresholds["weights"]
        (folder / "calibration.json").write_text(json.dumps(thresholds))
        assert load(folder).speakers == ["ann", "bob", "çat"]
    write_pretrained(folder, *other, NAMES, 10.0)
    assert caplog.text.count("is kept, and not used") == 3
    who = load(folder)
    for ask in (
        lambda: who.speakers,
        lambda: who.identify(voice(300)),
        lambda: who.save(folder.parent / "copy"),
        lambda: who.remove("çat"),
    ):
        with pytest.raises(InputError, match="enrolled.npz: 'çat' was enro.*"):
            ask()
    assert not (folder.parent / "copy").exists()
    with pytest.raises(InputError, match="calibration.json: it was made with"):
        who.verify(voice(300), voice(700))
    with pytest.raises(InputError, match="cohort.npz: it was made with other"):
        who.verify(voice(300), voice(700), threshold=0.5)
    caplog.clear()
    certainty_of(who)
    assert "calibration.json: it was made with other" in caplog.text
    path = folder.parent / "a.wav"
    soundfile.write(path, voice(300), 16000)
    trials = TrialList([("a", "a")], None, "unlabelled", ["l:1"])
    with pytest.raises(InputError, match="cohort.npz: it was made with other"):
        score_trials(who, trials, {"a": path})
    assert who.embed(voice(300)).shape == (12,)  # needs none of them

    who.enroll("çat", [voice(2500)])
    who.calibration = {"verification": {"threshold": 0.75}}
    who.save()
    again = load(folder)
    assert again.speakers == ["ann", "bob", "çat"] and not again.outdated
    assert again.cohort is None and again.verify(voice(300), voice(300))
    aside = sorted(path.name for path in folder.glob("*-*"))
    assert [name.split("-")[0] for name in aside] == [
        "calibration",
        "cohort",
        "enrolled",
    ]
    # With the old weights, the old ones are right again.
    (folder / aside[2]).rename(folder / "enrolled.npz")
    (folder / aside[0]).rename(folder / "calibration.json")
    (folder / aside[1]).rename(folder / "cohort.npz")
    write_pretrained(folder, *models, NAMES, 10.0)
    assert load(folder).speakers == ["ann", "bob", "çat"]
    assert load(folder).threshold("verification") == 0.25


def test_whoever_loaded_the_old_model_cannot_save(folder, other, voice):
    slow = load(folder)
    slow.enroll("dog", [voice(4000)])
    write_pretrained(folder, *other, NAMES, 10.0)
    before = content(folder)
    with pytest.raises(InputError, match="been replaced in the meantime"):
        slow.save()
    assert content(folder) == before


def test_weights_put_there_by_hand(folder, voice):
    path = folder / "embedding_model.ckpt"
    state = torch.load(path)
    torch.save({key: 1.01 * value for key, value in state.items()}, path)
    who = load(folder)
    who.enroll("dog", [voice(4000)])
    who.save()
    assert load(folder).speakers == [*NAMES, "dog"]


def test_a_cohort_goes_with_the_thresholds_found_with_it(folder):
    (folder / "calibration.json").unlink()
    who = load(folder)
    who.calibration = {"verification": {"threshold": 0.5}}
    who.save()
    assert load(folder).cohort is None
    assert len(list(folder.glob("cohort-*.npz"))) == 1


def test_another_cohort_takes_the_threshold_away(folder, voice):
    who = load(folder)
    who.cohort = who.cohort.clone()  # the same one
    assert who.threshold("verification") == 0.25
    who.cohort = -who.cohort
    with pytest.raises(InputError, match="found with this cohort"):
        who.verify(voice(300), voice(300))
    assert who.verify(voice(300), voice(300), 1.0)
    who.cohort = None
    assert who.threshold("verification") == 0.8


def test_damaged_additions_are_kept_as_they_are(folder, other):
    (folder / "enrolled.npz").write_bytes(b"half")
    write_pretrained(folder, *other, NAMES, 10.0)
    assert (folder / "enrolled.npz").read_bytes() == b"half"


def kills(work, step):
    """Kill a process before its first, step-th … operation on files."""
    return takewhile(lambda at: killed(at, work), count(1, step))


def test_killed_while_a_model_is_replaced(folder, other, models):
    both = load(folder)._weights(), SpeakerIdentifier(*other, NAMES)._weights()
    for at in kills(lambda: write_pretrained(folder, *other, NAMES), step=13):
        who = load(folder)
        assert who._weights() in both
        assert bool(who.outdated) == (who._weights() == both[1])
        assert {"enrolled.npz", "cohort.npz", "notes/a.txt"} <= {
            *content(folder)
        }
        write_pretrained(folder, *models, NAMES, 10.0)
        assert load(folder).speakers == ["ann", "bob", "çat"]
    assert at > 50
    write_pretrained(folder, *models, NAMES, 10.0)
    assert os.listdir(folder.parent) == ["pretrained"]


@pytest.mark.parametrize("cohort", [True, False])
def test_killed_while_it_is_calibrated(folder, cohort):
    """A threshold and a cohort belong together, or it is told."""
    before, kept = load(folder), content(folder)
    pairs, told = {(0.25, before.cohort.sum().item())}, 0

    def calibrate():
        who = load(folder)
        who.cohort = -before.cohort if cohort else None
        who.calibration = {"verification": {"threshold": 0.75}}
        who.save()

    calibrate()
    sums = load(folder).cohort
    pairs.add((0.75, sums.sum().item() if cohort else None))
    for _ in kills(calibrate, step=2):
        for path in folder.glob("c*-*"):
            path.unlink()
        who = load(folder)
        try:
            found = who.threshold("verification")
        except InputError as error:
            assert "with another cohort" in str(error)
            told += 1
        else:
            total = None if who.cohort is None else who.cohort.sum().item()
            assert (found, total) in pairs
        for name in ("calibration.json", "cohort.npz"):
            (folder / name).write_bytes(kept[name])
    assert told


@pytest.mark.parametrize("safetensors", [True, False])
def test_killed_while_a_copy_is_made(folder, safetensors):
    who, copy = load(folder), folder.parent / "copy"
    for at in kills(lambda: who.save(copy, safetensors), step=5):
        if not copy.exists():
            who.save(copy, safetensors)  # sweeps what was left
        assert load(copy).speakers == ["ann", "bob", "çat"]
        assert load(copy).cohort is not None
        shutil.rmtree(copy)
        assert os.listdir(folder.parent) == ["pretrained"]
    assert at > 20 and load(copy).speakers == ["ann", "bob", "çat"]

"""Enrolled speakers and thresholds outlive the training command."""

import json

import pytest
from shell import status_of

from amsincnet_sb import cli


@pytest.fixture
def enrolled(recipe, corpus, tmp_path):
    """A finished run with a speaker that somebody enrolled."""
    output = recipe("sinc_tdnn.yaml", tmp_path / "results", number_of_epochs=1)
    wave = min(corpus.glob("TRAIN/*/*/SI*.WAV"))
    command = ["enroll", str(output), "zoe", str(wave)]
    assert cli.main(command) == 0
    return output, str(wave)


def identify(output, wave, capsys):
    """Status, candidates and the complaint of the command."""
    capsys.readouterr()
    status = status_of(["identify", output, wave, "--top", "9"])
    out, err = capsys.readouterr()
    found = json.loads(out)["candidates"] if out else []
    return status, {each["speaker"] for each in found}, err


@pytest.mark.parametrize("more", [{}, {"test_only": True}])
def test_the_same_command_again(recipe, enrolled, capsys, more):
    output, wave = enrolled
    before = identify(output, wave, capsys)
    recipe("sinc_tdnn.yaml", output, number_of_epochs=1, **more)
    assert identify(output, wave, capsys)[:2] == before[:2]
    assert "zoe" in before[1]


def test_trained_further(recipe, enrolled, capsys):
    output, wave = enrolled
    kept = (output / "pretrained" / "enrolled.npz").read_bytes()
    recipe("sinc_tdnn.yaml", output, number_of_epochs=2)
    assert (output / "pretrained" / "enrolled.npz").read_bytes() == kept
    status, found, complaint = identify(output, wave, capsys)
    assert (status, found) == (2, set())
    assert "'zoe' was enrolled with other weights" in complaint
    assert cli.main(["enroll", str(output), "zoe", wave]) == 0
    status, found, _ = identify(output, wave, capsys)
    assert status == 0 and "zoe" in found

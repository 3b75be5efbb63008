"""How probable it is that a segment is named rightly."""

import bands
import numpy as np
import pytest
import soundfile
from bands import RATE, conversation, voice

from amsincnet_sb.dataio.manifest import Utterance, write_manifest
from amsincnet_sb.inference.segment_calibration import (
    certainty_from,
    fit_certainty,
)


def test_the_weights_that_made_the_answers_are_found():
    rng = np.random.default_rng(0)
    true = np.array([-1.0, 4.0, 1.0, 0.5])
    lead, length = rng.uniform(-0.5, 1, 20000), rng.normal(size=20000)
    rows = np.stack([lead**0, lead, lead * length, length], 1)
    chance = 1 / (1 + np.exp(-rows @ true))
    found = fit_certainty(rows, rng.random(20000) < chance)
    assert abs(found - true).max() < 0.2


def test_of_a_manifest(tmp_path, monkeypatch):
    """Segments that are always right become more probable."""
    bands.by_energy(monkeypatch)
    who, rows = bands.model(), []
    for band, speaker in enumerate(["ann", "bob", "cat", "dan", "eve"]):
        for n in range(8):
            name = f"{speaker}-{n}"
            samples = voice(band, 1, n)
            soundfile.write(tmp_path / f"{name}.wav", samples, RATE)
            rows.append(Utterance(name, 1, f"{name}.wav", 0, RATE, speaker))
    rows.append(Utterance("zoe", 1, "none.wav", 0, RATE, "zoe"))
    write_manifest(tmp_path / "all.csv", rows)
    before = who.segments(conversation((0, 1), (1, 1)))
    found = certainty_from(who, tmp_path / "all.csv", tmp_path)
    who.calibration = found
    after = who.segments(conversation((0, 1), (1, 1)))
    assert [s.speaker for s in after] == [s.speaker for s in before]
    assert after[0].probability > max(0.95, before[0].probability)
    assert found["segments"]["segments"] == pytest.approx(36, abs=6)
    write_manifest(tmp_path / "few.csv", rows[:9])
    assert certainty_from(who, tmp_path / "few.csv", tmp_path) == {}

"""One bad recording of many costs that one, and the exit status."""

import json
import shutil

import pytest
import soundfile
import torch

from amsincnet_sb import cli
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference import evaluation
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.utils.errors import InputError


@pytest.fixture
def place(finished, corpus, tmp_path):
    """A model, its test manifest, and the corpus with one file cut short."""
    shutil.copytree(finished, tmp_path / "model")
    shutil.copytree(corpus, tmp_path / "corpus")
    manifest = next((tmp_path / "model").rglob("test.csv"))
    rows = read_manifest(manifest)
    bad = tmp_path / "corpus" / rows[2].wav
    bad.write_bytes(bad.read_bytes()[:3000])
    return tmp_path, manifest, rows


def test_evaluate(place, capsys):
    folder, manifest, rows = place
    command = ["evaluate", str(folder / "model"), "--calibrate"]
    command += ["--manifest", str(manifest)]
    command += ["--data-folder", str(folder / "corpus")]
    command += ["--cohort", str(manifest)]
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["left_out"] == 1
    assert err.count("Error: ") == 2  # in the cohort, in the evaluation
    assert err.count(rows[2].wav) == 2
    kept = SpeakerIdentifier.from_results(folder / "model")
    assert "verification" in kept.calibration and len(kept.cohort) == 4


@pytest.mark.parametrize("trials", [False, True])
def test_the_others_count_as_without_it(place, trials):
    folder, manifest, rows = place
    path = None
    if trials:
        path = folder / "trials.txt"
        pairs = [(0, 1), (1, 2), (0, 2), (0, 3), (2, 4), (1, 5)]
        path.write_text(
            "".join(
                f"{int(rows[a].spk_id == rows[b].spk_id)} "
                f"{rows[a].id} {rows[b].id}\n"
                for a, b in pairs
            )
        )
    model = SpeakerIdentifier.from_results(folder / "model")
    given = model, manifest, folder / "corpus", path
    with pytest.raises(InputError, match=rows[2].wav):
        evaluation.evaluate_model(*given)
    left_out = []
    found = evaluation.evaluate_model(*given, left_out)
    assert [rows[2].wav in str(error) for error in left_out] == [True]
    assert found.pop("left_out") == 1
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:3] + lines[4:]))
    if trials:
        kept = [x for x in path.read_text().split("\n") if rows[2].id not in x]
        path.write_text("\n".join(kept))
    expected = evaluation.evaluate_model(*given)
    assert expected.pop("left_out") == 0 and found == expected


def test_when_none_is_left(place):
    folder, manifest, rows = place
    for row in rows:
        (folder / "corpus" / row.wav).write_bytes(b"")
    model = SpeakerIdentifier.from_results(folder / "model")
    with pytest.raises(InputError, match=rows[-1].wav):
        evaluation.evaluate_model(model, manifest, folder / "corpus", None, [])


def test_enroll(place, capsys):
    folder, _, rows = place
    files = [str(folder / "corpus" / row.wav) for row in rows[:3]]
    command = ["enroll", str(folder / "model"), "zoe"]
    assert cli.main([*command, *files]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["files"] == 2 and files[2] in err
    found = SpeakerIdentifier.from_results(folder / "model").classifier
    alone = SpeakerIdentifier.from_results(folder / "model")
    alone.remove("zoe")
    alone.enroll("zoe", files[:2])
    assert torch.equal(found.vectors, alone.classifier.vectors)
    with pytest.raises(SystemExit):
        cli.main(["enroll", str(folder / "model"), "eve", files[2]])
    assert capsys.readouterr().err.startswith("Error: ")


def test_silence_is_not_evaluated(place):
    """As identify refuses it, whatever makes it so."""
    folder, manifest, rows = place
    model = SpeakerIdentifier.from_results(folder / "model")
    path = folder / "corpus" / rows[3].wav
    wave, rate = soundfile.read(path)
    for channels, channel, advice in (
        ((0, 0), None, "a recording of speech"),
        ((0, 1), 1, "a recording of speech"),
        ((1, -1), None, "--channel 1"),
    ):
        samples = wave[:, None] * channels
        soundfile.write(path, samples, rate, "PCM_16", format="WAV")
        model.channel, left_out = channel, []
        evaluation.cohort_from(model, manifest, folder / "corpus", left_out)
        silent = [str(error) for error in left_out if rows[3].wav in str(error)]
        assert len(silent) == 1 and advice in silent[0]

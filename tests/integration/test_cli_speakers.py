"""The commands that use a trained model: enrol, verify, embed, evaluate."""

import argparse
import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from shell import status_of

from amsincnet_sb import cli
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.plots import _pyplot

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def model(finished, tmp_path):
    """A copy that may be changed, without the checkpoints."""
    parts = shutil.ignore_patterns("save", "*.png")
    return shutil.copytree(finished, tmp_path / "model", ignore=parts)


@pytest.fixture
def files(corpus):
    return sorted(map(str, corpus.glob("TRAIN/*/*/SI*.WAV")))[:6]


def run(capsys, *arguments):
    """Exit status, JSON lines and lines for the person."""
    capsys.readouterr()
    status = status_of(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = [
        json.loads(line) if line.startswith("{") else line
        for line in captured.out.splitlines()
    ]
    return status, lines, captured.err.splitlines()


def test_enrol_identify_remove(model, files, capsys):
    found = run(capsys, "enroll", model, "zoe", *files[:3])
    answer = {"enrolled": "zoe", "files": 3, "speakers": 5}
    assert found == (0, [answer], [])
    _, (answer,), _ = run(capsys, "identify", model, files[0], "--top", 9)
    who = SpeakerIdentifier.from_results(model)
    assert who.speakers[-1] == "zoe"
    expected = who.identify(files[0], 5)
    assert answer["candidates"] == [
        {**c._asdict(), "share": c.probability} for c in expected
    ]
    assert run(capsys, "remove", model, "zoe")[0] == 0
    status, out, err = run(capsys, "remove", model, "zoe")
    assert (status, out) == (2, []) and "not an enrolled speaker" in err[0]


def test_verify_says_it_by_its_status(model, files, capsys, caplog):
    a, b = files[0], files[-1]
    who = SpeakerIdentifier.from_results(model)
    score = who.verify(a, b, 0.0).score
    for threshold, status in ((score - 0.01, 0), (score + 0.01, 1)):
        option = f"--threshold={threshold}"
        found = run(capsys, "verify", model, a, b, option)
        assert found[0] == status and found[2] == []
        (answer,) = found[1]
        assert answer["score"] == pytest.approx(score, abs=1e-6)
        assert answer["accepted"] is (status == 0)
    assert run(capsys, "verify", model, a, a)[0] == 0
    assert "no calibrated threshold" in caplog.text


def test_embed(model, files, tmp_path, capsys):
    expected = SpeakerIdentifier.from_results(model).embed(files).numpy()
    for path in (tmp_path / "d.npz", tmp_path / "d.csv"):
        assert run(capsys, "embed", model, *files, "--output", path)[0] == 0
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as table:
                names, values = table["files"].tolist(), table["embeddings"]
        else:
            with open(path, newline="") as file:
                _, *rows = csv.reader(file)
            names = [row[0] for row in rows]
            values = np.array([row[1:] for row in rows], np.float32)
        assert names == files and np.array_equal(values, expected)


def evaluate(capsys, model, corpus, *more):
    manifest = model / "manifests" / "test.csv"
    arguments = ["--manifest", manifest, "--data_folder", corpus, *more]
    return run(capsys, "evaluate", model, *arguments)


def test_evaluate_agrees_with_the_recipe(recipe, model, corpus, capsys):
    status, (shown,), _ = evaluate(capsys, model, corpus, "--calibrate")
    assert status == 0
    *_, last = recipe.metrics(model)
    for error in ("frame_error", "sentence_error"):
        assert shown["closed_set"][error] == pytest.approx(last[error])
    assert shown["verification"]["targets"] == 4 * 3
    assert shown["verification"]["nontargets"] == 12 * 11 // 2 - 12
    written = json.loads((model / "evaluation.json").read_text())
    det = written["verification"].pop("det")
    assert written == shown and len(det["miss"]) == len(det["false_alarm"])
    assert (model / "det.png").is_file() is (_pyplot() is not None)

    who = SpeakerIdentifier.from_results(model)
    tasks = {"verification": "verification", "identification": "open_set"}
    for task, key in tasks.items():
        assert who.threshold(task) == shown[key]["threshold"]
        assert "calibrated" not in shown[key]
    # Without --calibrate they stay, and their errors are told.
    path = model / "pretrained" / "calibration.json"
    before = path.read_text()
    assert "misses" not in before
    _, (again,), _ = evaluate(capsys, model, corpus)
    for key in ("verification", "open_set"):
        found = again[key].pop("calibrated")
        assert again[key] == shown[key]
        assert found["threshold"] == shown[key]["threshold"]
        # At the equal-error threshold, of the same utterances.
        mean = (found["misses"] + found["false_alarms"]) / 2
        assert mean == pytest.approx(shown[key]["eer"])
    assert path.read_text() == before
    # Once is enough: nothing was fitted to what is changed by it.
    _, (shown,), _ = evaluate(capsys, model, corpus, "--calibrate")
    assert not any("calibrated" in shown[key] for key in tasks.values())
    first, second = json.loads(before), json.loads(path.read_text())
    assert second.keys() == first.keys() >= {"segments"}
    for key in ("threshold", "certainty"):
        for task in tasks:
            assert second[task].get(key) == first[task].get(key)
    assert second["segments"] == first["segments"]


def test_what_a_manifest_cannot_tell_stays(model, corpus, capsys):
    """Of strangers alone, say, to verify whom the model has not learned."""
    path = model / "pretrained" / "calibration.json"
    evaluate(capsys, model, corpus, "--calibrate")
    before = json.loads(path.read_text())
    manifest = model / "manifests" / "test.csv"
    header, *rows = manifest.read_text().splitlines()
    rows = [f"{row[:-1]}-stranger" for row in rows]
    manifest.write_text("\n".join([header, *rows[:-1]]) + "\n")
    _, (shown,), _ = evaluate(capsys, model, corpus, "--calibrate")
    after = json.loads(path.read_text())
    assert shown["open_set"] is None
    assert after["identification"] == before["identification"]
    assert after["verification"] != before["verification"]


def test_the_errors_outlast_a_failed_save(model, corpus, capsys, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(SpeakerIdentifier, "save", full)
    (model / "evaluation.json").unlink(missing_ok=True)
    status, (shown,), (line,) = evaluate(capsys, model, corpus, "--calibrate")
    assert status == 2 and "No space left" in line
    written = json.loads((model / "evaluation.json").read_text())
    assert written["closed_set"] == shown["closed_set"]


def test_of_three_speakers_none_is_unknown(model, corpus, capsys, tmp_path):
    """Of the two that remain one is always sure."""
    rows = (model / "manifests" / "test.csv").read_text().splitlines()
    who = SpeakerIdentifier.from_results(model)
    kept, three = [0, 2, 3], tmp_path / "three"
    weight = who.classifier.trained.weight.data[kept]
    classifier = CosineClassifier(weight.shape[1], len(kept))
    classifier.weight.data = weight
    names = [who.speakers[i] for i in kept]
    write_pretrained(three, who.embedding_model, classifier, names, 30.0)
    listed = [r for r in rows[1:] if r.rsplit(",", 1)[1] in names]
    manifest = tmp_path / "three.csv"
    manifest.write_text("\n".join([rows[0], *listed]) + "\n")
    arguments = ["--manifest", manifest, "--data_folder", corpus, "--calibrate"]
    _, (shown,), _ = run(capsys, "evaluate", three, *arguments)
    assert shown["open_set"] is None and shown["closed_set"]
    kept = json.loads((three / "calibration.json").read_text())
    assert "verification" in kept and "identification" not in kept


def test_a_cohort(model, files, corpus, capsys, caplog):
    cohort = model / "manifests" / "train.csv"
    _, (plain,), _ = evaluate(capsys, model, corpus)
    # Thresholds of plain cosines say nothing about these scores.
    evaluate(capsys, model, corpus, "--calibrate")
    _, (once,), _ = evaluate(capsys, model, corpus, "--cohort", cohort)
    assert caplog.text.count("with another cohort") == 1
    assert "calibrated" not in once["verification"]
    assert once["open_set"].pop("calibrated")
    assert once["closed_set"] == plain["closed_set"]
    assert once["verification"]["threshold"] != pytest.approx(
        plain["verification"]["threshold"]
    )
    assert not (model / "pretrained" / "cohort.npz").exists()
    option = ["--cohort", cohort, "--calibrate"]
    _, (kept,), _ = evaluate(capsys, model, corpus, *option)
    assert kept == once
    # From now on without being asked for.
    _, (again,), _ = evaluate(capsys, model, corpus)
    assert again["verification"]["calibrated"].pop("threshold") == (
        pytest.approx(once["verification"]["threshold"])
    )
    _, (answer,), _ = run(capsys, "verify", model, files[0], files[1])
    who = SpeakerIdentifier.from_results(model)
    assert answer["score"] == pytest.approx(who.verify(*files[:2]).score)
    assert answer["threshold"] == once["verification"]["threshold"]
    # Two speakers are no cohort.
    lines = cohort.read_text().splitlines(keepends=True)
    cohort.write_text("".join(lines[:6]))
    status, _, (line,) = evaluate(capsys, model, corpus, "--cohort", cohort)
    assert status == 2 and "at least 3" in line


def test_trials_and_strangers(model, corpus, tmp_path, capsys):
    manifest = model / "manifests" / "test.csv"
    with open(manifest, newline="") as file:
        ids = [row["ID"] for row in csv.DictReader(file)]
    trials = tmp_path / "trials.txt"
    trials.write_text(f"1 {ids[0]} {ids[1]}\n0 {ids[0]} {ids[-1]}\n")
    known = SpeakerIdentifier.from_results(model).speakers[0]
    text = manifest.read_text().replace(f",{known}\n", ",stranger\n")
    manifest.write_text(text)
    _, (shown,), _ = evaluate(capsys, model, corpus, "--trials", trials)
    assert shown["verification"]["targets"] == 1
    assert shown["verification"]["nontargets"] == 1
    assert shown["verification"]["eer"] in (0.0, 50.0, 100.0)
    assert shown["closed_set"]["sentences"] == 9
    assert (shown["open_set"]["known"], shown["open_set"]["unknown"]) == (9, 3)


def test_a_terminal_gets_sentences(model, files, corpus, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for command, start in (
        (["enroll", model, "zoe", files[0]], "Enrolled zoe from 1 file"),
        (["verify", model, files[0], files[0]], "same speaker  score 1.000"),
    ):
        _, (line,), _ = run(capsys, *command)
        assert line.startswith(start)
    _, lines, _ = evaluate(capsys, model, corpus)
    assert lines[0] == "12 utterances, 4 speakers"
    assert any("minDCF" in line for line in lines)


def examples():
    commands = cli._parser()._actions
    (commands,) = [
        a for a in commands if isinstance(a, argparse._SubParsersAction)
    ]
    for name, parser in commands.choices.items():
        # As printed, broken lines included.
        *_, example = parser.format_help().split("\n\n")
        assert example.startswith("example: amsincnet ")
        typed = example.removeprefix("example: ").replace("\\\n", "")
        # The first of several.
        yield name, shlex.split(typed.splitlines()[0])[1:]


def test_examples_run_as_typed(
    model, files, corpus, tmp_path, capsys, monkeypatch
):
    found = dict(examples())
    # These need TIMIT or LibriSpeech, and have tests of their own.
    for name in ("train", "sweep", "prepare-librispeech"):
        assert found.pop(name)[:1] == [name]
    for package in ("matplotlib", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results" / "demo" / "1234"
    shutil.copytree(model, results)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "corpus").symlink_to(corpus)
    samples, rate = soundfile.read(files[0])
    names = ["a.wav", "b.flac", "anna1.wav", "anna2.wav", "anna3.wav"]
    names += ["meeting.wav"]
    for name in names:
        soundfile.write(name, samples, rate)
    for path in sorted(corpus.glob("TRAIN/*/*/SX*.WAV")):
        folder = tmp_path / "recordings" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    shutil.copy(FIXTURES / "model_raw_small.pkl", "model_raw.pkl")
    shutil.copy(FIXTURES / "model_raw_small.cfg", "model_raw.cfg")
    labels = {f"train/dr1/s{i}/si1.wav": i for i in range(10)}
    np.save("TIMIT_labels.npy", labels)
    # A folder in which demo/corpus is to be made.
    (tmp_path / "empty").mkdir()
    # An enrolled speaker comes before the removed one.
    for name in sorted(found, key=lambda name: (name == "remove", name)):
        with monkeypatch.context() as patch:
            if name == "demo-corpus":
                patch.chdir(tmp_path / "empty")
            status, _, err = run(capsys, *found[name])
            assert status == 0, (name, err)


def test_unknown(model, files, capsys, caplog):
    best = SpeakerIdentifier.from_results(model).identify(files[0], 1)[0]
    above = f"--threshold={best.share + 0.01}"
    unknown = "unknown" if best.share <= 0.3 else best.speaker
    for option, first in ((above, "unknown"), ("--unknown", unknown)):
        _, (answer,), _ = run(capsys, "identify", model, files[0], option)
        assert answer["candidates"][0]["speaker"] == first
    assert "no calibrated threshold" in caplog.text

"""The files of a finished run agree with each other and with the model."""

import json
import shutil

import pytest
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import read_pretrained


@pytest.fixture(scope="module")
def tested(finished, corpus):
    """(utterance, waveform) of each row of the test manifest."""
    return [
        (row, read_audio(corpus / row.wav, row.start, row.stop))
        for row in read_manifest(finished / "manifests" / "test.csv")
    ]


def test_every_evaluation_is_a_record(finished, recipe):
    records = recipe.metrics(finished)
    # The evaluation at the end is that of the last epoch once more.
    assert [(r["epoch"], r["step"]) for r in records] == [(1, 3), (2, 6)]
    errors = {"frame_error", "sentence_error", "train_frame_error"}
    for record in records:
        assert record["split"] == "test"  # nothing is held out
        assert all(0 <= record[name] <= 100 for name in errors)
        assert set(record) == {
            *errors,
            *("epoch", "step", "split", "train_loss", "loss"),
        }
    for name in ("train_log.txt", "log.txt"):
        text = (finished / name).read_text()
        for error in ("frame_error", "sentence_error"):
            assert f"test {error}: {records[-1][error]:.3f}" in text
    assert "train: 4 speakers, 20 utterances" in text
    picture = (finished / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")


def test_an_utterance_is_decided_by_all_its_windows(finished, recipe, tested):
    """The CSV against window by window, without any of its code."""
    who = SpeakerIdentifier.from_results(finished)
    net, rows = who.embedding_model, recipe.sentences(finished)
    for utterance, wave in tested:
        scores = []
        for start in range(0, len(wave) - net.window + 1, net.hop):
            x = net(wave[None, start : start + net.window])
            scores.append((30 * who.classifier(x)).flatten().log_softmax(-1))
        scores = torch.stack(scores)
        total = scores.mean(0)
        label = who.speakers.index(utterance.spk_id)
        row = rows[utterance.id]
        assert who.speakers[total.argmax()] == row["decision"]
        assert total.max().item() == pytest.approx(
            float(row["score"]), abs=1e-3
        )
        wrong = (scores.argmax(-1) != label).float().mean().item()
        # A window that two speakers share may fall to either.
        assert 100 * wrong == pytest.approx(
            float(row["frame_error"]), abs=100.1 / len(scores)
        )


def test_the_resolved_yaml_repeats_the_run(finished, recipe, tmp_path):
    flat = finished / "hyperparams.yaml"
    nothing_else = dict.fromkeys(["data_folder", *recipe.small])
    before = _contents(finished)
    output = recipe(flat, tmp_path / "again", **nothing_else)
    assert _contents(finished) == before
    for view in (recipe.state, recipe.metrics, recipe.sentences):
        assert view(output) == view(finished)


def test_it_repeats_options_that_are_speechbrains_too(recipe, tmp_path):
    given = {
        "max_grad_norm": 0.1,
        "precision": "fp32",
        "eval_precision": "bf16",
    }
    output = recipe("am_sincnet.yaml", tmp_path / "results", **given)
    nothing_else = dict.fromkeys(["data_folder", *recipe.small])
    flat = output / "hyperparams.yaml"
    again = recipe(flat, tmp_path / "again", **nothing_else)
    assert recipe.state(again) == recipe.state(output)
    assert recipe.metrics(again) == recipe.metrics(output)
    # Nothing is made of it, so that it can be changed there.
    recipe(flat, tmp_path / "other", max_grad_norm="inf", **nothing_else)


def _contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_speechbrain_loads_the_model(finished, corpus, tmp_path, monkeypatch):
    pretrained = tmp_path / "elsewhere" / "model"
    shutil.copytree(finished / "pretrained", pretrained)
    who = SpeakerIdentifier.from_results(pretrained)
    wave = read_audio(next(corpus.glob("TRAIN/DR1/*/SI*.WAV")))
    with torch.inference_mode():
        ours = who.embedding_model(wave[None])
        best = who.classifier(ours).argmax().item()
    before = sorted(p.name for p in pretrained.iterdir())
    monkeypatch.chdir(tmp_path)  # without a savedir, files go there
    for kind, options in (
        (EncoderClassifier, {}),
        (EncoderClassifier, {"savedir": tmp_path / "a"}),
        (SpeakerRecognition, {"savedir": tmp_path / "b"}),
    ):
        theirs = kind.from_hparams(
            source=str(pretrained), run_opts={"device": "cpu"}, **options
        )
        embedding = theirs.encode_batch(wave[None])
        assert embedding.shape == (1, 1, 8)
        torch.testing.assert_close(embedding, ours, rtol=1e-4, atol=1e-5)
        unit = theirs.encode_batch(wave[None], normalize=True)
        torch.testing.assert_close(unit * ours.norm(), ours)
        if kind is EncoderClassifier:
            scores, _, index, names = theirs.classify_batch(wave[None])
            assert scores.shape == (1, 4)
            assert (index.item(), names) == (best, [who.speakers[best]])
    assert sorted(p.name for p in pretrained.iterdir()) == before
    train = read_manifest(finished / "manifests" / "train.csv")
    assert who.speakers == list(dict.fromkeys(u.spk_id for u in train))


def test_the_model_tells_what_trained_speakers_score(
    finished, tested, tmp_path
):
    """Enrolled ones are made to score the same, without a calibration."""
    net, classifier, config = read_pretrained(finished)
    scores = []
    for utterance, wave in tested:
        with torch.no_grad():
            windows = wave.unfold(0, net.window, net.hop)
            outputs = classifier(net.embed_windows(windows).unsqueeze(1))
        label = config["speakers"].index(utterance.spk_id)
        scores.append(outputs[:, 0, label])
    mean = torch.cat(scores).mean().item()
    assert config["own_cosine"] == pytest.approx(mean, abs=1e-4)
    who = SpeakerIdentifier.from_results(finished)
    # A copy, as enrolment makes it, keeps it.
    who.save(tmp_path / "copy")
    copy = SpeakerIdentifier.from_results(tmp_path / "copy")
    assert copy.own_cosine == who.own_cosine == config["own_cosine"]


def test_lists_that_are_gone_cost_no_model(recipe, tmp_path):
    """Its card tells of those that it was trained on."""
    output = tmp_path / "run"

    def third(brain, *_):
        return brain.optimizer_step == 3

    def lose():
        shutil.rmtree(output / "manifests")

    with recipe.hooked("on_fit_batch_start", third, lose):
        recipe("am_sincnet_m005.yaml", output)
    config = json.loads((output / "pretrained" / "config.json").read_text())
    assert config["training"]["sets"]["train"]["utterances"] == 20
    assert config["training"]["errors"]["test"]["step"] > 3

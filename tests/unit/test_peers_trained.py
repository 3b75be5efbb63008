"""The benchmark of other systems on the same sentences."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from torch.distributions import MultivariateNormal

from amsincnet_sb.dataio.manifest import Utterance, write_manifest
from amsincnet_sb.utils.errors import InputError

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import peer_lda  # noqa: E402
import peer_networks  # noqa: E402
import peers_trained  # noqa: E402

PITCHES = {"ann": 300, "bob": 700}
TINY = "--channels 8 --batch 4 --crop 0.2 --augment mixture noise freq"


@pytest.fixture
def corpus(voice, tmp_path):
    """Four sentences of two voices to train on and two to be tested on.

    The last test sentence of ann is bob's.
    """
    splits = {"train": [], "test": []}
    torch.manual_seed(0)
    for name, pitch in PITCHES.items():
        for nth in range(6):
            ident, split = f"{name}{nth}", "train" if nth < 4 else "test"
            heard = 700 if ident == "ann5" else pitch
            wave = voice(heard, 0.3 + 0.02 * nth, nth)
            # Syllables: what stays the same is subtracted with the mean.
            wave *= 0.1 + (torch.arange(len(wave)) // 800 % 2)
            wave = (wave + 0.003 * torch.randn(len(wave))).numpy()
            soundfile.write(tmp_path / f"{ident}.wav", wave, 16000)
            row = ident, len(wave) / 16000, f"{ident}.wav", 0, len(wave), name
            splits[split].append(Utterance(*row))
    for split, rows in splits.items():
        write_manifest(tmp_path / f"{split}.csv", rows)
    return tmp_path


@pytest.fixture
def run(corpus):
    """Run the script; its rows by system and way of deciding."""

    def call(text):
        path = corpus / "found.json"
        given = f"--manifests {corpus} --data_folder {corpus} --device cpu"
        peers_trained.main(f"{text} {given} --json {path}".split())
        rows = json.loads(path.read_text())
        return {(r["system"].split()[0], r["decided_by"]): r for r in rows}

    return call


def test_everybody_is_asked_the_same(run, saved, tmp_path, capsys):
    ours = tmp_path / "ours"
    for seed in "12":
        shutil.copytree(saved.folder, ours / seed / "pretrained")
    rows = run(
        f"ecapa xvector lda {ours}/1 {ours}/2 --steps 50 --lr 0.01 {TINY} "
        "--lengths 0.2 --conditions white10"
    )
    assert len(rows) == 6
    printed = capsys.readouterr().out
    for (system, way), row in rows.items():
        # As one who hears well decides: bob speaks in a sentence of ann's.
        assert row["wrong"]["whole"] == row["wrong"]["0.2 s"] == ["ann5"]
        assert row["errors"]["whole"] == 25.0
        assert set(row["errors"]) == {"whole", "0.2 s", "white noise, 10 dB"}
        assert f"| {system}" in printed and f"| {way} |" in printed
    assert f"| {ours} |  | test |  |  |  | 25.00 (25.00-25.00) |" in printed
    told = rows["ecapa", "centroids"]["training"]
    # The originals, and a copy of each with noise and with bands dropped.
    assert (told["steps"], told["examples"]) == (50, 50 * 3 * 4)
    assert told["skipped_steps"] == 0


def test_a_budget_of_seconds_and_seeds(run, corpus, capsys):
    run(
        f"xvector --seconds 0.3 --seeds 1 2 {TINY} --lengths --schedule triangular"
    )
    table = capsys.readouterr().out
    rows = json.loads((corpus / "found.json").read_text())
    assert [row["seed"] for row in rows] == [1, 1, 2, 2]
    for row in rows:
        assert 0.3 <= row["training"]["seconds"] < 3
        assert row["training"]["steps"] > 1
        row["errors"]["whole"] = 10.0 * row["seed"]
    assert "| xvector 0.3 s channels=8 crop=0.2 batch=4 augment=" in table
    assert "schedule=triangular | centroids | test |" in table
    (corpus / "found.json").write_text(json.dumps(rows))
    again = corpus / "again.json"
    peers_trained.main([str(corpus / "found.json"), f"--json={again}"])
    assert json.loads(again.read_text()) == rows
    assert "| 15.00 (10.00-20.00) |" in capsys.readouterr().out


def test_choosing_on_training_sentences(corpus):
    given = f"lda --manifests {corpus} --data_folder {corpus} --split valid"
    held = peers_trained.Corpus(peers_trained.arguments(given.split()))
    assert held.ids == ["ann3", "bob3"]
    assert len(held.waves) == 6 and held.labels == [0, 0, 0, 1, 1, 1]
    assert len(held.asked["whole"][0]) == round(0.36 * 16000)
    (corpus / "valid.csv").write_bytes((corpus / "test.csv").read_bytes())
    held = peers_trained.Corpus(peers_trained.arguments(given.split()))
    assert len(held.waves) == 8 and held.ids[0] == "ann4"


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_lda_is_that_of_normal_distributions(shrinkage):
    torch.manual_seed(0)
    labels = torch.arange(4).repeat(30)
    mixing = torch.randn(5, 5)
    x = torch.randn(120, 5) @ mixing + 2 * torch.randn(4, 5)[labels]
    means = torch.stack([x[labels == i].mean(0) for i in range(4)])
    pooled = sum(29 * x[labels == i].T.cov() for i in range(4)) / (120 - 4)
    pooled = (1 - shrinkage) * pooled + shrinkage * pooled.diag().diag()
    expected = MultivariateNormal(means, pooled).log_prob(x[:, None])
    found = peer_lda.LDA(x, labels, shrinkage)(x).float()
    # The densities, up to what all classes share.
    difference = found - expected
    assert (difference - difference[:, :1]).abs().max() < 1e-3


@pytest.mark.parametrize(
    "samples, seconds, lengths",
    [(16000, None, [16000]), (17000, 0.5, [8000, 8000]), (800, 0.5, [800])],
)
def test_pieces(samples, seconds, lengths):
    found = peer_lda.pieces(torch.zeros(samples), seconds)
    assert [len(piece) for piece in found] == lengths


def test_speeds_change_pitch_and_length():
    time = torch.arange(8000) / 16000
    found = peer_networks.at_speed(torch.sin(2000 * torch.pi * time), 1.25)
    expected = torch.sin(1250 * 2 * torch.pi * torch.arange(6400) / 16000)
    assert (found - expected).abs().max() < 1e-3


@pytest.mark.parametrize("kind", peer_networks.NETWORKS)
def test_an_embedding_is_that_of_the_utterance_alone(kind):
    torch.manual_seed(0)
    net = peer_networks.PeerNetwork(kind, 8, 0.0, 3)
    waves = [torch.randn(n) for n in (8000, 6000, 8000)]
    together = net.embed(waves)
    alone = torch.cat([net.embed([wave]) for wave in waves])
    size = alone.abs().max()
    assert (together - alone).abs().max() < 1e-3 * size
    assert (together[0] - together[2]).abs().max() > 1e-2 * size


@pytest.mark.parametrize(
    "schedule, progress, expected",
    [
        ("cosine", 0.01, 0.5),
        ("cosine", 0.02, 1.0),
        ("cosine", 0.51, 0.505),
        ("cosine", 1.0, 0.01),
        ("triangular", 0.25, 0.5),
        ("triangular", 0.5, 1.0),
        ("triangular", 1.0, 1e-5),
    ],
)
def test_learning_rates(schedule, progress, expected):
    options = peers_trained.arguments(["-", "--lr=1", f"--schedule={schedule}"])
    found = peer_networks.learning_rate(progress, options)
    assert math.isclose(found, expected, rel_tol=1e-6)


def test_conditions_by_their_words():
    names = ["clean", "white noise, 10 dB", "room, 0.3 s", "room, 0.6 s"]
    assert peers_trained.condition("white10", names) == names[1]
    assert peers_trained.condition("room0.6", names) == names[3]
    for text in ("room", "hall"):
        with pytest.raises(InputError, match=f"'{text}' is (none|several) of"):
            peers_trained.condition(text, names)


@pytest.mark.parametrize("distinct", [False, True])
def test_copies_of_a_batch(distinct):
    torch.manual_seed(0)
    flags = ["--distinct"] * distinct
    options = peers_trained.arguments(["-", "--batch=3", *flags])
    augment = peer_networks.Augmentation(options, "cpu", 8000)
    given = torch.randn(15 if distinct else 3, 8000)
    labels = torch.arange(len(given))
    wavs, found = augment(given, labels)
    before = given if distinct else given.repeat(5, 1)
    assert found.tolist() == (labels if distinct else labels.repeat(5)).tolist()
    same = (wavs == before).float().mean(1)
    # The originals, all of them in noise and in a room, without some bands
    # and, in the end, with gaps.
    assert (same[:3] == 1).all() and (same[3:12] < 0.1).all()
    gaps = wavs[12:] == 0
    assert (same[12:] < 1).all() and ((wavs == before)[12:] | gaps).all()

"""A run starts from a trained model: its weights, class vectors by name."""

import logging
from functools import partial

import pytest
import torch

from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import RandomChunks
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.training.starting_point import StartingPoint
from amsincnet_sb.utils.errors import InputError

SPEAKERS = ["zoe", "bob", "dan", "ann"]  # zoe and dan are new
PITCHES = [1500, 700, 4000, 300]


@pytest.fixture
def chunks(voice):
    """Two recordings of each speaker."""
    audio = [voice(pitch, seed=s) for pitch in PITCHES for s in (1, 2)]
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    audio = ResidentAudio(audio, labels, list("abcdefgh"))
    return RandomChunks(audio, 200, 8, batches_per_epoch=1, seed=1)


@pytest.fixture
def start(models):
    return StartingPoint("model", *models, ["ann", "bob"])


@pytest.fixture
def loaded(start, chunks, small, caplog):
    """A function of a kind of classifier: what a run starts with."""

    def load(kind):
        caplog.set_level(logging.INFO)
        # Of 16 dimensions a random second vector may be near some speaker.
        torch.manual_seed(0)
        net, classifier = SincNet(**small), kind(16, 4)
        assert net.train() is net
        start.load(net, classifier, SPEAKERS, chunks)
        assert net.training
        return net, classifier

    return load


def told_apart(net, classifier, voice):
    """Whether all speakers are, before any training."""
    net.eval()
    windows = [voice(pitch, seed=9).unfold(0, 200, 50) for pitch in PITCHES]
    decided = [classifier(net(w)).squeeze(1).argmax(-1) for w in windows]
    return all(
        (found == label).float().mean() > 0.9
        for label, found in enumerate(decided)
    )


def test_weights_and_rows_by_name(loaded, models, voice, caplog):
    net, classifier = loaded(CosineClassifier)
    for key, value in models[0].state_dict().items():
        assert torch.equal(net.state_dict()[key], value)
    assert torch.equal(classifier.weight[[3, 1]], models[1].weight)
    assert classifier.weight.requires_grad
    assert "class vectors of 2 of its 2 speakers and new" in caplog.text
    assert told_apart(net, classifier, voice)


def test_class_vectors_of_another_loss_are_not_taken(loaded, voice, caplog):
    net, classifier = loaded(SoftmaxClassifier)
    assert "of a CosineClassifier are not those of a Softmax" in caplog.text
    assert (
        "class vectors of 0 of its 2 speakers and new ones for 4" in caplog.text
    )
    assert told_apart(net, classifier, voice)
    assert not classifier.linear.bias.any()


def test_of_new_subcentres_the_first_is_the_speaker(loaded, voice, caplog):
    net, classifier = loaded(partial(CosineClassifier, subcentres=2))
    assert "not those of a CosineClassifier of 2 subcentres" in caplog.text
    assert told_apart(net, classifier, voice)


@pytest.mark.parametrize(
    "other, words",
    [
        ({"cnn_channels": [8, 4]}, "cnn_channels is [8, 6] there and [8, 4]"),
        ({"sample_rate": 8000}, "sample_rate is 16000 there and 8000 here"),
        ({"linear_embedding": False}, "linear_embedding is True there and"),
        ({"dropout": 0.5, "hop": 20}, None),  # not about the weights
    ],
)
def test_another_network_is_named(start, small, other, words):
    net = SincNet(**{**small, **other})
    if words is None:
        start.check(net)
        return
    with pytest.raises(InputError) as error:
        start.check(net)
    assert words in str(error.value) and "model" in str(error.value)

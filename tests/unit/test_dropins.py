"""The VoxCeleb hyperparameter files, without SpeechBrain's scripts.

Each is loaded and used as the script it is written for uses it. With a
checkout of SpeechBrain, tests/integration/test_speechbrain_checks.py runs the
scripts.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from torch.utils.data import DataLoader

HPARAMS = Path(__file__).parents[2] / "recipes/VoxCeleb/SpeakerRec/hparams"
SIZES = {
    "sincnet": {"cnn_channels": [8, 6, 6], "fc_neurons": [32, 32, 16]},
    "sinc_ecapa_tdnn": {"channels": [16] * 4 + [48], "attention_channels": 8},
}
LABELS = torch.tensor([[0], [3], [1], [4]])

each_model = pytest.mark.parametrize("name", SIZES)


def load(name, folder, kind="train", **overrides):
    """A file with a small network."""
    overrides |= {"data_folder": "corpus", "output_folder": str(folder)}
    overrides |= {"emb_dim": 16, **SIZES[name]}
    if kind == "train":
        overrides["out_n_neurons"] = 5
    torch.manual_seed(0)
    text = (HPARAMS / f"{kind}_{name}.yaml").read_text()
    return load_hyperpyyaml(text, overrides)


def speech():
    """Four waveforms, the last padded, and their relative lengths."""
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(4, 8000, generator=generator)
    wavs[-1, 6000:] = 0
    return wavs, torch.tensor([1, 1, 1, 0.75])


def embed(hparams, wavs, lens):
    """From waveforms to embeddings, as the scripts do."""
    features = hparams["compute_features"](wavs)
    features = hparams["mean_var_norm"](features, lens)
    return hparams["embedding_model"](features)


class Brain(sb.Brain):
    """The training of ``train_speaker_embeddings.py`` in few words."""

    losses = ()

    def compute_forward(self, batch, stage):
        hparams = vars(self.hparams)
        return hparams["classifier"](embed(hparams, *batch.sig))

    def compute_objectives(self, predictions, batch, stage):
        lens = batch.sig[1]
        loss = self.hparams.compute_cost(predictions, batch.labels, lens)
        if stage == sb.Stage.TRAIN:
            self.losses += (loss.item(),)
        return loss


def trained(hparams, epochs):
    """Train on one batch, two steps per epoch, with validation."""
    hparams["epoch_counter"].limit = epochs
    brain = Brain(
        hparams["modules"],
        lambda parameters: hparams["opt_class"](parameters, lr=0.002),
        hparams,
        run_opts={"device": "cpu"},
        checkpointer=hparams["checkpointer"],
    )
    batch = SimpleNamespace(sig=speech(), labels=LABELS)
    train, valid = (
        DataLoader([batch] * n, batch_size=None, collate_fn=lambda x: x)
        for n in (2, 3)
    )
    brain.fit(hparams["epoch_counter"], train, valid, progressbar=False)
    hparams["checkpointer"].save_checkpoint()
    return brain


@each_model
def test_it_trains_and_resumes(name, tmp_path):
    initial = torch.nn.ModuleDict(load(name, tmp_path)["modules"])
    straight = trained(load(name, tmp_path / "straight"), 6)
    assert straight.losses[-1] < straight.losses[0]
    trained(load(name, tmp_path / "stopped"), 3)
    resumed = trained(load(name, tmp_path / "stopped"), 6)
    assert len(resumed.losses) == 6
    end = dict(resumed.modules.named_parameters())
    for key, parameter in straight.modules.named_parameters():
        assert torch.equal(parameter, end[key]), key
        assert not torch.equal(parameter, initial.get_parameter(key)), key
    if name == "sincnet":  # its loss counted the training batches alone
        for brain in (straight, resumed):
            assert brain.hparams.compute_cost.loss_fn.steps == 12


@each_model
def test_its_augmentation_keeps_the_labels(name, tmp_path):
    hparams = load(name, tmp_path)
    augment = hparams["wav_augment"]
    wavs, lens = augment(*speech())
    assert len(wavs) == len(lens) == len(augment.replicate_labels(LABELS)) == 8
    for prepare in ("prepare_noise_data", "prepare_rir_data"):
        assert not hparams[prepare]()


@each_model
def test_verification_loads_what_training_saved(name, tmp_path):
    train = load(name, tmp_path / "training")
    with torch.no_grad():
        for parameter in torch.nn.ModuleDict(train["modules"]).parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    checkpoint = train["checkpointer"].save_checkpoint()
    folder = tmp_path / "verification"
    saved = {"pretrain_path": str(checkpoint.path)}
    verify = load(name, folder, "verification", **saved)
    Path(verify["save_folder"]).mkdir(parents=True)
    verify["pretrainer"].collect_files()
    verify["pretrainer"].load_collected()
    for hparams in (train, verify):
        hparams["embedding_model"].eval()
    assert torch.equal(embed(train, *speech()), embed(verify, *speech()))

"""The hyperparameter files for SpeechBrain's scripts, without its scripts.

Each is loaded and driven as the script it is for drives it. With a checkout,
tests/integration/test_dropins.py runs the scripts themselves.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.inference.classifiers import EncoderClassifier
from torch.utils.data import DataLoader

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
VOXCELEB = RECIPES / "VoxCeleb/SpeakerRec/hparams"
ECAPA = {
    "channels": [16, 16, 16, 16, 48],
    "attention_channels": 8,
    "emb_dim": 16,
}
SIZES = {
    "sincnet": {
        "cnn_channels": [8, 6, 6],
        "fc_neurons": [32, 32, 16],
        "emb_dim": 16,
    },
    "sinc_ecapa_tdnn": ECAPA,
    "ecapa_tdnn_am_softmax": ECAPA,
    "sinc_x_vectors": {"channels": [16] * 5, "emb_dim": 16},
}
TRAINING = sorted(RECIPES.glob("*/*/hparams/train_*.yaml"))
VERIFICATION = sorted(VOXCELEB.glob("verification_*.yaml"))


def load(path, folder, **overrides):
    """A file with a small model of its kind."""
    size = SIZES[path.stem.split("_", 1)[1]]
    overrides = {
        "data_folder": "corpus",
        "output_folder": str(folder),
        **size,
        **overrides,
    }
    if "CommonLanguage" in path.parts:
        overrides["n_languages"] = 5
    elif path.stem.startswith("train"):
        overrides["out_n_neurons"] = 5
    torch.manual_seed(0)
    return load_hyperpyyaml(path.read_text(), overrides)


def name_of(path):
    return f"{path.parts[-4]}-{path.stem}"


def speech(batch=4, time=8000):
    generator = torch.Generator().manual_seed(1)
    x = 0.1 * torch.randn(batch, time, generator=generator)
    lens = torch.ones(batch)
    lens[-1] = 0.75
    x[-1, int(0.75 * time) :] = 0
    return x, lens


def scores(hparams, wavs, lens):
    """What the scripts do between the waveforms and the loss."""
    modules = torch.nn.ModuleDict(hparams["modules"])
    norm = (
        modules.mean_var_norm_input
        if "mean_var_norm_input" in modules
        else modules.mean_var_norm
    )
    feats = norm(modules.compute_features(wavs), lens)
    return modules.classifier(modules.embedding_model(feats))


def costs(hparams, predictions, targets, lens):
    """CommonLanguage's script passes no lengths."""
    if "n_languages" in hparams:
        return hparams["compute_cost"](predictions, targets)
    return hparams["compute_cost"](predictions, targets, lens)


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_it_trains(path, tmp_path):
    hparams = load(path, tmp_path)
    modules = torch.nn.ModuleDict(hparams["modules"])
    optimizer = hparams["opt_class"](modules.parameters(), lr=0.002)
    before = {k: v.clone() for k, v in modules.state_dict().items()}
    wavs, lens = speech()
    targets = torch.tensor([[0], [3], [1], [4]])
    losses = []
    for _ in range(12):
        predictions = scores(hparams, wavs, lens)
        assert predictions.shape == (4, 1, 5)
        loss = costs(hparams, predictions, targets, lens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for key, parameter in modules.named_parameters():
        assert parameter.grad is not None, key
        assert not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_its_augmentation_keeps_the_labels(path, tmp_path):
    hparams = load(path, tmp_path)
    wavs, lens = hparams["wav_augment"](*speech())
    labels = torch.tensor([[0], [3], [1], [4]])
    labels = hparams["wav_augment"].replicate_labels(labels)
    assert len(wavs) == len(lens) == len(labels) == 8
    for prepare in ("prepare_noise_data", "prepare_rir_data"):
        assert not hparams[prepare]()


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_all_that_learns_is_in_the_checkpoint(path, tmp_path):
    hparams = load(path, tmp_path)
    saved = hparams["checkpointer"].recoverables
    kept = {id(p) for m in saved.values() for p in parameters(m)}
    for module in hparams["modules"].values():
        assert {id(p) for p in parameters(module)} <= kept
    cost = hparams["compute_cost"]
    if getattr(cost, "steps", None) is not None:
        assert cost in saved.values()

    wavs, lens = speech()
    targets = torch.tensor([[0], [3], [1], [4]])
    costs(hparams, scores(hparams, wavs, lens), targets, lens)
    hparams["checkpointer"].save_checkpoint()
    other = load(path, tmp_path)
    for module in other["modules"].values():
        for parameter in parameters(module):
            parameter.data += 0.1
    other["checkpointer"].recover_if_possible()
    with torch.no_grad():
        for one in (hparams, other):
            torch.nn.ModuleDict(one["modules"]).eval()
        both = [scores(one, wavs, lens) for one in (hparams, other)]
    # SpeechBrain's x-vectors add a little noise, always.
    torch.testing.assert_close(*both, atol=1e-3, rtol=1e-3)
    assert getattr(other["compute_cost"], "steps", 1) == 1


def parameters(thing):
    return thing.parameters() if isinstance(thing, torch.nn.Module) else ()


@pytest.mark.parametrize("path", VERIFICATION, ids=name_of)
def test_verification_loads_what_training_saved(path, tmp_path):
    train = load(
        path.with_name(path.name.replace("verification", "train")),
        tmp_path / "training",
    )
    for module in train["modules"].values():
        for parameter in parameters(module):
            parameter.data += 0.01 * torch.randn_like(parameter)
    checkpoint = train["checkpointer"].save_checkpoint()
    hparams = load(
        path, tmp_path / "verification", pretrain_path=str(checkpoint.path)
    )
    Path(hparams["save_folder"]).mkdir(parents=True)
    hparams["pretrainer"].collect_files()
    hparams["pretrainer"].load_collected()
    wavs, lens = speech()
    embeddings = []
    for one in (train, hparams):
        one["embedding_model"].eval()
        with torch.no_grad():
            feats = one["compute_features"](wavs)
            feats = one["mean_var_norm"](feats, lens)
            embeddings.append(one["embedding_model"](feats, lens))
    torch.testing.assert_close(*embeddings, atol=1e-3, rtol=1e-3)
    assert embeddings[0].shape == (4, 1, 16)


@pytest.mark.parametrize("path", TRAINING, ids=name_of)
def test_in_speechbrains_encoder_classifier(path, tmp_path):
    hparams = load(path, tmp_path)
    if "mean_var_norm_input" in hparams:  # as in the file it is published with
        hparams["mean_var_norm"] = hparams["mean_var_norm_input"]
    names = EncoderClassifier.MODULES_NEEDED
    model = EncoderClassifier(
        {name: hparams[name] for name in names}, {"label_encoder": None}
    )
    wavs, lens = speech()
    with torch.no_grad():
        embeddings = model.encode_batch(wavs, lens)
        assert embeddings.shape == (4, 1, 16)
        probabilities = model.mods.classifier(embeddings)
    assert probabilities.shape == (4, 1, 5)
    # One recording as a row, as classify_file passes it
    assert model.encode_batch(wavs[:1]).shape == (1, 1, 16)


def test_sincnet_embeds_the_same_alone_and_padded(tmp_path):
    hparams = load(VOXCELEB / "train_sincnet.yaml", tmp_path)
    net = hparams["embedding_model"].eval()
    wavs, lens = speech(time=16000)
    with torch.no_grad():
        batch = net(hparams["mean_var_norm"](wavs, lens), lens)
        alone = hparams["mean_var_norm"](wavs[-1:, :12000], torch.ones(1))
        alone = net(alone, torch.ones(1))
    torch.testing.assert_close(batch[-1:], alone, atol=1e-5, rtol=0)


def test_the_front_end_gives_100_frames_a_second(tmp_path):
    for path in TRAINING:
        hparams = load(path, tmp_path)
        if "sinc_" in path.stem:
            frames = hparams["compute_features"](speech(time=48000)[0])
            assert frames.shape[:2] == (4, 300)


def test_the_margin_rises_over_the_batches_it_says(tmp_path):
    path = VOXCELEB / "train_ecapa_tdnn_am_softmax.yaml"
    cost = load(path, tmp_path, warmup_steps=4)["compute_cost"]
    seen = []
    for _ in range(6):
        x = torch.zeros(2, 1, 5, requires_grad=True)
        cost(x, torch.tensor([[0], [1]]), torch.ones(2))
        seen.append(round(cost.loss.margin.item(), 3))
    assert seen == [0, 0.05, 0.1, 0.15, 0.2, 0.2]
    assert cost.loss.scale == 30


def test_stages_of_a_brain_count_training_alone(tmp_path):
    """Driven by SpeechBrain's own loop, with and without validation."""
    path = VOXCELEB / "train_ecapa_tdnn_am_softmax.yaml"
    hparams = load(path, tmp_path, warmup_steps=100)

    class Brain(sb.Brain):
        def compute_forward(self, batch, stage):
            return scores(self.hparams.__dict__, *batch.sig)

        def compute_objectives(self, predictions, batch, stage):
            return self.hparams.compute_cost(predictions, batch.labels, None)

    batch = SimpleNamespace(
        sig=speech(), labels=torch.tensor([[0], [3], [1], [4]])
    )
    brain = Brain(
        hparams["modules"],
        hparams["opt_class"],
        hparams,
        run_opts={"device": "cpu"},
    )

    def batches(count):
        return DataLoader(
            [batch] * count, batch_size=None, collate_fn=lambda x: x
        )

    brain.fit(range(1, 3), batches(3), batches(5), progressbar=False)
    brain.evaluate(batches(4), progressbar=False)
    assert hparams["compute_cost"].steps == 6

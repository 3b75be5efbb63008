"""Our hyperparameter files in SpeechBrain's unmodified scripts.

A generated corpus of 24 speakers in VoxCeleb's layout: 20 to train on, 4 for
verification. Each file is trained until it has learned the training set by
heart, stopped, gone on with, and its embeddings are scored. It needs a
SpeechBrain checkout and some minutes:

> SPEECHBRAIN_CHECKOUT=/path/to/speechbrain make speechbrain-checks
"""

import itertools
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from amsincnet_sb.dataio.demo_corpus import generate_demo_corpus

sys.path.insert(0, str(Path(__file__).parent))
from speechbrain_checkout import (  # noqa: E402
    CHECKOUT,
    ROOT,
    needs_checkout,
    run,
    shell,
)

pytestmark = needs_checkout
TRAINED, STRANGERS = 20, 4
HPARAMS = ROOT / "recipes/VoxCeleb/SpeakerRec/hparams"
ECAPA = {
    "channels": "[32,32,32,32,96]",
    "attention_channels": 16,
    "emb_dim": 32,
}
SINCNET = {
    "cnn_channels": "[20,20,20]",
    "fc_neurons": "[128,128,64]",
    "emb_dim": 64,
}
CASES = {
    # It looks at single windows: few enough of them to be learned by heart
    "sincnet": {
        **SINCNET,
        "sentence_len": 0.2,
        "random_chunk": False,
        "batch_size": 32,
        "warmup_steps": 40,
    },
    "sinc_ecapa_tdnn": ECAPA,
    "sinc_x_vectors": {
        "channels": "[64,64,64,64,128]",
        "emb_dim": 64,
        "batch_size": 32,
    },
    "ecapa_tdnn_am_softmax": {**ECAPA, "warmup_steps": 40},
}
EPOCHS = {"sincnet": 12, "sinc_x_vectors": 12}


def voxceleb_layout(timit, folder):
    """Generated sentences as ``wav/<speaker>/<session>/<utterance>.wav``."""
    trials = {"veri_test2": [], "trained": []}
    for number, speaker in enumerate(sorted(timit.glob("TRAIN/*/*"))):
        name = f"id1{number:04d}"
        for nth, sentence in enumerate(sorted(speaker.glob("S*.WAV"))):
            wav = f"{name}/session{nth // 4}/{nth:05d}.wav"
            to = folder / "wav" / wav
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sentence, to)
            if number < STRANGERS:
                trials["trained"].append(wav)
            elif number >= TRAINED:
                trials["veri_test2"].append(wav)
    (folder / "meta").mkdir()
    for name, wavs in trials.items():
        with open(folder / "meta" / f"{name}.txt", "w") as file:
            for one, other in itertools.combinations(wavs, 2):
                same = int(one.split("/")[0] == other.split("/")[0])
                file.write(f"{same} {one} {other}\n")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    timit = generate_demo_corpus(
        folder / "TIMIT", speakers=TRAINED + STRANGERS, progress=False
    )
    return voxceleb_layout(timit, folder / "VoxCeleb")


def few_windows(corpus, path):
    """A manifest of 24 windows of 200 ms of each trained speaker."""
    with open(path, "w") as file:
        file.write("ID,duration,wav,start,stop,spk_id\n")
        for speaker in sorted((corpus / "wav").iterdir())[:TRAINED]:
            for wav in sorted(speaker.rglob("*.wav"))[:8]:
                for start in (6400, 12800, 19200):
                    file.write(
                        f"{speaker.name}--{wav.stem}--{start},0.2,{wav},"
                        f"{start},{start + 3200},{speaker.name}\n"
                    )
    return path


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory):
    return shell(tmp_path_factory.mktemp("shell") / "bin")


def script(name, hparams, bin_folder, **options):
    """Run one of SpeechBrain's scripts where it is."""
    folder = Path(CHECKOUT, "recipes", "VoxCeleb", "SpeakerRec")
    options = {"device": "cpu", **options}
    return run(
        [
            *("python", "-B", name, str(hparams)),
            *(f"--{key}={value}" for key, value in options.items()),
        ],
        folder,
        bin_folder,
        PYTHONPATH="",
    )


def epochs(output):
    """Training loss and validation error of every epoch."""
    lines = (output / "train_log.txt").read_text()
    found = re.findall(
        r"epoch: (\d+), .*train loss: (\S+) .*valid ErrorRate: (\S+)", lines
    )
    return [(int(e), float(loss), float(error)) for e, loss, error in found]


@pytest.mark.parametrize("name", CASES)
def test_it_trains_overfits_resumes_and_verifies(
    name, corpus, bin_folder, tmp_path
):
    output = tmp_path / "results"
    last = EPOCHS.get(name, 8)
    options = {
        "data_folder": corpus,
        "output_folder": output,
        # What it was trained on, so that learning by heart can be seen
        "valid_annotation": output / "save" / "train.csv",
        "split_ratio": "[99,1]",
        "out_n_neurons": TRAINED,
        "sentence_len": 1.0,
        "batch_size": 16,
        "num_workers": 0,
        "lr": 0.003,
        # Chunks are shorter here than those of the files.
        "drop_chunk": "{drop_length_low: 100, drop_length_high: 200}",
        **CASES[name],
    }
    if name == "sincnet":
        few = few_windows(corpus, tmp_path / "few.csv")
        options.update(
            train_annotation=few, valid_annotation=few, skip_prep=True
        )
    if name != "sinc_x_vectors":
        options["step_size"] = (8 if name == "sincnet" else 14) * last
    file = HPARAMS / f"train_{name}.yaml"
    train = "train_speaker_embeddings.py"

    script(train, file, bin_folder, number_of_epochs=last - 2, **options)
    (first,) = newest(output)
    stopped = {
        path.name: torch.load(path, weights_only=True)
        for path in first.glob("compute_*.ckpt")
    }
    said = script(train, file, bin_folder, number_of_epochs=last, **options)
    assert "Loading a checkpoint from" in said

    log = epochs(output)
    assert [epoch for epoch, *_ in log] == list(range(1, last + 1))
    losses = [loss for _, loss, _ in log]
    # It went on where it was, and not from the start.
    assert losses[-2] < losses[0] / 2
    assert min(error for *_, error in log) <= 0.05

    # What has no place in the networks learned and was kept, too.
    (checkpoint,) = newest(output)
    if name.startswith("sinc_"):
        before = stopped["compute_features.ckpt"]
        after = torch.load(
            checkpoint / "compute_features.ckpt", weights_only=True
        )
        assert set(after) == {"sinc.low", "sinc.band"}
        for key in after:
            assert not torch.equal(before[key], after[key])
    if "warmup_steps" in CASES[name]:
        cost = torch.load(checkpoint / "compute_cost.ckpt", weights_only=True)
        assert (
            steps_of(cost)
            == steps_of(stopped["compute_cost.ckpt"]) // (last - 2) * last
        )

    # Few windows of a speaker teach SincNet nothing about strangers.
    trials = "trained" if name == "sincnet" else "veri_test2"
    trials = corpus / "meta" / f"{trials}.txt"
    error = verified(name, corpus, bin_folder, tmp_path, checkpoint, trials)
    assert error < 35


def steps_of(cost):
    """Training batches that a saved loss has counted."""
    (state,) = (v for k, v in cost.items() if k.endswith("_extra_state"))
    return state["steps"]


def newest(output):
    """The folder of the newest checkpoint."""
    folders = (output / "save").glob("CKPT+*")
    return sorted(folders, key=os.path.getmtime)[-1:]


def verified(name, corpus, bin_folder, tmp_path, checkpoint, trials):
    """EER, in per cent."""
    scored = tmp_path / "scores"
    options = {
        "data_folder": corpus,
        "output_folder": scored,
        "pretrain_path": checkpoint,
        "cohort_size": 20,
        "verification_file": trials,
        **{k: v for k, v in CASES[name].items() if k not in ("warmup_steps",)},
    }
    for key in ("batch_size", "sentence_len", "random_chunk", "lr"):
        options.pop(key, None)
    hparams = HPARAMS / f"verification_{name}.yaml"
    if name == "ecapa_tdnn_am_softmax":  # SpeechBrain's own does for it
        hparams = Path(
            CHECKOUT,
            "recipes/VoxCeleb/SpeakerRec/hparams/verification_ecapa.yaml",
        )
        options["embedding_model"] = (
            f"{{channels: {options.pop('channels')}, "
            f"attention_channels: {options.pop('attention_channels')}, "
            f"lin_neurons: {options.pop('emb_dim')}}}"
        )
    said = script(
        "speaker_verification_cosine.py", hparams, bin_folder, **options
    )
    scores = (scored / "scores.txt").read_text().splitlines()
    assert len(scores) == len(trials.read_text().splitlines())
    return float(re.search(r"EER\(%\)=(\S+)", said)[1])

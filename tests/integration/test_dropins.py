"""Our hyperparameter files in SpeechBrain's unmodified VoxCeleb scripts.

A generated corpus of 24 speakers in VoxCeleb's layout: 20 to train on, 4 for
verification. A file is trained until it has overfitted, with a stop in
between, and its embeddings are scored. It needs a SpeechBrain checkout and
some minutes:

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
from demo_corpus import generate_demo_corpus

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
NETWORKS = {
    "sincnet": {
        "cnn_channels": "[20,20,20]",
        "fc_neurons": "[128,128,64]",
        "emb_dim": 64,
    },
    "sinc_ecapa_tdnn": {
        "channels": "[32,32,32,32,96]",
        "attention_channels": 16,
        "emb_dim": 32,
    },
}
EPOCHS = {"sincnet": 12, "sinc_ecapa_tdnn": 8}
TRAINING = {
    # It looks at single windows: few enough of them to overfit.
    "sincnet": {
        "sentence_len": 0.2,
        "random_chunk": False,
        "batch_size": 32,
        "warmup_steps": 40,
        "step_size": 96,
        "skip_prep": True,
    },
    "sinc_ecapa_tdnn": {
        "sentence_len": 1.0,
        "batch_size": 16,
        "step_size": 112,
    },
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """``wav/<speaker>/<session>/<utterance>.wav`` and lists of trials."""
    folder = tmp_path_factory.mktemp("corpus")
    timit = generate_demo_corpus(
        folder / "TIMIT", speakers=TRAINED + STRANGERS, progress=False
    )
    folder = folder / "VoxCeleb"
    trials = {"veri_test2": [], "trained": []}
    for number, speaker in enumerate(sorted(timit.glob("TRAIN/*/*"))):
        for nth, sentence in enumerate(sorted(speaker.glob("S*.WAV"))):
            wav = f"id1{number:04d}/session{nth // 4}/{nth:05d}.wav"
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


@pytest.fixture
def script(corpus, tmp_path):
    """Runs one of SpeechBrain's scripts where it is."""
    python = shell(tmp_path / "bin")

    def run_script(name, hparams, **options):
        options = {"device": "cpu", "data_folder": corpus, **options}
        command = ["python", "-B", name, str(hparams)]
        command += [f"--{key}={value}" for key, value in options.items()]
        folder = Path(CHECKOUT, "recipes/VoxCeleb/SpeakerRec")
        return run(command, folder, python, PYTHONPATH="")

    return run_script


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


@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_overfits_resumes_and_verifies(
    name, corpus, script, tmp_path
):
    output = tmp_path / "results"
    manifest = output / "save" / "train.csv"
    if name == "sincnet":
        manifest = few_windows(corpus, tmp_path / "few.csv")
    last = EPOCHS[name]

    def train(epochs):
        """Said on the way; and what is in the newest checkpoint."""
        said = script(
            "train_speaker_embeddings.py",
            HPARAMS / f"train_{name}.yaml",
            output_folder=output,
            number_of_epochs=epochs,
            train_annotation=manifest,
            valid_annotation=manifest,  # the same: it is to overfit
            split_ratio="[99,1]",
            out_n_neurons=TRAINED,
            num_workers=0,
            lr=0.003,
            # Chunks are shorter here than those of the files.
            drop_chunk="{drop_length_low: 100, drop_length_high: 200}",
            **NETWORKS[name],
            **TRAINING[name],
        )
        folders = (output / "save").glob("CKPT+*")
        folder = max(folders, key=os.path.getmtime)
        state = {
            path.stem: torch.load(path, weights_only=True)
            for path in folder.glob("compute_*.ckpt")
        }
        return said, folder, state

    _, _, stopped = train(last - 2)
    said, checkpoint, finished = train(last)
    assert "Loading a checkpoint from" in said

    log = re.findall(
        r"epoch: (\d+), .*train loss: (\S+) .*valid ErrorRate: (\S+)",
        (output / "train_log.txt").read_text(),
    )
    epochs, losses, errors = zip(*[map(float, row) for row in log])
    assert epochs == tuple(range(1, last + 1))
    assert losses[-2] < losses[0] / 2  # it went on where it was
    assert min(errors) <= 0.05

    # The filters in front of the network, and the loss, are in it, too.
    if name == "sincnet":
        steps = [
            next(iter(state["compute_cost"].values()))["steps"]
            for state in (stopped, finished)
        ]
        assert steps[1] == steps[0] // (last - 2) * last
    else:
        before, after = (
            state["compute_features"] for state in (stopped, finished)
        )
        assert set(after) == {"sinc.low", "sinc.band"}
        assert not any(torch.equal(before[key], after[key]) for key in after)

    # Few windows of a speaker teach SincNet nothing about strangers.
    trials = "trained" if name == "sincnet" else "veri_test2"
    trials = corpus / "meta" / f"{trials}.txt"
    said = script(
        "speaker_verification_cosine.py",
        HPARAMS / f"verification_{name}.yaml",
        output_folder=tmp_path / "scores",
        pretrain_path=checkpoint,
        cohort_size=20,
        verification_file=trials,
        **NETWORKS[name],
    )
    scores = (tmp_path / "scores" / "scores.txt").read_text().splitlines()
    assert len(scores) == len(trials.read_text().splitlines())
    assert float(re.search(r"EER\(%\)=(\S+)", said)[1]) < 35

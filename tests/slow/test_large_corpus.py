"""A corpus of VoxCeleb's size: quick to start on, cheap to go through.

1.2 million sentences of 7205 speakers, which are parts of a thousand files.
Measured is what does not depend on the network: the start, the memory, and
the time that the chunks of an epoch take.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from amsincnet_sb.dataio.manifest import Provenance, Utterance, write_manifest

RECIPE = Path(__file__).parents[2] / "recipes" / "TIMIT" / "speaker_id"
FILES, SECONDS, RATE = 1000, 8, 16000
BATCHES = 200

# Times from the start of the process on, and the time of drawing alone.
TIMED = """
import json, os, resource, sys, time
sys.path.insert(0, os.getcwd())
import train

begun = float(sys.argv.pop(1))
times = {"epochs": []}
start = train.SpeakerBrain.on_stage_start
fit = train.SpeakerBrain.fit_batch

def on_stage_start(self, stage, epoch=None):
    start(self, stage, epoch)
    if "TRAIN" in str(stage):
        times.setdefault("start", time.time() - begun)
        times["epochs"].append(0.0)

def fit_batch(self, batch):
    before = time.perf_counter()
    batch.sig
    times["epochs"][-1] += time.perf_counter() - before
    return fit(self, batch)

train.SpeakerBrain.on_stage_start = on_stage_start
train.SpeakerBrain.fit_batch = fit_batch
train.main()
times["gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print("TIMES", json.dumps(times))
"""


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audio")
    random = np.random.default_rng(0)
    for number in range(FILES):
        wave = random.uniform(-0.5, 0.5, SECONDS * RATE)
        soundfile.write(folder / f"{number:04d}.wav", wave, RATE)
    return folder


def run(audio, folder, sentences, speakers):
    """Two epochs on some sentences; what was measured."""

    def rows(count, begin=0):
        for i in range(begin, begin + count):
            speaker = f"id{10000 + i % speakers}"
            start = i % 7 * 16
            yield Utterance(
                f"{speaker}-{i:07d}",
                4.0,
                f"{i % FILES:04d}.wav",
                start,
                start + 4 * RATE,
                speaker,
            )

    manifests = {
        split: folder / "manifests" / f"{split}.csv"
        for split in ("train", "test")
    }
    write_manifest(manifests["train"], rows(sentences))
    write_manifest(manifests["test"], rows(20, sentences))
    Provenance({}, "", {}).write(folder / "manifests", manifests)

    options = {
        "data_folder": audio,
        "manifest": folder / "manifests",
        "output_folder": folder / "results",
        "max_resident_gb": 0.1,
        "number_of_epochs": 2,
        "batches_per_epoch": BATCHES,
        "batch_size": 64,
        "valid_interval": 2,
        "window": 1600,
        "hop": 800,
        "sinc_channels": 4,
        "sinc_kernel_size": 51,
        "tdnn_channels": "[4,4]",
        "tdnn_kernel_sizes": "[5,3]",
        "tdnn_strides": "[3,1]",
        "fc_neurons": "[16,16]",
        "embedding_size": 16,
        "device": "cpu",
    }
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            TIMED,
            str(time.time()),
            "hparams/am_sincnet.yaml",
        ]
        + [f"--{key}={value}" for key, value in options.items()],
        cwd=RECIPE,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stderr
    line = [x for x in ended.stdout.splitlines() if x.startswith("TIMES")][-1]
    return json.loads(line.removeprefix("TIMES"))


def test_voxceleb_sized(audio, tmp_path):
    small = run(audio, tmp_path / "small", 12_000, 7205)
    large = run(audio, tmp_path / "large", 1_200_000, 7205)
    print(f"\n12 000 sentences: {small}\n1 200 000 sentences: {large}")
    assert large["start"] < 60
    assert large["gib"] < 3
    # The second epoch: the first one finds no file in the system's cache.
    assert large["epochs"][1] < 1.5 * small["epochs"][1] + 1

"""A corpus of VoxCeleb's size: quick to start on, cheap to go through.

1.2 million utterances of 7205 speakers, which are parts of a thousand files.
Measured is what does not depend on the network: the start, the memory, and
the time that the chunks of an epoch take.
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import recipe_process
import soundfile

from amsincnet_sb.dataio.manifest import Provenance, Utterance, write_manifest

pytestmark = pytest.mark.slow
UTTERANCES = int(os.environ.get("LARGE_CORPUS", 1_200_000))
FILES, SECONDS, RATE, SPEAKERS = 1000, 8, 16000, 7205

# Times from the start of the process on, and the time of drawing alone.
TIMED = """
import json, os, resource, sys, time
sys.path.insert(0, os.getcwd())
import train

begun = float(sys.argv.pop(1))
times = {"epochs": [0.0, 0.0]}
get = train.RandomChunks.__getitem__

def timed(self, item):
    times.setdefault("start", time.time() - begun)
    before = time.perf_counter()
    batch = get(self, item)
    times["epochs"][self.epoch - 1] += time.perf_counter() - before
    return batch

train.RandomChunks.__getitem__ = timed
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


def rows(begin, end):
    for i in range(begin, end):
        speaker, start = f"id{10000 + i % SPEAKERS}", i % 7 * 16
        wav, stop = f"{i % FILES:04d}.wav", start + 4 * RATE
        yield Utterance(f"{speaker}-{i}", 4.0, wav, start, stop, speaker)


def run(audio, folder, utterances):
    """Two epochs on some utterances; what was measured."""
    manifests = {s: folder / "lists" / f"{s}.csv" for s in ("train", "test")}
    write_manifest(manifests["train"], rows(0, utterances))
    write_manifest(manifests["test"], rows(utterances, utterances + 20))
    Provenance({}, "").write(folder / "lists", manifests)
    options = {
        **recipe_process.SMALL,
        "data_folder": audio,
        "manifest": folder / "lists",
        "output_folder": folder / "results",
        "max_resident_gb": 0.1,
        "number_of_epochs": 2,
        "batches_per_epoch": 200,
        "batch_size": 64,
        "valid_interval": 2,
        "device": "cpu",
    }
    _, *arguments = recipe_process.arguments("sinc_tdnn.yaml", **options)
    ended = subprocess.run(
        [sys.executable, "-c", TIMED, str(time.time()), *arguments],
        cwd=recipe_process.RECIPE,
        env=recipe_process.environment(OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.rpartition("TIMES")[2])


def test_voxceleb_sized(audio, tmp_path):
    small = run(audio, tmp_path / "small", 12_000)
    large = run(audio, tmp_path / "large", UTTERANCES)
    print(f"\n12 000 utterances: {small}\n{UTTERANCES}: {large}")
    assert large["start"] < 60
    assert large["gib"] < 3
    # The second epoch: the first one finds no file in the system's cache.
    assert large["epochs"][1] < 1.5 * small["epochs"][1] + 1

"""Time of `amsincnet identify` from typing it, on a CPU.

A full model (462 speakers, random weights: they cost as much as trained ones)
and recordings of noise, 3 s each. Prints the seconds until the first answer,
imports included, and the files per second from then on; with --hour also the
time and the memory for an hour of 44.1 kHz stereo.

    python tests/benchmarks/identify.py --files 200 --hour
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import soundfile

from amsincnet_sb.inference.model_config import NETWORKS
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier

COMMAND = [sys.executable, "-m", "amsincnet_sb.cli", "identify"]


def noise(path, seconds, rate=16000, channels=1):
    """Write a recording of noise, a second at a time."""
    generator = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        for _ in range(seconds):
            file.write(generator.normal(0, 0.1, (rate, channels)))


def identify(model, files):
    """Seconds after the start at which each answer comes."""
    start = time.perf_counter()
    with subprocess.Popen(
        [*COMMAND, model, *files], stdout=subprocess.PIPE, text=True
    ) as process:
        times = [time.perf_counter() - start for _ in process.stdout]
    assert process.returncode == 0 and len(times) == len(files)
    return times


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--model", help="results folder of a trained model")
    parser.add_argument("--network", choices=NETWORKS, default="SincTDNN")
    parser.add_argument("--hour", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or f"{folder}/model"
        if not options.model:
            net = NETWORKS[options.network]()
            names = [f"speaker{i}" for i in range(462)]
            classify = CosineClassifier(net.embedding_size, len(names))
            write_pretrained(model, net, classify, names, 30.0)
        files = [f"{folder}/{i}.wav" for i in range(options.files)]
        noise(files[0], 3)
        for path in files[1:]:
            os.link(files[0], path)
        first, *rest = identify(model, files)
        # Answers come batch by batch: those of the first cost nothing more.
        later = [each for each in rest if each > first + 0.1]
        print(
            f"first answer after {first:.2f} s, then "
            f"{len(later) / (later[-1] - first):.1f} files/s "
            f"(load {os.getloadavg()[0]:.1f})"
        )
        if options.hour:
            path = f"{folder}/hour.wav"
            noise(path, 3600, 44100, 2)
            (seconds,) = identify(model, [path])
            used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
            print(f"an hour: {seconds:.0f} s, {used / 2**20:.2f} GiB at most")


if __name__ == "__main__":
    main()

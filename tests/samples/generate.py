#!/usr/bin/env python3
"""Make the samples that the rows in tests/recipes are run on.

Two generated speakers, each with five sentences to train on and three to
test, in TIMIT's layout and cut to 0.6 s; the manifests beside them are for
SpeechBrain's scripts. No recording is involved.

> python tests/samples/generate.py
"""

import csv
import sys
from pathlib import Path

import soundfile

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "recipes" / "TIMIT"))

from demo_corpus import SAMPLE_RATE, make_voice, speak  # noqa: E402

SAMPLES = int(0.6 * SAMPLE_RATE)
TRAIN = (3, 93, 183, 273, 363)
TEST = (453, 1083, 1713)


def main():
    """Write sentences and manifests."""
    rows = {"train": [], "test": []}
    for index in range(2):
        voice = make_voice(index, seed=7)
        folder = HERE / "TIMIT" / "TRAIN" / f"DR{voice.dialect}" / voice.name
        folder.mkdir(parents=True, exist_ok=True)
        for number in (*TRAIN, *TEST):
            samples, words = speak(voice, number)
            start = words[0][0]
            samples = samples[start : start + SAMPLES]
            name = f"{'SX' if number in TRAIN else 'SI'}{number}.WAV"
            soundfile.write(folder / name, samples, SAMPLE_RATE, format="WAV")
            (folder / name).with_suffix(".WRD").write_text(
                f"0 {SAMPLES} speech\n"
            )
            split = "train" if number in TRAIN else "test"
            rows[split].append((voice.name, folder / name))
    for split, utterances in rows.items():
        write_manifest(split, utterances)
    with open(HERE / "verification.txt", "w") as file:
        for first, path in rows["test"]:
            for second, other in rows["test"]:
                file.write(
                    f"{int(first == second)} {first}-{path.stem} "
                    f"{second}-{other.stem}\n"
                )


def write_manifest(split, utterances):
    """As SpeechBrain's VoxCeleb recipes read it.

    Arguments
    ---------
    split : str
        Name of the file.
    utterances : list of tuple
        Speaker and path of each.
    """
    with open(HERE / f"{split}.csv", "w", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        write("ID duration wav start stop spk_id".split())
        for speaker, path in utterances:
            wav = f"$data_root/{path.relative_to(HERE).as_posix()}"
            duration = SAMPLES / SAMPLE_RATE
            ID = f"{speaker}-{path.stem}"
            write([ID, duration, wav, 0, SAMPLES, speaker])


if __name__ == "__main__":
    main()

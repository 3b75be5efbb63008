"""Errors about enrolled speakers with one mean, and with several prototypes.

> python tests/benchmarks/prototypes.py results/sinc_tdnn --manifest all.csv \\
      --data_folder /path/to/corpus

The manifest (utterance, speaker, wav) has speakers that the model does not
know. From some recordings of each they are enrolled, and asked about in two
others, in random draws, among all speakers; as the recordings are, and with
every second one through a telephone's band (300 to 3400 Hz).
"""

import argparse
import copy
import csv
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.signal import butter, sosfiltfilt

from amsincnet_sb.dataio.audio import audio_info, read_audio
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.nnet.scoring import log_posteriors

BAND = [300, 3400]
WAYS = {"one mean": 1, "two": 2, "by default": None}


def embeddings(model, path, telephone):
    """Those of the windows of a recording, ``[windows, size]``."""
    rate, found = model.embedding_model.sample_rate, []
    wave = read_audio(path, 0, audio_info(path).samples, rate)
    if telephone:
        band = butter(6, BAND, "bandpass", fs=rate, output="sos")
        wave = torch.from_numpy(sosfiltfilt(band, wave).copy()).float()

    def keep(windows, *_):
        """Gets the embeddings on their way."""
        found.append(windows.clone())
        return [windows[:, :1]]

    list(model.analyse_all([wave], measure=keep))
    return torch.cat(found)


def error(model, people, enrolled, prototypes, draws):
    """Percent of wrong answers."""
    choose, wrong, asked = random.Random(0), 0, 0
    for _ in range(draws):
        classify = copy.deepcopy(model.classifier)
        rest = {}
        for name, found in people.items():
            drawn = choose.sample(found, len(found))
            own = [F.normalize(e, dim=-1).mean(0) for e in drawn[:enrolled]]
            classify.enroll(name, torch.stack(own), prototypes)
            rest[name] = drawn[enrolled:][:2]
        for name, several in rest.items():
            for one in several:
                outputs = classify(one[:, None]).squeeze(1)
                scores = log_posteriors(outputs, model.scale).mean(0)
                wrong += classify.speakers[scores.argmax()] != name
                asked += 1
    return 100 * wrong / asked


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data_folder", type=Path, required=True)
    parser.add_argument("--enrolled", type=int, nargs="+", default=[3, 6])
    parser.add_argument("--draws", type=int, default=8)
    args = parser.parse_args()
    model = SpeakerIdentifier.from_results(args.model)
    with open(args.manifest, newline="") as file:
        rows = [r for r in csv.DictReader(file)]
    rows = [r for r in rows if r["speaker"] not in model.speakers]
    print(f"{len({r['speaker'] for r in rows})} speakers, error in percent")
    print("| recordings | enrolled |", *(f"{way} |" for way in WAYS))
    for kind in ("alike", "mixed"):
        people = {}
        for row in rows:
            own = people.setdefault(row["speaker"], [])
            telephone = kind == "mixed" and len(own) % 2 == 1
            path = str(args.data_folder / row["wav"])
            own.append(embeddings(model, path, telephone))
        for enrolled in args.enrolled:
            found = (
                error(model, people, enrolled, count, args.draws)
                for count in WAYS.values()
            )
            print(f"| {kind} | {enrolled} |", *(f"{e:.2f} |" for e in found))


if __name__ == "__main__":
    with torch.inference_mode():
        main()

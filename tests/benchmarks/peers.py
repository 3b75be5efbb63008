"""Speed and errors of our models and of other systems on the same recordings.

Every system names or embeds the same test utterances, from file to answer on
a CPU, in turns in one process:

* our model, by ``SpeakerIdentifier.identify`` of all files;
* SpeechBrain's ECAPA-TDNN with 512 and 1024 channels behind its Fbank, with
  random weights, which cost as much as trained ones: time alone;
* Resemblyzer with the weights of its package, voice activity detection
  included. It has not heard these speakers, so it names the one whose mean
  embedding of the training utterances is nearest.

    pip install --no-deps resemblyzer && pip install librosa webrtcvad-wheels
    amsincnet prepare CORPUS --output manifests
    python tests/benchmarks/peers.py MODEL manifests --data_folder=CORPUS

Prints a table: real-time factors (time over the audio's length; medians over
rounds, from the 10th to the 90th percentile), the median of ours over theirs
within a round, and sentence errors on all test utterances. Other systems get
one file after the other, which is how their interfaces take them.
"""

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization
from train_step import command_line, in_turns, machine

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference import SpeakerIdentifier
from amsincnet_sb.utils.errors import exit_on_input_error

OURS, RESEMBLYZER = "ours", "Resemblyzer"


def ecapa(channels):
    """SpeechBrain's ECAPA-TDNN as its recipe for VoxCeleb has it."""
    network = ECAPA_TDNN(
        80, channels=[channels] * 4 + [3 * channels], lin_neurons=192
    ).eval()
    features = Fbank(n_mels=80)
    normalise = InputNormalization(norm_type="sentence", std_norm=False)

    @torch.inference_mode()
    def embed(paths):
        """An embedding of each file."""
        length = torch.ones(1)
        found = []
        for path in paths:
            wave = read_audio(path)[None]
            found.append(network(normalise(features(wave), length), length))
        return found

    return embed


def resemblyzer():
    """Resemblyzer's embedding of files; None where it is not installed."""
    try:
        from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError as error:
        print(
            f"Without Resemblyzer ({error}); pip install --no-deps "
            "resemblyzer && pip install librosa webrtcvad-wheels",
            file=sys.stderr,
        )
        return None
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(paths):
        """An embedding of each file."""
        return [encoder.embed_utterance(preprocess_wav(path)) for path in paths]

    return embed


def in_batches(function, waves, most=64):
    """Results of a function of batches ``[batch, T]`` for waveforms ``[T]``.

    Only those of one length share a batch, so that nothing is padded.
    """
    alike, found = defaultdict(list), [None] * len(waves)
    for i, wave in enumerate(waves):
        alike[len(wave)].append(i)
    for places in alike.values():
        for start in range(0, len(places), most):
            part = places[start : start + most]
            results = function(torch.stack([waves[i] for i in part])).cpu()
            for i, result in zip(part, results):
                found[i] = result
    return torch.stack(found)


def centroids(vectors, label, speakers):
    """Mean directions of each speaker's embeddings, ``[speakers, size]``."""
    sums = torch.zeros(speakers, vectors.shape[1])
    return F.normalize(
        sums.index_add(0, label, F.normalize(vectors, dim=1)), dim=1
    )


def nearest_centroid(embed, train, test):
    """The speakers whose mean training embedding is nearest to each test one."""
    speakers = sorted({speaker for _, speaker in train})
    label = torch.tensor([speakers.index(speaker) for _, speaker in train])
    learned, asked = (
        torch.stack([torch.as_tensor(one) for one in embed(paths)])
        for paths in ([path for path, _ in rows] for rows in (train, test))
    )
    means = centroids(learned, label, len(speakers))
    return [speakers[i] for i in (asked @ means.T).argmax(1)]


def utterances(path, folder):
    """Files and speakers of a manifest."""
    rows = read_manifest(path)
    return [(str(Path(folder, row.wav)), row.spk_id) for row in rows]


def percentile(values, share):
    """The value below which so large a share of some values lies."""
    return sorted(values)[round(share * (len(values) - 1))]


def main():
    """Measure, print, and write JSON."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("model", help="results folder of a trained model")
    add("manifests", help="folder with train.csv and test.csv")
    add("--data_folder", required=True)
    add("--files", type=int, default=48, help="test utterances of a round")
    add("--rounds", type=int, default=9)
    add("--threads", type=int, default=2)
    add("--output", help="JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    train, test = (
        utterances(Path(args.manifests, f"{split}.csv"), args.data_folder)
        for split in ("train", "test")
    )
    model = SpeakerIdentifier.from_results(args.model)
    systems = {
        OURS: lambda paths: [
            found[0].speaker for found in model.identify(paths)
        ],
        "ECAPA-TDNN 512": ecapa(512),
        "ECAPA-TDNN 1024": ecapa(1024),
        RESEMBLYZER: resemblyzer(),
    }
    systems = {name: run for name, run in systems.items() if run}
    timed = [path for path, _ in test[: args.files]]
    seconds = sum(len(read_audio(path)) for path in timed) / 16000
    rounds = {name: lambda run=run: run(timed) for name, run in systems.items()}
    times = in_turns(rounds, args.rounds)
    named = {OURS: systems[OURS]([path for path, _ in test])}
    if RESEMBLYZER in systems:
        embed = systems[RESEMBLYZER]
        named[RESEMBLYZER] = nearest_centroid(embed, train, test)
    found = {"machine": machine("cpu"), "files": len(timed), "systems": {}}
    found["seconds_of_a_file"] = seconds / len(timed)
    print(
        f"{len(timed)} files of {seconds / len(timed):.2f} s, {args.rounds} "
        f"rounds; {found['machine']}"
    )
    print("| system | real-time factor | 10-90 % | ours / it | error % |")
    print("|---|---|---|---|---|")
    for name, each in times.items():
        factors = [ms / 1e3 / seconds for ms in each]
        row = found["systems"][name] = {
            "real_time_factor": statistics.median(factors),
            "spread": [percentile(factors, share) for share in (0.1, 0.9)],
            "ours_over_it": statistics.median(
                a / b for a, b in zip(times[OURS], each)
            ),
        }
        error = "-"
        if name in named:
            wrong = sum(a != b for a, (_, b) in zip(named[name], test))
            row["sentence_error"] = 100 * wrong / len(test)
            error = f"{row['sentence_error']:.2f}"
        low, high = row["spread"]
        print(
            f"| {name} | {row['real_time_factor']:.4f} | {low:.4f}-{high:.4f} "
            f"| {row['ours_over_it']:.2f} | {error} |",
            flush=True,
        )
    if args.output:
        Path(args.output).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    with exit_on_input_error():
        main()

"""Errors of trained models on clean, noisy and telephone speech.

Every model gets the same utterances: as they are, with white noise at 20 and
10 dB below the utterance, and through a telephone's band (300 to 3400 Hz, a
Butterworth filter of order 4). The noise of an utterance depends on its
position in the manifest alone. Prints a table of frame / sentence errors.

    python tests/benchmarks/robustness.py --manifest manifests/test.csv \\
        --data_folder corpus results/am_sincnet/m0.3/1234
"""

from pathlib import Path

import numpy as np
import torch
from scipy.signal import butter, sosfilt
from tqdm import tqdm
from train_step import command_line

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference import SpeakerIdentifier
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.training.metrics import error_summary


def noisy(wave, seed, snr):
    """Add white noise, so many dB below the utterance."""
    noise = np.random.default_rng(seed).standard_normal(len(wave))
    gain = np.sqrt(np.mean(wave**2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    return wave + gain * noise


def telephone(wave, rate):
    """Filter to a telephone's band."""
    band = butter(4, (300, 3400), "bandpass", fs=rate, output="sos")
    return sosfilt(band, wave)


CONDITIONS = {
    "clean": lambda wave, seed, rate: wave,
    "noise 20 dB": lambda wave, seed, rate: noisy(wave, seed, 20),
    "noise 10 dB": lambda wave, seed, rate: noisy(wave, seed, 10),
    "telephone": lambda wave, seed, rate: telephone(wave, rate),
}


def errors(model, utterances, waves, condition):
    """Frame and sentence error of a model, as in training."""
    label = {name: i for i, name in enumerate(model.speakers)}
    labels = torch.tensor([label[u.spk_id] for u in utterances])
    known, rate = labels.to(model.device), model.embedding_model.sample_rate

    def measure(embeddings, outputs, utterance):
        scores = log_posteriors(outputs, model.scale)
        return scores, (scores.argmax(-1) != known[utterance]).float()

    changed = (
        torch.from_numpy(CONDITIONS[condition](wave, i, rate)).float()
        for i, wave in enumerate(waves)
    )
    found = zip(*model.analyse_all(changed, measure=measure))
    scores, wrong = (torch.stack(each).cpu() for each in found)
    return error_summary(wrong, scores, labels)


def main():
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("models", nargs="+", help="results folders")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data_folder", required=True)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    args = parser.parse_args()
    utterances = read_manifest(args.manifest)
    waves = [
        read_audio(Path(args.data_folder, u.wav), u.start, u.stop).numpy()
        for u in tqdm(utterances, desc="Reading", disable=None)
    ]
    print(f"{len(utterances)} utterances; frame / sentence error in per cent")
    print("| model |", " | ".join(CONDITIONS), "|")
    print("|---|" + "---|" * len(CONDITIONS), flush=True)
    for folder in args.models:
        model = SpeakerIdentifier.from_results(folder, args.device)
        model.hop = model.embedding_model.hop
        cells = []
        for condition in CONDITIONS:
            found = errors(model, utterances, waves, condition)
            cells.append(
                f"{found['frame_error']:.2f} / {found['sentence_error']:.2f}"
            )
        print(f"| {folder} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

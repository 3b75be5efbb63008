"""Errors of trained models on clean, noisy and telephone speech.

Example: ``python tests/benchmarks/robustness.py --manifest manifests/test.csv
--data_folder corpus results/am_sincnet/m0.3/1234 results/released/m0.35/1234``.
Every model gets the same sentences: as they are, with white noise at 20 and
10 dB below the sentence, and through a telephone's band (300 to 3400 Hz, a
Butterworth filter of order 4). The noise of a sentence depends on its number
alone.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.signal import butter, sosfilt
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.dataio.audio import read_audio  # noqa: E402
from amsincnet_sb.dataio.audio_store import ResidentAudio  # noqa: E402
from amsincnet_sb.dataio.batches import SlidingWindows  # noqa: E402
from amsincnet_sb.dataio.manifest import read_manifest  # noqa: E402
from amsincnet_sb.inference.pretrained import read_pretrained  # noqa: E402
from amsincnet_sb.lobes.frozen import for_evaluation  # noqa: E402
from amsincnet_sb.nnet.scoring import log_posteriors  # noqa: E402
from amsincnet_sb.training.metrics import SentenceErrors  # noqa: E402


def noisy(wave, number, snr):
    """White noise, so many dB below the sentence."""
    noise = np.random.default_rng(number).standard_normal(len(wave))
    gain = np.sqrt(np.mean(wave**2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    return wave + gain * noise


def telephone(wave, rate):
    """What a telephone lets through."""
    band = butter(4, (300, 3400), "bandpass", fs=rate, output="sos")
    return sosfilt(band, wave)


CONDITIONS = {
    "clean": lambda wave, number, rate: wave,
    "noise 20 dB": lambda wave, number, rate: noisy(wave, number, 20),
    "noise 10 dB": lambda wave, number, rate: noisy(wave, number, 10),
    "telephone": lambda wave, number, rate: telephone(wave, rate),
}


@torch.no_grad()
def errors(folder, sentences, waves, condition, device):
    """Frame and sentence error of a model."""
    net, classifier, config = read_pretrained(folder)
    net, classifier = net.to(device), classifier.to(device)
    numbers = {name: i for i, name in enumerate(config["speakers"])}
    changed = [
        torch.from_numpy(CONDITIONS[condition](wave, i, net.sample_rate))
        for i, wave in enumerate(waves)
    ]
    audio = ResidentAudio(
        [wave.float() for wave in changed],
        [numbers[s.spk_id] for s in sentences],
        [s.id for s in sentences],
    ).to(device)
    embed = for_evaluation(net)
    found = SentenceErrors(audio.labels)
    for batch in SlidingWindows(audio, net.window, net.hop, 1024):
        scores = classifier(embed(batch.sig.data))
        found.append(batch.utterance, log_posteriors(scores, config["scale"]))
    return found.summarize()


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", help="results folders")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data_folder", required=True)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    args = parser.parse_args()
    sentences = read_manifest(args.manifest)
    waves = [
        read_audio(str(Path(args.data_folder, s.wav)), s.start, s.stop).numpy()
        for s in tqdm(sentences, desc="Reading", disable=None)
    ]
    print(f"{len(sentences)} sentences; frame / sentence error in per cent")
    print("| model |", " | ".join(CONDITIONS), "|")
    print("|---|" + "---|" * len(CONDITIONS), flush=True)
    for folder in args.models:
        cells = []
        for condition in CONDITIONS:
            found = errors(folder, sentences, waves, condition, args.device)
            cells.append(
                f"{found['frame_error']:.2f} / {found['sentence_error']:.2f}"
            )
        print(f"| {folder} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()

"""Errors of trained models on what people have in place of clean recordings.

Every model gets the same utterances: as they are; with white noise, pink noise
and babble (six other utterances) 20, 10 and 5 dB below them; through a
telephone's band (300 to 3400 Hz, a causal Butterworth filter of order 4), and
with the magnitude of its response alone or the phase alone; through telephones
(8 kHz and µ-law, 8 kHz and GSM 06.10); as MP3 and Opus of about 24 kbit/s; in
rooms that reverberate for 0.3 and 0.6 s (shoebox rooms by the image method, the
talker 1 to 2 m away); clipped 6 dB below their peak.
What is random depends on the utterance's position in the manifest alone.
Prints a table of frame / sentence errors.

    python tests/benchmarks/robustness.py --manifest manifests/test.csv \\
        --data_folder corpus --picture robustness.png \\
        results/am_sincnet/m0.3/1234
"""

import argparse
import io
import json
import multiprocessing
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import butter, fftconvolve, resample_poly, sosfilt, sosfreqz
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conversations import coloured  # noqa: E402

from amsincnet_sb.dataio.audio import read_audio  # noqa: E402
from amsincnet_sb.dataio.manifest import read_manifest  # noqa: E402
from amsincnet_sb.inference import SpeakerIdentifier  # noqa: E402
from amsincnet_sb.nnet.scoring import log_posteriors  # noqa: E402
from amsincnet_sb.training.metrics import error_summary  # noqa: E402

WAVES = []  # of all utterances, for the processes that change them
SPEED_OF_SOUND = 343.0
ROOMS = 24  # of each reverberation time


def at_snr(wave, noise, snr):
    """Add noise so many dB below the utterance."""
    gain = np.sqrt(np.mean(wave**2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    return wave + gain * noise


def noisy(wave, seed, rate, snr, slope=0):
    """Noise whose power density falls as ``f ** -slope``."""
    noise = np.random.default_rng(seed).standard_normal(len(wave))
    if slope:
        noise = coloured(noise, rate, slope)
    return at_snr(wave, noise, snr)


def babble(wave, seed, rate, snr, voices=6):
    """Other utterances, repeated to the length of this one."""
    rng = np.random.default_rng(seed)
    others = rng.choice(np.delete(np.arange(len(WAVES)), seed), voices)
    others = [np.resize(WAVES[i], len(wave)) for i in others]
    return at_snr(wave, sum(x / (x.std() + 1e-9) for x in others), snr)


def telephone(wave, seed, rate, part=None):
    """Filter to a telephone's band, or with one part of the response."""
    band = butter(4, (300, 3400), "bandpass", fs=rate, output="sos")
    if part is None:
        return sosfilt(band, wave)
    # Long enough for the filter to have died away.
    longer = len(wave) + rate // 4
    hz = np.fft.rfftfreq(longer, 1 / rate)
    response = sosfreqz(band, hz, fs=rate)[1]
    if part == "magnitude":
        response = np.abs(response)
    else:
        response = np.exp(1j * np.angle(response))
    spectrum = np.fft.rfft(wave, longer) * response
    return np.fft.irfft(spectrum, longer)[: len(wave)]


def coded(wave, seed, rate, coder_rate, **format):
    """Write and read again in a format of libsndfile."""
    file = io.BytesIO()
    narrow = resample_poly(wave, coder_rate, rate)
    soundfile.write(file, narrow.clip(-1, 1), coder_rate, **format)
    file.seek(0)
    return resample_poly(soundfile.read(file)[0], rate, coder_rate)


@cache
def room(seed, rate, rt60):
    """Impulse response of a random shoebox room, by the image method.

    J. Allen and D. Berkley, "Image method for efficiently simulating
    small-room acoustics", JASA 65 (1979); the walls' absorption is Eyring's.
    Walls turn the sign, so that late images do not add up at low frequencies.
    """
    rng = np.random.default_rng(seed)
    size = np.array([6.0, 5.0, 3.0]) * rng.uniform(0.7, 1.3, 3)
    surface = 2 * (size * np.roll(size, 1)).sum()
    reflection = np.exp(-0.161 * size.prod() / (2 * surface * rt60))
    mouth = size * rng.uniform(0.3, 0.7, 3)
    way = rng.standard_normal(3) * (1, 1, 0.2)
    ear = mouth + way / np.linalg.norm(way) * rng.uniform(1, 2)
    ear = ear.clip(0.2, size - 0.2)
    squares, bounces = 0.0, 0
    for axis in range(3):
        most = int(SPEED_OF_SOUND * rt60 / (2 * size[axis])) + 1
        n = np.arange(-most, most + 1)[:, None]
        mirrored = np.array([0, 1])
        at = 2 * n * size[axis] + (1 - 2 * mirrored) * mouth[axis] - ear[axis]
        shape = [1, 1, 1]
        shape[axis] = -1
        squares = squares + (at**2).reshape(shape)
        bounces = bounces + (abs(n - mirrored) + abs(n)).reshape(shape)
    distance = np.sqrt(squares).ravel()
    gain = (-reflection) ** bounces.ravel() / distance
    sample = (distance / SPEED_OF_SOUND * rate).round().astype(int)
    kept = distance < SPEED_OF_SOUND * rt60
    return np.bincount(sample[kept], gain[kept])


def reverberant(wave, seed, rate, rt60):
    """The utterance in one of some rooms."""
    response = room(seed % ROOMS, rate, rt60)
    return fftconvolve(wave, response)[: len(wave)]


def clipped(wave, seed, rate):
    """Cut off at half the peak."""
    return wave.clip(-abs(wave).max() / 2, abs(wave).max() / 2)


MP3 = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT"}
OPUS = {"format": "OGG", "subtype": "OPUS"}
CONDITIONS = {
    "clean": lambda wave, seed, rate: wave,
    **{
        f"{name}, {snr} dB": partial(change, snr=snr)
        for name, change in (
            ("white noise", noisy),
            ("pink noise", partial(noisy, slope=1)),
            ("babble", babble),
        )
        for snr in (20, 10, 5)
    },
    "telephone band": telephone,
    "its magnitude": partial(telephone, part="magnitude"),
    "its phase": partial(telephone, part="phase"),
    "8 kHz, µ-law": partial(
        coded, coder_rate=8000, format="WAV", subtype="ULAW"
    ),
    "8 kHz, GSM 06.10": partial(
        coded, coder_rate=8000, format="WAV", subtype="GSM610"
    ),
    "MP3, 24 kbit/s": partial(
        coded, coder_rate=16000, compression_level=0.9, **MP3
    ),
    "Opus, 24 kbit/s": partial(
        coded, coder_rate=16000, compression_level=0.928, **OPUS
    ),
    "room, 0.3 s": partial(reverberant, rt60=0.3),
    "room, 0.6 s": partial(reverberant, rt60=0.6),
    "clipped, 6 dB": clipped,
}


def changed(task):
    """An utterance in a condition, in a process of its own."""
    condition, seed, rate = task
    wave = CONDITIONS[condition](WAVES[seed], seed, rate)
    return np.asarray(wave, np.float32)


def errors(model, utterances, waves):
    """Frame and sentence error of a model, as in training."""
    label = {name: i for i, name in enumerate(model.speakers)}
    labels = torch.tensor([label[u.spk_id] for u in utterances])
    known = labels.to(model.device)

    def measure(embeddings, outputs, utterance):
        scores = log_posteriors(outputs, model.scale)
        return scores, (scores.argmax(-1) != known[utterance]).float()

    found = zip(
        *model.analyse_all(map(torch.from_numpy, waves), measure=measure)
    )
    scores, wrong = (torch.stack(each).cpu() for each in found)
    return error_summary(wrong, scores, labels)


def draw(table, path):
    """The sentence errors as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 6), layout="constrained")
    for name in next(iter(table.values())):
        found = [row[name]["sentence_error"] for row in table.values()]
        axis.plot(found, range(len(table)), "o", label=name)
    axis.set_yticks(range(len(table)), table)
    axis.invert_yaxis()
    axis.set(xlabel="Sentence error (%)", xlim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", help="results folders")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--picture", help="PNG of the sentence errors")
    parser.add_argument("--json", help="file for the errors")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu"
    )
    args = parser.parse_args()
    utterances = read_manifest(args.manifest)
    WAVES.extend(
        read_audio(Path(args.data_folder, u.wav), u.start, u.stop).numpy()
        for u in tqdm(utterances, desc="Reading", disable=None)
    )
    models = {}
    # Before a GPU is touched, which a forked process cannot use.
    pool = multiprocessing.get_context("fork").Pool()
    for folder in args.models:
        models[folder] = SpeakerIdentifier.from_results(folder, args.device)
        models[folder].hop = models[folder].embedding_model.hop
    rate = next(iter(models.values())).embedding_model.sample_rate
    print(f"{len(utterances)} utterances; frame / sentence error in per cent")
    print("| |", " | ".join(models), "|")
    print("|---|" + "---|" * len(models), flush=True)
    table = {}
    for condition in CONDITIONS:
        tasks = [(condition, i, rate) for i in range(len(WAVES))]
        waves = pool.map(changed, tasks, chunksize=8)
        table[condition] = {
            name: errors(model, utterances, waves)
            for name, model in models.items()
        }
        cells = [
            f"{found['frame_error']:.1f} / {found['sentence_error']:.2f}"
            for found in table[condition].values()
        ]
        print(f"| {condition} |", " | ".join(cells), "|", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(table, indent=1))
    if args.picture:
        draw(table, args.picture)


if __name__ == "__main__":
    main()

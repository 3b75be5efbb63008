"""Fit the small network that says where speech begins and ends.

Conversations (conversations.py) of one half of the speakers of a manifest,
those that segments.py chooses its settings with: quiet, with noise of any slope,
with babble, through a telephone's band, in rooms, loud and soft. The network
sees what amsincnet_sb.inference.borders tells it and learns in which of its frames
a clean voice is loud enough. A third of the conversations is kept aside, on which
it is compared with the detector alone; seconds missed and falsely heard in per
cent of speech.

    python tests/benchmarks/fit_activity.py amsincnet_sb/data/activity.npz \\
        --manifest manifests/test.csv --data-folder corpus
"""

import argparse
import multiprocessing
import sys
from pathlib import Path

import numpy as np
import torch
from scipy.signal import fftconvolve
from torch.nn import functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conversations import coloured, converse, read_sentences  # noqa: E402
from robustness import room, telephone  # noqa: E402

from amsincnet_sb.inference.activity import Silero, stretches  # noqa: E402
from amsincnet_sb.inference.borders import (  # noqa: E402
    band_levels,
    band_matrix,
    features,
)

RATE = 16000
KINDS = "quiet", "noise", "babble"
HIDDEN, BATCH, EPOCHS, PEAK = 64, 512, 12, 3e-3
SENTENCES = {}  # of each speaker, for the processes


def example(seed):
    """What is known of a conversation's frames, and whether each is speech."""
    torch.set_num_threads(1)
    rng = np.random.default_rng([seed, 3])
    kind = KINDS[rng.choice(3, p=(0.3, 0.55, 0.15))]
    people = rng.choice(sorted(SENTENCES), rng.integers(2, 9), replace=False)
    snr = rng.uniform(0, 40) if kind == "noise" else rng.uniform(8, 30)
    talk = converse(
        SENTENCES,
        seed,
        people.tolist(),
        minutes=(2, 4),
        noise="babble" if kind == "babble" else None,
        snr=snr,
    )
    wave = talk.wave.astype(np.float64)
    if rng.random() < 0.2:
        response = room(int(rng.integers(24)), RATE, 0.3)
        wave = fftconvolve(wave, response / abs(response).max())[: len(wave)]
    if kind == "noise":
        white = rng.standard_normal(len(wave))
        noise = coloured(white, RATE, rng.uniform(0, 2))
        noise = noise / noise.std() * 10 ** (-snr / 20)
        wave = wave + wave.std() * noise
    if rng.random() < 0.2:
        wave = telephone(wave, seed, RATE)
    wave = wave / abs(wave).max() * 10 ** (-rng.uniform(0, 30) / 20)
    detect = Silero(RATE)
    wave = wave[: len(wave) // detect.frame * detect.frame]
    heard = torch.from_numpy(wave).float()
    matrix = band_matrix(RATE, detect.frame)
    chances = detect(heard)
    if rng.random() < 0.25:  # another detector, or another version of this one
        chances = np.where(chances > 0.5, 0.95, 0.01).astype(np.float32)
    found = features(band_levels(heard, detect.frame, matrix), chances)
    if found is None:
        return None
    spoken = np.zeros(len(wave))
    for start, end, _ in talk.turns:
        spoken[round(start * RATE) : round(end * RATE)] = 1
    share = spoken.reshape(-1, detect.frame).mean(1)
    return kind, found, share, chances, talk.turns


def mistakes(probabilities, turns, frame=512 / RATE, step=0.004):
    """Seconds missed and falsely heard, in per cent of speech."""
    size = int(len(probabilities) * frame / step)
    marks = []
    for places in ((t[:2] for t in turns), stretches(probabilities, frame)):
        marks.append(np.zeros(size, bool))
        for start, end in places:
            marks[-1][round(start / step) : round(end / step)] = True
    right, found = marks
    wrong = np.array([(right & ~found).sum(), (found & ~right).sum()])
    return 100 * wrong / right.sum()


def fit(known, shares):
    """Two hidden layers, by the logistic loss of each frame."""
    torch.manual_seed(0)
    x, y = torch.from_numpy(known), torch.from_numpy(shares).float()
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, 1),
    )
    optimizer = torch.optim.AdamW(net.parameters(), PEAK, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK, total_steps=EPOCHS * -(-len(x) // BATCH)
    )
    for _ in tqdm(range(EPOCHS), desc="Fitting", disable=None):
        for rows in torch.randperm(len(x)).split(BATCH):
            found = net(x[rows]).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(found, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net


def main():
    """Fit, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("output", help="npz file")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--data-folder", required=True)
    parser.add_argument("--conversations", type=int, default=120)
    options = parser.parse_args()
    sentences = read_sentences(options.manifest, options.data_folder)
    for speaker in sorted(sentences)[::2]:
        SENTENCES[speaker] = sentences[speaker]
    with multiprocessing.get_context("fork").Pool() as pool:
        made = pool.imap(example, range(options.conversations))
        made = list(tqdm(made, total=options.conversations, disable=None))
    learnt = [m for i, m in enumerate(made) if m and i % 3]
    aside = [m for i, m in enumerate(made) if m and not i % 3]
    net = fit(*(np.concatenate([m[k] for m in learnt]) for k in (1, 2)))
    print(
        "| | conversations | the detector | with the network |\n|---|---|---|---|"
    )
    for kind in KINDS:
        errors = []
        for name, found, _, chances, turns in aside:
            if name == kind:
                with torch.no_grad():
                    told = net(torch.from_numpy(found)).sigmoid()
                pair = chances, told.squeeze(1).numpy()
                errors.append([mistakes(p, turns) for p in pair])
        cells = [f"{a:.1f} + {b:.1f}" for a, b in np.mean(errors, 0)]
        print(f"| {kind} | {len(errors)} |", " | ".join(cells), "|")
    weights = {
        name.replace(".", "_"): value.half().numpy()
        for name, value in net.state_dict().items()
    }
    np.savez(options.output, **weights)


if __name__ == "__main__":
    main()

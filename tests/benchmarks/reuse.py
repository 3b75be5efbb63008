"""Our front-end and our margin against SpeechBrain's own, in ECAPA-TDNN.

A small ECAPA-TDNN is trained for the same number of steps on the same chunks
in the four combinations of

    features: Fbank (80 bands)         or SincFeatures (80 filters, learned)
    loss:     AdditiveAngularMargin    or AMSoftmax with a margin warm-up

once for each seed. Four fifths of the speakers are trained on; the others are
for verification. Two figures a run, from whole sentences: the error of naming
the speaker of a test sentence (trained speakers), and the EER over all pairs
of sentences of the speakers that were not trained on. Optimizer, schedule,
margin and scale are the same in all runs and were chosen for none of them.

    amsincnet prepare CORPUS --output manifests
    python tests/benchmarks/reuse.py manifests --data_folder=CORPUS

Audio lies on the device; on a GPU the step is one CUDA graph.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.processing.features import InputNormalization

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.dataio.audio import read_audio  # noqa: E402
from amsincnet_sb.dataio.audio_store import ResidentAudio  # noqa: E402
from amsincnet_sb.dataio.batches import RandomChunks  # noqa: E402
from amsincnet_sb.dataio.manifest import read_manifest  # noqa: E402
from amsincnet_sb.inference.scoring import eer  # noqa: E402
from amsincnet_sb.lobes.features import SincFeatures  # noqa: E402
from amsincnet_sb.nnet.losses import (
    AMSoftmax,  # noqa: E402
    MarginWarmup,  # noqa: E402
)
from amsincnet_sb.nnet.schedules import CosineSchedule  # noqa: E402
from amsincnet_sb.training.captured_step import TrainingStep  # noqa: E402

FEATURES = ("fbank", "sinc")
LOSSES = ("aam", "am-warmup")
SAMPLE_RATE = 16000


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("manifests", help="folder that `amsincnet prepare` wrote")
    add("--data_folder", required=True)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--steps", type=int, default=1000)
    add("--batch", type=int, default=64)
    add("--seconds", type=float, default=2.0, help="length of a chunk")
    add("--channels", type=int, default=128)
    add("--margin", type=float, default=0.2)
    add("--lr", type=float, default=0.001)
    add("--factors", type=float, nargs="+", default=[0.1])
    add("--features", nargs="+", default=FEATURES, choices=FEATURES)
    add("--losses", nargs="+", default=LOSSES, choices=LOSSES)
    add("--output", help="a JSON line for every run")
    return parser.parse_args()


def load(options):
    """Training and test sentences of trained speakers, and the strangers'."""
    folder = Path(options.manifests)
    sentences = [
        (split, u)
        for split in ("train", "test")
        for u in read_manifest(str(folder / f"{split}.csv"))
    ]
    speakers = sorted({u.spk_id for _, u in sentences})
    strangers = set(speakers[4::5])
    known = [s for s in speakers if s not in strangers]

    def read(sentence):
        _, u = sentence
        path = Path(options.data_folder, u.wav)
        return read_audio(str(path), u.start, u.stop, SAMPLE_RATE)

    with ThreadPoolExecutor() as pool:
        waves = list(pool.map(read, sentences))
    sets = {"train": [], "test": [], "strangers": []}
    for wave, (split, u) in zip(waves, sentences):
        if u.spk_id in strangers:
            sets["strangers"].append((wave, speakers.index(u.spk_id), u.id))
        else:
            sets[split].append((wave, known.index(u.spk_id), u.id))
    sets = {
        name: ResidentAudio(*map(list, zip(*rows))).to(options.device)
        for name, rows in sets.items()
    }
    return sets, len(known)


class System(torch.nn.Module):
    """The modules of SpeechBrain's VoxCeleb recipe."""

    def __init__(self, features, loss, factor, speakers, options):
        super().__init__()
        if features == "fbank":
            self.compute_features = Fbank(n_mels=80)
        else:
            self.compute_features = SincFeatures(
                out_channels=80, param_change_factor=factor
            )
        self.norm = InputNormalization(norm_type="sentence", std_norm=False)
        width = options.channels
        self.embedding_model = ECAPA_TDNN(
            80,
            lin_neurons=192,
            channels=[width] * 4 + [3 * width],
            attention_channels=64,
            se_channels=64,
        )
        self.classifier = Classifier(192, out_neurons=speakers)
        if loss == "aam":
            self.warmup = None
            self.cost = LogSoftmaxWrapper(
                AdditiveAngularMargin(options.margin, scale=30)
            )
        else:
            self.cost = AMSoftmax(options.margin, scale=30)
            self.warmup = MarginWarmup(self.cost, options.steps // 5).margin

    def embed(self, wavs, lens):
        """``[batch, 1, 192]``."""
        feats = self.norm(self.compute_features(wavs), lens)
        return self.embedding_model(feats, lens)


def on_device(system, device):
    """SpeechBrain keeps the filterbank's constants on the CPU."""
    system.to(device)
    for module in system.modules():
        for name, value in vars(module).items():
            if torch.is_tensor(value):
                setattr(module, name, value.to(device))
            elif isinstance(value, torch.device):
                setattr(module, name, torch.device(device))
    return system


def train(system, audio, seed, options):
    """All steps; returns the last mean loss."""
    chunks = RandomChunks(
        audio,
        int(options.seconds * SAMPLE_RATE),
        options.batch,
        options.steps,
        seed,
    )
    lens = torch.ones(options.batch, device=options.device)

    def loss_of(step):
        wavs, labels, _ = chunks.draw(step)
        scores = system.classifier(system.embed(wavs, lens))
        return system.cost(scores, labels[:, None])

    optimizer = torch.optim.Adam(
        system.parameters(), lr=options.lr, weight_decay=2e-6
    )
    rate = CosineSchedule(
        options.lr, options.steps, options.steps // 10, final=0.0
    )
    step_once = TrainingStep(
        loss_of, optimizer, max_grad_norm=5.0, compile=False
    )
    system.train()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        if system.warmup is not None:
            system.cost.set_margin(system.warmup(step))
        step_once()
        if step == options.steps - min(100, options.steps // 2) - 1:
            step_once.read()
    return step_once.read()


@torch.no_grad()
def embeddings(system, audio):
    """Of whole sentences, in batches of about equal lengths."""
    system.eval()
    found = torch.empty(len(audio), 192, device=audio.samples.device)
    for at in audio.lengths.argsort().split(32):
        lengths = audio.lengths[at]
        within = torch.arange(int(lengths.max()), device=at.device)
        there = within < lengths[:, None]
        index = audio.starts[at][:, None] + within * there
        wavs = audio.gather(index) * there
        lens = lengths / lengths.max()
        found[at] = system.embed(wavs, lens).squeeze(1)
    return torch.nn.functional.normalize(found)


def evaluate(system, sets):
    """Identification error and EER, in per cent."""
    test = embeddings(system, sets["test"])
    scores = system.classifier(test.unsqueeze(1)).squeeze(1)
    wrong = scores.argmax(-1) != sets["test"].labels
    strangers = embeddings(system, sets["strangers"])
    labels = sets["strangers"].labels
    pairs = torch.triu_indices(len(labels), len(labels), 1)
    same = labels.cpu()[pairs[0]] == labels.cpu()[pairs[1]]
    cosines = (strangers @ strangers.T).cpu()[pairs[0], pairs[1]]
    return 100 * wrong.float().mean().item(), 100 * float(eer(cosines, same)[0])


def moved(system):
    """How far a cut-off went: mean of |change| in Hz."""
    if not isinstance(system.compute_features, SincFeatures):
        return 0.0
    start = SincFeatures(out_channels=80).sinc.cutoffs_hz()
    now = system.compute_features.sinc.cutoffs_hz()
    return (torch.cat(start) - torch.cat(now).cpu()).abs().mean().item()


def main():
    """Train and measure every combination; print a table."""
    options = arguments()
    device = options.device
    name = (
        torch.cuda.get_device_name()
        if device.startswith("cuda")
        else platform.processor() or platform.machine()
    )
    torch.backends.cudnn.benchmark = True
    started = time.time()
    sets, speakers = load(options)
    print(
        f"{speakers} speakers, {len(sets['train'])} training and "
        f"{len(sets['test'])} test sentences, {len(sets['strangers'])} of "
        f"strangers; {name}; torch {torch.__version__}; read in "
        f"{time.time() - started:.0f} s",
        flush=True,
    )
    runs = [
        (features, factor, loss)
        for features in options.features
        for factor in (options.factors if features == "sinc" else [0.0])
        for loss in options.losses
    ]
    rows = []
    for run in runs:
        results = []
        for seed in options.seeds:
            features, factor, loss = run
            torch.manual_seed(seed)
            system = System(features, loss, factor, speakers, options)
            on_device(system, device)
            started = time.time()
            last = train(system, sets["train"], seed, options)
            seconds = time.time() - started
            named, verified = evaluate(system, sets)
            record = {
                "features": features,
                "param_change_factor": factor,
                "loss": loss,
                "seed": seed,
                "steps": options.steps,
                "train_loss": last["loss"],
                "nonfinite": last["nonfinite"],
                "identification_error": named,
                "eer": verified,
                "cutoffs_moved_hz": moved(system),
                "seconds": seconds,
                "device": name,
            }
            results.append(record)
            print(json.dumps(record), flush=True)
            if options.output:
                with open(options.output, "a") as file:
                    file.write(json.dumps(record) + "\n")
        rows.append((run, results))

    print("\n| features | loss | identification error % | EER % | ms a step |")
    print("|---|---|---|---|---|")
    for (features, factor, loss), results in rows:
        label = features if features == "fbank" else f"sinc, {factor:g}"
        cells = [label, loss]
        for key in ("identification_error", "eer"):
            values = [r[key] for r in results]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.2f} ± {spread:.2f}")
        pace = statistics.median(r["seconds"] for r in results)
        cells.append(f"{1000 * pace / options.steps:.1f}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

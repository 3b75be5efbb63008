"""Our front-end and our margin against SpeechBrain's own, in ECAPA-TDNN.

A small ECAPA-TDNN is trained for the same number of steps on the same chunks
in the four combinations of

    features: Fbank (80 bands)         or SincFeatures (80 filters, learned)
    loss:     AdditiveAngularMargin    or AMSoftmax with a margin warm-up

once for each seed. Four fifths of the speakers are trained on; the others are
for verification. Two figures per run, from whole utterances: the
identification error on test utterances of the trained speakers, and the EER
over all pairs of utterances of the others. Optimizer, schedule, margin and
scale are the same in all runs and were chosen for none of them.

    amsincnet prepare CORPUS --output manifests
    python tests/benchmarks/reuse.py manifests --data_folder=CORPUS
"""

import time
from pathlib import Path
from statistics import mean, median, stdev

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
from speechbrain.processing.features import InputNormalization
from train_step import command_line

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.dataio.batches import RandomChunks
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference.scoring import eer
from amsincnet_sb.lobes.features import SincFeatures
from amsincnet_sb.nnet.losses import AMSoftmax, MarginWarmup
from amsincnet_sb.nnet.schedules import CosineSchedule

SAMPLE_RATE = 16000
COMBINATIONS = [
    (features, loss)
    for features in ("Fbank", "SincFeatures")
    for loss in ("AdditiveAngularMargin", "AMSoftmax, warm-up")
]


def arguments():
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("manifests", help="folder that `amsincnet prepare` wrote")
    add("--data_folder", required=True)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3])
    add("--steps", type=int, default=1000)
    add("--batch", type=int, default=64)
    add("--seconds", type=float, default=2.0, help="length of a chunk")
    add("--channels", type=int, default=128)
    return parser.parse_args()


def load(options):
    """``{set: (waveforms, labels, ids)}`` and the number of trained speakers."""
    rows = [
        (split, utterance)
        for split in ("train", "test")
        for utterance in read_manifest(f"{options.manifests}/{split}.csv")
    ]
    speakers = sorted({u.spk_id for _, u in rows})
    strangers = speakers[4::5]
    known = [name for name in speakers if name not in strangers]
    sets = {name: ([], [], []) for name in ("train", "test", "strangers")}
    for split, u in rows:
        path = Path(options.data_folder, u.wav)
        unknown = u.spk_id in strangers
        labels = strangers if unknown else known
        waves, targets, ids = sets["strangers" if unknown else split]
        waves.append(read_audio(path, u.start, u.stop))
        targets.append(labels.index(u.spk_id))
        ids.append(u.id)
    return sets, len(known)


class System(torch.nn.Module):
    """The modules of SpeechBrain's VoxCeleb recipe."""

    def __init__(self, features, loss, speakers, options):
        super().__init__()
        self.compute_features = (
            Fbank(n_mels=80)
            if features == "Fbank"
            else SincFeatures(out_channels=80, param_change_factor=0.1)
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
        self.cost = (
            LogSoftmaxWrapper(AdditiveAngularMargin(margin=0.2, scale=30))
            if loss == "AdditiveAngularMargin"
            else MarginWarmup(AMSoftmax(0.2, scale=30), options.steps // 5)
        )

    def embed(self, wavs, lens):
        """``[batch, time]`` to ``[batch, 1, 192]``."""
        features = self.norm(self.compute_features(wavs), lens)
        return self.embedding_model(features, lens)


def train(system, audio, seed, options):
    """All steps; returns milliseconds per step."""
    length = int(options.seconds * SAMPLE_RATE)
    chunks = RandomChunks(audio, length, options.batch, options.steps, seed)
    lens = torch.ones(options.batch, device=options.device)
    optimizer = torch.optim.Adam(
        system.parameters(), lr=0.001, weight_decay=2e-6
    )
    lr = CosineSchedule(0.001, options.steps, options.steps // 10, final=0.0)
    system.train()
    started = time.time()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr(step)
        wavs, labels, _ = chunks.draw(step)
        cosines = system.classifier(system.embed(wavs, lens))
        optimizer.zero_grad()
        system.cost(cosines, labels[:, None]).backward()
        torch.nn.utils.clip_grad_norm_(system.parameters(), 5.0)
        optimizer.step()
    if options.device.startswith("cuda"):
        torch.cuda.synchronize()
    return 1000 * (time.time() - started) / options.steps


@torch.no_grad()
def evaluate(system, sets, device):
    """Identification error and EER, in per cent."""
    system.eval()
    one = torch.ones(1, device=device)
    known, strangers = (
        torch.stack([system.embed(x[None].to(device), one)[0] for x in waves])
        for waves in (sets["test"][0], sets["strangers"][0])
    )
    scores = system.classifier(known).squeeze(1).cpu()
    wrong = scores.argmax(-1) != torch.tensor(sets["test"][1])
    labels = torch.tensor(sets["strangers"][1])
    unit = torch.nn.functional.normalize(strangers.squeeze(1))
    one, other = torch.triu_indices(len(labels), len(labels), 1)
    cosines = (unit @ unit.T).cpu()[one, other]
    error = eer(cosines, labels[one] == labels[other])[0]
    return 100 * wrong.float().mean().item(), 100 * float(error)


def main():
    """Train and measure every combination; print a table."""
    options = arguments()
    sets, speakers = load(options)
    print(
        f"{speakers} speakers, {len(sets['train'][0])} training and "
        f"{len(sets['test'][0])} test utterances, {len(sets['strangers'][0])} "
        f"of others; {options.device}; torch {torch.__version__}\n\n"
        "| features | loss | identification error % | EER % | ms per step |\n"
        "|---|---|---|---|---|"
    )
    audio = ResidentAudio(*sets["train"]).to(options.device)
    for features, loss in COMBINATIONS:
        results = []
        for seed in options.seeds:
            torch.manual_seed(seed)
            system = System(features, loss, speakers, options)
            system.to(options.device)
            pace = train(system, audio, seed, options)
            results.append((*evaluate(system, sets, options.device), pace))
        *errors, paces = zip(*results)
        cells = [f"{mean(row):.2f} ± {stdev(row):.2f}" for row in errors]
        cells.append(f"{median(paces):.0f}")
        print(f"| {features} | {loss} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Memory and step time of the recipe at the start and at the end.

Example: ``python tests/slow/soak.py --minutes 8 --device cuda``. Trains on
generated speech for so long, with an evaluation and a checkpoint every few
epochs, and prints a line for each tenth of the time; fails if the last steps
take over 5 % longer than the first (on a GPU) or memory has grown.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes" / "TIMIT" / "speaker_id"
sys.path.insert(0, str(ROOT))
sys.path[:0] = [str(RECIPE), str(RECIPE.parent)]

import torch  # noqa: E402
import train  # noqa: E402
from demo_corpus import generate_demo_corpus  # noqa: E402

SMALL = {
    "window": 1600,
    "hop": 800,
    "sinc_channels": 4,
    "sinc_kernel_size": 51,
    "tdnn_channels": "[4,4]",
    "tdnn_kernel_sizes": "[5,3]",
    "tdnn_strides": "[3,1]",
    "fc_neurons": "[8,8]",
    "embedding_size": 8,
    "batch_size": 16,
}


def memory():
    """Of this process and of the GPU, in MiB."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    resident = pages * os.sysconf("SC_PAGESIZE") / 2**20
    device = 0.0
    if torch.cuda.is_available():
        device = torch.cuda.memory_reserved() / 2**20
    return resident, device


def main():
    """Train, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=400, help="an epoch")
    parser.add_argument("--hparams", default="am_sincnet_m005.yaml")
    args = parser.parse_args()

    epochs, begun = [], []
    fit_train = train.SpeakerBrain._fit_train

    def timed(self, train_set, epoch, enable):
        """An epoch; the run ends when the time is up."""
        start = time.perf_counter()
        fit_train(self, train_set, epoch, enable)
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        begun.append(start)
        epochs.append((1e3 * seconds / args.steps, *memory()))
        if time.perf_counter() - begun[0] > 60 * args.minutes:
            raise KeyboardInterrupt

    train.SpeakerBrain._fit_train = timed
    with tempfile.TemporaryDirectory() as folder:
        corpus = generate_demo_corpus(
            Path(folder) / "TIMIT", speakers=4, progress=False
        )
        options = {
            "data_folder": corpus,
            "output_folder": Path(folder) / "results",
            "number_of_epochs": 1_000_000,
            "batches_per_epoch": args.steps,
            "valid_interval": 5,
            "device": args.device,
            **(SMALL if args.device == "cpu" else {}),
        }
        os.chdir(RECIPE)
        sys.argv = ["train.py", f"hparams/{args.hparams}"]
        sys.argv += [f"--{key}={value}" for key, value in options.items()]
        try:
            train.main()
        except KeyboardInterrupt:
            pass
    # The first ones compile, and caches fill.
    epochs = epochs[max(2, len(epochs) // 20) :]
    size = max(1, len(epochs) // 10)
    parts = [epochs[i : i + size] for i in range(0, len(epochs), size)]
    print("| epochs | ms a step (median) | process MiB | GPU MiB |")
    print("|---|---|---|---|")
    rows = []
    for part in parts:
        steps, resident, device = zip(*part)
        rows.append((statistics.median(steps), max(resident), max(device)))
        print("| {} | {:.3f} | {:.0f} | {:.0f} |".format(len(part), *rows[-1]))
    first, last = rows[0], rows[-1]
    print(
        f"{len(epochs) * args.steps} steps: {first[0]:.3f} -> {last[0]:.3f} ms "
        f"a step, {first[1]:.0f} -> {last[1]:.0f} MiB, GPU {first[2]:.0f} -> "
        f"{last[2]:.0f} MiB"
    )
    slower = last[0] > 1.05 * first[0] and args.device == "cuda"
    if slower or last[1] > first[1] + 50 or last[2] > first[2] + 50:
        raise SystemExit("It grew, or got slower.")


if __name__ == "__main__":
    main()

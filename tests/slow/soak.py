"""Memory and step time of the recipe at the start and at the end of a run.

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
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recipe_process  # noqa: E402
import torch  # noqa: E402
import train  # noqa: E402


def memory():
    """Of this process and of the GPU, in MiB."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    resident = pages * os.sysconf("SC_PAGESIZE") / 2**20
    device = 0.0
    if torch.cuda.is_available():
        device = torch.cuda.memory_reserved() / 2**20
    return resident, device


def epochs(args):
    """(ms per step, MiB, GPU MiB) of each epoch of a run of some minutes."""
    measured, begun = [], []
    fit_train = train.SpeakerBrain._fit_train

    def timed(self, train_set, epoch, enable):
        """An epoch; the run ends when the time is up."""
        begun.append(time.perf_counter())
        fit_train(self, train_set, epoch, enable)
        if args.device == "cuda":
            torch.cuda.synchronize()
        end = time.perf_counter()
        measured.append((1e3 * (end - begun[-1]) / args.steps, *memory()))
        if end - begun[0] > 60 * args.minutes:
            raise KeyboardInterrupt

    train.SpeakerBrain._fit_train = timed
    options = {
        "number_of_epochs": 1_000_000,
        "batches_per_epoch": args.steps,
        "valid_interval": 5,
        "device": args.device,
    }
    if args.device == "cpu":
        options |= {**recipe_process.SMALL, "batch_size": 16}
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        options["data_folder"] = recipe_process.corpus(folder, speakers=4)
        options["output_folder"] = Path(folder) / "results"
        os.chdir(recipe_process.RECIPE)
        sys.argv = recipe_process.arguments(args.hparams, **options)
        train.main()
    # The first ones compile, and caches fill.
    return measured[max(2, len(measured) // 20) :]


def main():
    """Train, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=400, help="per epoch")
    parser.add_argument("--hparams", default="sinc_tdnn.yaml")
    args = parser.parse_args()
    measured = epochs(args)
    size = max(1, len(measured) // 10)
    rows = []
    print("| epochs | ms per step (median) | process MiB | GPU MiB |")
    print("|---|---|---|---|")
    for i in range(0, len(measured), size):
        steps, resident, device = zip(*measured[i : i + size])
        rows.append((statistics.median(steps), max(resident), max(device)))
        print("| {} | {:.3f} | {:.0f} | {:.0f} |".format(len(steps), *rows[-1]))
    first, last = rows[0], rows[-1]
    print(
        f"{len(measured) * args.steps} steps: {first[0]:.3f} -> {last[0]:.3f} "
        f"ms per step, {first[1]:.0f} -> {last[1]:.0f} MiB, GPU {first[2]:.0f} "
        f"-> {last[2]:.0f} MiB"
    )
    slower = last[0] > 1.05 * first[0] and args.device == "cuda"
    if slower or last[1] > first[1] + 50 or last[2] > first[2] + 50:
        raise SystemExit("It grew, or got slower.")


if __name__ == "__main__":
    main()

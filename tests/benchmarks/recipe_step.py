"""Time per step inside the recipe, against the bare captured step.

Example: ``python tests/benchmarks/recipe_step.py``. The recipe itself trains
on generated speech; epochs are timed from their first step to the device's
last, and in turns with them as many captured steps, batches included, without
SpeechBrain's loop around them. Claims: the loop costs at most a tenth; in a
long run (``--epochs 400``) neither a step nor the memory grows, which shows
in "least and most" and in the memory after the second epoch and at the end.
"""

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recipe_process  # noqa: E402
import torch  # noqa: E402
from train_step import command_line, machine  # noqa: E402

import train  # noqa: E402


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def gib():
    """Memory that this process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**30


class Timed(train.SpeakerBrain):
    """Times its epochs, and captured steps outside of the loop."""

    args = None
    epochs = []
    bare = []
    memory = []
    begun = started = 0.0

    def on_fit_start(self):
        super().on_fit_start()
        Timed.started = time.perf_counter() - self.begun

    def _fit_train(self, train_set, epoch, enable):
        synchronize()
        start = time.perf_counter()
        super()._fit_train(train_set, epoch, enable)
        synchronize()
        self.epochs.append((time.perf_counter() - start) / self.args.steps)
        self.memory.append(gib())
        if self.captured_step is None:
            return
        start = time.perf_counter()
        for step in range(self.args.steps):
            self.captured_step(step, *self._tensors(self._chunks.batch(step)))
        synchronize()
        self.bare.append((time.perf_counter() - start) / self.args.steps)


def main():
    """Train, and print what it took."""
    parser = command_line(__doc__)
    parser.add_argument("--hparams", default="am_sincnet.yaml")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=800, help="per epoch")
    parser.add_argument("more", nargs="*", help="--key=value, after --")
    args = parser.parse_args()
    Timed.args = args
    train.SpeakerBrain = Timed
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = recipe_process.arguments(
            args.hparams,
            data_folder=recipe_process.corpus(folder, speakers=32),
            output_folder=Path(folder) / "results",
            number_of_epochs=args.epochs,
            batches_per_epoch=args.steps,
        )
        sys.argv += args.more
        os.chdir(recipe_process.RECIPE)
        Timed.begun = time.perf_counter()
        train.main()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    gpu = torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else 0.0
    ours = sorted(Timed.epochs[1:] or Timed.epochs)  # the first one compiles
    print(f"{args.hparams} {' '.join(args.more)}; {machine(device)}")
    print(
        "| start, s | compiling, s | ms per step in the recipe | least and "
        "most | bare | ratio | RAM GiB | GPU GiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    inside = 1e3 * statistics.median(ours)
    bare = 1e3 * statistics.median(Timed.bare[1:] or [float("nan")])
    ram = (Timed.memory[:2][-1], Timed.memory[-1])
    compiling = args.steps * (Timed.epochs[0] - statistics.median(ours))
    print(
        f"| {Timed.started:.1f} | {compiling:.1f} | {inside:.3f} "
        f"| {1e3 * ours[0]:.3f}-{1e3 * ours[-1]:.3f} | {bare:.3f} "
        f"| {inside / bare:.3f} | {ram[0]:.2f}, {ram[1]:.2f} | {gpu:.2f} |"
    )


if __name__ == "__main__":
    main()

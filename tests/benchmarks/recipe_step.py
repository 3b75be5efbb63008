"""Time per step inside the recipe, against the bare captured step.

Example: ``python tests/benchmarks/recipe_step.py``. The recipe itself trains
on generated speech; epochs are timed from their first step to the device's
last, and in turns with them as many captured steps, batches included, without
SpeechBrain's loop around them. Claim: the loop costs at most a tenth.
"""

import argparse
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
import train  # noqa: E402


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Timed(train.SpeakerBrain):
    """Times its epochs, and captured steps outside of the loop."""

    args = None
    epochs = []
    bare = []
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
        if self.captured_step is None:
            return
        start = time.perf_counter()
        for step in range(self.args.steps):
            batch = self._chunks.batch(step)
            tensors = batch.sig.data, batch.spk_id_encoded.data
            self.captured_step(step, *tensors, batch.utterance)
        synchronize()
        self.bare.append((time.perf_counter() - start) / self.args.steps)


def main():
    """Train, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
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
    name = "CPU"
    device = 0.0
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        device = torch.cuda.max_memory_reserved() / 2**30
    ours = sorted(Timed.epochs[1:] or Timed.epochs)  # the first one compiles
    print(f"{args.hparams} {' '.join(args.more)}; {name}")
    print(
        "| start, s | compiling, s | ms per step in the recipe | least and "
        "most | bare | ratio | RAM GiB | GPU GiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    inside = 1e3 * statistics.median(ours)
    bare = 1e3 * statistics.median(Timed.bare[1:] or [float("nan")])
    ram = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    compiling = args.steps * (Timed.epochs[0] - statistics.median(ours))
    print(
        f"| {Timed.started:.1f} | {compiling:.1f} | {inside:.3f} "
        f"| {1e3 * ours[0]:.3f}-{1e3 * ours[-1]:.3f} | {bare:.3f} "
        f"| {inside / bare:.3f} | {ram:.2f} | {device:.2f} |"
    )


if __name__ == "__main__":
    main()

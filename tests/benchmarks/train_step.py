"""Time of a training step against a straightforward port.

Example: ``python tests/benchmarks/train_step.py --device cuda``. One table;
every row is the full model on chunks drawn from resident audio, timed in this
process with warm-up excluded: median of windows of several steps, and the
spread between the 10th and 90th percentile. The first row is the port that
one would write first: plain torch, ``F.conv1d``, one kernel at a time.
``--network sinc_tdnn`` takes the network of the recommended recipe instead of
the released one.
"""

import argparse
import contextlib
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.lobes.classifiers import CosineClassifier  # noqa: E402
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN  # noqa: E402
from amsincnet_sb.lobes.sincnet import SincNet  # noqa: E402
from amsincnet_sb.nnet.losses import AMSoftmax  # noqa: E402
from amsincnet_sb.training.captured_step import CapturedStep  # noqa: E402

NETWORKS = {"sincnet": SincNet, "sinc_tdnn": SincTDNN}


class Resident:
    """Random chunks of generated audio that lies on the device."""

    def __init__(self, device, batch, speakers, window):
        self.audio = torch.randint(
            -9000, 9000, (16_000_000,), dtype=torch.int16, device=device
        )
        self.nth = torch.arange(batch, device=device)
        self.at = torch.arange(window, device=device)
        self.speakers = speakers

    def draw(self, step):
        """Chunks ``[batch, window]`` and their speakers ``[batch]``."""
        key = (step * len(self.nth) + self.nth) * 6364136223846793005
        key = (key ^ (key >> 29)) * 1442695040888963407
        key = (key ^ (key >> 31)) & 0x7FFFFFFF
        start = key % (len(self.audio) - len(self.at))
        chunks = self.audio[start[:, None] + self.at]
        return chunks.float() / 32768, key % self.speakers


def make_step(args, fast, precision, fused_step, compiled):
    """A training step of a new model."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision(
        "highest" if precision == "fp32" else "high"
    )
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    device = torch.device(args.device)
    net = NETWORKS[args.network](fast=fast).to(device)
    head = CosineClassifier(2048, args.speakers).to(device)
    loss = AMSoftmax(0.2).to(device)
    source = Resident(device, args.batch, args.speakers, net.window)
    parameters = [*net.parameters(), *head.parameters()]
    kinds = {
        "rmsprop": lambda: torch.optim.RMSprop(
            parameters, lr=1e-3, alpha=0.95, eps=1e-8
        ),
        "adamw": lambda: torch.optim.AdamW(parameters, lr=1e-3),
    }

    def loss_fn(step):
        wavs, targets = source.draw(step)
        autocast = contextlib.nullcontext()
        if precision == "bf16":
            autocast = torch.autocast(device.type, torch.bfloat16)
        with autocast:
            return loss(head(net(wavs)), targets)

    optimizer = kinds[args.optimizer]()
    if fused_step:
        return CapturedStep(loss_fn, optimizer, compile=compiled)
    forward = torch.compile(loss_fn, dynamic=False) if compiled else loss_fn
    number = torch.zeros((), dtype=torch.long, device=device)

    def step():
        optimizer.zero_grad()
        forward(number).backward()
        optimizer.step()
        number.add_(1)

    return step


def timed(step, device, windows, steps):
    """Milliseconds a step, one number a window."""
    cuda = device == "cuda"
    for _ in range(12 if cuda else 2):
        step()
    results = []
    for _ in range(windows):
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()
        results.append((time.perf_counter() - start) * 1e3 / steps)
    return sorted(results)


def variants(device, chosen):
    """Rows: name, fast, precision, recorded step, compiled."""
    rows = [("straightforward, eager", False, "fp32", False, False)]
    for precision in chosen:
        if device == "cpu":
            if precision != "tf32":
                rows.append(("fast, eager", True, precision, False, False))
            continue
        if precision != "fp32":
            rows.append(
                ("straightforward, eager", False, precision, False, False)
            )
        rows.append(("plain, compiled, graph", False, precision, True, True))
        rows.append(("fast, compiled, graph", True, precision, True, True))
    return rows


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--network", default="sincnet", choices=NETWORKS)
    parser.add_argument(
        "--precision",
        nargs="+",
        default=["fp32", "tf32", "bf16"],
        choices=["fp32", "tf32", "bf16"],
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--speakers", type=int, default=462)
    parser.add_argument(
        "--optimizer", default="rmsprop", choices=["rmsprop", "adamw"]
    )
    parser.add_argument("--windows", type=int, default=9)
    parser.add_argument("--steps", type=int, default=0)
    args = parser.parse_args()
    steps = args.steps or (100 if args.device == "cuda" else 1)
    name = platform.processor() or platform.machine()
    if args.device == "cuda":
        name = torch.cuda.get_device_name()
    print(
        f"training step of {args.network}, batch {args.batch}, "
        f"{args.speakers} speakers, "
        f"{args.optimizer}; {name}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    print("| version | precision | ms a step | 10-90 % | ratio |")
    print("|---|---|---|---|---|", flush=True)
    base = None
    for label, fast, precision, fused_step, compiled in variants(
        args.device, args.precision
    ):
        step = make_step(args, fast, precision, fused_step, compiled)
        times = timed(step, args.device, args.windows, steps)
        median = statistics.median(times)
        base = base or median
        low = times[len(times) // 10]
        high = times[-1 - len(times) // 10]
        print(
            f"| {label} | {precision} | {median:.3f} | {low:.3f}-{high:.3f} "
            f"| {base / median:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

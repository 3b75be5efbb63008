"""Time of a training step against a straightforward port.

    python tests/benchmarks/train_step.py [--network sinc_tdnn]
    python tests/benchmarks/train_step.py --device cuda

A step is the full model on 128 chunks drawn from audio in memory, with 462
speakers: forward, AM-softmax, backward, update. The first row is the port
that one would write first: plain torch, ``F.conv1d``, one kernel at a time.

On a CPU the rows take turns in one process, so that whatever else the machine
does falls on all of them. Claim, on two cores: at least 3 times the port's
speed in float32, and 4 times with bfloat16 matmuls where the CPU has them. On
a GPU they are timed one after the other, as the median of several runs of
many steps. Warm-up is excluded; ratios are medians of the port's time over
the row's, and the spread is from the 10th to the 90th percentile.
"""

import argparse
import contextlib
import itertools
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.lobes.classifiers import CosineClassifier  # noqa: E402
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN  # noqa: E402
from amsincnet_sb.lobes.sincnet import SincNet  # noqa: E402
from amsincnet_sb.nnet.losses import AMSoftmax  # noqa: E402
from amsincnet_sb.training.captured_step import CapturedStep  # noqa: E402
from amsincnet_sb.training.device import has_bfloat16  # noqa: E402

BATCH, SPEAKERS = 128, 462
NETWORKS = {
    "sincnet": SincNet,
    "sinc_tdnn": partial(  # as in sinc_tdnn.yaml
        SincTDNN,
        sinc_channels=40,
        tdnn_channels=[48, 64, 128, 128],
        fc_neurons=[512, 512],
        sinc_norm="batch",
    ),
    "sinc_tdnn_large": SincTDNN,
}
OPTIMIZERS = {
    "rmsprop": partial(torch.optim.RMSprop, lr=1e-3, alpha=0.95, eps=1e-8),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
}


class Resident:
    """Random chunks of generated audio that lies on the device."""

    def __init__(self, device, window):
        self.audio = torch.randint(
            -9000, 9000, (16_000_000,), dtype=torch.int16, device=device
        )
        self.nth = torch.arange(BATCH, device=device)
        self.at = torch.arange(window, device=device)

    def draw(self, step):
        """Chunks ``[batch, window]`` and their labels ``[batch]``."""
        key = (step * len(self.nth) + self.nth) * 6364136223846793005
        key = (key ^ (key >> 29)) * 1442695040888963407
        key = (key ^ (key >> 31)) & 0x7FFFFFFF
        start = key % (len(self.audio) - len(self.at))
        chunks = self.audio[start[:, None] + self.at]
        return chunks.float() / 32768, key % SPEAKERS


def make_step(args, fast, precision, captured, compiled):
    """A training step of a new model."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision(
            "highest" if precision == "fp32" else "high"
        )
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
    net = NETWORKS[args.network](fast=fast).to(device)
    head = CosineClassifier(net.embedding_size, SPEAKERS).to(device)
    loss = AMSoftmax(0.2).to(device)
    source = Resident(device, net.window)
    parameters = [*net.parameters(), *head.parameters()]
    optimizer = OPTIMIZERS[args.optimizer](parameters)
    bf16 = precision == "bf16"

    def loss_fn(wavs, targets):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return loss(head(net(wavs)), targets)

    if captured:
        whole = CapturedStep(
            loss_fn, optimizer, compile=compiled, draw=source.draw
        )
        numbers = itertools.count()
        return lambda: whole(next(numbers))

    def forward(number):
        return loss_fn(*source.draw(number))

    if compiled:
        forward = torch.compile(forward, dynamic=False)
    number = torch.zeros((), dtype=torch.long, device=device)

    def step():
        optimizer.zero_grad()
        forward(number).backward()
        optimizer.step()
        number.add_(1)

    return step


def timed(step, device, turns, steps):
    """Milliseconds per step, for each of some turns of several steps."""
    synchronize = getattr(torch, device).synchronize
    for _ in range(12 if device == "cuda" else 2):
        step()
    results = []
    for _ in range(turns):
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize()
        results.append((time.perf_counter() - start) * 1e3 / steps)
    return results


def in_turns(functions, turns):
    """Milliseconds of each, ``{name: [one per turn]}``; two turns warm up."""
    times = {name: [] for name in functions}
    for turn in range(turns + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def table_head():
    print("| version | ms, median | 10-90 % | per second | ratio |")
    print("|---|---|---|---|---|", flush=True)


def print_row(name, times, base, examples):
    """One row; ``base`` are the times that it is compared with."""
    ordered, edge = sorted(times), len(times) // 10
    median = statistics.median(times)
    ratio = statistics.median(a / b for a, b in zip(base, times))
    digits = 0 if median > 100 else 3
    print(
        f"| {name} | {median:.{digits}f} | {ordered[edge]:.{digits}f}-"
        f"{ordered[-1 - edge]:.{digits}f} | {1e3 * examples / median:.0f} "
        f"| {ratio:.2f} |",
        flush=True,
    )


def print_table(times, examples):
    """One row a function; the first is what the others are compared with."""
    table_head()
    base = next(iter(times.values()))
    for name, row in times.items():
        print_row(name, row, base, examples)


def command_line(description):
    """A parser whose help is the header of a benchmark as it stands."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def machine(device):
    """The device in words."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        name = "CPU"
        with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
            models = [line for line in lines if line.startswith("model name")]
            name = models[0].split(":", 1)[1].strip() if models else name
        name += "," + (" with" if has_bfloat16("cpu") else " without")
        name += f" bfloat16, {torch.get_num_threads()} threads"
    return f"{name}, torch {torch.__version__}"


def variants(device, chosen):
    """Name and arguments of :func:`make_step` for each row."""
    port = "straightforward, eager"
    rows = {f"{port}, fp32": (False, "fp32", False, False)}
    for precision in chosen:
        if device == "cpu" and precision == "tf32":
            continue
        if precision != "fp32":
            rows[f"{port}, {precision}"] = (False, precision, False, False)
        if device == "cpu":
            rows[f"fast, eager, {precision}"] = (True, precision, False, False)
            continue
        for name, fast in (("plain", False), ("fast", True)):
            name = f"{name}, compiled, captured, {precision}"
            rows[name] = (fast, precision, True, True)
    return rows


def main():
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--network", default="sincnet", choices=NETWORKS)
    kinds = ["fp32", "tf32", "bf16"]
    parser.add_argument("--precision", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--optimizer", default="rmsprop", choices=OPTIMIZERS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    print(
        f"training step of {args.network}, batch {BATCH}, {SPEAKERS} speakers, "
        f"{args.optimizer}; {machine(args.device)}"
    )
    chosen = args.precision
    if args.device == "cpu" and not has_bfloat16("cpu"):
        chosen = [kind for kind in chosen if kind != "bf16"]
    rows = variants(args.device, chosen)
    if args.device == "cpu":
        steps = {name: make_step(args, *row) for name, row in rows.items()}
        print_table(in_turns(steps, 9), BATCH)
        return
    table_head()
    base = None
    for name, row in rows.items():
        step = make_step(args, *row)
        times = timed(step, args.device, turns=9, steps=100)
        base = base or times
        print_row(name, times, base, BATCH)


if __name__ == "__main__":
    main()

"""Time of a training step on a CPU against a straightforward port.

Claim: with the full released model (``--network sinc_tdnn`` takes that of the
recommended recipe), a batch of 128 and 462 speakers on two cores, at
least 3 times the port's speed in float32, and 4 times with bfloat16 products
where the processor has them. One step is forward, AM-softmax, backward and
RMSprop. All rows take turns in one process, so that whatever else the machine
does falls on all of them; a ratio is the median over the turns of the port's
time over the row's, and the spread is from the 10th to the 90th percentile.

    python tests/benchmarks/train_step_cpu.py
"""

import argparse
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
from amsincnet_sb.training.device import has_bfloat16  # noqa: E402

NETWORKS = {"sincnet": SincNet, "sinc_tdnn": SincTDNN}


def make_step(network, fast, bf16, batch, speakers):
    """A training step of a new model."""
    torch.manual_seed(0)
    net = NETWORKS[network](fast=fast)
    head = CosineClassifier(net.embedding_size, speakers)
    loss = AMSoftmax(0.2)
    optimizer = torch.optim.RMSprop(
        [*net.parameters(), *head.parameters()], lr=1e-3, alpha=0.95, eps=1e-8
    )
    wavs = 0.1 * torch.randn(batch, net.window)
    targets = torch.randint(speakers, (batch,))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(head(net(wavs)), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()

    return step


def in_turns(functions, turns):
    """Milliseconds of each, ``{name: [one number a turn]}``; two warm up."""
    times = {name: [] for name in functions}
    for turn in range(turns + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def print_table(times, examples):
    """One row a function; the first is what the others are compared with."""
    print("| version | ms, median | 10-90 % | windows/s | ratio |")
    print("|---|---|---|---|---|")
    base = next(iter(times.values()))
    for name, row in times.items():
        ratio = statistics.median(a / b for a, b in zip(base, row))
        ordered, edge = sorted(row), len(row) // 10
        median = statistics.median(row)
        print(
            f"| {name} | {median:.0f} | {ordered[edge]:.0f}-"
            f"{ordered[-1 - edge]:.0f} | {1e3 * examples / median:.0f} "
            f"| {ratio:.2f} |"
        )


def processor():
    """What runs this, in words."""
    name = "CPU"
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(
                line.split(":", 1)[1].strip()
                for line in lines
                if line.startswith("model name")
            )
    except (OSError, StopIteration):
        pass
    return (
        f"{name}, {torch.get_num_threads()} threads, "
        f"{'with' if has_bfloat16('cpu') else 'without'} bfloat16, "
        f"torch {torch.__version__}"
    )


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="sincnet", choices=NETWORKS)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--speakers", type=int, default=462)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = args.batch, args.speakers
    print(f"training step of {args.network}, batch {args.batch}; {processor()}")
    types = ("float32", "bfloat16") if has_bfloat16("cpu") else ("float32",)
    steps = {
        f"{version}, {name}": make_step(
            args.network, version == "fast", name == "bfloat16", *sizes
        )
        for version in ("straightforward", "fast")
        for name in types
    }
    print_table(in_turns(steps, args.turns), args.batch)


if __name__ == "__main__":
    main()

"""Time of embedding evaluation windows against a straightforward port.

Claim: with the full model on two cores, at least 3 times the windows a second
of the network as it stands, in evaluation mode and batches of 128. The fast
rows prepare the network once (filters, batch normalisation folded into the
linear layers) and take 1024 windows of a waveform, every 10 ms one, as a
strided view. All rows take turns in one process; see train_step_cpu.py.

    python tests/benchmarks/evaluation.py
"""

import argparse

import torch
from train_step_cpu import in_turns, print_table, processor

from amsincnet_sb.lobes.folded import Folded
from amsincnet_sb.lobes.sincnet import SincNet


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    net = SincNet(fast=False).eval()
    wav = 0.1 * torch.randn(net.window + (args.windows - 1) * net.hop)
    windows = wav.unfold(0, net.window, net.hop)

    def straightforward():
        with torch.no_grad():
            for part in windows.split(128):
                net.embed_windows(part)

    folded = Folded(net), Folded(net, torch.bfloat16)
    print(f"evaluation, {args.windows} windows; {processor()}")
    rows = {
        "straightforward, float32": straightforward,
        "folded, float32": lambda: folded[0].embed_windows(windows),
        "folded, bfloat16": lambda: folded[1].embed_windows(windows),
        "preparation": lambda: Folded(net),
    }
    print_table(in_turns(rows, args.turns), args.windows)


if __name__ == "__main__":
    main()

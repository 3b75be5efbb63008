"""Where a training step of SincTDNN spends its time on a CPU, and the floor.

    python tests/benchmarks/step_parts.py [--precision bf16] [--batch 64]

One thread, and CPU time, least of some turns, so that a machine with other work
can be used. The floor of a part is its matmuls alone: products of the same
shapes by the fastest matmul at hand, once for the forward pass and, for the gradients of input and
weight, twice more (the sinc layer's input has none). The filters are symmetric,
so half of their taps count.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.kernels import cpu  # noqa: E402
from amsincnet_sb.kernels.cpu.matmul import matmul_t  # noqa: E402
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN  # noqa: E402
from amsincnet_sb.nnet.pooling import statistics  # noqa: E402
from amsincnet_sb.training.device import keep_freed_memory  # noqa: E402

TURNS = 7
SLICE = 16  # chunks whose filters are one matmul


def least(run):
    """Least CPU time of some calls, in milliseconds."""
    run()
    times = []
    for _ in range(TURNS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return 1e3 * min(times)


def matmul_ms(rows, inner, columns, dtype):
    """Time and GFLOP of a matmul ``[rows, inner] x [inner, columns]``."""
    a = torch.randn(rows, inner).to(dtype)
    b = torch.randn(columns, inner).to(dtype)
    return least(lambda: matmul_t(a, b)), 2e-9 * rows * inner * columns


def both_ways(function, *inputs):
    """Least CPU times of forward and backward pass, and the output."""
    forward, backward = [], []
    for _ in range(TURNS):
        given = [x.detach().requires_grad_() for x in inputs]
        start = time.process_time()
        output = function(*given)
        forward.append(time.process_time() - start)
        grad = torch.randn(output.shape).to(output.dtype)
        start = time.process_time()
        output.backward(grad)
        backward.append(time.process_time() - start)
    return 1e3 * min(forward), 1e3 * min(backward), output.detach()


def parts(net, chunks, dtype):
    """Rows of name, forward ms, backward ms, GFLOP, floor ms."""
    batch = len(chunks)
    mixed = torch.autocast(
        "cpu", torch.bfloat16, enabled=dtype == torch.bfloat16
    )
    convs, norms = zip(net.convs, net.conv_norms), net.conv_norms

    def measured(function, *inputs):
        with mixed:
            return both_ways(function, *inputs)

    channels, taps = net.sinc.out_channels, net.sinc.kernel_size
    outputs = (chunks.shape[1] - taps + 1) // net.sinc_pool * net.sinc_pool
    ms, flop = matmul_ms(SLICE * outputs, taps // 2 + 1, channels, dtype)
    slices = batch / SLICE
    # Its gradient is of parameters alone.
    *times, x = measured(lambda: net.sinc_map(chunks))
    yield "sinc layer", *times, 2 * slices * flop, 2 * slices * ms
    others = [0.0, 0.0]
    for number, (conv, norm) in enumerate(convs, start=1):
        out, inside, width = conv.weight.shape
        stride = conv.stride[0]
        *times, y = measured(
            lambda a, conv=conv, stride=stride: cpu.conv(
                a, conv.weight, stride
            ),
            x,
        )
        ms, flop = matmul_ms(batch * y.shape[1], inside * width, out, dtype)
        yield f"convolution {number}", *times, 3 * flop, 3 * ms

        def normalised(a, norm=norm):
            a = norm(a.flatten(0, 1)).unflatten(0, a.shape[:2])
            return F.leaky_relu(a, net.negative_slope)

        *times, x = measured(normalised, y)
        others = [a + b for a, b in zip(others, times)]
    *times, pooled = measured(statistics, x)
    others = [a + b for a, b in zip(others, times)]
    yield f"{len(norms)} normalisations, statistics", *others, 0.0, 0.0
    *times, _ = measured(net._connect, pooled)
    found = [
        matmul_ms(batch, layer.in_features, layer.out_features, dtype)
        for layer in net.linears
    ]
    ms, flop = (3 * sum(values) for values in zip(*found))
    yield "fully connected layers", *times, flop, ms


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--precision", choices=["fp32", "bf16"], default="fp32")
    add("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()  # as a training does
    dtype = torch.bfloat16 if args.precision == "bf16" else torch.float32
    net = SincTDNN(band_mask=20).train()
    chunks = 0.1 * torch.randn(args.batch, net.window)
    print("| part | forward, ms | backward, ms | GFLOP | floor, ms |")
    print("|---|---|---|---|---|")
    total = [0.0] * 4
    for name, *row in parts(net, chunks, dtype):
        total = [a + b for a, b in zip(total, row)]
        print(f"| {name} |", " | ".join(f"{x:.1f}" for x in row), "|")
    print("| together |", " | ".join(f"{x:.1f}" for x in total), "|")


if __name__ == "__main__":
    main()

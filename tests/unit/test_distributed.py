"""Gradients and statistics of two processes against those of one."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from amsincnet_sb.training.distributed import GradientReducer, cut_compiled_step
from amsincnet_sb.training.sync_batchnorm import (
    SynchronizedBatchNorm,
    synchronize_batchnorm,
)

# Both processes do this; each saves what it got.
JOBS = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
from amsincnet_sb.training.brain import Totals
from amsincnet_sb.training.sync_batchnorm import synchronize_batchnorm
from amsincnet_sb.training.checkpoints import AtomicCheckpointer
from amsincnet_sb.training.distributed import *
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.training.captured_step import TrainingStep
from amsincnet_sb.training.metrics import SentenceErrors

dist.init_process_group("gloo")
me = rank()
folder = sys.argv[1]
sys.path.insert(0, os.path.dirname(sys.argv[2]))
from test_distributed import net_and_data, loss_of, scores_of
results = {}

def mine(x):
    return x[me * 6 : me * 6 + 6]

for name, shape in (("flat", (12, 5)), ("long", (12, 5, 3))):
    net, x, y = net_and_data(shape)
    net = synchronize_batchnorm(net)
    reducer = GradientReducer(net.parameters(), bucket_bytes=40)
    x = mine(x).requires_grad_()
    loss = loss_of(net(x), mine(y))
    reducer.forwarded(loss)
    loss.backward()
    assert reducer.finish()
    results[name] = [
        [p.grad for p in net.parameters()],
        list(net.buffers()),
        x.grad / world_size(),
    ]

# Unequal batches.
net, x, y = net_and_data((12, 5))
net = synchronize_batchnorm(net)
net(x[:9] if me == 0 else x[9:])
results["unequal"] = list(net.buffers())

# Averaged statistics, a parameter without a gradient, half the traffic.
net, x, y = net_and_data((12, 5))
unused = nn.Parameter(torch.ones(2))
averages = [net[1].running_mean, net[1].running_var]
reducer = GradientReducer(
    [*net.parameters(), unused],
    averages,
    torch.bfloat16,
    closing=[net[1].weight],
)
results["buckets"] = [len(each.parameters) for each in reducer._buckets]
loss = loss_of(net(mine(x)), mine(y))
reducer.forwarded(loss)
loss.backward()
reducer.finish()
results["own"] = [[p.grad for p in net.parameters()], averages, unused.grad]

# Accumulation: the second backward pass alone is sent.
net, x, y = net_and_data((12, 5))
net.eval()
reducer = GradientReducer(net.parameters())
for part, last in ((slice(0, 3), False), (slice(3, 6), True)):
    reducer.enabled = last
    loss = loss_of(net(mine(x)[part]), mine(y)[part]) / 2
    reducer.forwarded(loss)
    loss.backward()
reducer.finish()
reducer.detach()
results["accumulated"] = [p.grad.clone() for p in net.parameters()]

# A loss that is not finite in one process.
reducer = GradientReducer(net.parameters())
loss = loss_of(net(mine(x)), mine(y))
reducer.forwarded(loss if me == 0 else loss.detach() / 0)
loss.backward()
results["finite"] = bool(reducer.finish())

# The recordable step, and what it skips for all.
net, x, y = net_and_data((12, 5))
net = synchronize_batchnorm(net)

def step_loss(step):
    wrong = (step == 2) & (me == 1)
    loss = loss_of(net(mine(x) * (1 + step)), mine(y))
    return loss * torch.where(wrong, float("nan"), 1.0)

step = TrainingStep(
    step_loss,
    torch.optim.SGD(net.parameters(), lr=0.1),
    state=list(net.buffers()),
    reducer=GradientReducer(net.parameters()),
)
for _ in range(4):
    step()
results["step"] = list(net.state_dict().values()), step.read_skipped()

# Errors and answers.
def fails():
    raise InputError("Only the main process can know.")

try:
    on_main(fails)
except InputError as error:
    results["error"] = str(error), error.told_elsewhere
results["value"] = on_main(lambda: 7) if me == 0 else on_main(None)
results["any"] = any_rank([me == 0, me == 1, False])
try:
    same_on_all_ranks(str(me), "It")
except InputError as error:
    results["same"] = str(error)

# Sums in a checkpoint, and one that cannot be written.
totals = Totals(["a", "b"], "cpu")
totals.add(a=1 + me, b=10 * me)
results["totals"] = totals.read()
checkpointer = AtomicCheckpointer(folder + "/save", {"totals": totals})
checkpointer.save_checkpoint(end_of_epoch=False, name="first")
totals.clear()
checkpointer.recover_if_possible()
results["recovered"] = totals.values
checkpointer.recoverables["no"] = object()
try:
    checkpointer.save_checkpoint(name="second")
except InputError as error:
    results["unwritten"] = str(error)
if me == 1:  # as if the folders were not shared
    checkpointer._list_checkpoint_dirs = lambda: []
try:
    checkpointer.recover_if_possible()
except InputError as error:
    results["unshared"] = str(error)

# Scores of a sentence whose windows both have.
labels, sentence, scores = scores_of()
errors = SentenceErrors(labels)
if me == 0:
    errors.append(sentence[:7], scores[:7])
    errors.append(sentence[7:8], scores[7:8])
else:
    errors.append(sentence[8:], scores[8:])
errors.reduce()
results["scores"] = errors.scores, errors.summarize()
torch.save(results, f"{folder}/{me}.pt")
dist.destroy_process_group()
"""


def net_and_data(shape):
    """A small network with BatchNorm and a batch."""
    torch.manual_seed(0)
    first = nn.Linear(5, 4, bias=False)
    if len(shape) == 3:
        first = nn.Conv1d(5, 4, 2, bias=False)
    last = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    net = nn.Sequential(first, nn.BatchNorm1d(4, momentum=0.3), last)
    x, y = torch.randn(shape), torch.arange(shape[0]) % 3
    net.eval()(x)
    return (
        net.train(),
        x + torch.arange(shape[0]).view(-1, *[1] * (x.dim() - 1)),
        y,
    )


def loss_of(scores, labels):
    return nn.functional.cross_entropy(scores, labels)


def scores_of():
    generator = torch.Generator().manual_seed(1)
    scores = torch.log_softmax(
        torch.randn(20, 3, generator=generator) * 3, dim=1
    )
    sentence = torch.tensor([0] * 5 + [1] * 10 + [2] * 5)
    return torch.tensor([0, 1, 2]), sentence, scores


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two processes computed."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", JOBS, str(folder), __file__],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, text = process.communicate(timeout=120)
        assert process.returncode == 0, text.decode()
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name, shape", [("flat", (12, 5)), ("long", (12, 5, 3))]
)
def test_joint_batch_as_of_one_process(results, name, shape):
    net, x, y = net_and_data(shape)
    x.requires_grad_()
    loss_of(net(x), y).backward()
    for rank in range(2):
        gradients, buffers, of_input = results[rank][name]
        assert_close(gradients, [p.grad for p in net.parameters()])
        assert_close(buffers, net.buffers())
        assert_close([of_input], [x.grad[rank * 6 : rank * 6 + 6]])
    for a, b in zip(*(results[rank][name][0] for rank in range(2))):
        assert torch.equal(a, b)


def test_joint_statistics_of_unequal_batches(results):
    net, x, _ = net_and_data((12, 5))
    net(x)
    for rank in range(2):
        assert_close(results[rank]["unequal"], net.buffers())


def test_means_of_gradients_and_statistics(results):
    """Each normalises by its own; sent in bfloat16."""
    gradients, averages = [], []
    for part in (slice(0, 6), slice(6, 12)):
        net, x, y = net_and_data((12, 5))
        loss_of(net(x[part]), y[part]).backward()
        gradients.append([p.grad for p in net.parameters()])
        averages.append([net[1].running_mean, net[1].running_var])
    for rank in range(2):
        ours, statistics, unused = results[rank]["own"]
        for a, *both in zip(ours, *gradients, strict=True):
            mean = sum(both) / 2
            torch.testing.assert_close(a, mean, rtol=0.02, atol=0.01)
        assert_close(statistics, [sum(both) / 2 for both in zip(*averages)])
        assert torch.equal(unused, torch.zeros(2))
        # The unused one, the last layer and the norm; the first layer.
        assert results[rank]["buckets"] == [5, 1]


def test_accumulated_gradients(results):
    net, x, y = net_and_data((12, 5))
    net.eval()
    loss_of(net(x), y).backward()
    for rank in range(2):
        expected = [p.grad for p in net.parameters()]
        assert_close(results[rank]["accumulated"], expected)


def test_one_bad_loss_is_everybodys(results):
    assert [result["finite"] for result in results] == [False, False]


def test_recordable_step(results):
    net, x, y = net_and_data((12, 5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in (0, 1, 3):
        optimizer.zero_grad()
        loss_of(net(x * (1 + step)), y).backward()
        optimizer.step()
    for result in results:
        state, skipped = result["step"]
        assert_close(state, net.state_dict().values())
        assert skipped == [2]


def test_what_processes_tell_each_other(results):
    sentence = "Only the main process can know."
    assert [r["error"] for r in results] == [
        (sentence, False),
        (sentence, True),
    ]
    assert [r["value"] for r in results] == [7, 7]
    assert [r["any"] for r in results] == [[True, True, False]] * 2
    assert all("for process 1" in r["same"] for r in results)


def test_sums_and_checkpoints(results):
    assert [r["totals"] for r in results] == [{"a": 3.0, "b": 10.0}] * 2
    assert results[0]["recovered"].tolist() == [1.0, 0.0]
    assert results[1]["recovered"].tolist() == [2.0, 10.0]
    for result in results:
        assert "cannot be written" in result["unwritten"]
        assert "first for process 0 but missing" in result["unshared"]


def test_scores_are_the_same_sums_in_any_order(results):
    from amsincnet_sb.training.metrics import SentenceErrors

    labels, sentence, scores = scores_of()
    errors = SentenceErrors(labels)
    errors.append(sentence, scores)
    for result in results:
        assert torch.equal(result["scores"][0], errors.scores)
        assert result["scores"][1] == errors.summarize()


def test_of_one_process_it_is_batchnorm():
    net, x, _ = net_and_data((12, 5))
    twin, _, _ = net_and_data((12, 5))
    weight = twin[1].weight
    assert synchronize_batchnorm(twin) is twin
    assert isinstance(twin[1], SynchronizedBatchNorm)
    assert twin[1].weight is weight
    assert twin.state_dict().keys() == net.state_dict().keys()
    assert torch.equal(twin(x), net(x))
    assert torch.equal(twin.eval()(x), net.eval()(x))
    assert synchronize_batchnorm(twin)[1] is twin[1]


def test_of_one_process_nothing_is_sent():
    layer = nn.Linear(2, 1)
    reducer = GradientReducer(layer.parameters())
    loss = layer(torch.ones(1, 2)).sum()
    reducer.forwarded(loss * float("nan"))
    loss.backward()
    assert not reducer.finish()
    assert torch.equal(layer.weight.grad, torch.ones(1, 2))


def test_gradients_leave_a_cut_backward_pass_early():
    """Those of the linear layers before the convolutions' are computed."""
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func

    from amsincnet_sb.lobes.sincnet import SincNet

    events = []

    def backward(graph, example_inputs):
        def run(*arguments):
            events.append("backward")
            return graph(*arguments)

        return make_boxed_func(run)

    backend = aot_autograd(
        fw_compiler=lambda graph, _: make_boxed_func(graph.forward),
        bw_compiler=backward,
    )
    torch.manual_seed(0)
    net = SincNet(
        window=800,
        cnn_channels=[4, 4],
        cnn_kernel_sizes=[51, 5],
        cnn_pools=[3, 3],
        fc_neurons=[8, 8],
        fast=False,
    )
    for name, parameter in net.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _, name=name: events.append(name.split(".")[0])
        )

    def loss_of(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            return net(x).square().mean()

    x = torch.randn(4, 800)
    loss_of(x).backward()
    expected = [p.grad.clone() for p in net.parameters()]
    for cut in (False, True):
        if cut:
            cut_compiled_step(net.flat_norm)
        torch._dynamo.reset()
        net.zero_grad()
        loss = torch.compile(loss_of, backend=backend)(x)
        events.clear()
        loss.backward()
        last = len(events) - events[::-1].index("backward")
        assert ("linears" in events[:last]) == cut
        assert "sinc" in events[last:]
        for parameter, gradient in zip(net.parameters(), expected):
            torch.testing.assert_close(parameter.grad, gradient)

"""Gradients and statistics of two processes against those of one."""

import pytest
import torch
from recipe_process import start_two
from torch import nn

# Both processes do this; each saves what it got.
JOBS = """
import os, sys
import torch
import torch.distributed as dist
from torch import nn
from amsincnet_sb.training.totals import Totals
from amsincnet_sb.training.checkpoints import AtomicCheckpointer
from amsincnet_sb.training.distributed import *
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.training.captured_step import CapturedStep

dist.init_process_group("gloo")
me = rank()
folder = sys.argv[1]
sys.path.insert(0, os.path.dirname(sys.argv[2]))
from test_distributed import net_and_data, loss_of
results = {}

def mine(x):
    return x[me * 6 : me * 6 + 6]

# Gradients are averages, and so are running statistics; half the traffic.
net, x, y = net_and_data()
averages = [net[1].running_mean, net[1].running_var]
agreement = RankAgreement(averages, "cpu")
ddp = wrap_distributed(net, "cpu", dtype=torch.bfloat16)
loss = loss_of(ddp(mine(x)), mine(y))
agreement.start(loss)
loss.backward()
assert agreement.finish().isfinite()
results["own"] = [[p.grad for p in net.parameters()], averages]

# The step that can be captured, and what it skips for all.
net, x, y = net_and_data()
net[1].eval()
ddp = wrap_distributed(net, "cpu")
step = CapturedStep(
    lambda x, y: loss_of(ddp(x), y),
    torch.optim.SGD(net.parameters(), lr=0.1),
    state=list(net.buffers()),
    agreement=RankAgreement([], "cpu"),
)
for number in range(4):
    wrong = number == 2 and me == 1
    batch = mine(x) * (float("nan") if wrong else 1 + number)
    step(number, batch, mine(y))
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

torch.save(results, f"{folder}/{me}.pt")
dist.destroy_process_group()
"""


def net_and_data():
    """A small network with BatchNorm and a batch."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, 4, bias=False),
        nn.BatchNorm1d(4, momentum=0.3),
        nn.Linear(4, 3),
    )
    x, y = torch.randn(12, 5), torch.arange(12) % 3
    return net, x + torch.arange(12).view(-1, 1), y


def loss_of(scores, labels):
    return nn.functional.cross_entropy(scores, labels)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of each of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    for process in start_two("-c", JOBS, str(folder), __file__):
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 0, text
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_means_of_gradients_and_statistics(results):
    """Each process normalises by its own batch; sent in bfloat16."""
    gradients, averages = [], []
    for part in (slice(0, 6), slice(6, 12)):
        net, x, y = net_and_data()
        loss_of(net(x[part]), y[part]).backward()
        gradients.append([p.grad for p in net.parameters()])
        averages.append([net[1].running_mean, net[1].running_var])
    for rank in range(2):
        ours, statistics = results[rank]["own"]
        for a, *both in zip(ours, *gradients, strict=True):
            mean = sum(both) / 2
            torch.testing.assert_close(a, mean, rtol=0.02, atol=0.01)
        assert_close(statistics, [sum(both) / 2 for both in zip(*averages)])


def test_a_step_of_two_processes(results):
    """As of one with the joint batch; the step that is NaN in one is skipped."""
    net, x, y = net_and_data()
    net[1].eval()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for number in (0, 1, 3):
        optimizer.zero_grad()
        loss_of(net(x * (1 + number)), y).backward()
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
    assert results[0]["recovered"].tolist() == [1.0, 0.0]
    assert results[1]["recovered"].tolist() == [2.0, 10.0]
    for result in results:
        assert "cannot be written" in result["unwritten"]
        assert "first for process 0 but missing" in result["unshared"]

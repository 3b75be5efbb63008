"""The kernel that does AdamW's step, against torch's optimizer.

Without a GPU it runs in Triton's interpreter, in a process of its own, see
test_fast_cuda; this file is that process's program, too.
"""

import copy

import pytest
import torch
from interpreter import run_interpreted
from torch import nn

from amsincnet_sb.kernels.cuda.adamw import BLOCK, AdamWUpdate
from amsincnet_sb.training.captured_step import CapturedStep

pytest.importorskip("triton")
on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)


class Shift(nn.Module):
    """A parameter that is no part of a linear layer, of some size."""

    def __init__(self, size):
        super().__init__()
        self.shift = nn.Parameter(torch.linspace(-1, 1, size))

    def forward(self, x):
        return x + self.shift


def make(device, **options):
    """A network, with tensors below, at and above a block, and an optimizer."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(7, BLOCK // 8),
        nn.ReLU(),
        nn.Linear(BLOCK // 8, 8),  # a block
        Shift(8),
        nn.Linear(8, BLOCK + 3),
    ).to(device)
    groups = [
        {"params": [p for p in net.parameters() if p.dim() > 1], "lr": 3e-3},
        {
            "params": [p for p in net.parameters() if p.dim() == 1],
            "weight_decay": 0.0,
        },
    ]
    options = {"lr": 1e-2, "weight_decay": 0.3, **options}
    if device == "cuda":  # where counts of steps lie
        options["capturable"] = True
    return net, torch.optim.AdamW(groups, **options)


def differentiate(net, step, wrong=None):
    """Gradients of a step; one of its values may be a wrong one."""
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(5, 7, generator=generator).to(device)
    net.zero_grad()
    (net(x) * (step + 1)).square().mean().backward()
    if wrong is not None:
        net[3].shift.grad[2] = wrong


def differentiate_both(ours, theirs, step):
    """The same gradients for both, however their values were rounded."""
    differentiate(ours, step)
    for p, other in zip(ours.parameters(), theirs.parameters()):
        other.grad = p.grad.clone()


def values(net, optimizer):
    """All that a step changes."""
    state = [x for s in optimizer.state.values() for x in s.values()]
    return [x.detach().clone() for x in [*net.parameters(), *state]]


def assert_close(ours, theirs):
    """Two networks and their optimizers are as good as equal."""
    # 1 - 0.999 ** step has four digits in float32, in which torch on a GPU
    # has it; a step is at most 0.01.
    for a, b in zip(ours[0].parameters(), theirs[0].parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    states = ours[1].state.values(), theirs[1].state.values()
    for a, b in zip(*states, strict=True):
        assert a["step"] == b["step"]
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-8)


def check_equal(device, betas=(0.9, 0.999), eps=1e-8):
    """Parameters and state, for steps with the rate of the moment."""
    ours, theirs = (make(device, betas=betas, eps=eps) for _ in range(2))
    update = AdamWUpdate(ours[1])
    finite = torch.tensor(True, device=device)
    for step in range(5):
        rate = 0.01 / (step + 1)
        for _, optimizer in (ours, theirs):
            optimizer.param_groups[1]["lr"] = rate
        differentiate_both(ours[0], theirs[0], step)
        ours[1].param_groups[0]["lr"] = torch.tensor(3e-3, device=device)
        if step == 0:  # makes the state
            ours[1].step()
        else:
            update(finite)
        theirs[1].step()
        assert_close(ours, theirs)


def check_skipped(device):
    """Without an effect where a value is not finite; the next one counts."""
    ours, theirs = make(device), make(device)
    update = AdamWUpdate(ours[1])
    differentiate_both(ours[0], theirs[0], 0)
    for _, optimizer in (ours, theirs):
        optimizer.step()
    before = values(*ours)
    differentiate(ours[0], 1, float("nan"))
    update(torch.tensor(False, device=device))
    for a, b in zip(values(*ours), before, strict=True):
        assert torch.equal(a, b)
    differentiate_both(ours[0], theirs[0], 2)
    update(torch.tensor(True, device=device))
    theirs[1].step()
    assert_close(ours, theirs)


def check_finiteness(device):
    """Bad gradients are found, wherever they are."""
    net, optimizer = make(device)
    differentiate(net, 0)
    optimizer.step()
    update = AdamWUpdate(optimizer)
    for p in net.parameters():
        for at in (0, -1, p.numel() // 2):
            for bad in (float("nan"), float("inf"), -float("inf"), 3e38):
                differentiate(net, 1)
                p.grad.view(-1)[[at, at - 1]] = bad
                assert update.finiteness().isfinite() == (bad == 3e38)
    # Those that were looked at are those that count.
    net[2].weight.grad = net[2].weight.grad.t().contiguous().t()
    assert update.finiteness().isfinite()
    wanted = net[2].weight.grad.clone()
    state = optimizer.state[net[2].weight]["exp_avg"]
    moved = state + 0.1 * (wanted - state)
    update(torch.tensor(True, device=device))
    torch.testing.assert_close(state, moved)


def check_some(device):
    """Parameters without a gradient stay, and so do tensors that moved."""
    ours, theirs = make(device), make(device)
    update = AdamWUpdate(ours[1])
    finite = torch.tensor(True, device=device)
    for step in range(4):
        differentiate_both(ours[0], theirs[0], step)
        for net, _ in (ours, theirs):
            if step in (1, 2):
                net[0].weight.grad = None
            if step == 3:  # not contiguous, and off the alignment
                net[2].weight.grad = net[2].weight.grad.t().contiguous().t()
                bias = net[4].bias
                bias.grad = torch.cat([bias.grad[:1], bias.grad])[1:]
        if step == 0:
            ours[1].step()
        else:
            update(finite)
        theirs[1].step()
        if step == 2:  # as loading does
            ours[1].load_state_dict(copy.deepcopy(ours[1].state_dict()))
        assert_close(ours, theirs)


def check_all(device):
    check_equal(device)
    check_equal(device, betas=(0.0, 0.5), eps=1e-3)
    check_skipped(device)
    check_finiteness(device)
    check_some(device)


def test_equals_torch_in_the_interpreter():
    """Step by step, on the CPU."""
    run_interpreted(__file__)


@on_gpu
def test_equals_torch_on_gpu():
    check_all("cuda")


@on_gpu
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}])
def test_trains_captured_as_torch_does(options):
    """With all that a training has around it."""
    net, optimizer = make("cuda", **options)
    plain, theirs = make("cuda", **options)
    x = torch.randn(5, 7, device="cuda")
    step = CapturedStep(lambda x: net(x).square().mean(), optimizer)
    assert step._adamw is not None
    for number in range(12):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (number + 1)
        for group in theirs.param_groups:
            group["lr"] = 0.01 / (number + 1)
        step(number, x)
        theirs.zero_grad()
        plain(x).square().mean().backward()
        theirs.step()
        if number == 6:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert step.captured
    for a, b in zip(net.parameters(), plain.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_knows_what_it_can_do():
    """Other optimizers, and other forms of this one, are torch's."""
    net, optimizer = make("cpu")
    assert not AdamWUpdate.fits(optimizer)  # on a CPU
    if not torch.cuda.is_available():
        return
    net.cuda()
    assert AdamWUpdate.fits(torch.optim.AdamW(net.parameters()))
    for other in (
        torch.optim.AdamW(net.parameters(), amsgrad=True),
        torch.optim.AdamW(net.parameters(), maximize=True),
        torch.optim.Adam(net.parameters(), weight_decay=0.1),
        torch.optim.AdamW(net.double().parameters()),
    ):
        assert not AdamWUpdate.fits(other)


if __name__ == "__main__":
    check_all("cpu")

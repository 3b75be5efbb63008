"""Training with sharpness-aware minimisation."""

from recipe_process import start_two

# Each rank moves by the gradient of its own batch, and the gradients there are
# averaged; every rank computes by hand what both do.
TWO_RANKS = """
import copy
import torch
import torch.distributed as dist
from amsincnet_sb.training.captured_step import CapturedStep
from amsincnet_sb.training.distributed import RankAgreement, wrap_distributed

RADIUS, RATE = 0.5, 0.1
dist.init_process_group("gloo")
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
layer = torch.nn.Linear(4, 3)
layers = [copy.deepcopy(layer) for _ in range(2)]
net = wrap_distributed(layer, "cpu")


def loss(net, x):
    return net(x).square().square().mean()


step = CapturedStep(
    lambda x: loss(net, x),
    torch.optim.SGD(net.parameters(), RATE),
    agreement=RankAgreement([], "cpu"),
    sharpness_radius=RADIUS,
    apart=net.no_sync,
)
for number in range(5):
    batches = torch.randn(2, 8, 4).unbind()
    step(number, batches[dist.get_rank()])
    for own, x in zip(layers, batches):
        weight = own.weight.detach().clone()
        (move,) = torch.autograd.grad(loss(own, x), own.weight)
        own.weight.data += RADIUS * move / move.norm()
        own.zero_grad()
        loss(own, x).backward()
        own.weight.data.copy_(weight)
    for pair in zip(*(own.parameters() for own in layers)):
        mean = (pair[0].grad + pair[1].grad) / 2
        for parameter in pair:
            parameter.data -= RATE * mean
for ours, theirs in zip(layer.parameters(), layers[0].parameters()):
    torch.testing.assert_close(ours, theirs)
print("ALIKE")
"""


def test_interrupted_it_ends_as_if_nothing_had_happened(
    recipe, resumed_exactly, tmp_path
):
    kept = resumed_exactly("sinc_tdnn.yaml", sharpness_radius=0.05)
    plain = recipe("sinc_tdnn.yaml", tmp_path / "plain")
    assert recipe.state(plain) != kept


def test_options_that_change_the_step_are_refused(refused, tmp_path):
    """Before anything is written."""
    words = refused(
        "sinc_tdnn.yaml", sharpness_radius=0.05, skip_nonfinite_grads=True
    )
    assert "sharpness_radius is 0.05 and cannot be combined" in words
    assert "--skip_nonfinite_grads; leave it out, or give" in words
    assert not (tmp_path / "results").exists()


def test_ranks_move_by_their_own_gradients():
    for process in start_two("-c", TWO_RANKS):
        text, _ = process.communicate()
        assert process.returncode == 0 and "ALIKE" in text, text

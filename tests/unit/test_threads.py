"""Work side by side, each piece in one thread."""

import pytest
import reference
import torch

from amsincnet_sb.lobes import frozen
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.threads import one_thread_each


@pytest.fixture
def threads():
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("wanted, each", [(True, 1), (False, 3)])
def test_each_piece_has_one_thread_and_the_process_keeps_its_own(
    threads, wanted, each
):
    threads(3)
    with pytest.raises(ZeroDivisionError):
        with one_thread_each(wanted) as side_by_side:
            found = list(
                side_by_side(lambda _: torch.get_num_threads(), range(9))
            )
            assert found == [each] * 9
            list(side_by_side(lambda x: 1 // x, [1, 0]))
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("kind", [SincNet, SincTDNN])
def test_groups_are_embedded_side_by_side(threads, kind, monkeypatch):
    """In order, without gradient, the same as by one thread."""
    torch.manual_seed(0)
    net = reference.as_if_trained(kind(fc_neurons=[24, 16])).eval()
    waves = [torch.randn(n) for n in (9000, 3200, 15000, 4000)]
    windows = [wave.unfold(0, net.window, 400) for wave in waves]
    monkeypatch.setattr(frozen, "LEAST_GROUP", 5)
    embed, found, used = frozen.for_evaluation(net), [], []

    def note(*args):
        """How many threads an embedding was computed with."""
        used.append(torch.get_num_threads())
        return torch.nn.functional.leaky_relu(*args)

    monkeypatch.setattr(frozen.F, "leaky_relu_", note)
    for count in (1, 3):
        threads(count)
        found.append(embed(*windows))
    assert set(used) == {1} and not found[1].requires_grad
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "windows, count, size",
    [(1300, 2, 325), (1300, 1, 434), (27, 2, 64), (100, 4, 64), (512, 2, 256)],
)
def test_threads_have_groups_of_one_size(threads, windows, count, size):
    threads(count)
    assert frozen._group_size(windows, 512) == size

"""The kernels for GPUs against the plain formulas, values and gradients.

Without a GPU they run in Triton's interpreter, in a process of their own
because the switch is read when Triton is first imported; this file is that
process's program, too. The interpreter does not know matmuls of bfloat16;
those are checked on a GPU only.
"""

import pytest
import reference
import torch
import torch.nn.functional as F
from interpreter import run_interpreted
from reference import conv_problem, errors, problem, relative, under_bfloat16

from amsincnet_sb import kernels
from amsincnet_sb.kernels import cuda
from amsincnet_sb.kernels.cuda import support
from amsincnet_sb.kernels.finiteness import finiteness
from amsincnet_sb.lobes.frozen import (
    Folded,
    FoldedTDNN,
    compile_evaluation,
    for_evaluation,
)
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet

pytest.importorskip("triton")
on_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device"
)

DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]
DEFAULT = (3200, (80, 60, 60), (251, 5, 5), (3, 3, 3))
# samples, channels, taps, pools: every number of layers, channels below, at
# and above a multiple of 16, pools with and without a kernel of their own,
# lengths that do and do not fill the last block
FAMILY = [
    (120, (5, 4, 3), (21, 3, 3), (3, 2, 1)),
    (90, (18, 17), (9, 2), (1, 4)),
    (64, (16,), (11,), (2,)),
    (79, (3, 2), (7, 1), (3, 3)),
]
# More time than a tile of the normalisation has.
LONG = (2100, (2,), (5,), (2,))
# batch, time, channels in and out, taps, stride: steps that do and do not
# divide the taps and the time, channels off and on the multiples of 16
CONVS = [
    (3, 50, 16, 32, 5, 3),
    (2, 31, 5, 18, 3, 1),
    (2, 29, 32, 16, 4, 2),
    (1, 20, 16, 3, 2, 3),
    (2, 12, 7, 16, 1, 1),
]


def sinc_problem(batch, dtype, fixed=False):
    """Arguments and leaves of a sinc map with a logarithm, on the GPU."""
    arguments, _ = problem(DEFAULT, batch, dtype, "cuda")
    x, norm, filters, _, norms, pools, *rest = arguments
    if fixed:  # without a normalisation of its own
        return (x, None, filters, None, pools[0], *rest, 0.01), [x, filters]
    leaves = [x, *norm, filters, *norms[0]]
    return (x, norm, filters, norms[0], pools[0], *rest, 0.01), leaves


def check_finiteness(device, dtype=torch.float32):
    """Bad values are found; large finite ones with an infinite sum are not."""
    sizes = [(5,), (3, 7000), (2**14,)]
    for which, size in enumerate(sizes):
        for at in (0, -1, size[-1] // 2):
            for bad in (float("nan"), float("inf"), -float("inf"), 3e38):
                tensors = [
                    torch.randn(s, device=device, dtype=dtype) for s in sizes
                ]
                tensors[which].view(-1)[[at, at - 1]] = bad
                values = torch.stack(finiteness(tensors))
                assert values.isfinite().all() == (bad == 3e38)


def evaluated(kind, device, **arguments):
    """A network in evaluation mode, and windows."""
    torch.manual_seed(0)
    net = kind(**arguments).to(device).eval()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                for values in (module.running_mean, module.bias):
                    values.uniform_(-0.5, 0.5)
                for values in (module.running_var, module.weight):
                    values.uniform_(0.5, 2.0)
    return net, torch.randn(5, net.window, device=device)


def check_frozen(device, networks, dtypes):
    """Folded networks against the plain ones, and what float16 cannot hold."""
    for kind, folded, arguments in networks:
        net, x = evaluated(kind, device, **arguments)
        net.fast = False
        with torch.no_grad():
            exact = net.double().embed_windows(x.double())
        for dtype, bound in dtypes.items():
            wide = torch.promote_types(dtype, torch.float32)
            y = folded(net.to(wide), dtype).embed_windows(x.to(wide))
            assert y.dtype == wide
            assert relative(y, exact) < bound, (kind, dtype)
        net.fast = True
        net.float()
        half = for_evaluation(net, torch.float16)(x)
        assert half.shape == (len(x), 1, net.embedding_size)
        assert 0 < relative(half[:, 0], exact) < 3e-3
        with torch.no_grad():
            net.fc_norms[0].weight.mul_(1e6)
            single = folded(net).embed_windows(x)
            lost = folded(net, torch.float16).embed_windows(x)
            assert not lost.isfinite().all()
            half = for_evaluation(net, torch.float16)(x)
        torch.testing.assert_close(half[:, 0], single, rtol=0, atol=0)


SMALL = {"window": 240, "fc_neurons": [24, 20]}
SMALL_TDNN = {
    **SMALL,
    "sinc_channels": 10,
    "sinc_kernel_size": 51,
    "tdnn_channels": [12, 16, 16, 33],
    "tdnn_kernel_sizes": [5, 4, 3, 1],
    "tdnn_strides": [3, 1, 1, 1],
}
SMALL_SINCNET = {
    **SMALL,
    "cnn_channels": [10, 6],
    "cnn_kernel_sizes": [51, 5],
    "cnn_pools": [3, 2],
}
SMALL_NETWORKS = [
    (SincTDNN, FoldedTDNN, SMALL_TDNN),
    (SincTDNN, FoldedTDNN, {**SMALL_TDNN, "sinc_norm": "batch"}),
    (SincNet, Folded, SMALL_SINCNET),
]


def check_cnn(shape, batch):
    """Both kinds of convolutional part, in float64."""
    given = problem(shape, batch)
    found = errors(cuda.cnn, reference.cnn, given)
    assert max(found) < 1e-13, (shape, found)
    x, first, filters, _, norms, pools, *rest = given[0]
    keep = torch.rand(len(x), len(filters)) < 0.6
    for norm, floor, kept in (
        (first, 0.0, None),
        (first, 0.01, None),
        (None, 0.01, keep),
        (first, 0.0, keep),
    ):
        arguments = (x, norm, filters, norms[0], pools[0], *rest, floor, kept)
        leaves = [*([x, *norm] if norm else []), filters, *norms[0]]
        value, *grads = errors(
            cuda.sinc_map, reference.sinc_map, (arguments, leaves)
        )
        assert value < 1e-13, (shape, floor, value)
        assert max(grads) < 1e-12, (shape, floor, grads)
    # Without normalisation, LeakyReLU and mask.
    for floor in (0.0, 0.01):
        given = (x, None, filters, None, pools[0], *rest, floor), [x, filters]
        found = errors(cuda.sinc_map, reference.sinc_map, given)
        assert max(found) < 1e-12, (shape, floor, found)


def check_conv(shape):
    """A strided convolution, in float64."""
    found = errors(cuda.conv, reference.conv, conv_problem(shape))
    assert max(found) < 1e-13, (shape, found)


def check_float32():
    """Also where only some gradients are wanted."""
    single, leaves = given = problem(FAMILY[0], 2, torch.float32)
    value, *grads = errors(
        cuda.cnn, reference.cnn, given, problem(FAMILY[0], 2)
    )
    assert value < 1e-5, value
    assert max(grads) < 1e-4, grads
    for leaf in leaves[:3]:
        leaf.requires_grad_(False)
    y = cuda.cnn(*single)
    assert y.dtype == torch.float32
    some = torch.autograd.grad(y.square().sum(), leaves[3])
    assert some[0].isfinite().all()


def check_silence_and_nan():
    """Silence has finite gradients, and a NaN stays in its chunk."""
    arguments, leaves = problem(FAMILY[0], 3)
    with torch.no_grad():
        arguments[0][0] = 0.0
    y = cuda.cnn(*arguments)
    grads = torch.autograd.grad(y.sum(), leaves)
    assert all(g.isfinite().all() for g in grads)
    with torch.no_grad():
        arguments[0][1, 5] = torch.nan
        y = cuda.cnn(*arguments)
    assert y.isnan().all(1).tolist() == [False, True, False]


def interpreted():
    """The program of the process with the interpreter."""
    kernels._cuda = cuda
    check_finiteness("cpu")
    check_frozen(
        "cpu", SMALL_NETWORKS, {torch.float64: 1e-12, torch.float16: 3e-3}
    )
    check_cnn(LONG, 2)
    for shape in FAMILY:
        check_cnn(shape, 3)
    for shape in CONVS:
        check_conv(shape)
    check_float32()
    check_silence_and_nan()


def test_values_and_gradients_in_the_interpreter():
    """All kernels, value by value, on the CPU."""
    run_interpreted(__file__)


@on_gpu
def test_evaluation_is_compiled_beside_training():
    """What is trained does not notice."""
    torch.manual_seed(0)
    net = SincTDNN().cuda().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    windows = torch.randn(64, 3200, device="cuda")
    random = torch.cuda.get_rng_state()
    compile_evaluation(net, windows, torch.float16).join()
    assert net.training
    assert torch.equal(random, torch.cuda.get_rng_state())
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_evaluation_is_not_compiled_where_nothing_is():
    windows = torch.randn(4, 3200)
    assert compile_evaluation(SincTDNN(), windows, torch.float32) is None
    assert compile_evaluation(torch.nn.Flatten(), windows, None) is None


def test_supports_only_what_it_can_run():
    assert not cuda.supports(torch.zeros(1))

    def ask(x):
        return x + 1 if support._capable(0) else x - 1

    # The question may be part of what is compiled.
    asked = torch.compile(ask, fullgraph=True, backend="eager")
    capable = torch.cuda.is_available() and (
        torch.cuda.get_device_capability(0) >= (8, 0)
    )
    assert asked(torch.zeros(())).item() == (1 if capable else -1)


@pytest.mark.parametrize("size", [5, 8, 6420])
@pytest.mark.parametrize("device", DEVICES)
def test_aligned_linear_equals_linear(size, device):
    """Zeros in the padding change neither values nor gradients."""
    leaves = [
        torch.randn(*shape, device=device, requires_grad=True)
        for shape in ((4, size), (3, size), (3,))
    ]
    for enabled in (False, True):
        with torch.autocast(device, torch.bfloat16, enabled=enabled):
            got = cuda.linear(*leaves)
            want = F.linear(*leaves)
        assert got.dtype == want.dtype
        tolerance = {"rtol": 2e-2, "atol": 0.5} if enabled else {}
        torch.testing.assert_close(got, want, **tolerance)
        for a, b in zip(
            torch.autograd.grad(got.float().square().sum(), leaves),
            torch.autograd.grad(want.float().square().sum(), leaves),
        ):
            assert a.shape == b.shape
            assert a.is_contiguous() and a.dtype == torch.float32
            scale = b.abs().max() if enabled else 1.0
            torch.testing.assert_close(a / scale, b / scale, **tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_of_a_linear_weight_is_not_rounded(device):
    """Under autocast it has float32's digits, where torch's has bfloat16's."""
    x = torch.randn(64, 40, device=device).bfloat16().float()
    leaves = [torch.randn(*s, device=device) for s in ((24, 40), (24,))]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    dy = torch.randn(64, 24, device=device).bfloat16()
    with torch.autocast(device, torch.bfloat16):
        y = cuda.linear(x, *leaves)
    weight, bias = torch.autograd.grad(y, leaves, dy)
    torch.testing.assert_close(weight, dy.float().t() @ x)
    torch.testing.assert_close(bias, dy.float().sum(0))


@pytest.fixture
def tf32(request):
    """Allows TF32 if so parametrised; SpeechBrain does when imported."""
    # By hand: monkeypatch cannot undo what it sets here.
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = getattr(request, "param", False)
    yield
    for place, allowed in zip(places, before):
        place.allow_tf32 = allowed


@on_gpu
@pytest.mark.parametrize("shape", [DEFAULT, LONG, *FAMILY])
def test_float32_on_gpu(shape, tf32):
    """As exact as float32 convolutions, where TF32 is not allowed."""
    given, exact = (
        problem(shape, 4, dtype, "cuda")
        for dtype in (torch.float32, torch.float64)
    )
    value, *grads = errors(cuda.cnn, reference.cnn, given, exact)
    assert value < 1e-5
    assert max(grads) < 1e-4


@on_gpu
@pytest.mark.parametrize("tf32", [True], indirect=True)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_reduced_precision_on_gpu(precision, tf32):
    """Not worse than the plain path at the same precision."""
    exact = problem(DEFAULT, 8, device="cuda")
    given = problem(DEFAULT, 8, torch.float32, "cuda")
    fast, plain = (
        errors(
            under_bfloat16(function, precision == "bf16"),
            *(reference.cnn, given, exact),
        )
        for function in (cuda.cnn, reference.cnn)
    )
    assert fast[0] > 1e-5
    for ours, theirs in zip(fast, plain):
        assert ours < 1.5 * theirs


@on_gpu
@pytest.mark.parametrize(
    "shape", [(128, 983, 80, 96, 5, 3), (8, 300, 512, 512, 3, 1), *CONVS]
)
def test_conv_on_gpu(shape, tf32):
    """Exact in float32; in bfloat16 not worse than rounding its inputs."""
    exact = conv_problem(shape, device="cuda")
    given = conv_problem(shape, torch.float32, "cuda")
    for bf16, most in ((False, 1e-5), (True, 1e-2)):
        run = under_bfloat16(cuda.conv, bf16)
        assert max(errors(run, reference.conv, given, exact)) < most


@on_gpu
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_logarithmic_sinc_map_on_gpu(bf16, fixed, tf32):
    """Like the plain form; in bfloat16 maxima and small magnitudes move."""
    exact = sinc_problem(8, torch.float64, fixed)
    given = sinc_problem(8, torch.float32, fixed)
    run = under_bfloat16(cuda.sinc_map, bf16)
    value, *grads = errors(run, reference.sinc_map, given, exact)
    assert value < (3e-2 if bf16 else 1e-5)
    assert max(grads) < (0.2 if bf16 else 1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_finiteness(device):
    check_finiteness(device)
    check_finiteness(device, torch.bfloat16)


@on_gpu
def test_repeats_bit_for_bit_and_compiles_whole():
    """No kernel depends on the order in which programs run."""
    arguments, leaves = problem(DEFAULT, 32, torch.float32, "cuda")

    def run(function):
        y = under_bfloat16(function)(*arguments)
        return [y, *torch.autograd.grad(y.float().square().sum(), leaves)]

    first, second = run(cuda.cnn), run(cuda.cnn)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    whole = torch.compile(cuda.cnn, fullgraph=True, dynamic=False)
    for a, b in zip(run(whole), first):
        assert relative(a, b.double()) < 2e-2


@on_gpu
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_frozen_networks_on_gpu(precision):
    """Each precision of matmuls as exact as it can be."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    single = 1e-5 if precision == "highest" else 3e-3
    full = [(SincTDNN, FoldedTDNN, {}), (SincNet, Folded, {})]
    full.append((SincTDNN, FoldedTDNN, {"sinc_norm": "batch"}))
    try:
        check_frozen(
            "cuda",
            SMALL_NETWORKS + full,
            {torch.float32: single, torch.float16: 3e-3, torch.bfloat16: 3e-2},
        )
    finally:
        torch.set_float32_matmul_precision(before)


def test_compiled_programs_are_kept_apart():
    """The compiler's caches know which version of the operators they are of."""
    assert "amsincnet-" in torch.compiler.config.cache_key_tag
    kept = torch.compiler.config.cache_key_tag
    cuda._tag_compiled()
    assert torch.compiler.config.cache_key_tag == kept


if __name__ == "__main__":
    interpreted()

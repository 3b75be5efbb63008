"""Every module in other recipes: copied, saved, compiled, exported, moved."""

import copy
import pickle

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.features import SincFeatures
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.nnet.losses import AMSoftmax, MarginWarmup, ReleasedAMSoftmax
from amsincnet_sb.nnet.normalization import TimeLayerNorm
from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.utils.errors import InputError

WINDOW = 200
TARGETS = torch.tensor([[0], [2], [1], [0]])


def noise(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(*shape, generator=generator)


def embeddings():
    return [noise(4, 1, 8)]


def scores():
    return [noise(4, 1, 3).log_softmax(-1), TARGETS, torch.ones(4)]


# How to make each, and its inputs.
MODULES = {
    "SincConv": (lambda: SincConv(8, 31), lambda: [noise(4, 400)]),
    "SincFeatures": (
        lambda: SincFeatures(8, 101),
        lambda: [noise(4, 1600), torch.tensor([1.0, 0.5, 0.75, 1.0])],
    ),
    "SincNet": (
        lambda: SincNet(
            window=WINDOW,
            hop=30,
            cnn_channels=(4, 3, 3),
            cnn_kernel_sizes=(21, 5, 3),
            cnn_pools=(3, 3, 2),
            fc_neurons=(12, 12, 8),
        ),
        lambda: [noise(4, WINDOW)],
    ),
    "SincTDNN": (
        lambda: SincTDNN(
            window=400,
            hop=30,
            sinc_channels=8,
            sinc_kernel_size=31,
            tdnn_channels=(6, 6, 8, 8),
            fc_neurons=(12, 8),
        ),
        lambda: [noise(4, 400)],
    ),
    "CosineClassifier": (lambda: CosineClassifier(8, 3), embeddings),
    "SoftmaxClassifier": (lambda: SoftmaxClassifier(8, 3), embeddings),
    "TimeLayerNorm": (
        lambda: TimeLayerNorm((3, 20)),
        lambda: [noise(4, 3, 20)],
    ),
    "AMSoftmax": (lambda: AMSoftmax(0.2), scores),
    "ReleasedAMSoftmax": (lambda: ReleasedAMSoftmax(0.2), scores),
    "MarginWarmup": (lambda: MarginWarmup(AMSoftmax(0.2), 10), scores),
}
LOSSES = {"AMSoftmax", "ReleasedAMSoftmax", "MarginWarmup"}


def build(name, seed=0):
    """A module in evaluation mode, not with its initial parameters."""
    torch.manual_seed(seed)
    module = MODULES[name][0]().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    return module, MODULES[name][1]()


every_module = pytest.mark.parametrize("name", sorted(MODULES))
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU"
)
every_network = pytest.mark.parametrize("name", sorted(set(MODULES) - LOSSES))


@every_module
def test_deep_copy_and_pickle(name):
    module, inputs = build(name)
    # SpeechBrain wraps modules with parameters in DDP.
    assert name not in LOSSES or not list(module.parameters())
    expected = module(*inputs)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(twin(*inputs), expected)
        with torch.no_grad():  # nothing is shared
            for parameter in twin.parameters():
                parameter.zero_()
    assert torch.equal(module(*inputs), expected)


@pytest.mark.parametrize("name", ["SincNet", "SincTDNN", "SincFeatures"])
@pytest.mark.parametrize("time", [150, 400, 700])
def test_a_batch_of_none(name, time):
    """Shorter than a window, one, and several."""
    module, _ = build(name)
    (shape,) = {module(noise(0, time), lens).shape for lens in (None, noise(0))}
    assert shape == (0, *module(noise(4, time)).shape[1:])


@every_module
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(name, dtype):
    module, inputs = build(name)
    if dtype == torch.float16 and hasattr(module, "fast"):
        module.fast = False  # the CPU's kernels have no float16
    expected = module(*inputs)
    inputs[0].requires_grad_()
    with torch.autocast("cpu", dtype):
        y = module(*inputs).float()
    assert y.shape == expected.shape and y.isfinite().all()
    assert (y - expected).norm() < 0.05 * expected.norm()
    y.square().mean().backward()
    for tensor in [inputs[0], *module.parameters()]:
        assert tensor.grad.isfinite().all()
        assert tensor.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    [*sorted(LOSSES), "TimeLayerNorm", "CosineClassifier", "SincFeatures"],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, dtype):
    module, (x, *rest) = build(name)
    x = 30 * x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x, *rest)
    assert y.dtype == torch.float32
    assert torch.equal(y, module(x.float(), *rest))


@every_module
def test_compile_captures_it_whole(name):
    module, inputs = build(name)
    if hasattr(module, "fast"):
        module.fast = False
    expected = module(*inputs)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    y = compiled(*inputs)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["SincNet", "SincTDNN"])
def test_compiled_with_lens(name):
    """With graph breaks: they say how many windows there are."""
    module, _ = build(name)
    module.fast = False
    inputs = noise(4, 900), torch.tensor([1.0, 0.5, 0.75, 1.0])
    torch._dynamo.reset()
    y = torch.compile(module, backend="aot_eager")(*inputs)
    torch.testing.assert_close(y, module(*inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@every_network
def test_trace_and_export(name):
    module, inputs = build(name)
    traced = torch.jit.trace(module, inputs)
    exported = torch.export.export(module, tuple(inputs)).module()
    for wavs in (inputs[0], -0.5 * inputs[0]):
        again = [wavs, *inputs[1:]]
        for program in (traced, exported):
            torch.testing.assert_close(program(*again), module(*again))


def test_a_trace_has_no_lens():
    """It would keep the windows of one batch for all others."""
    net = SincTDNN().eval()
    with pytest.raises(InputError, match="trace without lens"):
        torch.jit.trace(net, (torch.randn(2, 9600), torch.tensor([0.5, 1.0])))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("sinc_norm", ["layer", "batch"])
def test_a_trace_of_a_window_takes_longer_waveforms(sinc_norm):
    """With batch it embedded them as one window, of another length."""
    net = SincTDNN(tdnn_channels=[8] * 4, fc_neurons=[8], sinc_norm=sinc_norm)
    net.eval()
    traced = torch.jit.trace(net, noise(2, 3200))
    longer = noise(3, 9001)
    torch.testing.assert_close(traced(longer), net(longer))
    with pytest.raises(InputError, match="trace with a window's 3200 samples"):
        torch.jit.trace(net, noise(2, 1000))


def test_features_in_onnx(tmp_path):
    """For any length."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module, _ = build("SincFeatures")
    x = noise(2, 4000)
    path = str(tmp_path / "features.onnx")
    shapes = {"wavs": {0: "batch", 1: "time"}}
    torch.onnx.export(module, (x,), path, dynamo=True, dynamic_shapes=shapes)
    session = onnxruntime.InferenceSession(path)
    (argument,) = session.get_inputs()
    for wavs in (x, noise(3, 5600, seed=5)):
        (y,) = session.run(None, {argument.name: wavs.numpy()})
        y, expected = torch.tensor(y), module(wavs).detach()
        torch.testing.assert_close(y, expected, atol=1e-3, rtol=1e-4)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@every_network
def test_ddp_finds_every_parameter_used(name, process_group):
    """A parameter without a gradient stops DDP in its second step."""
    module, inputs = build(name)
    wrapped = DistributedDataParallel(copy.deepcopy(module).train())
    module.train()
    for _ in range(2):
        for net in (wrapped, module):
            net.zero_grad()
            torch.manual_seed(0)  # for dropout and masks
            net(*inputs).square().mean().backward()
    for ours, theirs in zip(module.parameters(), wrapped.parameters()):
        torch.testing.assert_close(theirs.grad, ours.grad)


@needs_gpu
@every_network
def test_on_a_gpu(name):
    module, inputs = build(name)
    expected = module(*inputs)
    moved = copy.deepcopy(module).cuda()
    y = moved(*(x.cuda() for x in inputs)).cpu()
    torch.testing.assert_close(y, expected, atol=1e-2, rtol=1e-2)
    assert torch.equal(moved.cpu()(*inputs), expected)


@needs_gpu
def test_features_left_on_the_cpu_follow_the_waveforms():
    """speaker_verification_cosine.py moves the embedding model alone."""
    module, inputs = build("SincFeatures")
    y = module(*(x.cuda() for x in inputs))
    assert y.device.type == "cuda"
    torch.testing.assert_close(y.cpu(), module(*inputs), atol=1e-2, rtol=1e-3)

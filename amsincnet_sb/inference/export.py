"""A trained model for programs without torch, or without SpeechBrain."""

import copy
import json
import logging
import time
import warnings
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.nnet.windows import window_samples
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = ["OnnxCheck", "WaveformScorer", "check_onnx", "export_onnx"]

BLOCK = 32  # windows that go through the network together
TOLERANCE = 1e-3  # of scores and d-vectors, relative to the largest

MISSING = (
    "ONNX export needs onnx, onnxruntime and onnxscript; install them with "
    "pip install 'amsincnet_sb[export]'."
)


class WaveformScorer(nn.Module):
    """A model as one function of a waveform, without anything to learn.

    The sinc filters are constants, so that the first layer is an ordinary
    convolution. A few windows are looked at at a time, whatever the length.

    Arguments
    ---------
    model : amsincnet_sb.inference.identifier.SpeakerIdentifier
        Copied with the speakers enrolled so far; it stays as it is.

    Example
    -------
    >>> from amsincnet_sb.inference.identifier import SpeakerIdentifier
    >>> from amsincnet_sb.lobes.classifiers import CosineClassifier
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> net = SincNet(fc_neurons=[8, 8]).eval()
    >>> who = SpeakerIdentifier(net, CosineClassifier(8, 2), ["ann", "bob"])
    >>> scores, embedding = WaveformScorer(who)(torch.randn(16000))
    >>> scores.shape, embedding.shape
    (torch.Size([2]), torch.Size([8]))
    """

    def __init__(self, model):
        super().__init__()
        net = copy.deepcopy(model.embedding_model).cpu()
        net.fast = False
        for module in net.modules():
            if isinstance(module, SincConv):
                _freeze_filters(module)
        self.embedding_model = net
        self.classifier = copy.deepcopy(model.classifier).cpu()
        self.register_buffer("enrolled", model.enrolled_weight().cpu())
        self.scale = model.scale
        self.window, self.hop = net.window, model.hop
        self.speakers = len(model.speakers)
        self.eval().requires_grad_(False)

    def forward(self, waveform):
        """Score a recording.

        Arguments
        ---------
        waveform : torch.Tensor
            ``[samples]``, at least one.

        Returns
        -------
        scores : torch.Tensor
            ``[speakers]``, mean log-posteriors over the windows.
        embedding : torch.Tensor
            ``[embedding_size]``, the d-vector.
        """
        samples = waveform.shape[0]
        # As amsincnet_sb.nnet.windows, for a number that is not known yet.
        count = torch.sym_max((samples - self.window) // self.hop + 1, 1)
        blocks = (count + BLOCK - 1) // BLOCK
        number = torch.arange(blocks * BLOCK)
        weight = (number < count).float().view(blocks, BLOCK)
        length = torch.full((1,), samples)

        def step(totals, block):
            """Add the windows of a block to the totals."""
            numbers, weights = block
            at = window_samples(numbers, length, self.window, self.hop)
            parts = self._score_windows(waveform[at])
            new = weights @ torch.cat(parts, 1)
            return totals + new, totals[:1].clone()

        size = self.embedding_model.embedding_size
        totals, _ = _scan()(
            step,
            torch.zeros(self.speakers + size),
            (number.view(blocks, BLOCK), weight),
        )
        return (totals / count).split([self.speakers, size])

    def _score_windows(self, windows):
        embeddings = self.embedding_model.embed_windows(windows)
        outputs = self.classifier(embeddings[:, None]).squeeze(1)
        if len(self.enrolled):
            new = F.normalize(embeddings, dim=-1) @ self.enrolled.T
            outputs = torch.cat([outputs, new], 1)
        return log_posteriors(outputs, self.scale), embeddings


def _freeze_filters(sinc):
    filters = sinc.filters().detach()
    sinc.filters = lambda: filters


def _scan():
    try:
        from torch._higher_order_ops.scan import scan
    except ImportError as error:
        raise InputError(
            f"ONNX export needs a newer torch than {torch.__version__}."
        ) from error
    return scan


class OnnxCheck(NamedTuple):
    """How an ONNX file compares with the model it was made from.

    Attributes
    ----------
    difference : float
        Largest difference of a score or a number of a d-vector, relative to
        the largest of them, over recordings from half a window to 10 s.
    onnx_seconds, torch_seconds : float
        For 3 s of audio: medians of five runs.
    """

    difference: float
    onnx_seconds: float
    torch_seconds: float


def export_onnx(model, path):
    """Write a model as an ONNX file, checked against the model itself.

    The input ``waveform`` is float32 ``[samples]`` at the model's rate, in
    -1 to 1, of any length; the outputs are ``scores`` ``[speakers]`` (mean
    log-posteriors) and ``embedding`` ``[embedding_size]``. The names of the
    speakers, enrolled ones included, are in the file's metadata under
    ``speakers`` (JSON), beside ``sample_rate``, ``window`` and ``hop``.

    Arguments
    ---------
    model : amsincnet_sb.inference.identifier.SpeakerIdentifier
        The model.
    path : str or Path
        ``*.onnx``.

    Returns
    -------
    OnnxCheck

    Raises
    ------
    InputError
        If a package is missing or fails, or the file cannot be written.
    RuntimeError
        If the file would not compute what the model does; there is none then.
    """
    try:
        import onnx
        import onnx_ir
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise InputError(MISSING) from error
    scorer = WaveformScorer(model)
    samples = torch.export.Dim("samples", min=1)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                scorer,
                (torch.zeros(10 * scorer.window),),
                input_names=["waveform"],
                output_names=["scores", "embedding"],
                dynamic_shapes=({0: samples},),
                dynamo=True,
                verbose=False,
            )
        except Exception as error:
            # Not every version of these packages works with every other.
            versions = ", ".join(
                f"{package.__name__} {package.__version__}"
                for package in (torch, onnx, onnx_ir, onnxscript)
            )
            raise InputError(
                "The ONNX exporter fails with the versions installed here "
                f"({versions}); install the latest ones with pip install -U "
                "onnx onnx_ir onnxscript."
            ) from error
    onnx_ir.passes.common.RemoveUnusedNodesPass()(program.model)
    file = program.model_proto
    metadata = {
        "speakers": json.dumps(model.speakers),
        "sample_rate": str(model.embedding_model.sample_rate),
        "window": str(scorer.window),
        "hop": str(scorer.hop),
    }
    for key, value in metadata.items():
        file.metadata_props.add(key=key, value=value)
    content = file.SerializeToString()
    session = onnxruntime.InferenceSession(content)
    found = check_onnx(model, session)
    if not found.difference <= TOLERANCE:
        raise RuntimeError(
            f"The ONNX model differs by {found.difference:.1e} from torch's."
        )
    with atomic_write(Path(path), "wb") as written:
        written.write(content)
    return found


def check_onnx(model, session):
    """Compare an ONNX model with the model it was made from.

    Arguments
    ---------
    model : amsincnet_sb.inference.identifier.SpeakerIdentifier
        The model.
    session : onnxruntime.InferenceSession
        Of the file.

    Returns
    -------
    OnnxCheck
    """
    generator = torch.Generator().manual_seed(0)
    window, rate = (
        model.embedding_model.window,
        model.embedding_model.sample_rate,
    )
    largest = 0.0
    for samples in (window // 2, window, 3 * window + 1, 10 * rate):
        wave = 0.1 * torch.randn(samples, generator=generator)
        found = session.run(None, {"waveform": wave.numpy()})
        expected = model.analyse(wave)
        for ours, theirs in zip((expected.scores, expected.embedding), found):
            gap = (ours.cpu() - torch.from_numpy(theirs)).abs().max()
            largest = max(largest, (gap / ours.abs().max()).item())
    wave = 0.1 * torch.randn(3 * rate, generator=generator)
    feed = {"waveform": wave.numpy()}
    return OnnxCheck(
        largest,
        _seconds(lambda: session.run(None, feed)),
        _seconds(lambda: model.analyse(wave)),
    )


def _seconds(work, runs=5):
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


class _quiet:
    """Keep a logger to errors: what is normal is no news."""

    def __init__(self, name):
        self.logger = logging.getLogger(name)

    def __enter__(self):
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *error):
        self.logger.setLevel(self.level)

"""Models and d-vectors for other programs: ONNX, npz, CSV."""

import copy
import csv
import json
import logging
import time
import warnings
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from amsincnet_sb.dataio.audio import SILENT
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.nnet.windows import count_windows, window_samples
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, spreadsheet_cell

__all__ = [
    "OnnxCheck",
    "WaveformScorer",
    "check_onnx",
    "export_onnx",
    "write_embeddings",
]

BLOCK = 32  # windows that go through the network together
TOLERANCE = 1e-3  # of scores and d-vectors, relative to the largest


class WaveformScorer(nn.Module):
    """A model as one function of a waveform, without trainable parameters.

    The sinc filters are constants, so that the first layer is an ordinary
    convolution. A few windows go through the network at a time, whatever the
    length.

    It is a copy of a SpeakerIdentifier and of the speakers enrolled so far.
    """

    def __init__(self, model):
        super().__init__()
        net = copy.deepcopy(model.embedding_model).cpu()
        if not hasattr(net.sinc, "filters"):
            raise InputError(
                f"A model with the filters {net.arguments['filters']} cannot "
                "become an ONNX file; one with sinc filters can."
            )
        net.fast = False
        for module in net.modules():
            if isinstance(module, SincConv):
                _freeze_filters(module)
        self.embedding_model = net
        self.classifier = copy.deepcopy(model.classifier).cpu()
        self.scale = model.scale
        self.window, self.hop = net.window, model.hop
        self.sizes = len(model.speakers), net.embedding_size
        self.eval().requires_grad_(False)

    def forward(self, waveform):
        """``[samples]`` -> scores ``[speakers]``, d-vector ``[size]``.

        The scores are mean log-posteriors over the windows, without those of
        digital silence unless there are no others, as in ``window_means``.
        """
        samples = waveform.shape[0]
        length = torch.full((1,), samples)
        count = count_windows(length, self.window, self.hop)
        # At least as many as there are windows; the others weigh nothing.
        blocks = samples // (self.hop * BLOCK) + 1
        number = torch.arange(blocks * BLOCK)
        weight = (number < count).float().view(blocks, BLOCK)

        def step(totals, block):
            """Add the windows of a block to the totals."""
            numbers, weights = block
            at = window_samples(numbers, length, self.window, self.hop)
            windows = waveform[at]
            loud = windows.amax(1) - windows.amin(1) > SILENT
            weights = torch.stack([weights * loud, weights])
            embeddings = self.embedding_model.embed_windows(windows)
            outputs = self.classifier(embeddings[:, None]).squeeze(1)
            scores = log_posteriors(outputs, self.scale)
            ones = torch.ones_like(scores[:, :1])
            new = weights @ torch.cat([ones, scores, embeddings], 1)
            return totals + new, totals[:1, :1].clone()

        totals, _ = _scan()(
            step,
            torch.zeros(2, 1 + sum(self.sizes)),
            (number.view(blocks, BLOCK), weight),
        )
        loud, every = totals
        kept = torch.where(loud[:1] > 0, loud, every)
        return (kept[1:] / kept[:1]).split(self.sizes)


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

    ``difference`` is the largest one of any score or dimension of a d-vector,
    relative to the largest of them, over recordings from half a window to
    10 s, one of them silent for a while; the times are medians of five runs on
    3 s of audio.
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

    Returns an OnnxCheck. A file that would not compute the same as the model
    is not written, and raises RuntimeError.
    """
    try:
        import onnx
        import onnx_ir
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise InputError(
            "ONNX export needs onnx, onnxruntime and onnxscript; install them "
            "with pip install 'amsincnet_sb[export]'."
        ) from error
    scorer = WaveformScorer(model)
    try:
        program = _export(scorer)
    except Exception as error:
        # Not every version of these packages works with every other.
        versions = ", ".join(
            f"{package.__name__} {package.__version__}"
            for package in (torch, onnx, onnx_ir, onnxscript)
        )
        raise InputError(
            "The ONNX exporter fails with the versions installed here "
            f"({versions}); install the latest ones with pip install -U onnx "
            "onnx_ir onnxscript."
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
    found = check_onnx(model, onnxruntime.InferenceSession(content))
    if not found.difference <= TOLERANCE:
        raise RuntimeError(
            f"The ONNX model differs by {found.difference:.1e} from torch's."
        )
    with atomic_write(Path(path), "wb") as written:
        written.write(content)
    return found


def _export(scorer):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            scorer,
            (torch.zeros(10 * scorer.window),),
            input_names=["waveform"],
            output_names=["scores", "embedding"],
            dynamic_shapes=({0: torch.export.Dim("samples", min=1)},),
            dynamo=True,
            verbose=False,
        )


def check_onnx(model, session):
    """Compare an ``onnxruntime.InferenceSession`` with its model."""
    generator = torch.Generator().manual_seed(0)
    net = model.embedding_model

    def noise(samples):
        """A waveform to compare on."""
        return 0.1 * torch.randn(samples, generator=generator)

    exact, largest = copy.copy(model), 0.0
    exact.use_float32()
    lengths = net.window // 2, net.window, 3 * net.window + 1
    waves = [noise(samples) for samples in (*lengths, 10 * net.sample_rate)]
    silent = noise(9 * net.window)
    silent[2 * net.window : 6 * net.window] = 0
    for wave in [*waves, silent]:
        found = session.run(None, {"waveform": wave.numpy()})
        (expected,) = exact.analyse_all([wave])
        for ours, theirs in zip((expected.scores, expected.embedding), found):
            gap = (ours.cpu() - torch.from_numpy(theirs)).abs().max()
            largest = max(largest, (gap / ours.abs().max()).item())
    wave = noise(3 * net.sample_rate)
    feed = {"waveform": wave.numpy()}
    return OnnxCheck(
        largest,
        _seconds(lambda: session.run(None, feed)),
        _seconds(lambda: list(model.analyse_all([wave]))),
    )


def _seconds(work, runs=5):
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def write_embeddings(path, files, embeddings):
    """Write d-vectors ``[files, embedding_size]``, whole or not at all.

    ``*.npz`` has the arrays ``files`` (text) and ``embeddings`` (float32),
    without pickles; ``*.csv`` the column ``file``, then one per dimension. A
    name that a spreadsheet would compute begins with ``'`` in it.
    Another suffix is an InputError.
    """
    suffix, values = Path(path).suffix, embeddings.numpy()
    if suffix == ".npz":
        with atomic_write(path, "wb") as file:
            np.savez(file, files=np.array(files), embeddings=values)
    elif suffix == ".csv":
        with atomic_write(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", *range(values.shape[1])])
            for name, row in zip(files, values):
                # Nine digits bring every float32 back.
                values = (f"{value:.9g}" for value in row)
                writer.writerow([spreadsheet_cell(name), *values])
    else:
        raise InputError(f"{path} must end with .npz or .csv.")

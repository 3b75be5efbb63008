"""The base class of SincNet and SincTDNN."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.kernels import kernels_for
from amsincnet_sb.nnet.filterbanks import make_filters
from amsincnet_sb.nnet.windows import (
    check_lens,
    count_windows,
    cut_windows,
    locate_windows,
    valid_samples,
    window_samples,
)
from amsincnet_sb.utils.errors import InputError

__all__ = ["WindowedEmbedding"]

# Weight of a batch in the running statistics of batch normalisation.
MOMENTUM = 0.05

_HALF = (torch.float16, torch.bfloat16)
_PLAIN = (int, float, str)
_SIZES = ("sample_rate", "window", "hop", "fc_neurons")


class WindowedEmbedding(nn.Module):
    """Embeds windows; a longer waveform is the mean over its windows.

    Base class of networks that end in fully connected layers, each with batch
    normalisation. ``arguments`` are all of the network's, as ``locals()``
    gives them; ``layers`` names those that are lists with an entry for each
    layer, ``sizes`` further ones that must be positive whole numbers.
    """

    linear_embedding = True
    sample_rate: int
    window: int
    hop: int
    negative_slope: float
    fast: bool
    embedding_size: int

    def __init__(self, arguments, layers, sizes=()):
        super().__init__()
        # Those that make the same network; "fast" is about the machine.
        self.arguments = {
            name: value if isinstance(value, _PLAIN) else list(value)
            for name, value in arguments.items()
            if name not in ("self", "__class__", "fast")
        }
        self._check(layers, [*_SIZES, *sizes])
        for name in ("sample_rate", "window", "hop", "negative_slope"):
            setattr(self, name, arguments[name])
        self.fast = arguments["fast"]
        self.embedding_size = self.arguments["fc_neurons"][-1]

    def embed_windows(self, windows: torch.Tensor) -> torch.Tensor:
        """``[windows, window]`` to ``[windows, embedding_size]``.

        Each network defines it.
        """
        raise NotImplementedError

    def _check(self, layers, sizes):
        kind = type(self).__name__
        lengths = [str(len(self.arguments[name])) for name in layers]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"{kind}: {_listed(layers)} must be of equal length but have "
                f"{_listed(lengths)} entries."
            )
        for name in (*sizes, *layers):
            given = self.arguments[name]
            given = given if isinstance(given, list) else [given]
            if not given or not all(type(n) is int and n > 0 for n in given):
                raise ValueError(
                    f"{kind}: {name} has {given} where positive whole numbers "
                    "are needed."
                )

    def _check_input(self, wavs):
        """Raise InputError for waveforms that cannot be embedded."""
        kind, shape = type(self).__name__, [*wavs.shape]
        if len(shape) != 2 or shape[1] == 0:
            raise InputError(
                f"{kind}: waveforms have the shape {shape}, but "
                "must have [batch, time] or [batch, time, 1], and a sample."
            )
        dtype = self.linears[0].weight.dtype
        if dtype in _HALF and wavs.device.type == "cpu":
            raise InputError(
                f"{kind}: its parameters are {dtype}, which it cannot be "
                "computed with on a CPU; leave them float32, and use "
                "torch.autocast."
            )

    def _check_lens(self, lens, batch, time):
        """Raise InputError for lengths that are not SpeechBrain's."""
        kind = type(self).__name__
        check_lens(lens, batch, kind)
        # Half precision rounds; lengths in samples would take padding in.
        if (lens > 1.01).any():
            raise InputError(
                f"{kind}: lens go up to {lens.max().item():g}, but must be "
                f"fractions of the time, at most 1; divide samples by {time}."
            )

    def _check_trace(self, lens, time):
        """Raise InputError for inputs of which a trace would keep too much."""
        if lens is not None:
            raise InputError(
                "With lens, utterances have windows of their own, which a "
                "trace would keep for all others; trace without lens."
            )
        if time < self.window:
            raise InputError(
                f"A trace of {time} samples would repeat the beginning of "
                "every waveform and leave out the rest; trace with a window's "
                f"{self.window} samples or more."
            )

    def _add_linears(self, size):
        """The fully connected layers for vectors of a size."""
        sizes = [size, *self.arguments["fc_neurons"]]
        self.linears = nn.ModuleList(
            nn.Linear(n_in, n_out) for n_in, n_out in zip(sizes, sizes[1:])
        )
        self.fc_norms = nn.ModuleList(
            nn.BatchNorm1d(n, momentum=MOMENTUM) for n in sizes[1:]
        )
        self.dropout = nn.Dropout(self.arguments["dropout"])

    def _connect(self, x):
        """Vectors through the fully connected layers."""
        kernels = self._kernels(x)
        linear = F.linear if kernels is None else kernels.linear
        last = len(self.linears) - 1
        for i, (layer, norm) in enumerate(zip(self.linears, self.fc_norms)):
            x = norm(linear(x, layer.weight, layer.bias))
            if i < last or not self.linear_embedding:
                x = F.leaky_relu(x, self.negative_slope)
            if i < last:
                x = self.dropout(x)
        return x

    def _kernels(self, x):
        """The kernels for a tensor, or None for the plain form."""
        return kernels_for(x) if self.fast else None

    def filter_kernels(self, x: torch.Tensor) -> ModuleType | None:
        """The kernels for a tensor, if they are for filters like these."""
        kernels = self._kernels(x)
        if kernels is None or not hasattr(self.sinc, "filters"):
            return None
        return kernels if self.sinc.symmetric or x.is_cuda else None

    def _add_filters(self, channels, taps, pool):
        """The first layer; its name is that in every model file."""
        names = ("filters", "sample_rate", "min_low_hz", "min_band_hz")
        name, *others = (self.arguments[name] for name in names)
        window = self.arguments["window"]
        self.sinc = make_filters(name, channels, taps, *others, pool, window)

    def _filtered(self, windows, pool):
        """Plain form of the first layer, ``[windows, channels, time]``.

        Largest magnitudes of each pool, or features, which have a logarithm.
        """
        x = self.sinc(self.input_norm(windows))
        if not hasattr(self.sinc, "filters"):
            return x
        return F.max_pool1d(x.abs(), pool)

    def forward(
        self, wavs: torch.Tensor, lens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embed waveforms of any length; the mean over their windows.

        :mod:`amsincnet_sb.nnet.windows` says where windows lie. Padding behind
        ``lens`` changes nothing.

        Arguments
        ---------
        wavs : torch.Tensor
            ``[batch, time]`` or ``[batch, time, 1]``.
        lens : torch.Tensor, optional
            ``[batch]``, valid part of each as a fraction of ``time``.

        Returns
        -------
        torch.Tensor
            ``[batch, 1, embedding_size]``.
        """
        if wavs.dim() == 3:
            wavs = wavs.squeeze(-1)
        self._check_input(wavs)
        batch, time = wavs.shape
        traced = torch.jit.is_tracing()
        if traced:
            self._check_trace(lens, time)
        if lens is None:
            # A trace would keep it for waveforms of all lengths.
            if time == self.window and not traced:
                return self.embed_windows(wavs).unsqueeze(1)
            windows = cut_windows(wavs, self.window, self.hop)
            x = self.embed_windows(windows.flatten(0, 1))
            return x.unflatten(0, windows.shape[:2]).mean(1, keepdim=True)

        self._check_lens(lens, batch, time)
        samples = valid_samples(lens.to(wavs.device), time).clamp(1, time)
        counts = count_windows(samples, self.window, self.hop)
        owner, nth = locate_windows(counts)
        at = window_samples(nth, samples[owner], self.window, self.hop)
        x = self.embed_windows(wavs[owner[:, None], at])
        # A long sum of half-precision values would stall.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = wide.new_zeros(batch, x.shape[1]).index_add(0, owner, wide)
        return (total / counts[:, None]).to(x.dtype).unsqueeze(1)


def _listed(words):
    return f"{', '.join(words[:-1])} and {words[-1]}"

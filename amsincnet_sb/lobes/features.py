"""Learnable features in place of a filterbank.

The sinc layer of M. Ravanelli and Y. Bengio, "Speaker recognition from raw
waveform with SincNet", SLT 2018, https://arxiv.org/abs/1808.00158, at the frame
rate and on the scale of log filterbank energies.
"""

import logging

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.nnet.windows import check_lens, valid_samples

__all__ = ["SincFeatures"]

logger = logging.getLogger(__name__)


class SincFeatures(nn.Module):
    """Log energies in learnable frequency bands, a frame every 10 ms.

    It replaces SpeechBrain's ``Fbank``, whose triangular filters act on a
    spectrogram, by band-pass filters on the waveform. A frame is the logarithm
    of a band's power, averaged over ``win_length``. The power is that of the
    filter's output and of its Hilbert transform together (the squared
    envelope), which changes as slowly as the band is narrow: hence it can be
    sampled every ``stride``, where a rectified output would alias.

    List the module among ``modules`` and among the checkpointer's
    recoverables; without the latter the learned filters are lost silently.
    It computes in float32 also under autocast: a waveform rounded to bfloat16
    has noise at -50 dB, above the power of weak bands.

    Arguments
    ---------
    out_channels : int
        Number of filters.
    kernel_size : int
        Taps of a filter, odd; 251 are 16 ms at 16 kHz. Keep the duration at
        other sample rates.
    sample_rate : int
        In Hz.
    stride : int
        Samples between the filter outputs that are averaged. A larger one is
        faster; ``sample_rate / stride`` must stay well above the widths of the
        bands, up to 400 Hz at the start.
    win_length : float
        Duration that is averaged, in ms, rounded to whole strides.
    hop_length : float
        Between frames, in ms; a whole number of strides.
    min_low_hz, min_band_hz : float
        See :class:`amsincnet_sb.nnet.sinc.SincConv`.
    param_change_factor : float
        As in ``Fbank``: how far a step of the optimizer moves the cut-offs,
        relative to :class:`amsincnet_sb.nnet.sinc.SincConv`, where a step of
        Adam with a learning rate of 0.001 is about 16 Hz. A state dict holds
        it, and is converted where it is loaded with another one.
    requires_grad : bool
        Whether the filters are learned.
    amin : float
        Power added before the logarithm; 1e-10 is -100 dB of full scale.

    Raises
    ------
    ValueError
        If the hop is not a whole number of strides, the window is shorter
        than the hop, or ``param_change_factor`` is not positive.

    Example
    -------
    >>> compute_features = SincFeatures(out_channels=40)
    >>> compute_features(torch.randn(2, 16000)).shape
    torch.Size([2, 100, 40])
    >>> lens = torch.tensor([1.0, 0.5])
    >>> compute_features(torch.randn(2, 16000, 1), lens).shape
    torch.Size([2, 100, 40])
    """

    def __init__(
        self,
        out_channels: int = 80,
        kernel_size: int = 251,
        sample_rate: int = 16000,
        stride: int = 10,
        win_length: float = 25,
        hop_length: float = 10,
        min_low_hz: float = 50.0,
        min_band_hz: float = 50.0,
        param_change_factor: float = 1.0,
        requires_grad: bool = True,
        amin: float = 1e-10,
    ) -> None:
        super().__init__()
        hop = hop_length * sample_rate / 1000
        if stride < 1 or hop < stride or hop % stride:
            raise ValueError(
                f"SincFeatures: hop_length is {hop:g} samples, which is not a "
                f"whole number of strides of {stride}; choose a stride that "
                "divides it"
                + (", and a hop_length of whole samples." if hop % 1 else ".")
            )
        if win_length < hop_length:
            raise ValueError(
                f"SincFeatures: win_length is {win_length} ms but must be at "
                f"least hop_length, {hop_length} ms."
            )
        if not param_change_factor > 0:
            raise ValueError(
                f"SincFeatures: param_change_factor is {param_change_factor} "
                "but must be positive; requires_grad=False freezes the filters."
            )
        self.stride = stride
        self.hop = int(hop)
        self.win = stride * round(win_length * sample_rate / 1000 / stride)
        self.amin = amin
        self.register_buffer(
            "hilbert", _hilbert_matrix(kernel_size), persistent=False
        )
        self.sinc = _AnchoredSincConv(
            param_change_factor,
            out_channels=out_channels,
            kernel_size=kernel_size,
            sample_rate=sample_rate,
            min_low_hz=min_low_hz,
            min_band_hz=min_band_hz,
            stride=stride,
        )
        for parameter in self.sinc.parameters():
            parameter.requires_grad_(requires_grad)

    def filters(self) -> torch.Tensor:
        """Impulse responses ``[2 * out_channels, kernel_size]``.

        First all band-pass filters, with a gain of about one in their band,
        then their Hilbert transforms.
        """
        low, high = self.sinc.cutoffs()
        filters = self.sinc.filters() * (2 * (high - low))[:, None]
        return torch.cat([filters, filters @ self.hilbert])

    def forward(
        self, wavs: torch.Tensor, lens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Waveforms to features.

        Arguments
        ---------
        wavs : torch.Tensor
            ``[batch, time]`` or ``[batch, time, 1]``.
        lens : torch.Tensor, optional
            ``[batch]``, valid part of each as a fraction of ``time``; the
            rest counts as silence, whatever it holds.

        Returns
        -------
        torch.Tensor
            ``[batch, frames, out_channels]``, in dB of full scale. Frame
            ``t`` is centred ``(t + 0.5) * hop_length`` ms into the waveform.
        """
        with torch.autocast(wavs.device.type, enabled=False):
            x = wavs.squeeze(-1) if wavs.dim() == 3 else wavs
            if x.dtype in (torch.float16, torch.bfloat16):
                x = x.float()
            batch, time = x.shape
            if lens is not None:
                check_lens(lens, batch, type(self).__name__)
                samples = valid_samples(lens.to(x.device), time)
                at = torch.arange(time, device=x.device)
                x = torch.where(at < samples[:, None], x, 0.0)
            # Rounded up, as SpeechBrain rounds a relative length times the
            # number of frames.
            frames = (time + self.hop - 1) // self.hop
            taps = self.sinc.kernel_size
            left = (self.win - self.hop) // 2 + taps // 2
            whole = (frames - 1) * self.hop + self.win - self.stride + taps
            x = F.pad(x.unsqueeze(1), (left, whole - left - time))
            # Scripts may move the waveforms to a GPU and leave this module.
            filters = self.filters().to(x).unsqueeze(1)
            outputs = F.conv1d(x, filters, stride=self.stride).square()
            power = outputs.unflatten(1, (2, -1)).mean(1)
            power = F.avg_pool1d(
                power, self.win // self.stride, self.hop // self.stride
            )
            return 10 * torch.log10(power + self.amin).transpose(1, 2)


def _hilbert_matrix(size):
    """Hilbert transform of row vectors, ``[size, size]``."""
    # Padding keeps what leaves the vector at one end out of the other.
    padded = 4 * size
    spectra = torch.fft.fft(torch.eye(size, dtype=torch.float64), padded)
    spectra[:, padded // 2 :] = 0
    return 2 * torch.fft.ifft(spectra)[:, :size].imag.float()


class _AnchoredSincConv(SincConv):
    """SincConv with cut-offs that move ``factor`` as far as its parameters.

    The factor is in the state: without it parameters say nothing.
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        # A tensor that .half() leaves alone.
        self.register_buffer("factor_bits", _bits(factor))
        for name, start in (("low", self.low), ("band", self.band)):
            self.register_buffer(
                f"{name}_start", start.detach().clone(), persistent=False
            )

    def cutoffs(self):
        """Effective cut-offs; see SincConv."""
        low = torch.lerp(self.low_start, self.low, self.factor)
        band = torch.lerp(self.band_start, self.band, self.factor)
        low = low.abs() + self.min_low_hz / self.sample_rate
        return low, low + band.abs() + self.min_band_hz / self.sample_rate

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        """Convert parameters of another factor; see torch.nn.Module."""
        key = f"{prefix}factor_bits"
        if key not in state_dict:
            logger.warning(
                "SincFeatures: this state is of version 0.1 and does not say "
                "its param_change_factor; taken for the %g of this module. "
                "Give the one it was trained with.",
                self.factor,
            )
        else:
            factor = state_dict[key].view(torch.float64).item()
            for name in ("low", "band") if factor != self.factor else ():
                start = getattr(self, f"{name}_start")
                moved = state_dict[prefix + name].to(start) - start
                state_dict[prefix + name] = start + moved * (
                    factor / self.factor
                )
        state_dict[key] = _bits(self.factor)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _bits(number):
    """A number's float64 as an integer tensor."""
    return torch.tensor(number, dtype=torch.float64).view(torch.int64)

"""What networks that look at short windows have in common."""

import torch
from torch import nn

from amsincnet_sb.kernels import cpu as fast_cpu
from amsincnet_sb.nnet.windows import count_windows, window_samples

__all__ = ["WindowedEmbedding"]

# What only a GPU needs takes seconds to import.
fast_cuda = None
if torch.cuda.is_available():
    from amsincnet_sb.kernels import cuda as fast_cuda


class WindowedEmbedding(nn.Module):
    """Embeds a window at a time; a longer waveform is the mean over its own.

    Base class: ``embed_windows`` is what a network adds.

    Attributes
    ----------
    window, hop : int
        Samples of a window, and between the windows of a longer waveform.
    embedding_size : int
        Numbers of an embedding.
    fast : bool
        Whether to use what is written for the device.
    """

    def embed_windows(self, windows):
        """One embedding a window.

        Arguments
        ---------
        windows : torch.Tensor
            ``[windows, window]``.

        Returns
        -------
        torch.Tensor
            ``[windows, embedding_size]``.
        """
        raise NotImplementedError

    def _check_sizes(self, **sizes):
        for name, numbers in sizes.items():
            if not numbers or not all(
                type(n) is int and n > 0 for n in numbers
            ):
                raise ValueError(
                    f"{type(self).__name__}: {name} has {list(numbers)} where "
                    "positive whole numbers are needed."
                )

    def _kernels(self, x):
        """What is fastest for a tensor, or None for the plain form."""
        if not self.fast or torch.jit.is_tracing():
            return None
        # torch.compile answers "exporting" to this as well.
        exporting = torch.compiler.is_exporting()
        if exporting and not torch.compiler.is_dynamo_compiling():
            return None
        if fast_cuda is not None and fast_cuda.supports(x):
            return fast_cuda
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return fast_cpu
        return None

    def forward(self, wavs, lens=None):
        """Embed waveforms of any length.

        Windows start every ``hop`` samples and lie wholly within the valid
        part of a waveform; what is behind its last whole window is not
        looked at. A waveform shorter than a window is repeated until it
        fills one. Padding behind ``lens`` changes nothing.

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
        batch, time = wavs.shape
        if time == self.window and lens is None:
            return self.embed_windows(wavs).unsqueeze(1)
        if time < self.window and lens is None:
            fill = torch.arange(self.window, device=wavs.device) % time
            return self.embed_windows(wavs[:, fill]).unsqueeze(1)
        if lens is None:
            windows = wavs.unfold(1, self.window, self.hop)
            x = self.embed_windows(windows.flatten(0, 1))
            return x.unflatten(0, (batch, -1)).mean(1, keepdim=True)

        samples = (lens.to(wavs.device) * time).round().long().clamp(1, time)
        counts = count_windows(samples, self.window, self.hop)
        owner = torch.repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        nth = torch.arange(len(owner), device=wavs.device) - first[owner]
        at = window_samples(nth, samples[owner], self.window, self.hop)
        x = self.embed_windows(wavs[owner[:, None], at])
        # A long sum of half-precision numbers would stall.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = wide.new_zeros(batch, x.shape[1]).index_add(0, owner, wide)
        return (total / counts[:, None]).to(x.dtype).unsqueeze(1)

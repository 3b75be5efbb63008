"""A corpus held in memory as one long tensor."""

import numpy as np
import torch
from tqdm import tqdm

from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.nnet.windows import window_samples
from amsincnet_sb.utils.errors import InputError

__all__ = ["ResidentAudio"]


class ResidentAudio:
    """All sentences of a data set, end to end, on one device.

    TIMIT's training set is 0.2 GB as 16-bit samples: loaded once, it serves
    every batch without touching a file again. 16-bit recordings stay 16-bit
    and lose nothing; as soon as one sentence does not fit them (resampled,
    24-bit, compressed) all are kept in float32.

    Arguments
    ---------
    waves : list of torch.Tensor
        Sentences, float32 in [-1, 1] or 16-bit, each ``[time]``, none empty.
    labels : list of int
        Speaker index of each.
    ids : list of str
        Name of each.
    names : list of str, optional
        What messages call it, such as its file; the default is ``ids``.

    Attributes
    ----------
    samples : torch.Tensor
        ``[total]``, int16 or float32.
    starts, lengths, labels : torch.Tensor
        ``[sentences]``, int64.
    ids, names : list of str
        As given.

    Raises
    ------
    InputError
        If there is no sentence.

    Example
    -------
    >>> waves = [torch.zeros(5), torch.tensor([0.5, -0.25])]
    >>> audio = ResidentAudio(waves, [0, 1], ["a", "b"])
    >>> audio.samples.dtype, len(audio)
    (torch.int16, 2)
    >>> audio.gather(torch.tensor([[5, 6]]))
    tensor([[ 0.5000, -0.2500]])
    """

    #: Chunks are drawn where the samples are, in a recorded step too.
    streams = False

    def __init__(self, waves, labels, ids, names=None):
        if not waves:
            raise InputError(
                "There is no sentence to work on: the manifest is empty."
            )
        waves = [_smallest(wave) for wave in waves]
        if any(wave.dtype != torch.int16 for wave in waves):
            waves = [_float(wave) for wave in waves]
        self.samples = torch.cat(waves)
        self.lengths = torch.tensor([len(wave) for wave in waves])
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.ids = list(ids)
        self.names = self.ids if names is None else list(names)

    @classmethod
    def from_dataset(cls, dataset, progress=True):
        """Load every item of a data set.

        Arguments
        ---------
        dataset : speechbrain.dataio.dataset.DynamicItemDataset
            With output keys ``id``, ``sig`` (``[time]``) and
            ``spk_id_encoded``.
        progress : bool
            Show a progress bar.

        Returns
        -------
        ResidentAudio
        """

        def load(index):
            """One sentence, as small as it can be kept."""
            item = dataset[index]
            return {**item, "sig": _smallest(item["sig"])}

        items = list(
            tqdm(
                prefetch(load, range(len(dataset)), group=16),
                total=len(dataset),
                desc="Loading audio",
                unit="file",
                disable=None if progress else True,
                dynamic_ncols=True,
            )
        )
        return cls(
            [item.pop("sig") for item in items],
            [int(item["spk_id_encoded"]) for item in items],
            [item["id"] for item in items],
            [item.get("wav", item["id"]) for item in items],
        )

    def __len__(self):
        return len(self.ids)

    def to(self, device):
        """Move to a device, in place.

        Arguments
        ---------
        device : torch.device or str
            Where to.

        Returns
        -------
        ResidentAudio
            Itself.
        """
        for name in ("samples", "starts", "lengths", "labels"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def chunks(self, sentence, start, window):
        """Chunks of sentences.

        Arguments
        ---------
        sentence : torch.Tensor
            ``[chunks]``, int64.
        start : torch.Tensor
            ``[chunks]``, first sample of each in its sentence.
        window : int
            Samples of a chunk; a sentence that ends before is repeated.

        Returns
        -------
        torch.Tensor
            ``[chunks, window]``, float32 in [-1, 1].
        """
        within = window_samples(start, self.lengths[sentence], window, 1)
        return self.gather(self.starts[sentence][:, None] + within)

    def gather(self, index):
        """Samples at given positions.

        Arguments
        ---------
        index : torch.Tensor
            int64, positions in ``samples``, any shape.

        Returns
        -------
        torch.Tensor
            float32 in [-1, 1], of that shape.
        """
        return _float(self.samples[index])


def _smallest(wave):
    """The wave as int16 if that loses nothing."""
    if wave.dtype == torch.int16:
        return wave
    # In numpy: an operation of torch would wake a team of threads, for each
    # of thousands of sentences, which takes minutes where there are many cores.
    scaled = wave.numpy() * np.float32(32768)
    with np.errstate(invalid="ignore"):  # NaN becomes what it is not equal to
        short = np.clip(np.rint(scaled), -32768, 32767).astype(np.int16)
    return torch.from_numpy(short) if (short == scaled).all() else wave


def _float(samples):
    if samples.dtype == torch.int16:
        return samples.float() / 32768.0
    return samples

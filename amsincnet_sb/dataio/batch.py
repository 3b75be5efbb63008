"""What a recipe's Brain is given: waveforms of equal length with labels."""

import torch
from speechbrain.dataio.batch import PaddedData

__all__ = ["WaveBatch"]


class WaveBatch:
    """Waveforms and labels, read like a SpeechBrain ``PaddedBatch``.

    Arguments
    ---------
    wavs : torch.Tensor
        ``[batch, time]``.
    labels : torch.Tensor
        ``[batch]``, speaker indices.
    sentence : torch.Tensor
        ``[batch]``, which sentence of the data set each comes from.

    Attributes
    ----------
    sig : PaddedData
        ``(wavs, lens)``; nothing is padded, so ``lens`` is all ones.
    spk_id_encoded : PaddedData
        ``(labels [batch, 1], lens)``.
    sentence : torch.Tensor
        As given.

    Example
    -------
    >>> batch = WaveBatch(torch.zeros(2, 5), torch.tensor([3, 1]), None)
    >>> wavs, lens = batch.sig
    >>> labels, _ = batch.spk_id_encoded
    >>> wavs.shape, labels.shape, len(batch)
    (torch.Size([2, 5]), torch.Size([2, 1]), 2)
    """

    def __init__(self, wavs, labels, sentence):
        lens = torch.ones(len(wavs), device=wavs.device)
        self.sig = PaddedData(wavs, lens)
        self.spk_id_encoded = PaddedData(labels.unsqueeze(1), lens)
        self.sentence = sentence

    def __len__(self):
        return len(self.sig.data)

    def to(self, device):
        """Move to a device, in place.

        Arguments
        ---------
        device : torch.device or str
            Where to.

        Returns
        -------
        WaveBatch
            Itself.
        """
        self.sig = PaddedData(*(x.to(device) for x in self.sig))
        self.spk_id_encoded = PaddedData(
            *(x.to(device) for x in self.spk_id_encoded)
        )
        if self.sentence is not None:
            self.sentence = self.sentence.to(device)
        return self

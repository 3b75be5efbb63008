"""Evaluation data: every window of every sentence."""

import torch
from torch.utils.data import Dataset

from amsincnet_sb.dataio.batch import WaveBatch

__all__ = ["SentenceWindows", "count_windows"]


def count_windows(lengths, window, hop, released=False):
    """Number of windows of each sentence.

    Arguments
    ---------
    lengths : torch.Tensor
        ``[sentences]``, samples.
    window, hop : int
        In samples.
    released : bool
        Count as the released code does, which leaves out the window that
        ends exactly with the sentence.

    Returns
    -------
    torch.Tensor
        ``[sentences]``. A sentence shorter than a window has one.

    Example
    -------
    >>> count_windows(torch.tensor([3200, 3360, 3361, 100]), 3200, 160)
    tensor([1, 2, 2, 1])
    >>> count_windows(torch.tensor([3200, 3360, 3361]), 3200, 160, True)
    tensor([0, 1, 2])
    """
    spare = lengths - window
    if released:
        whole = torch.div(spare + hop - 1, hop, rounding_mode="floor")
    else:
        whole = torch.div(spare, hop, rounding_mode="floor") + 1
    return torch.where(spare < 0, torch.ones_like(whole), whole)


class SentenceWindows(Dataset):
    """The windows of all sentences, in batches of equal size.

    An item is a whole batch. Windows run through the sentences without a
    break, so that batches are as large as the device likes whatever the
    lengths of the sentences; :class:`amsincnet_sb.utils.metrics
    .SentenceErrors` puts the scores together again.

    Arguments
    ---------
    audio : ResidentAudio
        The sentences.
    window, hop : int
        In samples.
    batch_size : int
        Windows of a batch.
    released : bool
        Score the rows that the released code scores; see
        :func:`count_windows` and ``empty_row``.

    Attributes
    ----------
    counts : torch.Tensor
        ``[sentences]``, windows of each.
    empty_row : torch.Tensor or None
        ``[sentences]``, bool. The released code allocates a row for the
        window that ends exactly with a sentence, never fills it, and scores
        its zeros as speaker 0. None unless ``released``.

    Example
    -------
    >>> from amsincnet_sb.dataio.resident import ResidentAudio
    >>> audio = ResidentAudio([torch.rand(9), torch.rand(7)], [0, 1], "ab")
    >>> windows = SentenceWindows(audio, window=4, hop=2, batch_size=4)
    >>> [batch.sentence.tolist() for batch in windows]
    [[0, 0, 0, 1], [1]]
    """

    def __init__(self, audio, window, hop, batch_size, released=False):
        self.audio = audio
        self.window = window
        self.hop = hop
        self.batch_size = batch_size
        self.counts = count_windows(audio.lengths, window, hop, released)
        self.empty_row = None
        if released:
            spare = audio.lengths - window
            self.empty_row = (spare >= 0) & (spare % hop == 0)
        self._ends = self.counts.cumsum(0)
        self._total = int(self.counts.sum())

    def __len__(self):
        return -(-self._total // self.batch_size)

    def __getitem__(self, item):
        if not 0 <= item < len(self):
            raise IndexError(item)
        audio, device = self.audio, self.audio.samples.device
        begin = item * self.batch_size
        end = min(begin + self.batch_size, self._total)
        number = torch.arange(begin, end, device=device)
        sentence = torch.searchsorted(self._ends, number, right=True)
        nth = number - (self._ends - self.counts)[sentence]
        at = torch.arange(self.window, device=device)
        within = (nth * self.hop)[:, None] + at
        within = within % audio.lengths[sentence][:, None]
        wavs = audio.gather(audio.starts[sentence][:, None] + within)
        return WaveBatch(wavs, audio.labels[sentence], sentence)

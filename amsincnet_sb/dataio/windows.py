"""Evaluation data: every window of every sentence."""

import torch
from torch.utils.data import Dataset

from amsincnet_sb.dataio.batch import WaveBatch
from amsincnet_sb.nnet.windows import count_windows

__all__ = ["SentenceWindows"]


class SentenceWindows(Dataset):
    """The windows of all sentences, in batches of equal size.

    An item is a whole batch. Windows run through the sentences without a
    break, so that batches are as large as the device likes whatever the
    lengths of the sentences; :class:`amsincnet_sb.training.metrics
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
        :func:`amsincnet_sb.nnet.windows.count_windows` and ``empty_row``.
    rank, world_size : int
        Of this process and of all, which share the batches: together they
        have those of one process, each exactly once.

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
    >>> from amsincnet_sb.dataio.audio_store import ResidentAudio
    >>> audio = ResidentAudio([torch.rand(9), torch.rand(7)], [0, 1], "ab")
    >>> windows = SentenceWindows(audio, window=4, hop=2, batch_size=4)
    >>> [batch.sentence.tolist() for batch in windows]
    [[0, 0, 0, 1], [1]]
    """

    def __init__(
        self,
        audio,
        window,
        hop,
        batch_size,
        released=False,
        rank=0,
        world_size=1,
    ):
        self.audio = audio
        self.window = window
        self.hop = hop
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.counts = count_windows(audio.lengths, window, hop, released)
        self.empty_row = None
        if released:
            spare = audio.lengths - window
            self.empty_row = (spare >= 0) & (spare % hop == 0)
        self._ends = self.counts.cumsum(0)
        self._total = int(self.counts.sum())

    def __len__(self):
        batches = -(-self._total // self.batch_size)
        return len(range(self.rank, batches, self.world_size))

    def __getitem__(self, item):
        if not 0 <= item < len(self):
            raise IndexError(item)
        audio, device = self.audio, self.audio.labels.device
        begin = (item * self.world_size + self.rank) * self.batch_size
        end = min(begin + self.batch_size, self._total)
        number = torch.arange(begin, end, device=device)
        sentence = torch.searchsorted(self._ends, number, right=True)
        nth = number - (self._ends - self.counts)[sentence]
        wavs = audio.chunks(sentence, nth * self.hop, self.window)
        return WaveBatch(wavs, audio.labels[sentence], sentence)

"""Batches: random chunks to train on, sliding windows to evaluate."""

import torch
from speechbrain.dataio.batch import PaddedData
from torch.utils.data import Dataset

from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.dataio.rng import random_integers
from amsincnet_sb.nnet.windows import count_windows, locate_windows
from amsincnet_sb.utils.errors import InputError

__all__ = ["DrawnBatch", "RandomChunks", "SlidingWindows", "WaveBatch"]

# Streams of random numbers: what each is for.
UTTERANCE, START, SPEAKER = 0, 1, 2
SPLICED, CUT, SECOND, SECOND_START, VERSION = 3, 4, 5, 6, 7
CHANCES = 1 << 30  # as many as a probability is resolved into
READERS = 4  # threads that read chunks from files
AHEAD = 8  # batches read before they are asked for
FLAT = 2.0**-16  # half a 16-bit step; resampling lets a constant vary so little
DRAWN = ("sig", "spk_id_encoded", "utterance")  # of a batch, by its step


class WaveBatch:
    """Waveforms and labels, read like a SpeechBrain ``PaddedBatch``.

    ``sig`` ``[batch, time]`` and ``spk_id_encoded`` ``[batch, 1]`` come with
    relative lengths that are all 1: nothing is padded. ``utterance``
    ``[batch]`` says which utterance of the data set each comes from, ``step``
    the number of a training batch in the run.

    Example
    -------
    >>> batch = WaveBatch(torch.zeros(2, 5), torch.tensor([3, 1]), None)
    >>> wavs, lens = batch.sig
    >>> labels, _ = batch.spk_id_encoded
    >>> wavs.shape, labels.shape, len(batch)
    (torch.Size([2, 5]), torch.Size([2, 1]), 2)
    """

    def __init__(self, wavs, labels, utterance, step=None):
        lens = torch.ones(len(wavs), device=wavs.device)
        self.sig = PaddedData(wavs, lens)
        self.spk_id_encoded = PaddedData(labels.unsqueeze(1), lens)
        self.utterance = utterance
        self.step = step

    def __len__(self):
        return len(self.sig.data)

    def to(self, device):
        """Move to a device, in place; returns itself."""
        self.sig = PaddedData(*(x.to(device) for x in self.sig))
        self.spk_id_encoded = PaddedData(
            *(x.to(device) for x in self.spk_id_encoded)
        )
        if self.utterance is not None:
            self.utterance = self.utterance.to(device)
        return self


class DrawnBatch(WaveBatch):
    """A WaveBatch that is drawn when it is first looked into.

    Arguments
    ---------
    draw : callable
        Maps the number of a step to the tensors of its batch, as
        :meth:`RandomChunks.draw` does. A step that does so itself, see
        :class:`amsincnet_sb.training.captured_step.CapturedStep`, never looks.
        ``looked_into`` says whether somebody has, who may have changed it.
    step : int
        Number of the batch in the run.
    """

    def __init__(self, draw, step):
        self.draw = draw
        self.step = step

    def __getattr__(self, name):
        if name not in DRAWN:
            raise AttributeError(name)
        drawn = vars(WaveBatch(*self.draw(self.step), self.step))
        vars(self).update(drawn | vars(self))  # what was set stays
        return vars(self)[name]

    @property
    def looked_into(self):
        """Whether the batch has been drawn, or has been given something."""
        return not vars(self).keys().isdisjoint(DRAWN)


class RandomChunks(Dataset):
    """Training data: an epoch of batches of random chunks.

    An item is a whole batch, made where the audio is: each example a random
    chunk of a random utterance (with replacement), of all or, with
    `balance_speakers`, of a random speaker's. Example number ``n`` of a
    run is a pure function of ``(seed, n)``, so that a run can be resumed by
    knowing its step alone, and processes that share the work draw together
    exactly what one process with their joint batch would have drawn.

    Chunks of silence are replaced by those before them in their batch.

    Of some examples the end, from anywhere on, is that of another chunk of the
    same speaker's (`splice_probability`): where a speaker has said little, what
    was said is not to be learned. CutMix (S. Yun et al., ICCV 2019,
    https://arxiv.org/abs/1905.04899) within a class.

    Use with ``batch_size=None`` in a DataLoader, and call :meth:`set_epoch`
    as one does with a sampler.

    Arguments
    ---------
    audio : ResidentAudio or StreamingAudio
        Where the chunks come from. Of audio in files the next batches of an
        epoch are read ahead by a few threads.
    window : int
        Samples of a chunk. An utterance shorter than that is repeated.
    batch_size : int
        Examples per batch (of each process), at least the 2 that BatchNorm's
        statistics need.
    batches_per_epoch : int
        Number of items.
    seed : int
        Of the experiment.
    rank, world_size : int
        Of this process.
    balance_speakers : bool
        Draw every speaker alike, however many utterances each has.
    splice_probability : float
        That an example consists of two chunks.
    versions : list
        Of other versions of the same utterances, on the same device: the share
        of the examples that come from each, and its ResidentAudio (see
        :func:`amsincnet_sb.dataio.codecs.coded_versions`).

    Example
    -------
    >>> from amsincnet_sb.dataio.audio_store import ResidentAudio
    >>> audio = ResidentAudio([torch.rand(9), torch.rand(7)], [0, 1], "ab")
    >>> chunks = RandomChunks(audio, 4, 8, batches_per_epoch=10, seed=1)
    >>> wavs, lens = chunks[0].sig
    >>> wavs.shape, len(chunks)
    (torch.Size([8, 4]), 10)
    """

    def __init__(
        self,
        audio,
        window,
        batch_size,
        batches_per_epoch,
        seed,
        rank=0,
        world_size=1,
        balance_speakers=False,
        splice_probability=0.0,
        versions=(),
    ):
        for name, size, least in (
            ("window", window, 1),
            ("batch_size", batch_size, 2),
            ("batches_per_epoch", batches_per_epoch, 1),
        ):
            if not isinstance(size, int) or size < least:
                raise InputError(
                    f"{name} is {size!r} but must be a whole number of at "
                    f"least {least}."
                )
        if not 0 <= splice_probability <= 1:
            raise InputError(
                f"splice_probability is {splice_probability!r} but must be a "
                "number from 0 to 1."
            )
        shares = [share for share, _ in versions]
        if not all(share >= 0 for share in shares) or not sum(shares) <= 1:
            raise InputError(
                f"codecs has shares of {shares}, which must be from 0 to 1 and "
                "1 at most together."
            )
        self.audio = audio
        self.versions = versions
        self.window = window
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 1
        self.splice_probability = splice_probability
        # Utterances by label; where each label begins, and how many.
        self._order = audio.labels.argsort(stable=True)
        self._counts = torch.bincount(audio.labels)
        self._firsts = self._counts.cumsum(0) - self._counts
        present = self._counts.nonzero().squeeze(1)
        self._speakers = present if balance_speakers else None
        self._ahead, self._next = None, None

    def __getstate__(self):
        return {
            **self.__dict__,
            "_ahead": None,
            "_next": None,
        }

    def set_epoch(self, epoch):
        """Say which epoch the items belong to, counted from 1."""
        self.epoch = epoch

    def __len__(self):
        return self.batches_per_epoch

    def __getitem__(self, item):
        if not 0 <= item < self.batches_per_epoch:
            raise IndexError(item)
        step = (self.epoch - 1) * self.batches_per_epoch + item
        if not self.audio.streams:
            return self.batch(step)
        if item == 0 or step != self._next:
            if self._ahead is not None:
                self._ahead.close()
            # To the end of the epoch: the next one may begin elsewhere.
            steps = range(step, self.epoch * self.batches_per_epoch)
            self._ahead = prefetch(
                self.batch, steps, threads=READERS, depth=AHEAD
            )
        self._next = step + 1
        return next(self._ahead)

    def batch(self, step):
        """The WaveBatch of a step, counted from 0 over the whole run."""
        if self.audio.labels.is_cuda:
            return DrawnBatch(self.draw, step)
        return WaveBatch(*self.draw(step), step)

    def draw(self, step):
        """The tensors of a batch: chunks, labels, utterances.

        ``step`` may be an int64 scalar on the audio's device.
        """
        number = self._numbers(step)
        utterance, start = self._places(number)
        wavs = self._chunks(number, utterance, start)
        labels = self.audio.labels[utterance]
        if self.splice_probability:
            cut = self._cuts(number)
            if self.audio.streams:  # nothing is read for the others
                which = cut < self.window
                wavs[which] = self._spliced(
                    wavs[which], cut[which], number[which], labels[which]
                )
            else:
                wavs = self._spliced(wavs, cut, number, labels)
        voiced = self._voiced(wavs)
        return wavs[voiced], labels[voiced], utterance[voiced]

    def _voiced(self, wavs):
        """For each example itself, or the last before it that is not silent.

        Nobody speaks where nothing varies, as in digital silence, and
        normalisation has gradients there of a million times the size of
        others, after which Adam's steps are none for thousands. What varies at
        an end alone hardly shows behind the filters, which fade out within
        their taps.
        """
        end = self.window // 8
        middle = wavs[:, end : self.window - end]
        varies = ~(middle.amax(1) - middle.amin(1) < FLAT)  # NaN, too
        mine = torch.arange(len(wavs), device=wavs.device)
        # Where none is before it, the batch's last one; if all are silent, the
        # first.
        last = torch.where(varies, mine, -1).cummax(0).values
        return torch.where(last < 0, last[-1], last).clamp(min=0)

    def _spliced(self, wavs, cut, number, labels):
        """Chunks that go on with others from their cuts on."""
        seconds = self._chunks(number, *self._seconds(number, labels))
        time = torch.arange(self.window, device=cut.device)
        return torch.where(time < cut[:, None], wavs, seconds)

    def describe(self, step, which):
        """File and samples of the first of some examples of a step.

        ``which`` marks them, ``[batch_size]``, bool.
        """
        number = self._numbers(step)[which.to(self.audio.labels.device)]
        utterance, start = (place[:1] for place in self._places(number))
        text = self._place(utterance, start)
        if self.splice_probability and self._cuts(number)[0] < self.window:
            labels = self.audio.labels[utterance]
            second = self._place(*self._seconds(number[:1], labels))
            text = f"{text}, spliced with {second}"
        more = len(number) - 1
        return text + (f" (and {more} more of the step)" if more else "")

    def _place(self, utterance, start):
        """A chunk in words."""
        first = int(start)
        name = self.audio.names[int(utterance)]
        return f"{name}, samples {first} to {first + self.window}"

    def _chunks(self, number, utterance, start):
        """Waveforms; both chunks of an example are of one version."""
        wavs = self.audio.chunks(utterance, start, self.window)
        first = 0
        for share, audio in self.versions:
            last = first + round(share * CHANCES)
            chance = random_integers(self.seed, VERSION, number, CHANCES)
            there = (first <= chance) & (chance < last)
            version = audio.chunks(utterance, start, self.window)
            wavs = torch.where(there[:, None], version, wavs)
            first = last
        return wavs

    def _numbers(self, step):
        """Of this process's examples of a step, counted over the run."""
        device = self.audio.labels.device
        mine = torch.arange(self.batch_size, device=device)
        mine = mine + self.rank * self.batch_size
        return step * (self.batch_size * self.world_size) + mine

    def _places(self, number):
        """Utterance of each example, and the chunk's first sample in it."""
        utterance = self._utterances(number)
        return utterance, self._starts(START, number, utterance)

    def _seconds(self, number, labels):
        """The same of the chunks that examples are spliced with."""
        counts = self._counts[labels]
        nth = random_integers(self.seed, SECOND, number, counts)
        utterance = self._order[self._firsts[labels] + nth]
        return utterance, self._starts(SECOND_START, number, utterance)

    def _cuts(self, number):
        """Where in each example the second chunk begins, or its length."""
        cut = random_integers(self.seed, CUT, number, self.window)
        chance = random_integers(self.seed, SPLICED, number, CHANCES)
        spliced = chance < round(self.splice_probability * CHANCES)
        return torch.where(spliced, cut, self.window)

    def _starts(self, stream, number, utterance):
        """A first sample in each utterance."""
        choices = self.audio.lengths[utterance] - self.window + 1
        return random_integers(self.seed, stream, number, choices.clamp(min=1))

    def _utterances(self, number):
        """Utterance of each example."""
        if self._speakers is None:
            below = len(self.audio)
            return random_integers(self.seed, UTTERANCE, number, below)
        below = len(self._speakers)
        drawn = random_integers(self.seed, SPEAKER, number, below)
        label = self._speakers[drawn]
        nth = random_integers(self.seed, UTTERANCE, number, self._counts[label])
        return self._order[self._firsts[label] + nth]


class SlidingWindows(Dataset):
    """Evaluation data: the windows of all utterances, in equal batches.

    An item is a whole batch. Windows run through the utterances without a
    break, so that batches are as large as the device likes whatever the
    lengths; :class:`amsincnet_sb.training.metrics.SentenceErrors` sums their
    scores per utterance. ``counts`` ``[utterances]`` are the windows of each.

    Arguments
    ---------
    audio : ResidentAudio or StreamingAudio
        The utterances.
    window, hop : int
        In samples.
    batch_size : int
        Windows per batch.
    released : bool
        Score the rows that the authors' code scores; see
        :func:`amsincnet_sb.nnet.windows.count_windows`. It allocates a row for
        the window that ends exactly with an utterance, never fills it, and
        scores its zeros as label 0: ``empty_row`` ``[utterances]`` says where.
    rank, world_size : int
        Of this process; together the processes have the batches of one, each
        exactly once.

    Example
    -------
    >>> from amsincnet_sb.dataio.audio_store import ResidentAudio
    >>> audio = ResidentAudio([torch.rand(9), torch.rand(7)], [0, 1], "ab")
    >>> windows = SlidingWindows(audio, window=4, hop=2, batch_size=4)
    >>> [batch.utterance.tolist() for batch in windows]
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
            whole = count_windows(audio.lengths, window, hop)
            self.empty_row = whole > self.counts
        self._total = int(self.counts.sum())

    def __len__(self):
        batches = -(-self._total // self.batch_size)
        return len(range(self.rank, batches, self.world_size))

    def __getitem__(self, item):
        if not 0 <= item < len(self):
            raise IndexError(item)
        begin = (item * self.world_size + self.rank) * self.batch_size
        end = min(begin + self.batch_size, self._total)
        utterance, nth = locate_windows(self.counts, begin, end)
        wavs = self.audio.chunks(utterance, nth * self.hop, self.window)
        return WaveBatch(wavs, self.audio.labels[utterance], utterance)

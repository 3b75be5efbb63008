"""Training data: random chunks of resident audio."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import Dataset

from amsincnet_sb.dataio.batch import WaveBatch
from amsincnet_sb.dataio.rng import random_integers
from amsincnet_sb.utils.errors import InputError

__all__ = ["ChunkBatch", "RandomChunks"]

SENTENCE, START = 0, 1  # streams of random numbers
READERS = 4  # threads that read what is not in memory
AHEAD = 8  # batches read before they are asked for


class RandomChunks(Dataset):
    """An epoch of batches of random chunks.

    An item is a whole batch: each example a random sentence (with
    replacement) and a random chunk of it. Example number ``n`` of a run is a
    pure function of ``(seed, n)``, so that a run can be continued by knowing
    its step alone, and processes that share the work draw together exactly
    what one process with their summed batch would have drawn.

    Use with ``batch_size=None`` in a DataLoader, and call :meth:`set_epoch`
    as one does with a sampler.

    Arguments
    ---------
    audio : ResidentAudio or StreamingAudio
        Where the chunks come from; they are made on its device. Of audio
        that is not in memory the next batches of an epoch are read ahead, by
        a few threads.
    window : int
        Samples of a chunk. A sentence shorter than that is repeated.
    batch_size : int
        Examples of a batch (of each process).
    batches_per_epoch : int
        Number of items.
    seed : int
        Of the experiment.
    rank, world_size : int
        Of this process and of all.

    Raises
    ------
    InputError
        If a size is not a whole number of at least 1 (2 for the batch, whose
        statistics BatchNorm needs).

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
        self.audio = audio
        self.window = window
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 1
        self._pool, self._ahead = None, {}

    def __getstate__(self):
        return {**self.__dict__, "_pool": None, "_ahead": {}}

    def set_epoch(self, epoch):
        """Say which epoch the items belong to.

        Arguments
        ---------
        epoch : int
            Counted from 1, as SpeechBrain does.
        """
        self.epoch = epoch

    def __len__(self):
        return self.batches_per_epoch

    def __getitem__(self, item):
        if not 0 <= item < self.batches_per_epoch:
            raise IndexError(item)
        step = (self.epoch - 1) * self.batches_per_epoch + item
        if self.audio.streams:
            self._read_ahead(step, min(AHEAD, self.batches_per_epoch - item))
        return ChunkBatch(self, step)

    def _read_ahead(self, step, count):
        if self._pool is None:
            self._pool = ThreadPoolExecutor(READERS, "chunks")
        wanted = range(step, step + count)
        for other in [s for s in self._ahead if s not in wanted]:
            self._ahead.pop(other).cancel()
        for other in wanted:
            if other not in self._ahead:
                self._ahead[other] = self._pool.submit(self._draw, other)

    def draw(self, step):
        """The batch of a step.

        Arguments
        ---------
        step : int or torch.Tensor
            Counted from 0 over the whole run; a tensor (scalar int64, on the
            audio's device) makes the drawing part of a captured graph.

        Returns
        -------
        wavs : torch.Tensor
            ``[batch_size, window]``, float32.
        labels : torch.Tensor
            ``[batch_size]``.
        sentence : torch.Tensor
            ``[batch_size]``.
        """
        if self._ahead and step in self._ahead:
            return self._ahead[step].result()
        return self._draw(step)

    def _draw(self, step):
        sentence, start = self._places(step)
        wavs = self.audio.chunks(sentence, start, self.window)
        return wavs, self.audio.labels[sentence], sentence

    def describe(self, step, which):
        """Say where examples of a step come from.

        Arguments
        ---------
        step : int
            As in :meth:`draw`.
        which : torch.Tensor
            ``[batch_size]``, bool: the examples.

        Returns
        -------
        str
            File and samples of the first one, and how many more there are.
        """
        sentence, start = (place[which] for place in self._places(step))
        name = self.audio.names[int(sentence[0])]
        first = int(start[0])
        text = f"{name}, samples {first} to {first + self.window}"
        more = len(sentence) - 1
        return text + (f" (and {more} more of the step)" if more else "")

    def _places(self, step):
        """Sentence of each example, and the chunk's first sample in it."""
        audio, device = self.audio, self.audio.labels.device
        mine = torch.arange(self.batch_size, device=device)
        mine = mine + self.rank * self.batch_size
        number = step * (self.batch_size * self.world_size) + mine
        sentence = random_integers(self.seed, SENTENCE, number, len(audio))
        choices = (audio.lengths[sentence] - self.window + 1).clamp(min=1)
        return sentence, random_integers(self.seed, START, number, choices)


class ChunkBatch(WaveBatch):
    """The batch of a step, drawn when it is first looked at.

    A training step that is recorded on the device draws by itself, and then
    nothing should be drawn here.

    Arguments
    ---------
    chunks : RandomChunks
        Draws it.
    step : int
        Which one.
    """

    def __init__(self, chunks, step):
        self.chunks = chunks
        self.step = step

    def __getattr__(self, name):
        # Called only for what is not there yet.
        if name not in ("sig", "spk_id_encoded", "sentence"):
            raise AttributeError(name)
        super().__init__(*self.chunks.draw(self.step))
        return getattr(self, name)

"""A corpus that stays in its files."""

import math

import torch

from amsincnet_sb.dataio.audio import audio_info, read_chunk, resample
from amsincnet_sb.dataio.audio_store import ResidentAudio
from amsincnet_sb.nnet.windows import window_samples
from amsincnet_sb.utils.errors import InputError

__all__ = ["StreamingAudio", "open_audio", "resident_gigabytes"]

# torchaudio's default low-pass filter.
FILTER_WIDTH, ROLLOFF = 6, 0.99


class StreamingAudio:
    """Sentences of which only what is asked for is read.

    Takes the place of :class:`amsincnet_sb.dataio.audio_store.ResidentAudio`
    for corpora that do not fit into memory: memory holds a few numbers and
    two names for each sentence, and the same chunks have the same samples.

    Arguments
    ---------
    sentences : iterable of dict
        With ``wav``, ``start``, ``stop``, ``duration`` and ``spk_id`` as in a
        manifest, ``wav`` being a path.
    ids : sequence of str
        Name of each.
    indices : dict
        Speaker to its index.
    sample_rate : int
        Of the chunks, in Hz.

    Attributes
    ----------
    lengths, labels : torch.Tensor
        ``[sentences]``, int64; on the CPU.
    ids, names : list of str
        Names and files.

    Raises
    ------
    InputError
        If there is no sentence.

    Example
    -------
    >>> import soundfile
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, [0.0, 0.25, 0.5, -0.25], 8000)
    >>> row = {"wav": str(path), "start": "1", "stop": "4"}
    >>> row.update(duration="0.000375", spk_id="anna")
    >>> audio = StreamingAudio([row], ["a-1"], {"anna": 0}, 8000)
    >>> audio.chunks(torch.tensor([0, 0]), torch.tensor([0, 1]), 2)
    tensor([[ 0.2500,  0.5000],
            [ 0.5000, -0.2500]])
    """

    #: Chunks are read on the host and may be read ahead.
    streams = True

    def __init__(self, sentences, ids, indices, sample_rate):
        self.sample_rate = sample_rate
        self.names, begins, ends, seconds, labels = [], [], [], [], []
        for sentence in sentences:
            self.names.append(sentence["wav"])
            begins.append(int(sentence["start"]))
            ends.append(int(sentence["stop"]))
            seconds.append(float(sentence["duration"]))
            labels.append(indices[sentence["spk_id"]])
        if not labels:
            raise InputError(
                "There is no sentence to work on: the manifest is empty."
            )
        self.ids = list(ids)
        self.labels = torch.tensor(labels)
        self._begins = torch.tensor(begins)
        samples = torch.tensor(ends) - self._begins
        seconds = torch.tensor(seconds, dtype=torch.float64)
        self._rates = (samples / seconds).round().long()
        common = torch.gcd(self._rates, torch.tensor(sample_rate))
        new, old = sample_rate // common, self._rates // common
        self._samples = samples
        self.lengths = (samples * new + old - 1) // old

    def __len__(self):
        return len(self.ids)

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

        Raises
        ------
        InputError
            If a file is not what the manifest says.
        """
        out = torch.empty(len(sentence), window)
        done = 0
        # Windows of one sentence, one behind the other, are read at once.
        runs = torch.unique_consecutive(sentence, return_counts=True)
        for which, count in zip(*(run.tolist() for run in runs)):
            starts = start[done : done + count]
            length = int(self.lengths[which])
            first = int(starts.min())
            last = min(int(starts.max()) + window, length)
            target = out[done : done + count]
            if last - first <= count * window:
                wave = self._read(which, first, last)
                lengths = torch.full((count,), len(wave))
                at = window_samples(starts - first, lengths, window, 1)
                target.copy_(wave[at])
            else:
                for row, begin in zip(target, starts.tolist()):
                    row.copy_(self._read(which, begin, begin + window))
            done += count
        return out

    def _read(self, which, first, last):
        """Samples of one sentence, counted at the rate of the chunks."""
        path, rate = self.names[which], int(self._rates[which])
        begin = int(self._begins[which])
        if rate == self.sample_rate:
            wave = read_chunk(path, begin + first, begin + last, rate)
            return wave.clamp_(-1.0, 1.0)
        # The resampler works in blocks, each of which depends on the samples
        # within its filter's reach alone.
        common = math.gcd(rate, self.sample_rate)
        old, new = rate // common, self.sample_rate // common
        reach = math.ceil(FILTER_WIDTH * old / (min(old, new) * ROLLOFF))
        block = max(0, first // new - math.ceil(reach / old))
        stop = ((last - 1) // new + 1) * old + reach
        stop = min(stop, int(self._samples[which]))
        wave = read_chunk(path, begin + block * old, begin + stop, rate)
        wave = resample(path, wave, rate, self.sample_rate)
        skip = first - block * new
        return wave[skip : skip + last - first].clamp(-1.0, 1.0)


def resident_gigabytes(dataset, sample_rate):
    """Memory that the audio of a data set will take.

    Arguments
    ---------
    dataset : speechbrain.dataio.dataset.DynamicItemDataset
        From a manifest.
    sample_rate : int
        At which it is kept.

    Returns
    -------
    float
        In 10**9 bytes; two bytes a sample if the first file has 16 bits and
        this rate, else four.
    """
    rows = dataset.data.values()
    seconds = sum(float(row["duration"]) for row in rows)
    first = next(iter(rows), None)
    if first is None:
        return 0.0
    info = audio_info(first["wav"])
    plain = info.subtype == "PCM_16" and info.sample_rate == sample_rate
    return seconds * sample_rate * (2 if plain else 4) / 1e9


def open_audio(dataset, indices, sample_rate, max_resident_gb, device="cpu"):
    """The sentences of a data set, in memory where they fit.

    Arguments
    ---------
    dataset : speechbrain.dataio.dataset.DynamicItemDataset
        From a manifest, with output keys as
        :meth:`amsincnet_sb.dataio.audio_store.ResidentAudio.from_dataset` asks.
    indices : dict
        Speaker to its index.
    sample_rate : int
        In Hz.
    max_resident_gb : float
        Audio that would take more memory stays in its files.
    device : str
        Where audio in memory is kept.

    Returns
    -------
    ResidentAudio or StreamingAudio
    """
    if resident_gigabytes(dataset, sample_rate) <= max_resident_gb:
        return ResidentAudio.from_dataset(dataset).to(device)
    return StreamingAudio(
        dataset.data.values(), dataset.data_ids, indices, sample_rate
    )

"""A corpus' audio: in memory as one long tensor, or in its files."""

import math
import os

import numpy as np
import torch
from tqdm import tqdm

from amsincnet_sb.dataio.audio import audio_info, read_chunk, resample
from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.nnet.windows import window_samples
from amsincnet_sb.utils.errors import InputError

__all__ = ["ResidentAudio", "StreamingAudio", "open_audio"]

EMPTY = "There is no utterance to work on: the manifest is empty."
# torchaudio's default low-pass filter.
FILTER_WIDTH, ROLLOFF = 6, 0.99


def open_audio(dataset, labels, sample_rate, max_resident_gb, device="cpu"):
    """The audio of a data set: in memory, or in files if it is too large.

    ``dataset`` is a DynamicItemDataset of a manifest, with output keys ``id``,
    ``sig`` (``[time]``), ``spk_id_encoded`` and, for messages, ``wav``;
    ``labels`` maps a speaker to its label; ``max_resident_gb`` are 10**9 bytes.
    """
    if _resident_gigabytes(dataset, sample_rate) <= max_resident_gb:
        return ResidentAudio.from_dataset(dataset).to(device)
    return StreamingAudio(
        dataset.data.values(), dataset.data_ids, labels, sample_rate
    )


class ResidentAudio:
    """All utterances of a data set, end to end, on one device.

    TIMIT's training set is 0.2 GB as 16-bit samples: loaded once, it serves
    every batch without touching a file again. 16-bit recordings stay 16-bit
    and lose nothing; if one utterance does not fit them (resampled, 24-bit,
    compressed), all are kept in float32. ``samples`` is ``[total]``;
    ``starts``, ``lengths`` and ``labels`` are ``[utterances]``, int64.

    Arguments
    ---------
    waves : list of torch.Tensor
        Utterances, float32 in [-1, 1] or 16-bit, each ``[time]``, none empty.
    labels, ids : list
        Of each.
    names : list of str, optional
        What messages call each, such as its file; the default is ``ids``.

    Example
    -------
    >>> waves = [torch.zeros(5), torch.tensor([0.5, -0.25])]
    >>> audio = ResidentAudio(waves, [0, 1], ["a", "b"])
    >>> audio.samples.dtype, len(audio)
    (torch.int16, 2)
    >>> audio.chunks(torch.tensor([1]), torch.tensor([0]), 4)
    tensor([[ 0.5000, -0.2500,  0.5000, -0.2500]])
    """

    streams = False

    def __init__(self, waves, labels, ids, names=None):
        if not waves:
            raise InputError(EMPTY)
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
    def from_dataset(cls, dataset):
        """Load every item of a data set; see :func:`open_audio`."""

        def load(index):
            """One utterance, in as few bytes as it needs."""
            item = dataset[index]
            return {**item, "sig": _smallest(item["sig"])}

        items = _each(load, len(dataset), "Loading audio")
        return cls(
            [item.pop("sig") for item in items],
            [int(item["spk_id_encoded"]) for item in items],
            [item["id"] for item in items],
            [item.get("wav", item["id"]) for item in items],
        )

    def changed(self, change, progress="Changing audio"):
        """The same utterances, each changed by a function.

        ``change`` gets an utterance, ``[time]``, float32 in [-1, 1] on the CPU,
        and returns one of the same length. ``progress`` is what the progress
        bar says.
        """
        samples = self.samples.cpu()
        ends = (self.starts + self.lengths).tolist()

        def work(which):
            """One utterance, 16-bit where the others are."""
            wave = change(_float(samples[self.starts[which] : ends[which]]))
            if samples.dtype != torch.int16:
                return wave
            return torch.from_numpy(_rounded(_scaled(wave)))

        waves = _each(work, len(self), progress, os.cpu_count())
        other = type(self)(waves, self.labels, self.ids, self.names)
        return other.to(self.samples.device)

    def __len__(self):
        return len(self.ids)

    def to(self, device):
        """Move to a device, in place; returns itself."""
        for name in ("samples", "starts", "lengths", "labels"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def chunks(self, utterance, start, window):
        """Parts of utterances, ``[chunks, window]``, float32 in [-1, 1].

        ``utterance`` and ``start`` are ``[chunks]``, int64: which one each comes
        from, and its first sample there. An utterance that ends before the chunk
        does is repeated.
        """
        within = window_samples(start, self.lengths[utterance], window, 1)
        return _float(self.samples[self.starts[utterance][:, None] + within])


class StreamingAudio:
    """Utterances that stay in their files; only chunks asked for are read.

    Takes the place of :class:`ResidentAudio` for corpora that do not fit into
    memory, and gives the same samples, on the CPU. ``rows`` have ``wav`` (a
    path), ``start``, ``stop``, ``duration`` and ``spk_id`` as in a manifest;
    ``indices`` maps a speaker to its label; ``sample_rate`` is the chunks'.
    """

    streams = True

    def __init__(self, rows, ids, indices, sample_rate):
        self.sample_rate = sample_rate
        self.names, begins, ends, seconds, labels = [], [], [], [], []
        for row in rows:
            self.names.append(row["wav"])
            begins.append(int(row["start"]))
            ends.append(int(row["stop"]))
            seconds.append(float(row["duration"]))
            labels.append(indices[row["spk_id"]])
        if not labels:
            raise InputError(EMPTY)
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

    def chunks(self, utterance, start, window):
        """Parts of utterances; see :meth:`ResidentAudio.chunks`.

        An InputError if a file is not what the manifest says.
        """
        out = torch.empty(len(utterance), window)
        done = 0
        # Windows of one utterance, one behind the other, are read at once.
        runs = torch.unique_consecutive(utterance, return_counts=True)
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
        """Samples of an utterance, counted at the sample rate of the chunks."""
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


def _resident_gigabytes(dataset, sample_rate):
    """Memory for the audio of a data set, in 10**9 bytes.

    Two bytes per sample if the first file has 16 bits and this rate, else 4.
    """
    rows = dataset.data.values()
    seconds = sum(float(row["duration"]) for row in rows)
    first = next(iter(rows), None)
    if first is None:
        return 0.0
    info = audio_info(first["wav"])
    plain = info.subtype == "PCM_16" and info.sample_rate == sample_rate
    return seconds * sample_rate * (2 if plain else 4) / 1e9


def _each(work, utterances, progress, threads=2):
    """Results of a function of each utterance's number, in order."""
    return list(
        tqdm(
            prefetch(work, range(utterances), threads, group=16),
            total=utterances,
            desc=progress,
            unit="file",
            disable=None,
            dynamic_ncols=True,
        )
    )


def _smallest(wave):
    """The wave as int16 if that loses nothing."""
    if wave.dtype == torch.int16:
        return wave
    scaled = _scaled(wave)
    short = _rounded(scaled)
    return torch.from_numpy(short) if (short == scaled).all() else wave


def _scaled(wave):
    """In units of a 16-bit sample.

    In numpy: an operation of torch would wake a team of threads for each of
    thousands of utterances, which takes minutes where there are many cores.
    """
    return wave.numpy() * np.float32(32768)


def _rounded(scaled):
    with np.errstate(invalid="ignore"):  # NaN becomes what it is not equal to
        return np.clip(np.rint(scaled), -32768, 32767).astype(np.int16)


def _float(samples):
    if samples.dtype == torch.int16:
        return samples.float() / 32768.0
    return samples

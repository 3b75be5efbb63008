"""MFCCs, their statistics over an utterance, and linear discriminants.

40 MFCCs of SpeechBrain from 60 filters, with first and second differences; the
means of the MFCCs and the standard deviations of all are 160 features. (Means
of differences are those of the ends: with them a half more is wrong.) Speakers
are normally distributed with one covariance for all (LDA as a classifier, in
torch), which is shrunk towards its diagonal; how far is chosen on one training
utterance of each speaker. Training utterances count whole and in pieces of
the lengths that are asked about. Filters, MFCCs and pieces were chosen on
training utterances as well.
"""

import torch
from peers import in_batches
from speechbrain.lobes.features import MFCC

SHRINKAGES = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6
COEFFICIENTS, FILTERS = 40, 60
RATE = 16000


class LDA:
    """Normal distributions with a common covariance, priors alike.

    Arguments
    ---------
    x, labels : torch.Tensor
        ``[n, features]`` and ``[n]``, from 0 without a gap.
    shrinkage : float
        From 0, the pooled covariance within classes, to 1, its diagonal.
    """

    def __init__(self, x, labels, shrinkage):
        x, classes = x.double(), int(labels.max()) + 1
        counts = labels.bincount()
        means = x.new_zeros(classes, x.shape[1]).index_add(0, labels, x)
        means /= counts[:, None]
        rest = x - means[labels]
        within = rest.T @ rest / max(1, len(x) - classes)
        within.lerp_(within.diagonal().diag(), shrinkage)
        self.weight = torch.linalg.lstsq(within, means.T).solution
        self.bias = -(means.T * self.weight).sum(0) / 2

    def __call__(self, x):
        """Log-densities ``[n, classes]``, up to what all classes share."""
        return x.double() @ self.weight + self.bias


def pieces(wave, seconds):
    """A waveform in equal parts of a length; whole if there is none."""
    samples = round(seconds * RATE) if seconds else len(wave)
    return list(wave.split(samples)[: max(1, len(wave) // samples)])


class MfccLda:
    """Decides waveforms ``[T]`` by LDA on statistics of their MFCCs.

    ``lengths`` are those of the pieces to learn from, in seconds.
    """

    def __init__(self, waves, labels, lengths):
        self.mfcc = MFCC(context=False, n_mels=FILTERS, n_mfcc=COEFFICIENTS)
        labels = torch.as_tensor(labels)
        parts, utterance = [], []
        for i, wave in enumerate(waves):
            own = [p for each in [None, *lengths] for p in pieces(wave, each)]
            parts += own
            utterance += [i] * len(own)
        x, utterance = self.statistics(parts), torch.tensor(utterance)
        last = {int(label): i for i, label in enumerate(labels)}
        counts = labels.bincount()
        held_out = [i for label, i in last.items() if counts[label] > 1]
        out = torch.isin(utterance, torch.tensor(held_out, dtype=torch.int64))
        labels = labels[utterance]

        def right(shrinkage):
            """Of the pieces that are held out."""
            lda = LDA(x[~out], labels[~out], shrinkage)
            return int((lda(x[out]).argmax(1) == labels[out]).sum())

        self.shrinkage = max(SHRINKAGES, key=right)
        self.lda = LDA(x, labels, self.shrinkage)

    @torch.inference_mode()
    def statistics(self, waves):
        """``[waves, 160]``; how loud a waveform is does not matter."""

        def statistics(batch):
            """``[batch, 160]``."""
            level = batch.std(1, keepdim=True) + 1e-6
            frames = self.mfcc(batch / level)
            means = frames[..., :COEFFICIENTS].mean(1)
            return torch.cat([means, frames.std(1)], 1)

        return in_batches(statistics, waves)

    def decide(self, waves):
        """Labels ``[waves]``."""
        return self.lda(self.statistics(waves)).argmax(1)

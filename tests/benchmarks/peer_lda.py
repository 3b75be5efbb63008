"""MFCCs, their statistics over an utterance, and linear discriminants.

20 MFCCs of SpeechBrain with first and second differences; mean and standard
deviation of each over the utterance are 120 features. Speakers are normally
distributed with one covariance for all (LDA as a classifier, in torch), which
is shrunk towards its diagonal; how far is chosen on one training utterance of
each speaker. Deciding pieces of a length are fitted on pieces of that length.
"""

import torch
from peers import in_batches
from speechbrain.lobes.features import MFCC

SHRINKAGES = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6
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
    """Decides waveforms ``[T]`` by LDA on statistics of their MFCCs."""

    def __init__(self, waves, labels):
        self.mfcc = MFCC(context=False)
        self.waves, self.labels = waves, torch.as_tensor(labels)
        last = {label: i for i, label in enumerate(labels)}
        counts = self.labels.bincount()
        self.held_out = [i for k, i in last.items() if counts[k] > 1]
        self.models, self.shrinkage = {}, {}

    @torch.inference_mode()
    def statistics(self, waves):
        """``[waves, 120]``; how loud a waveform is does not matter."""

        def statistics(batch):
            """``[batch, 120]``."""
            level = batch.std(1, keepdim=True) + 1e-6
            frames = self.mfcc(batch / level)
            return torch.cat([frames.mean(1), frames.std(1)], 1)

        return in_batches(statistics, waves)

    def _fit(self, seconds):
        parts = [pieces(wave, seconds) for wave in self.waves]
        counts = torch.tensor([len(each) for each in parts])
        utterance = torch.arange(len(parts)).repeat_interleave(counts)
        x = self.statistics([part for each in parts for part in each])
        labels, shrinkage = self.labels[utterance], 0.1
        if self.held_out:
            out = torch.isin(utterance, torch.tensor(self.held_out))

            def right(shrinkage):
                """Of what is held out."""
                lda = LDA(x[~out], labels[~out], shrinkage)
                return int((lda(x[out]).argmax(1) == labels[out]).sum())

            shrinkage = max(SHRINKAGES, key=right)
        self.shrinkage[seconds] = shrinkage
        self.models[seconds] = LDA(x, labels, shrinkage)

    def decide(self, waves, seconds=None):
        """Labels ``[waves]``; ``seconds`` is what they were cut to."""
        if seconds not in self.models:
            self._fit(seconds)
        return self.models[seconds](self.statistics(waves)).argmax(1)

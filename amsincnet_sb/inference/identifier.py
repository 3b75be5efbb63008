"""Who is speaking?"""

from typing import NamedTuple

import torch

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.lobes.folded import for_evaluation
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.pretrained import read_pretrained

__all__ = ["Candidate", "SpeakerIdentifier"]


class Candidate(NamedTuple):
    """A speaker who may be the one.

    Attributes
    ----------
    speaker : str
        Name.
    score : float
        Mean log-posterior over the windows; 0 at best.
    windows : float
        Share of the windows, from 0 to 1, that decide for this speaker.
    """

    speaker: str
    score: float
    windows: float


class SpeakerIdentifier:
    """A trained model that names speakers.

    Arguments
    ---------
    embedding_model : amsincnet_sb.lobes.sincnet.SincNet
        In evaluation mode.
    classifier : torch.nn.Module
        Likewise.
    speakers : list of str
        Names, in the order of the classifier's outputs.
    scale : float
        What its outputs are multiplied by before a softmax.
    windows_per_batch : int
        Bounds the memory taken, whatever the length of a recording.

    Example
    -------
    >>> from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> net = SincNet(fc_neurons=[8, 8, 8]).eval()
    >>> who = SpeakerIdentifier(net, SoftmaxClassifier(8, 2), ["ann", "bob"])
    >>> sorted(c.speaker for c in who.identify(torch.randn(16000)))
    ['ann', 'bob']
    """

    def __init__(
        self,
        embedding_model,
        classifier,
        speakers,
        scale=1.0,
        windows_per_batch=128,
    ):
        self.embedding_model = embedding_model
        self.classifier = classifier
        self.speakers = speakers
        self.scale = scale
        self.windows_per_batch = windows_per_batch
        self.device = next(embedding_model.parameters()).device
        self._embed = for_evaluation(embedding_model)

    @classmethod
    def from_results(cls, folder, device="cpu"):
        """Load the model of a training run.

        Arguments
        ---------
        folder : str or Path
            Results folder of a finished run, or its ``pretrained/``.
        device : str
            Where to compute.

        Returns
        -------
        SpeakerIdentifier

        Raises
        ------
        InputError
            If there is no complete model.
        """
        embedding_model, classifier, config = read_pretrained(folder)
        return cls(
            embedding_model.to(device),
            classifier.to(device),
            config["speakers"],
            config["scale"],
        )

    @torch.inference_mode()
    def identify(self, audio, top_k=3):
        """Name the speaker of a recording.

        Arguments
        ---------
        audio : str, Path or torch.Tensor
            A file of any format, rate and number of channels that soundfile
            reads, or samples ``[time]`` at the model's rate.
        top_k : int
            How many candidates.

        Returns
        -------
        list of Candidate
            The best first.

        Raises
        ------
        InputError
            If the recording is unreadable, empty, or not finite.
        """
        net = self.embedding_model
        if not torch.is_tensor(audio):
            audio = read_audio(audio, sample_rate=net.sample_rate)
        if audio.numel() == 0 or not audio.isfinite().all():
            raise InputError(
                "The recording is empty or holds values that are not numbers."
            )
        if audio.dim() != 1 or not audio.is_floating_point():
            raise InputError(
                f"The recording is a {audio.dtype} tensor of shape "
                f"{tuple(audio.shape)} but must be floating point, [time]."
            )
        total = votes = None
        for windows in self._windows(audio):
            x = self._embed(windows.to(self.device))
            scores = log_posteriors(self.classifier(x), self.scale).squeeze(1)
            won = scores.argmax(-1).bincount(minlength=scores.shape[-1])
            total = scores.sum(0) + (0 if total is None else total)
            votes = won + (0 if votes is None else votes)
        n = votes.sum()
        best = (total / n).topk(min(top_k, len(self.speakers)))
        return [
            Candidate(self.speakers[i], score, (votes[i] / n).item())
            for score, i in zip(best.values.tolist(), best.indices.tolist())
        ]

    def _windows(self, wave):
        """Batches of windows of a recording, ``[windows, window]``."""
        window, hop = self.embedding_model.window, self.embedding_model.hop
        if len(wave) < window:
            wave = wave[torch.arange(window) % len(wave)]
        return wave.unfold(0, window, hop).split(self.windows_per_batch)

"""A trained model's outputs, averaged over the windows of recordings."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

from amsincnet_sb.inference.answers import Analysis
from amsincnet_sb.inference.audio_windows import window_means
from amsincnet_sb.inference.enrolment import EnrollableClassifier
from amsincnet_sb.kernels.bfloat16 import has_bfloat16
from amsincnet_sb.lobes.frozen import for_evaluation
from amsincnet_sb.lobes.windowed import WindowedEmbedding
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.utils.errors import InputError

__all__ = ["WindowAverages", "half_a_window"]

_Model = TypeVar("_Model", bound="WindowAverages")


def half_a_window(net):
    """Samples between the windows of an answer, where nobody asks for others.

    In whole pools of a SincTDNN's sinc layer, so that windows that overlap
    share it.

    Example
    -------
    >>> from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
    >>> half_a_window(SincTDNN())
    1599
    """
    pool = getattr(net, "sinc_pool", 1)
    return max(1, net.window // 2 // pool * pool)


class WindowAverages:
    """A model that is asked about recordings.

    It can be copied and pickled. The arguments are those of
    :class:`amsincnet_sb.inference.identifier.SpeakerIdentifier`, but for the
    classifier.
    """

    def __init__(
        self,
        embedding_model: WindowedEmbedding,
        classifier: EnrollableClassifier,
        scale: float,
        windows_per_batch: int,
        hop: int | None,
    ) -> None:
        window = embedding_model.window
        self.hop = half_a_window(embedding_model) if hop is None else hop
        if not 1 <= self.hop <= window:
            raise InputError(
                f"hop is {hop} but must be 1 to {window} samples, a window."
            )
        self.embedding_model = embedding_model
        self.classifier = classifier
        self.scale = scale
        self.windows_per_batch = windows_per_batch
        #: Of recordings with several, counted from 1; their mean if None.
        self.channel: int | None = None
        self.device = next(embedding_model.parameters()).device
        self._exact = False
        self._prepare()

    def _prepare(self):
        narrow = self.device.type == "cpu" and has_bfloat16("cpu")
        narrow = narrow and not self._exact
        dtype = torch.bfloat16 if narrow else torch.float32
        self._embed = for_evaluation(self.embedding_model, dtype)

    def use_float32(self) -> None:
        """From now on, also on CPUs with bfloat16: to compare figures."""
        self._exact = True
        self._prepare()

    def __getstate__(self):
        # Prepared kernels stay in their process.
        return {k: v for k, v in vars(self).items() if k != "_embed"}

    def __setstate__(self, state):
        vars(self).update(state)
        self._prepare()

    def as_now(self: _Model) -> _Model:
        """The same model, whose speakers stay who they are now.

        An answer that takes long has one list of them, whoever is enrolled or
        removed meanwhile.
        """
        one = object.__new__(type(self))
        vars(one).update(vars(self))  # its prepared kernels too
        one.classifier = copy.copy(self.classifier)
        return one

    @torch.inference_mode()
    def ask(self, *windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings and the classifier's outputs of windows.

        ``[windows, embedding_size]`` and ``[windows, speakers]``, float32, of
        one or several tensors ``[windows, window]``, best as views of their
        recordings.
        """
        if self.device.type != "cpu":
            windows = (torch.cat(windows).to(self.device),)
        embeddings = self._embed(*windows).float()
        outputs = self.classifier(embeddings).squeeze(1).float()
        return embeddings.squeeze(1), outputs

    def analyse_all(
        self,
        recordings: Iterable[Any],
        errors: bool = False,
        measure: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """Average the model's outputs over the windows of recordings.

        Yields an Analysis per recording, as soon as it is complete; for
        ``errors`` see :meth:`identify_all`. ``measure`` averages something
        else, in lists: given embeddings ``[windows, embedding_size]``, the
        classifier's outputs ``[windows, speakers]`` and the number of each
        window's recording ``[windows]``, it returns tensors ``[windows, ...]``.
        """
        made, model = measure or self._analyse, self.as_now()

        def measure_windows(windows, recording):
            """Whatever is summed over a block of windows."""
            recording = recording.to(self.device)
            return made(*model.ask(*windows), recording)

        net = self.embedding_model
        for found in window_means(
            recordings,
            measure_windows,
            net.window,
            self.hop,
            net.sample_rate,
            self.windows_per_batch,
            errors,
            self.channel,
        ):
            if measure is None and not isinstance(found, InputError):
                found = Analysis(*found)
                if not all(each.isfinite().all() for each in found):
                    found = InputError(
                        "The model answers with NaN or infinite values; train "
                        "or import it again."
                    )
                    if not errors:
                        raise found
            yield found

    def _analyse(self, embeddings, outputs, _):
        scores = log_posteriors(outputs, self.scale)
        return scores, scores.exp(), embeddings, F.normalize(embeddings, dim=-1)

    def _directions(self, recordings):
        found = self.analyse_all(recordings)
        return torch.stack([one.direction for one in found]).cpu()

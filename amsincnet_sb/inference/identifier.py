"""Who is speaking: a trained model that answers about recordings."""

from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Literal, TypeAlias, overload

import torch

from amsincnet_sb.inference.additions import COHORT
from amsincnet_sb.inference.answers import (
    Analysis,
    Candidate,
    Verification,
    check_number,
    ranked,
)
from amsincnet_sb.inference.enrollable import EnrollableModel
from amsincnet_sb.inference.recordings import Recording, several
from amsincnet_sb.inference.scoring import compare
from amsincnet_sb.inference.segments import Segment, Wanted, find_segments
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.names import UNKNOWN

__all__ = ["Analysis", "Candidate", "SpeakerIdentifier", "UNKNOWN"]

Threshold: TypeAlias = float | Literal["calibrated"] | None


class SpeakerIdentifier(EnrollableModel):
    """A trained model that names speakers, verifies and enrols them.

    A recording is a file of any format, rate and number of channels that
    soundfile reads: a path or a binary file-like object; or samples, a tensor
    or numpy array as torchaudio, soundfile and librosa give them, at the
    model's rate or in a pair with their own. See
    :func:`amsincnet_sb.inference.recordings.as_source`. An hour of a file
    takes no more memory than a minute. Every method that takes recordings
    raises InputError where one is unreadable, empty, a silent file, contains
    NaN or infinite samples, or is of another type.

    How it is loaded, saved, and given more speakers, tells
    :class:`amsincnet_sb.inference.enrollable.EnrollableModel`. A model can be
    copied and pickled, into the processes of a ``Pool`` too. Several threads may
    ask one model at once; those that change it (enroll, remove, save) take turns.

    SpeechBrain's ``EncoderClassifier`` has one embedding for a whole signal;
    this class averages over windows, as the evaluation of a training run does.

    Arguments
    ---------
    embedding_model, classifier : torch.nn.Module
        A SincNet or a SincTDNN, and its classifier, in evaluation mode.
    speakers : list of str
        Names, by label.
    scale : float
        Factor from the classifier's outputs to logits.
    windows_per_batch : int
        Bounds the memory taken, whatever the length of a recording.
    hop : int, optional
        Samples between windows; half a window if not given. Windows every
        10 ms, as in the evaluation of a training run, overlap so much that
        they take ten times as long for as many errors.
    own_cosine : float
        Mean output of trained speakers for themselves, over windows that were
        not trained on.

    Example
    -------
    >>> from amsincnet_sb.lobes.classifiers import CosineClassifier
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> net = SincNet(fc_neurons=[8, 8, 8]).eval()
    >>> who = SpeakerIdentifier(net, CosineClassifier(8, 2), ["ann", "bob"])
    >>> sorted(c.speaker for c in who.identify(torch.randn(16000)))
    ['ann', 'bob']
    >>> _ = who.enroll("cat", [torch.randn(16000)])
    >>> who.speakers
    ['ann', 'bob', 'cat']
    """

    @overload
    def identify(  # type: ignore[overload-overlap] # a path is no list
        self,
        audio: Recording,
        top_k: int = 3,
        threshold: Threshold = None,
    ) -> list[Candidate]:
        """Of one recording."""

    @overload
    def identify(
        self,
        audio: Iterable[Recording],
        top_k: int = 3,
        threshold: Threshold = None,
    ) -> list[list[Candidate]]:
        """Of several recordings."""

    def identify(self, audio, top_k=3, threshold=None):
        """Name the speaker of a recording.

        With a threshold, ``"unknown"`` comes first, without values, where
        the probability of the best candidate does not exceed it. It tells how
        far a speaker is ahead of the others, not how similar the voice is,
        which rejects unknown speakers better.

        Arguments
        ---------
        audio : recording, or any iterable of recordings
            Of one speaker each.
        top_k : int
            How many candidates, at least 1.
        threshold : float or "calibrated", optional
            Least probability, from 0 to 1; :meth:`threshold` for
            ``"calibrated"``. Without it, the answer is never ``"unknown"``.

        Returns
        -------
        list of Candidate
            The best first; of several recordings, a list of such lists.
        """
        given = several(audio)
        recordings = [audio] if given is None else given
        answers = list(self.identify_all(recordings, top_k, threshold))
        return answers[0] if given is None else answers

    def identify_all(
        self,
        recordings: Iterable[Recording],
        top_k: int = 3,
        threshold: Threshold = None,
        errors: bool = False,
    ) -> Iterator[list[Candidate] | InputError]:
        """:meth:`identify` for any number of recordings, one by one.

        ``recordings`` is any iterable; each is taken when it is needed. All
        are compared with the speakers of when the first was. With
        ``errors``, the answer about one that cannot be used is its
        InputError, and the others are answered all the same.
        """
        if threshold == "calibrated":
            threshold = self.threshold("identification")
        elif threshold is not None:
            check_number("threshold", threshold)
            if not 0 <= threshold <= 1:
                raise InputError(
                    f"threshold is {threshold} but must be from 0 to 1."
                )
        if not isinstance(top_k, Integral) or top_k < 1:
            raise InputError(f"top_k is {top_k!r} but must be at least 1.")
        model = self.as_now()
        speakers = model.speakers
        for found in model.analyse_all(recordings, errors):
            if isinstance(found, InputError):
                yield found
                continue
            yield ranked(speakers, found, top_k, threshold)

    def segments(
        self,
        audio: Recording,
        minimum: float = 0.4,
        threshold: float | None = None,
        least_speech: float = 0.3,
        among: Iterable[str] | None = None,
        count: int | None = None,
    ) -> list[Segment]:
        """Tell who speaks when in a recording of several people.

        Two who speak at the same time are not told apart: one of them is
        named. For the method see docs/segments.md.

        Arguments
        ---------
        audio : recording
            Of any length: an hour of speech takes some 200 MB.
        minimum : float
            Seconds that a speaker lasts at least, or up to a pause.
        threshold : float, optional
            Least probability, 0 to 1, of a name; ``"unknown"`` comes instead.
        least_speech : float
            Seconds of speech in a segment before anybody is named.
        among : iterable of str, optional
            Names of those who can be there; unknown voices can too.
        count : int, optional
            The largest number of voices.

        Returns
        -------
        list of Segment
            In order; none where there is no speech.
        """
        among = None if among is None else tuple(among)
        wanted = Wanted(minimum, threshold, least_speech, among, count)
        return find_segments(self, audio, wanted)

    def embed(self, audio: Recording | Iterable[Recording]) -> torch.Tensor:
        """The d-vector of a recording: the mean over its windows.

        Arguments
        ---------
        audio : recording, or any iterable of recordings
            Of one speaker each.

        Returns
        -------
        torch.Tensor
            ``[embedding_size]``, of several recordings ``[recordings,
            embedding_size]``; on the CPU, not normalised.
        """
        given = several(audio)
        found = self.analyse_all([audio] if given is None else given)
        embeddings = [one.embedding.cpu() for one in found]
        if given is None:
            return embeddings[0]
        size = self.embedding_model.embedding_size
        return torch.stack(embeddings) if embeddings else torch.empty(0, size)

    def verify(
        self, a: Recording, b: Recording, threshold: float | None = None
    ) -> Verification:
        """Decide whether two recordings are of the same speaker.

        Arguments
        ---------
        a, b : recordings
            In any order.
        threshold : float, optional
            Least score; :meth:`threshold` if not given.

        Returns
        -------
        Verification
            Its score is :func:`amsincnet_sb.inference.scoring.compare`'s.
        """
        if threshold is None:
            threshold = self.threshold("verification")
        check_number("threshold", threshold)
        self.check_current(COHORT)
        first, second = torch.tensor([[0], [1]])
        directions = self._directions([a, b])
        score = compare(directions, first, second, self.cohort).item()
        return Verification(score, score > threshold)

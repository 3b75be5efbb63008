"""Who is speaking: a trained model that answers about recordings."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import torch

from amsincnet_sb.inference.additions import (
    CALIBRATION,
    COHORT,
    ENROLLED,
    Additions,
    fingerprint,
    read_additions,
    update_additions,
)
from amsincnet_sb.inference.answers import (
    Analysis,
    Candidate,
    Verification,
    check_number,
    ranked,
)
from amsincnet_sb.inference.enrolment import UNKNOWN, EnrollableClassifier
from amsincnet_sb.inference.pretrained import (
    OWN_COSINE,
    find_pretrained,
    read_pretrained,
    write_pretrained,
)
from amsincnet_sb.inference.recordings import Recording, several
from amsincnet_sb.inference.scoring import compare
from amsincnet_sb.inference.segments import Segment, Wanted, find_segments
from amsincnet_sb.inference.window_averages import WindowAverages
from amsincnet_sb.lobes.windowed import WindowedEmbedding
from amsincnet_sb.utils.errors import InputError

__all__ = ["Analysis", "Candidate", "SpeakerIdentifier", "UNKNOWN"]

logger = logging.getLogger(__name__)

Threshold: TypeAlias = float | Literal["calibrated"] | None

# A cosine and a probability, for a model that has not been calibrated. Where
# the errors of one kind equal those of the other differs from model to model.
DEFAULT_THRESHOLDS = {"verification": 0.8, "identification": 0.3}


class SpeakerIdentifier(WindowAverages):
    """A trained model that names speakers, verifies and enrols them.

    A recording is a file of any format, rate and number of channels that
    soundfile reads: a path or a binary file-like object; or samples, a tensor
    or numpy array as torchaudio, soundfile and librosa give them, at the
    model's rate or in a pair with their own. See
    :func:`amsincnet_sb.inference.recordings.as_source`. An hour of a file
    takes no more memory than a minute. Every method that takes recordings
    raises InputError where one is unreadable, empty, a silent file, contains
    NaN or infinite samples, or is of another type.

    A model can be copied and pickled, into the processes of a ``Pool`` too.

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

    def __init__(
        self,
        embedding_model: WindowedEmbedding,
        classifier: torch.nn.Module,
        speakers: Sequence[str],
        scale: float = 1.0,
        windows_per_batch: int = 512,
        hop: int | None = None,
        own_cosine: float = OWN_COSINE,
    ) -> None:
        enrollable = EnrollableClassifier(
            classifier, speakers, embedding_model.embedding_size, own_cosine
        )
        super().__init__(
            embedding_model, enrollable, scale, windows_per_batch, hop
        )
        self.own_cosine = own_cosine
        self.folder: Path | None = None
        self._training = None
        # Additions in it that were made with other weights.
        self.outdated: dict[str, str] = {}
        self._saved = Additions({}, {}, None)  # as in the folder
        self.calibration = {}
        # Directions [speakers, embedding_size] that normalise the scores of
        # verification; saved with the calibration.
        self.cohort = None

    @classmethod
    def from_results(
        cls,
        folder: str | os.PathLike[str],
        device: str = "cpu",
        hop: int | None = None,
    ) -> "SpeakerIdentifier":
        """Load the model of a training run.

        Arguments
        ---------
        folder : str or Path
            Results folder of a finished run, or its ``pretrained/``.
        device : str
            Where to compute.
        hop : int, optional
            See :class:`SpeakerIdentifier`.

        Raises
        ------
        InputError
            If there is no complete model, or no such device.
        """
        embedding_model, classifier, config = read_pretrained(folder, device)
        model = cls(
            embedding_model,
            classifier,
            config["speakers"],
            config["scale"],
            hop=hop,
            own_cosine=config["own_cosine"],
        )
        model.folder = place = find_pretrained(folder)
        model._training = config.get("training")
        additions = read_additions(
            place, embedding_model.embedding_size, model._weights
        )
        if taken := additions.enrolled.keys() & set(model.speakers):
            raise InputError(
                f"{place / ENROLLED}: {min(taken)!r} is a trained "
                "speaker as well; move the file away and enrol under another "
                "name."
            )
        model.outdated = additions.outdated
        model.classifier.set_enrolled(additions.enrolled)
        model.calibration = additions.calibration
        model.cohort = additions.cohort
        model._saved = model._additions()
        return model

    @property
    def speakers(self) -> list[str]:
        """Names: the trained speakers, then the enrolled ones.

        An InputError where some were enrolled with other weights, before the
        model was trained again: it does not know them any more. They can be
        enrolled again.
        """
        self._check_current(ENROLLED)
        return self.classifier.speakers

    def _check_current(self, name):
        """Raise InputError where a file of additions is of other weights."""
        if name in self.outdated:
            raise InputError(self.outdated[name])

    @property
    def calibration(self) -> dict[str, dict[str, Any]]:
        """Task -> its ``"threshold"`` and how it was found; see threshold."""
        return self._calibration

    @calibration.setter
    def calibration(self, found: dict[str, dict[str, Any]]) -> None:
        """Use other thresholds."""
        self._calibration = found
        if found:  # those in the folder are replaced, with their cohort
            for name in (CALIBRATION, COHORT):
                self.outdated.pop(name, None)
        self.classifier.own_cosine = found.get("identification", {}).get(
            "own_cosine", self.own_cosine
        )

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

        ``recordings`` is any iterable; each is taken when it is needed. With
        ``errors``, the answer about one that cannot be used is its
        InputError, and the others are answered all the same.
        """
        if threshold == "calibrated":
            threshold = self.threshold("identification")
        check_number("threshold", threshold)
        if not isinstance(top_k, Integral) or top_k < 1:
            raise InputError(f"top_k is {top_k!r} but must be at least 1.")
        speakers = self.speakers
        for found in self.analyse_all(recordings, errors):
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
        self._check_current(COHORT)
        first, second = torch.tensor([[0], [1]])
        directions = self._directions([a, b])
        score = compare(directions, first, second, self.cohort).item()
        return Verification(score, score > threshold)

    def threshold(self, task: str) -> float:
        """The threshold found by ``amsincnet evaluate --calibrate``.

        It is a score for the task ``"verification"``, a probability for
        ``"identification"``. A model that has never been calibrated has
        0.8 and 0.3, and a warning says so.
        """
        self._check_current(CALIBRATION)
        if task in self.calibration:
            return self.calibration[task]["threshold"]
        default = DEFAULT_THRESHOLDS[task]
        logger.warning(
            "Note: this model has no calibrated threshold for %s, so that "
            "%g is taken: find one with amsincnet evaluate --calibrate, or "
            "give one.",
            task,
            default,
        )
        return default

    def enroll(
        self,
        name: str,
        files: Recording | Iterable[Recording],
        extend: bool = False,
        errors: bool = False,
        prototypes: int | None = None,
    ) -> list[InputError]:
        """Add a speaker without training.

        The class vector is the mean direction of the windows, scaled so that
        windows of the speaker score as those of trained speakers do.

        Arguments
        ---------
        name : str
            Of a speaker the model does not have yet.
        files : recording, or any iterable of recordings
            Of that speaker; three sentences are a good start.
        extend : bool
            The speaker is enrolled already: as if all recordings had been
            given then.
        errors : bool
            Leave recordings out that cannot be used, as long as there is
            another.
        prototypes : int, optional
            How many class vectors, up to 8, of which the best counts. If it
            is not given, one, and more only for recordings that are unlike:
            as long as each brings them closer to one another by a tenth.

        Returns
        -------
        list of InputError
            About those left out.

        Raises
        ------
        InputError
            If the name is taken or empty, the recordings have nothing in
            common, or the classifier is not a CosineClassifier, the only one
            with a class vector per speaker.
        """
        self.classifier.check_new(name, extend)
        given = several(files)
        recordings = [files] if given is None else list(given)
        if not recordings:
            raise InputError(f"There is no recording to enrol {name!r} from.")
        found = list(self.analyse_all(recordings, errors))
        left_out = [one for one in found if isinstance(one, InputError)]
        if len(left_out) == len(found):
            raise left_out[0]
        directions = [
            one.direction.cpu()
            for one in found
            if not isinstance(one, InputError)
        ]
        self.classifier.enroll(name, torch.stack(directions), prototypes)
        return left_out

    def remove(self, name: str) -> None:
        """Remove an enrolled speaker; InputError if there is no such one."""
        self.classifier.remove(name)

    def save(
        self,
        folder: str | os.PathLike[str] | None = None,
        safetensors: bool = False,
    ) -> None:
        """Write the enrolled speakers and the calibration.

        Where several processes enrol speakers in one folder, each adds its
        own to those in it; it is an InputError if another one has changed the
        same speaker in the meantime. What was made with other weights is kept
        under another name.

        Arguments
        ---------
        folder : str or Path, optional
            A new folder, for a copy of the whole model. If not given, the
            folder that the model was loaded from.
        safetensors : bool
            See :func:`amsincnet_sb.inference.pretrained.write_pretrained`.
        """
        if folder is None:
            if self.folder is None:
                raise InputError("Say in which folder to save the model.")
            enrolled = update_additions(
                self.folder, self._additions(), self._saved, self._weights()
            )
            self.classifier.set_enrolled(enrolled)
            self._saved = self._additions()
            if enrolled:
                self.outdated.pop(ENROLLED, None)
            return
        self._check_current(ENROLLED)
        folder = Path(folder)
        if folder.exists():
            raise InputError(
                f"{folder} exists already; name a new folder for the copy."
            )
        write_pretrained(
            folder,
            self.embedding_model,
            self.classifier.trained,
            self.classifier.names,
            self.scale,
            safetensors,
            self.own_cosine,
            self._training,
            self._additions(),
        )

    def _weights(self):
        return fingerprint(self.embedding_model, self.classifier.trained)

    def _additions(self):
        enrolled = self.classifier.enrolled
        return Additions(enrolled, dict(self.calibration), self.cohort)

"""Who is speaking?"""

import copy
import logging
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from amsincnet_sb.dataio.prefetch import read_ahead
from amsincnet_sb.inference.audio_windows import windows_of
from amsincnet_sb.inference.enrolment import (
    merge_enrolled,
    read_calibration,
    read_cohort,
    read_enrolled,
    write_calibration,
    write_enrolled,
)
from amsincnet_sb.inference.pretrained import (
    find_pretrained,
    read_pretrained,
    write_pretrained,
)
from amsincnet_sb.inference.score_norm import compare
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.frozen import for_evaluation
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import exclusive

__all__ = ["Analysis", "Candidate", "SpeakerIdentifier", "UNKNOWN"]

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"

# A cosine and a share, for a model that has not been calibrated. Where the
# errors of one kind equal those of the other differs from model to model.
DEFAULT_THRESHOLDS = {"verification": 0.8, "identification": 0.3}
# Mean cosine of a speaker's windows with that speaker's class vector.
DEFAULT_OWN_COSINE = 0.3


class Candidate(NamedTuple):
    """A speaker who may be the one.

    Attributes
    ----------
    speaker : str
        Name.
    score : float or None
        Mean log-posterior over the windows, by which speakers are ranked; 0
        at best. None for ``"unknown"``.
    share : float or None
        Mean posterior over the windows: how much of the recording, from 0 to
        1, speaks for this speaker. None for ``"unknown"``.
    """

    speaker: str
    score: float | None
    share: float | None


class Verification(NamedTuple):
    """Whether two recordings are of one speaker.

    Attributes
    ----------
    score : float
        Cosine of the mean directions, from -1 to 1; of a model with a cohort
        in standard deviations, see :mod:`amsincnet_sb.inference.score_norm`.
    accepted : bool
        Whether it exceeds the threshold.
    """

    score: float
    accepted: bool


class Analysis(NamedTuple):
    """Means over the windows of a recording.

    Attributes
    ----------
    scores : torch.Tensor
        ``[speakers]``, log-posteriors.
    votes : torch.Tensor
        ``[speakers]``, shares of the windows decided for each.
    posteriors : torch.Tensor
        ``[speakers]``, posteriors.
    other_scores, other_posteriors : torch.Tensor
        ``[speakers]``, the same of a model that lacks one speaker, see
        :meth:`SpeakerIdentifier.analyse_all`; as the former if none was named.
    outputs : torch.Tensor
        ``[speakers]``, the classifier's outputs: cosines, or log-posteriors.
    embedding : torch.Tensor
        ``[embedding_size]``, the d-vector.
    direction : torch.Tensor
        ``[embedding_size]``, the same of embeddings scaled to length one.
    """

    scores: torch.Tensor
    votes: torch.Tensor
    posteriors: torch.Tensor
    other_scores: torch.Tensor
    other_posteriors: torch.Tensor
    outputs: torch.Tensor
    embedding: torch.Tensor
    direction: torch.Tensor


class SpeakerIdentifier:
    """A trained model that names speakers, verifies and enrols them.

    A recording is a file of any format, rate and number of channels that
    soundfile reads, or a tensor of samples ``[time]`` at the model's rate. An
    hour takes no more memory than a minute.

    Arguments
    ---------
    embedding_model : torch.nn.Module
        A SincNet or a SincTDNN, in evaluation mode.
    classifier : torch.nn.Module
        Likewise.
    speakers : list of str
        Names, in the order of the classifier's outputs.
    scale : float
        What its outputs are multiplied by before a softmax.
    windows_per_batch : int
        Bounds the memory taken, whatever the length of a recording.
    folder : str or Path, optional
        Where the model, its enrolled speakers and its calibration are kept.
    hop : int, optional
        Samples between windows; a quarter of a window if not given. Windows
        every 10 ms, as in the evaluation of a training run, overlap so much
        that they take five times as long for as many errors.
    own_cosine : float
        What a window of a trained speaker scores for that speaker on average,
        if it was not trained on.

    Attributes
    ----------
    speakers : list of str
        Those of the training, then those enrolled.
    calibration : dict
        ``"verification"`` and ``"identification"``, each with a
        ``"threshold"`` and how it was found; empty if it never was.
    cohort : torch.Tensor or None
        ``[speakers, embedding_size]``, directions of speakers against whom
        verification measures; kept with the calibration.

    Example
    -------
    >>> from amsincnet_sb.lobes.classifiers import CosineClassifier
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> net = SincNet(fc_neurons=[8, 8, 8]).eval()
    >>> who = SpeakerIdentifier(net, CosineClassifier(8, 2), ["ann", "bob"])
    >>> sorted(c.speaker for c in who.identify(torch.randn(16000)))
    ['ann', 'bob']
    >>> who.enroll("cat", [torch.randn(16000)])
    >>> who.speakers
    ['ann', 'bob', 'cat']
    """

    def __init__(
        self,
        embedding_model,
        classifier,
        speakers,
        scale=1.0,
        windows_per_batch=512,
        folder=None,
        hop=None,
        own_cosine=DEFAULT_OWN_COSINE,
    ):
        window = embedding_model.window
        self.hop = max(1, window // 4) if hop is None else hop
        if not 1 <= self.hop <= window:
            raise InputError(
                f"hop is {hop} but must be 1 to {window} samples, a window."
            )
        self.embedding_model = embedding_model
        self.classifier = classifier
        self.scale = scale
        self.own_cosine = own_cosine
        self.windows_per_batch = windows_per_batch
        self.folder = folder and Path(folder)
        self.calibration, self.cohort = {}, None
        self.device = next(embedding_model.parameters()).device
        self._embed = for_evaluation(embedding_model)
        self._trained = list(speakers)
        self._set_enrolled({})
        # Calibration, cohort and enrolled speakers as they are on the disk.
        self._kept = {}, None, {}

    @classmethod
    def from_results(cls, folder, device="cpu", hop=None):
        """Load the model of a training run.

        Arguments
        ---------
        folder : str or Path
            Results folder of a finished run, or its ``pretrained/``.
        device : str
            Where to compute.
        hop : int, optional
            See :class:`SpeakerIdentifier`.

        Returns
        -------
        SpeakerIdentifier

        Raises
        ------
        InputError
            If there is no complete model, or no such device.
        """
        embedding_model, classifier, config = read_pretrained(folder)
        folder = find_pretrained(folder)
        try:
            embedding_model.to(device)
            classifier.to(device)
        except (AssertionError, RuntimeError) as error:
            raise InputError(
                f"The device {device!r} cannot be used here; try 'cpu'."
            ) from error
        model = cls(
            embedding_model,
            classifier,
            config["speakers"],
            config["scale"],
            folder=folder,
            hop=hop,
            own_cosine=config.get("own_cosine", DEFAULT_OWN_COSINE),
        )
        size = embedding_model.embedding_size
        model.calibration = read_calibration(folder)
        # A cohort without a threshold found with it would be of no use.
        if "verification" in model.calibration:
            model.cohort = read_cohort(folder, size)
        model._set_enrolled(read_enrolled(folder, size))
        model._keep()
        return model

    def identify(self, audio, top_k=3, threshold=None):
        """Name the speaker of a recording.

        With a threshold, ``"unknown"`` comes first, without numbers, where
        too little of the recording speaks for the best candidate. A share is
        a posterior: it tells how far a speaker is ahead of the others, not
        how similar the voice is, which rejects unknown speakers better.

        Arguments
        ---------
        audio : str, Path, torch.Tensor, or a list of these
            A recording, or several.
        top_k : int
            How many candidates.
        threshold : float or "calibrated", optional
            Least share of the best, from 0 to 1; :meth:`threshold` for
            ``"calibrated"``. Without it somebody is always named.

        Returns
        -------
        list of Candidate
            The best first; of several recordings, a list of such lists.

        Raises
        ------
        InputError
            If a recording is unreadable, empty, not finite, or a silent
            file.
        """
        if not _is_several(audio):
            return next(self.identify_all([audio], top_k, threshold))
        return list(self.identify_all(audio, top_k, threshold))

    def identify_all(self, recordings, top_k=3, threshold=None, errors=False):
        """:meth:`identify` for many recordings, answer by answer.

        Arguments
        ---------
        recordings : iterable of str, Path or torch.Tensor
            Recordings; any number.
        top_k, threshold
            See :meth:`identify`.
        errors : bool
            Give an InputError as the answer about a recording that cannot be
            used, and go on with the next one.

        Yields
        ------
        list of Candidate
            One list a recording, in their order.

        Raises
        ------
        InputError
            As :meth:`identify`, unless ``errors``.
        """
        if threshold == "calibrated":
            threshold = self.threshold("identification")
        for found in self.analyse_all(recordings):
            if not isinstance(found, InputError):
                yield self._candidates(found, top_k, threshold)
            elif errors:
                yield found
            else:
                raise found

    def _candidates(self, found, top_k, threshold):
        best = found.scores.topk(min(top_k, len(self.speakers)))
        candidates = [
            Candidate(self.speakers[i], score, found.posteriors[i].item())
            for score, i in zip(best.values.tolist(), best.indices.tolist())
        ]
        if threshold is not None and not candidates[0].share > threshold:
            candidates = [Candidate(UNKNOWN, None, None), *candidates][:top_k]
        return candidates

    def embed(self, audio):
        """The d-vector of a recording: the mean over its windows.

        Arguments
        ---------
        audio : str, Path, torch.Tensor, or a list of these
            A recording, or several.

        Returns
        -------
        torch.Tensor
            ``[embedding_size]``, or ``[recordings, embedding_size]``; on the
            CPU, of any length.

        Raises
        ------
        InputError
            As :meth:`identify`.
        """
        if not _is_several(audio):
            return self.analyse(audio).embedding.cpu()
        found = [one.embedding.cpu() for one in self._analyses(audio)]
        return torch.stack(found)

    def verify(self, a, b, threshold=None):
        """Decide whether two recordings are of the same speaker.

        Arguments
        ---------
        a, b : str, Path or torch.Tensor
            The recordings.
        threshold : float, optional
            Least score; :meth:`threshold` if not given.

        Returns
        -------
        Verification
            score, accepted.

        Raises
        ------
        InputError
            As :meth:`identify`.
        """
        if threshold is None:
            threshold = self.threshold("verification")
        found = torch.stack([one.direction for one in self._analyses([a, b])])
        score = self.compare(found, torch.tensor([0]), torch.tensor([1])).item()
        return Verification(score, score > threshold)

    def compare(self, directions, first, second):
        """Scores of many trials; see :mod:`amsincnet_sb.inference.score_norm`.

        Arguments
        ---------
        directions : torch.Tensor
            ``[recordings, embedding_size]``, from :meth:`analyse`.
        first, second : torch.Tensor
            ``[trials]``, positions in ``directions``.

        Returns
        -------
        torch.Tensor
            ``[trials]``, on the CPU.
        """
        return compare(directions.cpu(), first, second, self.cohort)

    def threshold(self, task):
        """The threshold found by ``amsincnet evaluate --calibrate``.

        Arguments
        ---------
        task : str
            ``"verification"`` or ``"identification"``.

        Returns
        -------
        float
            A cosine for verification, a share of the recording for
            identification. A model that has never been calibrated has 0.8
            and 0.3, and a warning says so.
        """
        if task in self.calibration:
            return self.calibration[task]["threshold"]
        how = "find one with amsincnet evaluate --calibrate, or give a number"
        default = DEFAULT_THRESHOLDS[task]
        logger.warning(
            "Note: this model has no calibrated threshold for %s, so that "
            "%g is taken: %s.",
            task,
            default,
            how,
        )
        return default

    def enroll(self, name, files):
        """Add a speaker without training.

        The speaker's class vector is the mean direction of the windows. A
        mean is closer to its own windows, and to everybody else's, than a
        learned class vector is; so it is scaled until windows of the
        recordings score on it as those of trained speakers do on theirs: what
        the last evaluation of the training run has found, or ``amsincnet
        evaluate --calibrate`` since. Each
        recording is scored on the mean of the others.

        Arguments
        ---------
        name : str
            Of a speaker the model does not have yet.
        files : list of str, Path or torch.Tensor
            Recordings of that speaker; three sentences are a good start.

        Raises
        ------
        InputError
            If the name is taken or empty, a recording cannot be used, the
            recordings have nothing in common, or the classifier is not a
            CosineClassifier, in whose like a speaker is more than a direction.
        """
        if not self._has_cosines():
            raise InputError(
                "Speakers can be enrolled in a model with a CosineClassifier, "
                "but this one was trained with a plain softmax; it can embed "
                "and verify."
            )
        if not name.strip() or not name.isprintable() or name == UNKNOWN:
            raise InputError(f"{name!r} cannot be the name of a speaker.")
        if name in self.speakers:
            kind = "enrolled" if name in self._enrolled else "trained"
            raise InputError(
                f"The model has a speaker {name!r} already ({kind}); take "
                "another name, or remove the enrolled one first."
            )
        files = list(files)
        if not files:
            raise InputError(f"There is no recording to enrol {name!r} from.")
        means = torch.stack([one.direction for one in self._analyses(files)])
        others = means.sum(0) - means if len(files) > 1 else means
        own = (means * F.normalize(others, dim=-1)).sum(-1).mean()
        if not own > 0.05:
            raise InputError(
                f"The recordings given for {name!r} have nothing in common; "
                "check that they are of one speaker."
            )
        vector = F.normalize(means.mean(0), dim=0) / own
        self._set_enrolled({**self._enrolled, name: vector.cpu()})

    def remove(self, name):
        """Forget an enrolled speaker.

        Arguments
        ---------
        name : str
            As enrolled.

        Raises
        ------
        InputError
            If nobody of that name has been enrolled.
        """
        if name not in self._enrolled:
            known = ", ".join(map(repr, self._enrolled)) or "nobody"
            raise InputError(
                f"{name!r} is not an enrolled speaker of this model; enrolled "
                f"so far: {known}."
            )
        self._set_enrolled(
            {k: v for k, v in self._enrolled.items() if k != name}
        )

    def save(self, folder=None, safetensors=False):
        """Keep the enrolled speakers and the calibration.

        Where several processes enrol speakers in one folder, each adds its
        own to what is there.

        Arguments
        ---------
        folder : str or Path, optional
            A new folder, for a copy of the whole model. If not given, they
            are kept beside the model that was loaded.
        safetensors : bool
            Of the copy: see :func:`amsincnet_sb.inference.pretrained
            .write_pretrained`.

        Raises
        ------
        InputError
            If the folder exists, or cannot be written, or another process
            has enrolled or removed the same speaker in the meantime.
        """
        size = self.embedding_model.embedding_size
        if folder is None:
            folder = self.folder
            if folder is None:
                raise InputError("Say in which folder to save the model.")
        else:
            folder = Path(folder)
            if folder.exists():
                raise InputError(
                    f"{folder} exists already; name a new folder for the copy."
                )
            write_pretrained(
                folder,
                self.embedding_model,
                self.classifier,
                self._trained,
                self.scale,
                safetensors,
                self.own_cosine,
            )
            write_calibration(folder, self.calibration, self.cohort)
            write_enrolled(folder, self._enrolled, size)
            return
        # What another process has changed since the model was loaded stays.
        with exclusive(folder / "config.json"):
            calibration, cohort, before = self._kept
            enrolled = merge_enrolled(folder, size, before, self._enrolled)
            if self.calibration != calibration or self.cohort is not cohort:
                write_calibration(folder, self.calibration, self.cohort)
            write_enrolled(folder, enrolled, size)
        self._set_enrolled(enrolled)
        self._keep()

    def _keep(self):
        calibration = copy.copy(self.calibration)
        self._kept = calibration, self.cohort, self._enrolled

    def analyse(self, audio):
        """Everything the model has to say about a recording.

        Arguments
        ---------
        audio : str, Path or torch.Tensor
            The recording.

        Returns
        -------
        Analysis

        Raises
        ------
        InputError
            As :meth:`identify`.
        """
        (found,) = self._analyses([audio])
        return found

    @torch.inference_mode()
    def analyse_all(self, recordings, without=()):
        """:meth:`analyse` for many recordings, several times as fast.

        The network sees windows of several recordings at a time, while a
        thread reads the next ones.

        Arguments
        ---------
        recordings : iterable of str, Path or torch.Tensor
            Recordings; any number, they are taken as they are needed.
        without : sequence of int
            A speaker's position for each recording, or -1: the model is also
            asked as if it did not know that speaker.

        Yields
        ------
        Analysis or InputError
            One a recording, in their order, each as soon as it is complete.
        """
        group, size, totals = [], 0, {}
        for number, piece in read_ahead(self._pieces(recordings)):
            length = len(piece) if torch.is_tensor(piece) else 0
            if size + length > self.windows_per_batch:
                yield from self._finished(group, totals, without)
                group, size = [], 0
            group.append((number, piece))
            size += length
        yield from self._finished(group, totals, without)

    def _analyses(self, recordings):
        """:meth:`analyse_all`, ended by the first error."""
        for found in self.analyse_all(recordings):
            if isinstance(found, InputError):
                raise found
            yield found

    def _pieces(self, recordings):
        """(number, windows) of each recording; at last (number, None).

        In place of what cannot be read, (number, InputError).
        """
        for number, audio in enumerate(recordings):
            end = None
            try:
                for windows in self._windows(audio):
                    yield number, windows
            except InputError as error:
                end = error
            yield number, end

    def _finished(self, group, totals, without):
        """What is complete when the windows of a group have been embedded.

        Arguments
        ---------
        group : list
            Of :meth:`_pieces`.
        totals : dict
            Number of a recording that is not complete -> its windows so far
            and their sums.
        without : sequence of int
            See :meth:`analyse_all`.

        Yields
        ------
        Analysis or InputError
        """
        inside = [(n, piece) for n, piece in group if torch.is_tensor(piece)]
        if inside:
            numbers, pieces = zip(*inside)
            windows = torch.cat(pieces).to(self.device)
            embeddings = self._embed(windows).float()
            outputs = self._classify(embeddings).squeeze(1).float()
            embeddings = embeddings.squeeze(1)
            scores = log_posteriors(outputs, self.scale)
            votes = F.one_hot(scores.argmax(-1), scores.shape[-1]).float()
            directions = F.normalize(embeddings, dim=-1)
            lengths = [len(piece) for piece in pieces]
            others = scores
            if without:
                lacking = torch.tensor([without[n] for n in numbers])
                lacking = lacking.repeat_interleave(torch.tensor(lengths))
                lacking = lacking.to(self.device)
                rows = (lacking >= 0).nonzero().squeeze(1)
                masked = outputs.clone()
                masked[rows, lacking[rows]] = -torch.inf
                others = log_posteriors(masked, self.scale)
            parts = zip(
                *(
                    each.split(lengths)
                    for each in (
                        scores,
                        votes,
                        scores.exp(),
                        others,
                        others.exp(),
                        outputs,
                        embeddings,
                        directions,
                    )
                )
            )
        for number, piece in group:
            if torch.is_tensor(piece):
                new = [part.sum(0) for part in next(parts)]
                count, sums = totals.get(number, (0, [0.0] * len(new)))
                sums = [a + b for a, b in zip(sums, new)]
                totals[number] = count + len(piece), sums
                continue
            count, sums = totals.pop(number, (0, []))
            yield piece or Analysis(*(total / count for total in sums))

    def _windows(self, audio):
        net = self.embedding_model
        sizes = net.window, self.hop, net.sample_rate
        return windows_of(audio, *sizes, self.windows_per_batch)

    @property
    def trained_speakers(self):
        """How many of the speakers, from the first, were trained."""
        return len(self._trained)

    def _has_cosines(self):
        return isinstance(self.classifier, CosineClassifier)

    def _set_enrolled(self, enrolled):
        """Class vectors on which own windows score 1 on average, by name."""
        self._enrolled = enrolled
        self.speakers = self._trained + list(enrolled)
        if enrolled:
            self._vectors = torch.stack(list(enrolled.values())).to(self.device)

    def enrolled_weight(self):
        """What the enrolled speakers add to the classifier.

        Returns
        -------
        torch.Tensor
            ``[enrolled, embedding_size]``: vectors whose products with an
            embedding of length one are their outputs, beside the
            classifier's.
        """
        if not self._enrolled:
            return torch.zeros(0, self.embedding_model.embedding_size)
        found = self.calibration.get("identification", {})
        own_cosine = found.get("own_cosine", self.own_cosine)
        return own_cosine * self._vectors

    def _classify(self, embeddings):
        """Outputs for trained and enrolled speakers, on one scale."""
        outputs = self.classifier(embeddings)
        if not self._enrolled:
            return outputs
        scores = F.normalize(embeddings, dim=-1) @ self.enrolled_weight().T
        return torch.cat([outputs, scores], dim=-1)


def _is_several(audio):
    return isinstance(audio, list | tuple)

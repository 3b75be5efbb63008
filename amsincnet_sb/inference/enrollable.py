"""What is added to a trained model: enrolled speakers and thresholds."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from amsincnet_sb.inference.additions import (
    CALIBRATION,
    COHORT,
    ENROLLED,
    MARK,
    Additions,
    cohort_digest,
    fingerprint,
    read_additions,
    update_additions,
)
from amsincnet_sb.inference.enrolment import EnrollableClassifier
from amsincnet_sb.inference.pretrained import (
    OWN_COSINE,
    find_pretrained,
    read_pretrained,
    write_pretrained,
)
from amsincnet_sb.inference.recordings import Recording, several
from amsincnet_sb.inference.window_averages import WindowAverages
from amsincnet_sb.lobes.windowed import WindowedEmbedding
from amsincnet_sb.utils.errors import InputError

__all__ = ["EnrollableModel"]

logger = logging.getLogger(__name__)

_Model = TypeVar("_Model", bound="EnrollableModel")

# A cosine and a probability, for a model that has not been calibrated. Where
# the errors of one kind equal those of the other differs from model to model.
DEFAULT_THRESHOLDS = {"verification": 0.8, "identification": 0.3}


class EnrollableModel(WindowAverages):
    """A trained model to which speakers and thresholds are added.

    They are kept in the folder that it was loaded from. The arguments are
    those of :class:`amsincnet_sb.inference.identifier.SpeakerIdentifier`.
    """

    def __init__(
        self,
        embedding_model: WindowedEmbedding,
        classifier: torch.nn.Module,
        speakers: Sequence[str],
        scale: float = 1.0,
        windows_per_batch: int = 1024,
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
        self._training = self._said = None
        # Additions in it that were made with other weights.
        self.outdated: dict[str, str] = {}
        self._saved = Additions({}, {}, None)  # as in the folder
        self._cohort: torch.Tensor | None = None
        self.calibration = {}

    @classmethod
    def from_results(
        cls: type[_Model],
        folder: str | os.PathLike[str],
        device: str = "cpu",
        hop: int | None = None,
    ) -> _Model:
        """Load the model of a training run.

        Arguments
        ---------
        folder : str or Path
            Results folder of a finished run, or its ``pretrained/``.
        device : str
            Where to compute.
        hop : int, optional
            Samples between windows; half a window if not given.

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
        model._said = config.get(MARK)
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
        model.cohort = additions.cohort
        model.calibration = additions.calibration
        model._saved = model._additions()
        return model

    @property
    def speakers(self) -> list[str]:
        """Names: the trained speakers, then the enrolled ones.

        An InputError where some were enrolled with other weights, before the
        model was trained again: it does not know them any more. They can be
        enrolled again.
        """
        self.check_current(ENROLLED)
        return self.classifier.speakers

    def check_current(self, name: str) -> None:
        """Raise InputError where a file of additions no longer means anything.

        It is of other weights, or a threshold of another cohort.
        """
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

    @property
    def cohort(self) -> torch.Tensor | None:
        """Directions that normalise the scores of verification, or None.

        They are ``[speakers, embedding_size]``, and saved with the
        calibration. Another cohort takes the threshold of verification away,
        which was found with the one before: set it before the calibration.
        """
        return self._cohort

    @cohort.setter
    def cohort(self, directions: torch.Tensor | None) -> None:
        """Use another cohort, for which a threshold is to be found."""
        changed = cohort_digest(directions) != cohort_digest(self._cohort)
        self._cohort = directions
        if changed and "verification" in self.calibration:
            rest = {**self.calibration}
            del rest["verification"]
            self._calibration = rest  # the files in the folder stay

    def threshold(self, task: str) -> float:
        """The threshold found by ``amsincnet evaluate --calibrate``.

        It is a score for the task ``"verification"``, a probability for
        ``"identification"``. A model that has never been calibrated has
        0.8 and 0.3, and a warning says so; with a cohort, it is an InputError
        to ask for that of verification.
        """
        self.check_current(CALIBRATION)
        if task in self.calibration:
            return self.calibration[task]["threshold"]
        if task == "verification" and self.cohort is not None:
            raise InputError(
                "No threshold of verification has been found with this "
                "cohort, and one of cosines means nothing there; find one "
                "with amsincnet evaluate --calibrate --cohort, or give one."
            )
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
        name = self.classifier.spelling(name)
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
        name = self.classifier.spelling(name)
        if name not in self.classifier.enrolled:
            self.check_current(ENROLLED)  # who may be in that file
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
                self.folder,
                self._additions(),
                self._saved,
                self._weights(),
                self._said,
            )
            self.classifier.set_enrolled(enrolled)
            self._saved = self._additions()
            if enrolled:
                self.outdated.pop(ENROLLED, None)
            return
        self.check_current(ENROLLED)
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

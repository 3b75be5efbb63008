"""Who speaks when in a recording, by name."""

import logging
import math
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch

from amsincnet_sb.dataio.audio import is_silent, silence_of
from amsincnet_sb.inference.activity import stretches
from amsincnet_sb.inference.additions import CALIBRATION
from amsincnet_sb.inference.answers import check_number
from amsincnet_sb.inference.audio_windows import blocks_of
from amsincnet_sb.inference.listening import STEP, Listener, Memory, take
from amsincnet_sb.inference.recordings import as_source
from amsincnet_sb.inference.voices import Voices
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.names import UNKNOWN, is_unknown
from amsincnet_sb.utils.threads import one_thread_each

__all__ = ["Segment", "Wanted", "find_segments"]

logger = logging.getLogger(__name__)

PIECE = 2**21  # samples heard at once
PAUSE = 0.5  # seconds; across shorter ones, a speaker's segment goes on
# Weights of what tells whether a segment is named rightly: 1, its lead, its
# lead times the logarithm of its seconds of speech, that logarithm. Fitted on
# conversations; `evaluate --calibrate` fits them to a model.
CERTAINTY = (1.6, 1.4, 1.1, 0.5)


class Segment(NamedTuple):
    """Who speaks from ``start`` to ``end``, in seconds.

    ``speaker`` is a name of the model, ``"unknown"``, or ``"unknown 1"``,
    ``"unknown 2"``, … where unknown voices are told apart. ``probability`` is
    that of the answer being right, ``speech`` the seconds without pauses,
    ``second`` the speaker who comes next, None where nobody else can be there,
    and ``margin`` how far behind: 1 is the distance from a voice's own windows
    to those of nobody like it. While somebody still speaks, all but ``start``
    and ``speaker`` are None.
    """

    start: float
    end: float | None
    speaker: str
    probability: float | None
    speech: float | None
    second: str | None
    margin: float | None


class Wanted(NamedTuple):
    """What is asked of the segments of a recording.

    ``minimum`` is the seconds that a speaker lasts at least, but for pauses;
    ``threshold`` the least probability of a name, ``"unknown"`` comes instead;
    ``least_speech`` the seconds of speech before anybody is named; ``among``
    the names of those who can be there; ``count`` the largest number of
    voices.
    """

    minimum: float = 0.4
    threshold: float | None = None
    least_speech: float = 0.3
    among: tuple | None = None
    count: int | None = None

    def check(self, classifier):
        """Raise InputError for what cannot be; who can be there, ``[bool]``.

        They are speakers of an EnrollableClassifier.
        """
        for name in ("minimum", "threshold", "least_speech"):
            value = getattr(self, name)
            check_number(name, value)
            if value is None and name != "threshold":
                raise InputError(f"{name} is None but must be a number.")
            if value is not None and value < 0:
                raise InputError(f"{name} is {value} but must be at least 0.")
        if self.minimum > 10:
            raise InputError(
                f"minimum is {self.minimum} but must be at most 10 seconds."
            )
        if self.threshold is not None and self.threshold > 1:
            raise InputError(
                f"threshold is {self.threshold} but must be at most 1."
            )
        if self.count is not None and not (
            isinstance(self.count, Integral) and self.count >= 1
        ):
            raise InputError(
                f"count is {self.count} but must be a whole number from 1 on."
            )
        speakers = classifier.speakers
        if self.among is None:
            return np.ones(len(speakers), bool)
        among = [classifier.spelling(name) for name in self.among]
        for name in among:
            if name not in speakers:
                raise InputError(
                    f"{name!r} in among is no speaker of this model; "
                    "amsincnet speakers lists them."
                )
        return np.array([name in among for name in speakers])

    @property
    def frames(self):
        """The minimum in frames."""
        return max(1, round(self.minimum / STEP))


def find_segments(model, audio, wanted):
    """The Segments of a recording, in order; none without speech.

    ``model`` is a :class:`~amsincnet_sb.inference.identifier.SpeakerIdentifier`
    and ``audio`` a recording that it takes.
    """
    model = model.as_now()
    speakers = model.speakers
    allowed = wanted.check(model.classifier)
    rate = model.embedding_model.sample_rate
    source = as_source(audio, rate, model.channel)
    memory, above = Memory(), []
    silent = not torch.is_tensor(source)  # zeros are taken as they are
    with one_thread_each(model.device.type == "cpu") as each:
        listener = Listener(model, each=each)
        for wave in blocks_of(source, rate, model.channel, PIECE):
            silent = silent and is_silent(wave)
            for part in wave.split(PIECE):
                memory.add(listener.hear(part))
                above.append(listener.above)
        if not silent:
            memory.add(listener.finish())
            above.append(listener.above)
    if silent:
        raise silence_of(source, model.channel)
    pieces = memory.pieces()
    frames = np.concatenate([piece.frames for piece in pieces])
    speech = np.concatenate([piece.speech for piece in pieces])
    length = listener.samples / rate
    places = [
        (start, min(end, length))
        for start, end in stretches(speech, listener.speech_step)
        if start < length
    ]
    kept, places = _in_speech(frames, places)
    if not len(kept):
        return []
    starts = np.cumsum([0, *(b - a for a, b, *_ in places)])[:-1].tolist()
    above = [decibels for decibels in above if decibels is not None]
    voices = Voices(
        *take(pieces, kept),
        starts,
        allowed,
        wanted.frames,
        np.median(above) if above else None,
    )
    times = frames[kept] * STEP
    labels = voices.decode(wanted.count)
    names = [*speakers, *_unknown_names(labels, voices, len(speakers))]
    certainty = certainty_of(model)
    return [
        describe(start, end, label, total, frames, names, wanted, certainty)
        for start, end, label, total, frames in _pieces(
            labels, voices.total, times, starts, places
        )
    ]


def _in_speech(frames, places):
    """Positions of the frames in speech; and the places that have some.

    A place gets first and last position in front of its seconds.
    """
    kept, found = [], []
    for start, end in places:
        # A short place has the frame in its middle.
        a = np.searchsorted(frames, min(start, (start + end - STEP) / 2) / STEP)
        b = np.searchsorted(frames, max(end, (start + end + STEP) / 2) / STEP)
        if a < b:
            found.append((a, b, start, end))
            kept.extend(range(a, b))
    return np.array(kept, int), found


def _unknown_names(labels, voices, known):
    """Names of the unknown voices, by who speaks first, and of the rest."""
    last = voices.of_voice.shape[1]
    order = [x for x in dict.fromkeys(labels.tolist()) if known <= x < last]
    names = {label: f"{UNKNOWN} {n}" for n, label in enumerate(order, start=1)}
    # One who never speaks can still come second.
    return [names.get(label, UNKNOWN) for label in range(known, last + 1)]


def _pieces(labels, total_of, times, starts, places):
    """Start, end, label, summed scores and frames of each segment."""
    open_ = None
    ends = [*starts[1:], len(labels)]
    for first, stop, (_, _, begin, end) in zip(starts, ends, places):
        changes = np.flatnonzero(np.diff(labels[first:stop])) + 1 + first
        for a, b in zip([first, *changes], [*changes, stop]):
            start = begin if a == first else times[a] - STEP / 2
            finish = end if b == stop else times[b - 1] + STEP / 2
            total = total_of(slice(a, b))
            same = open_ and open_[2] == labels[a]
            if same and start - open_[1] <= PAUSE:
                total = total + open_[3]
                open_ = (open_[0], finish, labels[a], total, open_[4] + b - a)
                continue
            if open_:
                yield open_
            open_ = (start, finish, labels[a], total, b - a)
    yield open_


def certainty_of(model):
    """The weights of :data:`CERTAINTY` for a model."""
    if CALIBRATION in model.outdated:
        logger.warning(
            "Note: %s Until then probabilities are those of other models.",
            model.outdated[CALIBRATION],
        )
    found = model.calibration.get("segments", {})
    return found.get("certainty", CERTAINTY)


def evidence(lead, seconds):
    """What the certainty of a segment is made of, see :data:`CERTAINTY`."""
    length = math.log(max(seconds, STEP))
    return 1.0, lead, lead * length, length


def describe(start, end, label, total, frames, names, wanted, certainty):
    """One Segment.

    ``total``, ``[voices + 1]``, sums the scores of its frames, by which it got
    its label, a position in ``names``.
    """
    means = total / frames
    start, end = round(float(start), 2), round(float(end), 2)
    # The frames at its ends may reach beyond it.
    speech = min(float(frames * STEP), end - start)
    rest = np.where(np.arange(len(means)) == label, -np.inf, means)
    second = int(rest.argmax())
    alone = np.isneginf(rest[second])  # nobody else can be there
    margin = 1.0 if alone else float(means[label] - rest[second])
    weighed = zip(certainty, evidence(margin, speech))
    chance = sum(weight * value for weight, value in weighed)
    probability = torch.tensor(chance, dtype=torch.double).sigmoid().item()
    name, next_name = names[label], None if alone else names[second]
    unsure = wanted.threshold is not None and probability < wanted.threshold
    if unsure or speech < wanted.least_speech - STEP / 2:
        if not is_unknown(name):
            name, next_name = UNKNOWN, name
            probability, margin = 1 - probability, -margin
    return Segment(
        start,
        end,
        name,
        round(probability, 3),
        round(speech, 2),
        next_name,
        round(margin, 3),
    )

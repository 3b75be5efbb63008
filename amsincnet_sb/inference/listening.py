"""A model that listens: what it hears in each tenth of a second of speech."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from amsincnet_sb.inference.activity import OFF, speech_detector
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.nnet.scoring import log_posteriors
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "STEP",
    "Heard",
    "Listener",
    "Memory",
    "likeness_of",
    "take",
]

STEP = 0.1  # seconds between the middles of frames, each of one window
AROUND = 0.1  # seconds around speech in which frames are heard too
BATCH = 128  # windows
LARGE = 8192  # frames, more than 32 MB of embeddings


class Heard(NamedTuple):
    """Frames around speech, and the probability of speech everywhere.

    ``frames`` are their numbers ``[frames]``; ``likeness``, ``[frames,
    speakers]``, is about 1 for windows of the speaker and far below for those
    of another; ``directions``, ``[frames, embedding_size]``, are embeddings of
    length one. Both are float16. ``chance`` is ``[frames]``, that of speech in
    a frame, and ``speech`` ``[time]``, one for each frame of the detector.
    """

    frames: np.ndarray
    likeness: np.ndarray
    directions: np.ndarray
    chance: np.ndarray
    speech: np.ndarray


class Memory:
    """What was heard, in order, in arrays that are few and large.

    Those are the system's again as soon as they are freed, the many small ones
    of single pieces would leave holes.

    Example
    -------
    >>> memory = Memory()
    >>> memory.add(Heard(*(np.zeros((2, 3)) for _ in Heard._fields)))
    >>> memory.pieces()[0].directions.shape
    (2, 3)
    """

    def __init__(self):
        self._large, self._small = [], []

    def add(self, heard):
        """Keep what was heard next."""
        self._small.append(heard)
        if sum(len(each.frames) for each in self._small) >= LARGE:
            self._join()

    def pieces(self):
        """A list of all, as Heard; the memory has nothing any more."""
        self._join()
        pieces, self._large = self._large, []
        return pieces

    def _join(self):
        if self._small:
            joined = map(np.concatenate, zip(*self._small))
            self._large.append(Heard(*joined))
            self._small = []


class Listener:
    """Hears a waveform piece by piece, with little memory.

    Arguments
    ---------
    model : SpeakerIdentifier
        Whose windows and logits they are.
    live : bool
        Pieces are short.
    each : callable
        Maps a function over batches of windows.
    """

    def __init__(self, model, live=False, each=map):
        self.each = each
        self.model, net = model, model.embedding_model
        self.rate, self.window = net.sample_rate, net.window
        self.detect = speech_detector(self.rate, live)
        self.speech_step = self.detect.frame / self.rate
        # Samples not told to the detector yet, and those of coming windows,
        # the first of which begins half a window before the recording.
        self._unsaid = torch.zeros(0)
        self._wave = torch.zeros(self.window // 2)
        self.next_frame = 0  # frame
        self._speech = np.zeros(0, np.float32)  # of the frames to come, from
        self._speech_at = 0
        self.samples = 0

    def hear(self, wave):
        """A further piece, ``[time]``; what of it is heard, as Heard."""
        self.samples += len(wave)
        self._unsaid = torch.cat([self._unsaid, wave])
        self._wave = torch.cat([self._wave, wave])
        whole = len(self._unsaid) // self.detect.frame * self.detect.frame
        return self._hear(whole)

    def finish(self):
        """What is heard at the end: the last frames."""
        fill = self.window // 2 + int(self.rate * AROUND)
        fill += self.detect.lag * self.detect.frame
        self._wave = torch.cat([self._wave, torch.zeros(fill)])
        self._unsaid = torch.cat([self._unsaid, torch.zeros(fill)])
        last = int(self.seconds / STEP)
        whole = len(self._unsaid) // self.detect.frame * self.detect.frame
        return self._hear(whole, last)

    @property
    def seconds(self):
        """How long the recording has lasted so far."""
        return self.samples / self.rate

    @property
    def above(self):
        """Of speech above the pauses, lately, in dB; None: not known."""
        return self.detect.above

    def _hear(self, whole, last=None):
        new = np.zeros(0, np.float32)
        if whole:
            new = self.detect(self._unsaid[:whole])
            self._unsaid = self._unsaid[whole:]
        self._speech = np.concatenate([self._speech, new])
        step = self.rate * STEP
        # Frames whose window has come, and whether there is speech nearby.
        begin = self._first_sample(self.next_frame)
        count = max(0, int((len(self._wave) - self.window) // step) + 1)
        known = self._speech_at + len(self._speech)
        count = min(
            count,
            int((known * self.speech_step - AROUND) / STEP)
            - self.next_frame
            + 1,
        )
        if last is not None:
            count = min(count, last - self.next_frame + 1)
        frames = np.arange(self.next_frame, self.next_frame + max(0, count))
        near = [self._chance(frame, AROUND) > OFF for frame in frames]
        frames = frames[np.array(near, bool)]
        chance = [self._chance(frame, 0) for frame in frames]
        starts = [self._first_sample(frame) - begin for frame in frames]
        windows = [self._wave[at : at + self.window] for at in starts]
        self.next_frame += max(0, count)
        self._wave = self._wave[self._first_sample(self.next_frame) - begin :]
        past = int((self.next_frame * STEP - 2 * AROUND) / self.speech_step)
        if past > self._speech_at:
            self._speech = self._speech[past - self._speech_at :]
            self._speech_at = past
        return Heard(frames, *self._ask(windows), np.array(chance), new)

    def _first_sample(self, frame):
        """Counted from half a window before the recording."""
        # Halves up, always: frames are never farther apart than their time,
        # rounded up, so that the window of each that has come is whole.
        return int(int(frame) * STEP * self.rate + 0.5)

    def _chance(self, frame, around):
        """The largest probability of speech in so many seconds around it."""
        middle = frame * STEP
        a, b = (
            int(time / self.speech_step) - self._speech_at
            for time in (middle - around, middle + around)
        )
        return self._speech[max(0, a) : b + 1].max(initial=0)

    def _ask(self, windows):
        batches = [
            windows[start : start + BATCH]
            for start in range(0, len(windows), BATCH)
        ]
        found = list(self.each(self._ask_batch, batches))
        likeness, directions = zip(*found) if found else ((), ())
        if not likeness:
            size = self.model.embedding_model.embedding_size
            speakers = len(self.model.classifier.speakers)
            likeness = [np.zeros((0, speakers), np.float16)]
            directions = [np.zeros((0, size), np.float16)]
        likeness = np.concatenate(likeness)
        if not np.isfinite(likeness).all():
            raise InputError(
                "The model answers with NaN or infinite values; train or "
                "import it again."
            )
        return likeness, np.concatenate(directions)

    def _ask_batch(self, windows):
        embeddings, outputs = self.model.ask(torch.stack(windows))
        likeness = likeness_of(self.model, outputs)
        return likeness, F.normalize(embeddings, dim=-1).half().cpu().numpy()


def likeness_of(model, outputs):
    """A classifier's outputs on one scale; see :class:`Heard`."""
    classifier = model.classifier
    if isinstance(classifier.trained, CosineClassifier):
        found = outputs / classifier.own_cosine
    else:
        found = 1 + log_posteriors(outputs, model.scale) / 5
    return found.half().cpu().numpy()


def take(pieces, kept):
    """Likeness and directions of some frames of one recording.

    ``pieces`` are what was heard of it, in order, and ``kept`` positions in all
    their frames, ascending. The list is emptied meanwhile: there is never
    another copy.
    """
    shapes = [(len(kept), x.shape[1]) for x in pieces[0][1:3]]
    likeness, directions = (np.empty(shape, np.float16) for shape in shapes)
    first = at = 0
    while pieces:
        piece = pieces.pop(0)
        end = first + len(piece.frames)
        inside = kept[np.searchsorted(kept, first) : np.searchsorted(kept, end)]
        to = at + len(inside)
        likeness[at:to] = piece.likeness[inside - first]
        directions[at:to] = piece.directions[inside - first]
        first, at = end, to
    return likeness, directions

"""Who speaks, told while they do."""

from collections import deque

import numpy as np

from amsincnet_sb.inference.activity import OFF, ON
from amsincnet_sb.inference.decoding import Decoder
from amsincnet_sb.inference.listening import STEP, Listener
from amsincnet_sb.inference.running_voices import RunningVoices
from amsincnet_sb.inference.segments import (
    PAUSE,
    Segment,
    certainty_of,
    describe,
)
from amsincnet_sb.inference.voices import (
    CHANGE,
    PAUSE as AFTER_PAUSE,
    PRESENCE,
    WEIGHT,
)
from amsincnet_sb.utils.names import UNKNOWN

__all__ = ["DELAY", "LiveSegments"]

DELAY = 1.5  # seconds after which it is decided who speaks, at most
LATER = 1.0  # of these, seconds that a frame's successors may change it


class LiveSegments:
    """Tells who speaks in a waveform that comes piece by piece.

    It decides about each moment at most 1.5 s later (with a ``minimum`` above
    1 s, half a second after that), for good: unlike
    :meth:`SpeakerIdentifier.segments` it cannot go back: what it learns about
    the voices is of use from the next pause on. Memory does not grow.

    Arguments
    ---------
    model : SpeakerIdentifier
    wanted : Wanted
        What is asked; ``count`` is not regarded.
    """

    def __init__(self, model, wanted):
        model = model.as_now()
        self.wanted, self.names = wanted, [*model.speakers, UNKNOWN]
        self.voices = RunningVoices(wanted.check(model.classifier))
        self.certainty = certainty_of(model)
        self.listener = Listener(model, live=True)
        self.later = max(LATER, wanted.minimum + STEP)
        self._last = -10  # last frame in speech
        self._now = 0
        self._told = None
        self._restart()

    def hear(self, wave):
        """A further piece, ``[time]`` at the model's rate.

        Returns the Segments that have begun since (their ``end``,
        ``probability`` and ``margin`` are None) and those that have ended.
        """
        return self._follow(self.listener.hear(wave))

    def finish(self):
        """The rest, where there is no further piece."""
        found = self._follow(self.listener.finish())
        found += self._decided(self._decoder.finish())
        return found + self._close()

    def _restart(self):
        self.voices.restart(self.listener.above)
        self._decoder = Decoder(self.wanted.frames, self._costs())
        self._pending = deque()  # of frames not decided: number, scores, …

    def _costs(self):
        spoken = self.voices.spoken()
        return PRESENCE * np.log(spoken.max() / spoken)

    def _follow(self, heard):
        found = []
        rows = zip(*heard[:3], heard.chance, strict=True)
        for frame, likeness, direction, chance in rows:
            goes_on = frame == self._last + 1
            if chance > (OFF if goes_on else ON):
                found += self._silence(int(frame))
                self._push(int(frame), likeness.astype(np.float32), direction)
        self._now = self.listener.next_frame
        found += self._silence(self._now)
        late = self._now - round(self.later / STEP)
        left = sum(frame >= late for frame, *_ in self._pending)
        return found + self._decided(self._decoder.settle(left))

    def _silence(self, frame):
        """There is no speech up to a frame, from the last one in speech on."""
        pause = frame - self._last - 1
        if pause > 0:
            self._decoder.close()
            self.voices.pause()
        if pause * STEP <= PAUSE:
            return []
        found = self._decided(self._decoder.finish()) + self._close()
        self._restart()
        return found

    def _push(self, frame, likeness, direction):
        scores = self.voices.scores(likeness, direction)
        self._pending.append((frame, scores, likeness, direction))
        paused = frame != self._last + 1
        cost = AFTER_PAUSE if paused else CHANGE
        self._decoder.push(WEIGHT * scores, cost)
        self._last = frame

    def _decided(self, labels):
        """Go on with the segments, by the speakers of the oldest frames."""
        found = []
        for label in labels:
            frame, scores, likeness, direction = self._pending.popleft()
            told = self._told
            if told is None or told["label"] != label:
                found += self._close()
                self._told = told = {
                    "label": label,
                    "start": frame,
                    "frames": 0,
                    "total": 0.0,
                    "likeness": 0.0,
                    "direction": 0.0,
                }
                found.append(self._begun(frame, label))
            told["end"] = frame
            told["frames"] += 1
            told["total"] = told["total"] + scores
            told["likeness"] = told["likeness"] + likeness
            told["direction"] = told["direction"] + direction.astype(float)
        self._decoder.costs = self._costs()
        return found

    def _begun(self, frame, label):
        start = round(max(0.0, (frame - 0.5) * STEP), 2)
        name = self.names[label]
        return Segment(start, None, name, None, None, None, None)

    def _close(self):
        """The segment that has ended, if there is one."""
        told, self._told = self._told, None
        if told is None:
            return []
        names = [*self.names]
        number = self.voices.learn(
            told["label"], told["frames"], told["likeness"], told["direction"]
        )
        if number is not None:
            names[-1] = f"{UNKNOWN} {number + 1}"
        segment = describe(
            max(0.0, (told["start"] - 0.5) * STEP),
            min((told["end"] + 0.5) * STEP, self.listener.seconds),
            told["label"],
            told["total"],
            told["frames"],
            names,
            self.wanted,
            self.certainty,
        )
        return [segment]

"""The voices of a recording that still goes on; see voices.py."""

from collections import deque

import numpy as np

from amsincnet_sb.inference.voices import (
    AVERAGED,
    LEAST_OWN,
    MOST,
    NEVER,
    OWN,
    SAME,
    SAME_ALL,
    VOICE,
    asked_of,
    unknown_level,
    whole_voice,
)

__all__ = ["RunningVoices"]

AHEAD = 0.22  # see voices.py; more than where there is a second look
STRANGERS = 100  # unknown voices remembered
LEVELS = 100  # frames whose level of an unknown voice is averaged
LOW = -0.125  # first quartile of the likeness to others, in quiet
REACHED = 0.75  # likeness that voices reach, in quiet
LEARN = 0.01  # by which these follow, each frame


class RunningVoices:
    """Scores of frames, by what was learnt from those before.

    Arguments
    ---------
    allowed : numpy.ndarray
        ``[speakers]``, of bool: who can be there.
    """

    def __init__(self, allowed):
        self.allowed, self.known = allowed, len(allowed)
        self._low = np.full(self.known, LOW, np.float32)
        self._reached = REACHED
        self._recent = deque(maxlen=AVERAGED)
        self._levels = deque(maxlen=LEVELS)
        # Of each voice, the last ones unknown: frames, sums of directions and
        # of likeness as it was heard.
        self._heard = {}
        self._unknown = []
        self._all = np.array([0, 0.0, 0.0], object)
        self.restart()

    def restart(self, above=None):
        """From here on use what was learnt; there is a pause.

        Speech is so many dB ``above`` the pauses, if that is known.
        """
        self._recent.clear()
        self.asked = asked_of(self.allowed, above)
        self.ahead = AHEAD * self.asked.ahead
        adapted = {
            label: voice
            for label, voice in self._heard.items()
            if voice[0] >= VOICE and self._is(label, voice)
        }
        self._adapted = [*adapted]
        rows = [self._model(voice) for voice in adapted.values()]
        self._models = rows and tuple(map(np.stack, zip(*rows)))

    def pause(self):
        """There is a short one."""
        self._recent.clear()

    def spoken(self):
        """Frames that each has spoken, ``[speakers + 1]``, and one more."""
        frames = np.ones(self.known + 1)
        for label, voice in self._heard.items():
            frames[label] += voice[0]
        frames[-1] += sum(voice[0] for voice in self._unknown)
        return frames

    def scores(self, likeness, direction):
        """``[speakers + 1]``, from what was heard in a frame."""
        above = likeness > self._low
        self._low += LEARN * np.where(above, 0.25, -0.75) * 0.5
        low = self._low.clip(None, MOST)
        self._recent.append(likeness)
        if len(self._recent) > AVERAGED * 2 // 3:
            mean = np.mean(self._recent, axis=0) - low
            self._reached += LEARN * np.sign(mean.max() - self._reached)
            level = unknown_level(mean, self._own, self.ahead)
            self._levels.append(float(level))
        likeness = likeness - low
        level = 0.3 + self.ahead * self._own
        if self._levels:
            level = sum(self._levels) / len(self._levels)
        found = np.where(self.allowed, likeness, NEVER)
        if self._models:
            models, offsets = self._models
            own = models @ direction.astype(np.float32) - offsets
            found[self._adapted] = (found[self._adapted] + own) / 2
        return np.append(found - level, 0.0)

    def learn(self, label, frames, likeness, direction):
        """From a segment, the sums of its frames.

        Returns the number of the unknown voice where it was unknown.
        """
        voice = np.array([frames, direction, likeness], object)
        self._all = self._all + voice
        if label < self.known:
            self._heard[label] = self._heard.get(label, 0) + voice
            return None
        number = self._number_of(frames, direction)
        if number == len(self._unknown):
            self._unknown.append(voice)
        elif number is not None:
            self._unknown[number] = self._unknown[number] + voice
        return number

    def _number_of(self, frames, direction):
        """The unknown voice that frames are of, or a new one; or None."""
        mean, alike = self._all[1] / self._all[0], []
        here = direction / frames
        for count, total, _ in self._unknown:
            there = total / count
            alike.append(
                max(
                    _cosine(here - mean, there - mean) - SAME,
                    _cosine(here, there) - SAME_ALL,
                )
            )
        if alike and max(alike) > 0:
            return int(np.argmax(alike))
        if frames >= VOICE and len(alike) < STRANGERS:
            return len(alike)
        return None

    @property
    def _own(self):
        return max(LEAST_OWN, self._reached)

    def _is(self, label, voice):
        own, usual = (
            (likeness / frames, direction / frames)
            for frames, direction, likeness in (voice, self._all)
        )
        direct = whole_voice(own, usual, voice[0] / self._all[0])
        return self.asked.stand_out(direct)[label] > 0

    def _model(self, voice):
        """Of a voice: what directions are multiplied with, and the offset."""
        frames, total, _ = voice
        others = (self._all[1] - total) / self._all[0]
        own = total / frames - others
        scale = OWN / (own @ own)
        return own * scale, own @ others * scale


def _cosine(a, b):
    return a @ b / max(1e-9, np.linalg.norm(a) * np.linalg.norm(b))

"""From scores of frames to who speaks in each: a hidden Markov model.

Each speaker is a state that lasts for a minimum number of frames, and entering
one costs a penalty. Among all sequences of states that keep the minimum, the
one with the largest sum of scores is found exactly (the Viterbi algorithm,
with sums of the scores in place of a chain of copies of each state), in
``O(frames · speakers)`` operations.
"""

from collections import deque

import numpy as np

__all__ = ["Decoder", "decode"]


class Decoder:
    """Decodes frame by frame.

    Arguments
    ---------
    minimum : int
        Frames that a speaker lasts at least, or up to a pause.
    costs : numpy.ndarray
        ``[speakers]``, of entering each.

    What :meth:`settle` decides stays, and memory is bounded by what it leaves.

    Example
    -------
    >>> decoder = Decoder(2, np.array([1.0, 1.0]))
    >>> for row in [2, 0], [2, 0], [0, 1], [2, 0], [0, 2], [0, 2]:
    ...     decoder.push(np.array(row, float))
    >>> decoder.settle(5), decoder.finish()
    ([0], [0, 0, 0, 1, 1])
    """

    def __init__(self, minimum, costs):
        self.minimum, self.costs = minimum, costs
        self.frames = 0
        self._inside = np.full(len(costs), -np.inf)  # may end at this frame
        self._begun = np.zeros(len(costs), int)  # and began at that one
        # Of the frames from `_first` on: who ends there at best, since when.
        self._first = 0
        self._ends = deque()
        # Entries that are not as long as the minimum: their first frames, the
        # scores of what came before, and the sums of scores since.
        self._entries = deque()
        self._best_before = 0.0

    def push(self, scores, cost=0.0):
        """One more frame, ``[speakers]``; ``cost`` is for entering anew."""
        self._inside += scores
        for entry in self._entries:
            entry[1] += scores
        first = self._best_before - cost - self.costs + scores
        self._entries.append([self.frames, first])
        if len(self._entries) == self.minimum:
            self._enter(self._entries.popleft())
        self._end()
        self.frames += 1

    def close(self):
        """A pause: who was entered may be left at once."""
        if not self._entries:
            return
        while self._entries:
            self._enter(self._entries.popleft())
        self._ends.pop()
        self._end()

    def settle(self, left):
        """Decide the oldest frames, but for so many; returns their speakers.

        The last ones, one less than the minimum or as many as there are since
        a pause, are always left: a turn may begin there that is still shorter.
        """
        left = max(left, len(self._entries))
        told = []
        while self.frames - self._first > left:
            told.append(self._decide())
        return told

    def finish(self):
        """Decide the other frames too; returns their speakers."""
        self.close()
        told = self._path(self._first)
        self._first, self._ends = self.frames, deque()
        return told

    def _enter(self, entry):
        begun, scores = entry
        better = scores > self._inside
        self._inside = np.where(better, scores, self._inside)
        self._begun = np.where(better, begun, self._begun)

    def _end(self):
        best = int(self._inside.argmax())
        self._best_before = self._inside[best]
        self._ends.append((best, int(self._begun[best])))

    def _path(self, first):
        """Who speaks from a frame on, by the best sequence."""
        labels, frame = [], self.frames - 1
        while frame >= first:
            best, begun = self._ends[frame - self._first]
            begun = max(begun, first)
            labels += [best] * (frame - begun + 1)
            frame = begun - 1
        return labels[::-1]

    def _decide(self):
        """Decide the oldest frame; returns its speaker."""
        at = self._first
        (label, *_) = self._path(at)
        # Only sequences that agree go on.
        agrees = []
        for best, begun in self._ends:
            before = begun - 1 - at
            agrees.append(best == label if before < 0 else agrees[before])
        before = self._begun - 1 - at
        own = np.arange(len(self.costs)) == label
        right = np.where(before < 0, own, np.array(agrees)[before.clip(0)])
        self._inside[~right] = -np.inf
        for begun, scores in self._entries:
            if not agrees[begun - 1 - at]:
                scores[:] = -np.inf
        self._ends.popleft()
        self._first += 1
        return label


def decode(scores, starts, minimum, costs, pause_cost, change_cost):
    """Who speaks in each frame of a recording, ``[frames]``.

    Arguments
    ---------
    scores : iterable of numpy.ndarray
        ``[speakers]`` of each frame.
    starts : set of int
        Frames with a pause before them.
    minimum, costs
        See :class:`Decoder`.
    pause_cost, change_cost : float
        More for a new speaker after a pause, and within speech.
    """
    decoder = Decoder(minimum, costs)
    for frame, row in enumerate(scores):
        if frame in starts:
            decoder.close()
        decoder.push(row, pause_cost if frame in starts else change_cost)
    return np.array(decoder.finish(), int)

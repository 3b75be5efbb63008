"""Known and unknown voices in a recording: what each frame is worth to them.

A frame's likeness to a speaker is compared with what an unknown voice reaches,
which depends on the voice and on the noise: with the speakers of the model
that it resembles most, as adaptive normalisation of scores does (P. Matějka et
al., Interspeech 2017). When a first decoding has said who speaks, each voice
gets a model of its own in this recording, the mean direction of its frames:
that of a known speaker is averaged with the trained one, as in speaker
adaptation, and unknown voices are told apart by clustering the directions of
their stretches, as M. Landini et al., "Bayesian HMM clustering of x-vector
sequences (VBx) in speaker diarization", Computer Speech & Language 71 (2022),
do with x-vectors.
"""

import numpy as np

from amsincnet_sb.inference.decoding import decode

__all__ = ["Voices", "unknown_level"]

# All chosen on conversations of other speakers than those reported.
WEIGHT = 5.0  # of a frame's likeness
CHANGE, PAUSE = 8.0, 4.0  # costs of a new speaker in speech, after a pause
PRESENCE = 2.0  # weight of how long somebody has spoken, as a logarithm
SPREADS = 3.7  # an unknown voice's lead over the next ones, in deviations
NAMED = 3.5  # the same for all frames of a voice
# Of few people, none resembles an unknown voice as much: so much less for both.
FEW, FEWER = 25, 1.0
COHORT = 100  # fewest speakers of a model to compare with
ALONE = 0.55  # likeness that an unknown voice reaches, without a cohort
AVERAGED = 11  # frames
ROUNDS = 4  # of decoding
OWN = 0.95  # likeness of a voice's frames to their mean
SAME = 0.45  # cosine of two stretches of one voice
STRETCH, VOICE = 8, 15  # frames of a stretch to cluster, and of a voice


def unknown_level(likeness, candidates=FEW + 1):
    """What an unknown voice reaches, ``[...]``, of means ``[..., speakers]``.

    Means over about a second: those of single frames lie farther apart.
    ``candidates`` is how many can be there.
    """
    speakers = likeness.shape[-1]
    if speakers < COHORT:
        return np.full(likeness.shape[:-1], ALONE, np.float32)
    top = max(11, min(50, speakers // 4))
    found = np.partition(likeness, -top, axis=-1)[..., -top:]
    found = np.sort(found, axis=-1)[..., -2::-1]  # without the best
    spreads = SPREADS - FEWER * (candidates <= FEW)
    return found[..., :10].mean(-1) + spreads * found.std(-1)


class Voices:
    """The voices of a recording.

    Arguments
    ---------
    likeness, directions : numpy.ndarray
        See :class:`amsincnet_sb.inference.listening.Heard`; of frames in
        speech.
    starts : list of int
        Frames with a pause before them.
    allowed : numpy.ndarray
        ``[speakers]``, of bool: who can be there.
    minimum : int
        Frames that a speaker lasts at least.
    """

    def __init__(self, likeness, directions, starts, allowed, minimum):
        self.known = likeness.shape[1]
        self.directions, self.minimum = directions, minimum
        self.starts, self.allowed = starts, allowed
        self.likeness = likeness.astype(np.float32)
        candidates = int(allowed.sum())
        self.named = NAMED - FEWER * (candidates <= FEW)
        means = _moving_average(self.likeness)
        self.unknown = unknown_level(means, candidates)
        self.of_voice = self._masked()  # [frames, voices], adapted
        self.labels = None

    def decode(self, count=None):
        """Say who speaks in each frame; returns ``[frames]``.

        A label from the number of ``known`` speakers on is an unknown voice;
        the last one stands for all that could not be told apart. ``count`` is
        the largest number of voices.
        """
        costs = np.zeros(self.of_voice.shape[1] + 1)
        for turn in range(ROUNDS):
            costs = self._round(costs)
            if 0 < turn < ROUNDS - 1:
                self._adapt()
                new = np.full(self.of_voice.shape[1] + 1, costs[-1])
                new[: self.known] = costs[: self.known]
                costs = new
        if count is not None:
            spoken = np.bincount(self.labels, minlength=len(costs))
            costs[np.argsort(-spoken, kind="stable")[count:]] = np.inf
            self._round(costs)
        return self.labels

    def scores(self):
        """``[frames, voices + 1]``: likeness above an unknown voice's; 0."""
        above = self.of_voice - self.unknown[:, None]
        return np.pad(above, ((0, 0), (0, 1)))

    def _round(self, costs):
        """Decode; returns costs by how long each has spoken."""
        self.labels = decode(
            WEIGHT * self.scores(),
            {*self.starts},
            self.minimum,
            costs,
            PAUSE,
            CHANGE,
        )
        spoken = np.bincount(self.labels, minlength=len(costs)) + 1.0
        return PRESENCE * np.log(spoken.max() / spoken)

    def _adapt(self):
        """Give the voices of the last decoding models of this recording."""
        frames_of = {
            label: [np.flatnonzero(self.labels == label)]
            for label in np.unique(self.labels)
            if label < self.known
        }
        others = []
        for frames in self._unknown_voices():
            mean = self._masked(frames).mean(0)
            best = int(mean.argmax())
            # A voice that is too noisy for a stretch may do as a whole.
            if _lead(self.likeness[frames].mean(0), best) > self.named:
                frames_of.setdefault(best, []).append(frames)
            elif len(frames) >= VOICE:
                others.append(frames)
        heard = {label: np.concatenate(f) for label, f in frames_of.items()}
        heard = {label: f for label, f in heard.items() if len(f) >= VOICE}
        found = self._likeness_to([*heard.values(), *others])
        adapted = self._masked()
        for label, likeness in zip(heard, found):
            adapted[:, label] += likeness
            adapted[:, label] /= 2
        self.of_voice = np.column_stack([adapted, *found[len(heard) :]])

    def _unknown_voices(self):
        """Frames of each unknown voice, the one that speaks first first."""
        ends = np.flatnonzero(np.diff(self.labels)) + 1
        ends = sorted({*ends.tolist(), *self.starts, len(self.labels)} - {0})
        pieces = [
            np.arange(a, b)
            for a, b in zip([0, *ends], ends)
            if self.labels[a] >= self.known and b - a >= STRETCH
        ]
        if len(pieces) < 2:
            return pieces
        # Here: it takes half a second, which identify has no use for.
        from scipy.cluster.hierarchy import fcluster, linkage

        means = np.stack([self._mean(piece) for piece in pieces])
        tree = linkage(means, "average", metric="cosine")
        group = fcluster(tree, 1 - SAME, "distance")
        return [
            np.concatenate([p for p, g in zip(pieces, group) if g == one])
            for one in dict.fromkeys(group.tolist())
        ]

    def _mean(self, frames):
        mean = self.directions[frames].mean(0, dtype=np.float32)
        return mean / np.linalg.norm(mean)

    def _likeness_to(self, voices):
        """Of all frames to the voice of some, for several such voices."""
        if not voices:
            return []
        means = np.stack([self._mean(frames) for frames in voices])
        # Half precision is slow to multiply, and twice the memory to convert.
        parts = np.array_split(self.directions, len(self.labels) // 4096 + 1)
        cosines = [means @ part.astype(np.float32).T for part in parts]
        return [
            row * (OWN / row[frames].mean())
            for row, frames in zip(np.concatenate(cosines, 1), voices)
        ]

    def _masked(self, frames=slice(None)):
        """Likeness to those who can be there, a copy."""
        return np.where(self.allowed, self.likeness[frames], -9.0)


def _lead(mean, best):
    """How far the best of means ``[speakers]`` is ahead of an unknown voice.

    In deviations of the next ones.
    """
    if len(mean) < COHORT:
        return NAMED * mean[best] / ALONE
    top = max(11, min(50, len(mean) // 4))
    found = np.sort(np.delete(mean, best))[:-top:-1]
    return (mean[best] - found[:10].mean()) / found.std()


def _moving_average(values):
    """Over some frames on either side, ``[frames, ...]``."""
    half = AVERAGED // 2
    padded = np.pad(values, ((half + 1, half), (0, 0)), mode="edge")
    sums = padded.cumsum(0, dtype=np.float64)
    return ((sums[AVERAGED:] - sums[:-AVERAGED]) / AVERAGED).astype(np.float32)

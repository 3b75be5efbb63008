"""Known and unknown voices in a recording: what each frame is worth to them.

A frame's likeness to a speaker is compared with what an unknown voice reaches,
which depends on the voice and on the noise: with the speakers of the model
that it resembles most, as adaptive normalisation of scores does (P. Matějka et
al., Interspeech 2017). Whether a whole voice is known is another question: its
frames' mean direction has to be near the speaker's. That of a stranger lies
apart from all speakers, though single frames of it are near to one or another.
In noise no direction is as near, so less is asked there.

When a first decoding has said who speaks, each voice gets a model of its own in
this recording, the mean direction of its frames: that of a known speaker is
averaged with the trained one, as in speaker adaptation, and unknown voices are
told apart by clustering the directions of their stretches, as M. Landini et al.,
"Bayesian HMM clustering of x-vector sequences (VBx) in speaker diarization",
Computer Speech & Language 71 (2022), do with x-vectors.
"""

from typing import NamedTuple

import numpy as np

from amsincnet_sb.inference.decoding import decode

__all__ = ["Voices", "asked_of", "unknown_level", "whole_voice"]

# All chosen on conversations of other speakers than those reported.
WEIGHT = 6.0  # of a frame's likeness
CHANGE, PAUSE = 10.0, 4.0  # costs of a new speaker in speech, after a pause
PRESENCE = 3.5  # weight of how long somebody has spoken, as a logarithm
# How far an unknown voice is above the next ten speakers of the model in about a
# second; in parts of what voices reach in the recording, which is less in noise,
# but for a recording of unknown voices alone.
AHEAD = 0.15
LEAST_OWN = 0.45
# Where speech is so many dB above the pauses, in 10 dB noise and in quiet: the
# least directness of a known voice as a whole, and how much of the next ten
# speakers' is taken from it. Noise makes all voices alike, and without a cohort
# nobody knows how much.
NOISE, NAMED, TAKEN = (5.0, 20.0), (0.7, 1.25), (0.5, 0.0)
NAMED_ALONE = (1.1, 1.25)
MOST = 0.35  # of the likeness of all frames to a speaker, taken from it
# Of few people, none resembles it as much: so much of AHEAD and of NAMED.
FEW, FEWER = 25, (0.45, 0.75)
COHORT = 100  # fewest speakers of a model to compare with
ALONE = 0.55  # likeness that an unknown voice reaches, without a cohort
AVERAGED = 11  # frames
NEVER = np.float32(-np.inf)  # likeness to who cannot be there
BLOCK = 4096  # frames at a time
ROUNDS = 4  # of decoding
OWN = 0.95  # likeness of a voice's frames to their mean
SAME = 0.45  # cosine of two stretches of one voice, without what all share
SAME_VOICE = 0.3  # the same of two voices
APART = 0.75  # largest share of all frames that can be set apart from them
PART = 0.6  # of NAMED, which will do for a part of a voice
SAME_ALL = 0.75  # the same with it: a recording may have one voice
PIECES = 3000  # stretches to cluster at most
STRETCH, VOICE = 10, 15  # frames of a stretch to cluster, and of a voice
# A new voice attracts frames of others who resemble it, so it has to be a part
# of the recording; so many frames are always enough.
NEW, ENOUGH = 0.02, 70


def own_level(reached):
    """What voices reach in a recording, by the most in each place."""
    return max(LEAST_OWN, float(np.median(reached)))


def unknown_level(means, own, ahead=AHEAD):
    """What an unknown voice reaches, ``[...]``, of means ``[..., speakers]``.

    Means over about a second: those of single frames lie farther apart.
    ``own`` is :func:`own_level`.
    """
    return _next_ten(means) + _above(means.shape[-1], ahead) * own


def _directness(likeness, direction):
    """Likeness of the mean direction of some frames, from means over them.

    ``direction``, ``[size]``, is the mean of directions of length one. Frames
    that differ have a short mean: its own likeness is larger than theirs is on
    average. Of a cosine classifier it is the cosine, in parts of what windows
    of trained speakers reach.
    """
    return likeness / max(1e-6, np.linalg.norm(direction))


def whole_voice(own, usual, share):
    """The directness of all that a voice says.

    ``own`` are likeness, to one speaker or several, and direction, means over
    its frames; ``usual`` the same of all frames, of which it has that
    ``share``. Either as they were heard, or by what sets them apart from all:
    in these the noise is alike.

    Example
    -------
    >>> frames = np.array([[0.6, 0.8], [0.6, -0.8]])
    >>> direction = frames.mean(0)
    >>> of_first = direction[0]  # likeness to whose direction is [1, 0]
    >>> float(whole_voice((of_first, direction), (of_first, direction), 1.0))
    1.0
    """
    direct = _directness(*own)
    if share < APART:
        apart = (mine - all_of_them for mine, all_of_them in zip(own, usual))
        direct = np.maximum(direct, _directness(*apart))
    return direct


class Asked(NamedTuple):
    """What is asked of a known voice in a recording."""

    #: Of AHEAD.
    ahead: float
    #: Directness of all that it says,
    named: float
    #: less so much of the next ten speakers'.
    taken: float

    def stand_out(self, direct, part=1.0):
        """By how much voices exceed it, or a part of it.

        ``direct``, ``[speakers]``, is how direct one is to each.

        Example
        -------
        >>> asked = asked_of(np.ones(3, bool), None)
        >>> (asked.stand_out(np.array([1.5, 0.2, 0.1])) > 0).tolist()
        [True, False, False]
        """
        return direct - self.taken * _next_ten(direct) - part * self.named


def asked_of(allowed, above):
    """What is asked of a known voice.

    ``allowed``, of bool, can be there; speech is ``above`` the pauses in dB, if
    that is known.
    """
    ahead, named = FEWER if allowed.sum() <= FEW else (1.0, 1.0)
    above = NOISE[-1] if above is None else above
    if len(allowed) < COHORT:
        least, taken = np.interp(above, NOISE, NAMED_ALONE), 0.0
    else:
        least, taken = (np.interp(above, NOISE, y) for y in (NAMED, TAKEN))
    return Asked(ahead, named * float(least), float(taken))


def _next_ten(means):
    """Mean of the ten behind the best; 0 without a cohort."""
    if means.shape[-1] < COHORT:
        return np.zeros(means.shape[:-1], np.float32)
    found = np.partition(means, -11, axis=-1)[..., -11:]
    return (found.sum(-1) - found.max(-1)) / 10


def _above(speakers, ahead):
    """How far an unknown voice is above them, in parts of what voices reach."""
    return ahead if speakers >= COHORT else ALONE


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
    above : float, optional
        Of speech above the pauses, in dB; without, there is no noise.
    """

    def __init__(
        self, likeness, directions, starts, allowed, minimum, above=None
    ):
        self.known = likeness.shape[1]
        self.directions, self.minimum = directions, minimum
        self.middle = self._mean()
        self.starts, self.allowed = starts, allowed
        likeness = likeness.astype(np.float32)
        self.asked = asked_of(allowed, above)
        self.ahead = AHEAD * self.asked.ahead
        self.usual = likeness.mean(0)  # as it was heard
        low = np.percentile(likeness, 25, axis=0).astype(np.float32)
        self.taken = low.clip(None, MOST)
        likeness -= self.taken
        self.likeness = likeness
        self._set_levels()
        # [frames, voices], adapted, without those who cannot be there.
        self.of_voice = np.where(allowed, likeness, NEVER)
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

    def total(self, frames):
        """``[voices + 1]``: sums of likeness above an unknown voice's; 0."""
        total = self.of_voice[frames].sum(0) - self.unknown[frames].sum()
        return np.append(total, np.float32(0.0))

    def _scores(self):
        """The same of each frame."""
        for row, level in zip(self.of_voice, self.unknown):
            yield np.append(WEIGHT * (row - level), np.float32(0.0))

    def _round(self, costs):
        """Decode; returns costs by how long each has spoken."""
        self.labels = decode(
            self._scores(),
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
        self._centre()
        named, rest, others = {}, [], []
        for frames in self._clusters():
            out = self.asked.stand_out(self._direct(frames))
            out[~self.allowed] = NEVER
            best = int(out.argmax())
            if out[best] > 0:
                named.setdefault(best, []).append(frames)
            else:
                rest.append(frames)
        named = {label: np.concatenate(f) for label, f in named.items()}
        for frames in rest:
            # It may be the part of a voice that is less like the speaker.
            near = self._part_of(frames, named)
            if near is not None:
                named[near] = np.append(named[near], frames)
            elif len(frames) >= self._enough():
                others.append(frames)
        heard = {label: f for label, f in named.items() if len(f) >= VOICE}
        self.of_voice = None  # half of the memory taken here
        found = self._likeness_to([*heard.values(), *others])
        voices = self.known + len(others)
        self.of_voice = np.empty((len(self.likeness), voices), np.float32)
        self.of_voice[:, : self.known] = self.likeness
        self.of_voice[:, : self.known][:, ~self.allowed] = NEVER
        for label, likeness in zip(heard, found):
            self.of_voice[:, label] += likeness
            self.of_voice[:, label] /= 2
        for number, likeness in enumerate(found[len(heard) :]):
            self.of_voice[:, self.known + number] = likeness

    def _part_of(self, frames, named):
        """The named speaker who may have said some frames, or None."""
        if not named:
            return None
        rows = [self._mean(f) - self.middle for f in (frames, *named.values())]
        here, *there = _unit(np.stack(rows))
        alike = np.stack(there) @ here
        near = [*named][int(alike.argmax())]
        whole = np.append(named[near], frames)
        enough = (
            alike.max() > SAME_VOICE
            and self.asked.stand_out(self._direct(frames), PART)[near] > 0
            and self.asked.stand_out(self._direct(whole))[near] > 0
        )
        return near if enough else None

    def _centre(self):
        """Take from each speaker's likeness that of what others say.

        The noise may be nearer to some speakers, enrolled ones above all.
        """
        centre = np.median(self.likeness, axis=0)
        for label in np.unique(self.labels[self.labels < self.known]):
            rest = self.likeness[self.labels != label, label]
            enough = len(rest) > len(self.labels) / 4
            centre[label] = np.median(rest) if enough else 0.0
        centre = centre.astype(np.float32)
        self.likeness -= centre
        self.taken += centre
        self._set_levels()

    def _set_levels(self):
        """What voices reach and what unknown ones would, in each place."""
        reached, others = [], []
        for start in range(0, len(self.likeness), BLOCK):
            means = _moving_average(self.likeness, start, start + BLOCK)
            reached.append(means.max(-1))
            others.append(_next_ten(means))
        self.own = own_level(np.concatenate(reached))
        above = _above(self.known, self.ahead) * self.own
        self.unknown = np.concatenate(others) + above

    def _direct(self, frames):
        """How direct some frames are to each speaker, ``[speakers]``."""
        of_all = self.likeness[frames].mean(0) + self.taken
        return whole_voice(
            (of_all, self._mean(frames)),
            (self.usual, self.middle),
            len(frames) / len(self.likeness),
        )

    def _enough(self):
        """Frames of a new voice, at least."""
        return min(max(VOICE, NEW * len(self.labels)), ENOUGH)

    def _clusters(self):
        """Frames of each voice, known or not, who speaks first first."""
        ends = np.flatnonzero(np.diff(self.labels)) + 1
        ends = sorted({*ends.tolist(), *self.starts, len(self.labels)} - {0})
        pieces = [
            np.arange(a, b)
            for a, b in zip([0, *ends], ends)
            if b - a >= STRETCH
        ]
        if len(pieces) < 2:
            return pieces
        # Here: it takes half a second, which identify has no use for.
        from scipy.cluster.hierarchy import fcluster, linkage

        if len(pieces) > PIECES:  # the longest say most
            longest = np.argsort([-len(piece) for piece in pieces])[:PIECES]
            pieces = [pieces[number] for number in np.sort(longest)]
        means = np.stack([self._mean(piece) for piece in pieces])
        rows, whole = _unit(means - self.middle), _unit(means)
        # Row by row: there are millions of pairs in an hour.
        apart = [
            np.minimum(
                1 + SAME - rows[later:] @ rows[later - 1],
                1 + SAME_ALL - whole[later:] @ whole[later - 1],
            )
            for later in range(1, len(pieces))
        ]
        tree = linkage(np.concatenate(apart), "average")
        group = fcluster(tree, 1.0, "distance")
        return [
            np.concatenate([p for p, g in zip(pieces, group) if g == one])
            for one in dict.fromkeys(group.tolist())
        ]

    def _mean(self, frames=slice(None)):
        return self.directions[frames].mean(0, dtype=np.float32)

    def _likeness_to(self, voices):
        """Of all frames to the voice of some, for several such voices.

        It is that to their mean direction, and without what they share with
        all others, such as the noise.
        """
        if not voices:
            return []
        means = np.stack([self._mean(frames) for frames in voices])
        shares = np.array(
            [[len(frames) / len(self.labels)] for frames in voices]
        )
        others = self.middle - shares * means
        own = means - others
        # Half precision is slow to multiply, and twice the memory to convert.
        parts = np.array_split(self.directions, len(self.labels) // BLOCK + 1)
        found = [own @ part.astype(np.float32).T for part in parts]
        found = np.concatenate(found, 1) - (own * others).sum(1)[:, None]
        return found * (OWN / (own * own).sum(1))[:, None]


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-6)


def _moving_average(values, start, stop):
    """Of some frames, over some more on either side; ``[frames, ...]``."""
    half = AVERAGED // 2
    stop = min(stop, len(values))
    around = np.arange(start - half, stop + half).clip(0, len(values) - 1)
    around = values[around]
    total = around[: stop - start].copy()
    for later in range(1, AVERAGED):
        total += around[later : later + stop - start]
    return total / AVERAGED

"""Speakers that are added to a trained model without training."""

import unicodedata
from numbers import Integral
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.names import is_unknown

__all__ = ["EnrollableClassifier", "Enrolled", "MOST_PROTOTYPES"]

MOST_PROTOTYPES = 8
# So much closer must another prototype bring a recording to the closest mean of
# the others. Of 20 new speakers with 6 recordings, half of them through a
# telephone's band, one mean got 53 % of the answers wrong and this 27 %; of
# recordings that are alike both 1.3 %, where always two got 1.9 %
# (tests/benchmarks/prototypes.py).
GAIN = 1.1


class Enrolled(NamedTuple):
    """An enrolled speaker.

    ``vectors``, the class vectors, one or several prototypes, are
    ``[prototypes, embedding_size]``; ``directions``, the mean directions of
    the recordings they were made from, ``[recordings, embedding_size]``,
    without any in files of earlier versions.
    """

    vectors: torch.Tensor
    directions: torch.Tensor


class EnrollableClassifier(nn.Module):
    """A trained classifier to which speakers are added without training.

    ``trained`` maps ``[batch, 1, embedding_size]`` to ``[batch, 1, names]``.
    The class vectors of the enrolled speakers are multiplied by
    ``own_cosine``, the mean output of a trained speaker's windows for that
    speaker, so that all outputs are on one scale. A speaker with several
    prototypes scores as the best of them, window by window.

    Example
    -------
    >>> classify = EnrollableClassifier(CosineClassifier(2, 1), ["ann"], 2, 0.5)
    >>> classify.enroll("zoe", torch.tensor([[1.0, 0.0]]))
    >>> classify.speakers
    ['ann', 'zoe']
    >>> classify(torch.tensor([[[2.0, 0.0]]]))[0, 0, 1].item()
    0.5
    """

    def __init__(self, trained, names, embedding_size, own_cosine):
        super().__init__()
        self.trained = trained
        self.names = list(names)
        self.own_cosine = own_cosine
        weight = next(trained.parameters())
        self.register_buffer("vectors", weight.new_zeros(0, embedding_size))
        # [most prototypes, speakers]: where in vectors they are; the last one
        # of a speaker is repeated.
        self.register_buffer("places", weight.new_zeros(0, 0).long())
        self.enrolled = {}

    @property
    def speakers(self):
        """Names by label: the trained speakers, then the enrolled ones."""
        return self.names + list(self.enrolled)

    def forward(self, embeddings):
        """``[batch, 1, embedding_size]`` -> ``[batch, 1, speakers]``."""
        outputs = self.trained(embeddings)
        if not self.enrolled:
            return outputs
        cosines = F.normalize(embeddings, dim=-1) @ self.vectors.T
        if len(self.places) > 1:
            best = cosines[..., self.places[0]]
            for place in self.places[1:]:
                best = torch.maximum(best, cosines[..., place])
            cosines = best
        return torch.cat([outputs, self.own_cosine * cosines], dim=-1)

    def set_enrolled(self, enrolled):
        """Replace the enrolled speakers: name -> Enrolled.

        In one step, and not those of a ``copy.copy`` made before.
        """
        vectors = [one.vectors.to(self.vectors) for one in enrolled.values()]
        joined = torch.cat([self.vectors[:0], *vectors])
        counts = torch.tensor([len(each) for each in vectors]).long()
        numbers = torch.arange(max(counts.tolist(), default=0))
        first = counts.cumsum(0) - counts
        places = first + numbers[:, None].clamp(max=counts - 1)
        places = places.to(self.places.device)
        buffers = {**self._buffers, "vectors": joined, "places": places}
        vars(self).update(enrolled=enrolled, _buffers=buffers)

    def spelling(self, name):
        """A name as the model has it, or as manifests would have it.

        A keyboard and the names of files may write the same letters in
        different forms of Unicode.
        """
        if name in self.speakers or not isinstance(name, str):
            return name
        composed = unicodedata.normalize("NFC", name)
        return next(
            (
                each
                for each in self.speakers
                if unicodedata.normalize("NFC", each) == composed
            ),
            composed,
        )

    def check_new(self, name, extend=False):
        """Raise InputError if a speaker of that name cannot be enrolled.

        With ``extend``, it must be an enrolled one.
        """
        if not isinstance(self.trained, CosineClassifier):
            raise InputError(
                "Speakers can be enrolled in a model with a CosineClassifier, "
                "but this one was trained with a plain softmax; it can embed "
                "and verify."
            )
        named = isinstance(name, str) and name.strip() and name.isprintable()
        if not named:
            raise InputError(f"{name!r} cannot be the name of a speaker.")
        if is_unknown(name):
            raise InputError(
                f"{name!r} cannot be the name of a speaker: it is what unknown "
                "voices are called."
            )
        if extend:
            self._check_enrolled(name)
            if not len(self.enrolled[name].directions):
                raise InputError(
                    f"{name!r} was enrolled by an earlier version, which did "
                    "not keep what is needed; remove that speaker and enrol "
                    "all recordings."
                )
        elif name in self.speakers:
            kind = "trained" if name in self.names else "enrolled"
            raise InputError(
                f"The model has a speaker {name!r} already ({kind}); take "
                "another name, or extend or remove the enrolled one."
            )

    def enroll(self, name, directions, prototypes=None):
        """Add a speaker from the mean directions of recordings.

        Those of a speaker who is enrolled already join the earlier ones.
        ``prototypes`` is the number of class vectors, each the mean of
        recordings that are alike. If it is not given, it is one, and one more
        as long as that brings a recording closer, by more than a tenth, to the
        closest mean of the others: where some are of another microphone, say.

        A mean is closer to its own windows, and to everybody else's, than a
        learned class vector is; so it is scaled until the windows of a
        recording score 1 on the closest mean of the others, on average.
        """
        if name in self.enrolled:
            earlier = self.enrolled[name].directions
            directions = torch.cat([earlier, directions])
        most = min(len(directions), MOST_PROTOTYPES)
        count = 1 if prototypes is None else prototypes
        whole = isinstance(count, Integral)  # 2.0 is in a range too
        if not whole or count not in range(1, most + 1):
            raise InputError(
                f"{name!r} cannot have {count!r} prototypes: from "
                f"{len(directions)} recordings there may be 1 to {most}."
            )
        means, own = _grouped(directions, count)
        if not own > 0.05:
            raise InputError(
                f"The recordings given for {name!r} have nothing in common; "
                "check that they are of one speaker."
            )
        most = min(len(directions) // 2, MOST_PROTOTYPES)
        for count in range(2, most + 1) if prototypes is None else ():
            more = _grouped(directions, count)
            if not more[1] > GAIN * own:
                break
            means, own = more
        enrolled = Enrolled(F.normalize(means, dim=-1) / own, directions)
        self.set_enrolled({**self.enrolled, name: enrolled})

    def remove(self, name):
        """Remove an enrolled speaker, or raise InputError."""
        self._check_enrolled(name)
        self.set_enrolled({k: v for k, v in self.enrolled.items() if k != name})

    def _check_enrolled(self, name):
        if name not in self.enrolled:
            known = ", ".join(map(repr, self.enrolled)) or "nobody"
            raise InputError(
                f"{name!r} is not an enrolled speaker of this model; enrolled "
                f"so far: {known}."
            )


def _grouped(directions, count):
    """Means of alike recordings ``[count, embedding_size]``, and a cosine.

    That of a recording with the closest mean of the others, on average.
    """
    groups = _alike(directions, count) == torch.arange(count)[:, None]
    sums = torch.stack([directions[each].sum(0) for each in groups])
    others = sums - groups.T[..., None] * directions[:, None]
    if len(directions) == 1:
        others = directions[None]
    cosines = (directions[:, None] * F.normalize(others, dim=-1)).sum(-1)
    means = torch.stack([directions[each].mean(0) for each in groups])
    return means, cosines.amax(-1).mean()


def _alike(directions, count):
    """Number of the group of each recording, ``[recordings]``.

    K-means on the sphere, from recordings that are far from each other.
    """
    units = F.normalize(directions, dim=-1)
    alike = units @ units.T
    first = alike.sum(1).argmin()  # the least alike to all
    chosen = [first.item()]
    while len(chosen) < count:
        nearest = alike[:, chosen].amax(1)
        nearest[chosen] = torch.inf  # also of equal ones
        chosen.append(nearest.argmin().item())
    groups = alike[:, chosen].argmax(1)
    groups[chosen] = torch.arange(count)
    for _ in range(10):
        sums = torch.stack([units[groups == n].sum(0) for n in range(count)])
        moved = (units @ F.normalize(sums, dim=-1).T).argmax(1)
        if len(moved.unique()) < count:  # a group would be empty
            break
        groups = moved
    return groups

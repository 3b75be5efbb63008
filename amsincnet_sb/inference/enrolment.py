"""Speakers that are added to a trained model without training."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.utils.errors import InputError

__all__ = ["EnrollableClassifier", "Enrolled", "UNKNOWN"]

UNKNOWN = "unknown"  # the answer where no speaker of the model fits


class Enrolled(NamedTuple):
    """An enrolled speaker.

    ``vector``, the class vector, is ``[embedding_size]``; ``directions``, the
    mean directions of the recordings it was made from, ``[recordings,
    embedding_size]``, without any in files of earlier versions.
    """

    vector: torch.Tensor
    directions: torch.Tensor


class EnrollableClassifier(nn.Module):
    """A trained classifier to which speakers are added without training.

    ``trained`` maps ``[batch, 1, embedding_size]`` to ``[batch, 1, names]``.
    The class vectors of the enrolled speakers are multiplied by
    ``own_cosine``, the mean output of a trained speaker's windows for that
    speaker, so that all outputs are on one scale.

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
        return torch.cat([outputs, self.own_cosine * cosines], dim=-1)

    def set_enrolled(self, enrolled):
        """Replace the enrolled speakers: name -> Enrolled."""
        self.enrolled = enrolled
        vectors = self.vectors.new_zeros(len(enrolled), self.vectors.shape[1])
        for row, one in zip(vectors, enrolled.values()):
            row.copy_(one.vector)
        self.vectors = vectors

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
        if not named or name == UNKNOWN:
            raise InputError(f"{name!r} cannot be the name of a speaker.")
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

    def enroll(self, name, directions):
        """Add a speaker from the mean directions of recordings.

        Those of a speaker who is enrolled already join the earlier ones.

        Their mean is closer to its own windows, and to everybody else's, than
        a learned class vector is; so it is scaled until the windows of a
        recording score 1 on the mean of the others, on average.
        """
        if name in self.enrolled:
            earlier = self.enrolled[name].directions
            directions = torch.cat([earlier, directions])
        several = len(directions) > 1
        others = directions.sum(0) - directions if several else directions
        own = (directions * F.normalize(others, dim=-1)).sum(-1).mean()
        if not own > 0.05:
            raise InputError(
                f"The recordings given for {name!r} have nothing in common; "
                "check that they are of one speaker."
            )
        vector = F.normalize(directions.mean(0), dim=0) / own
        enrolled = Enrolled(vector, directions)
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

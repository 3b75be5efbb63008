"""Enrolled speakers with several class vectors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from amsincnet_sb.inference.enrolment import EnrollableClassifier
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.utils.errors import InputError

# Mean directions of recordings over two microphones, unlike each other.
NEAR = torch.tensor([[0.8, 0.6, 0.0, 0.0], [0.8, 0.5, 0.1, 0.0]])
FAR = torch.tensor([[0.5, 0.0, 0.8, 0.1], [0.5, 0.1, 0.8, 0.0]])
BOTH = torch.cat([NEAR, FAR])[[0, 2, 1, 3]]


@pytest.fixture
def classify():
    return EnrollableClassifier(CosineClassifier(4, 2), ["ann", "bob"], 4, 0.5)


def vectors(classify, *given):
    classify.enroll("zoe", *given)
    return classify.enrolled["zoe"].vectors


@pytest.mark.parametrize(
    "directions, prototypes, expected",
    [
        (NEAR[:1], None, 1),
        (NEAR, None, 1),
        (torch.cat([NEAR, NEAR, NEAR]), None, 1),
        (BOTH, None, 2),
        (BOTH[:3], None, 1),  # nobody tells the odd one from a wrong one
        (BOTH, 1, 1),
        (NEAR, 2, 2),
        (BOTH, 4, 4),
        (NEAR[[0, 0, 0]], 3, 3),
    ],
)
def test_how_many(classify, directions, prototypes, expected):
    found = vectors(classify, directions, prototypes)
    assert found.shape == (expected, 4) and found.isfinite().all()


@pytest.mark.parametrize("recordings", [1, 2, 5])
def test_a_single_one_is_that_of_earlier_versions_bit_for_bit(
    classify, recordings
):
    torch.manual_seed(0)
    directions = torch.rand(recordings, 4)
    others = directions.sum(0) - directions if recordings > 1 else directions
    own = (directions * F.normalize(others, dim=-1)).sum(-1).mean()
    expected = F.normalize(directions.mean(0), dim=0) / own
    assert torch.equal(vectors(classify, directions, 1)[0], expected)


def test_the_best_one_counts(classify):
    """And a recording scores 1 on the closest mean of the others."""
    near, far = (F.normalize(each.mean(0), dim=0) for each in (NEAR, FAR))
    pairs = ((BOTH[0], BOTH[2]), (BOTH[1], BOTH[3]))
    pairs += tuple((b, a) for a, b in pairs)
    own = sum(a @ b / b.norm() for a, b in pairs) / 4
    classify.enroll("eve", torch.eye(4)[3:])
    classify.enroll("zoe", BOTH)
    x = F.normalize(torch.rand(7, 1, 4), dim=-1)
    expected = 0.5 * torch.maximum(x @ near, x @ far) / own
    torch.testing.assert_close(classify(x)[..., 3], expected)
    torch.testing.assert_close(classify(x)[..., 2], 0.5 * x[..., 3])


@pytest.mark.parametrize("count", [0, -1, 3, 2.5, 2.0, "2"])
def test_counts_that_cannot_be(classify, count):
    with pytest.raises(InputError, match="from 2 recordings there may be 1 to"):
        classify.enroll("zoe", NEAR, count)


def test_people_who_are_not_one(classify):
    two = torch.eye(4)[[0, 0, 1, 1]]
    two[:, 2:] -= 0.7
    two[2:, 2:] *= -1
    with pytest.raises(InputError, match="nothing in common"):
        classify.enroll("zoe", two)


def test_kept_extended_and_listed(saved, voice):
    """Two pitches, so unlike that each gets a mean."""
    low, high = ([voice(p, seed=i) for i in range(3)] for p in (1500, 2500))
    saved.enroll("zoe", low[:2] + high[:2])
    saved.save()
    again = SpeakerIdentifier.from_results(saved.folder)
    again.enroll("zoe", [low[2], high[2]], extend=True)
    saved.remove("zoe")
    saved.enroll("zoe", low[:2] + high[:2] + [low[2], high[2]])
    for model in (saved, again):
        assert len(model.classifier.enrolled["zoe"].vectors) == 2
        for pitch in (1500, 2500):
            (best,) = model.identify(voice(pitch, seed=9), 1)
            assert best.speaker == "zoe"
    torch.testing.assert_close(
        again.classifier.vectors, saved.classifier.vectors
    )


@pytest.mark.parametrize(
    "change",
    [
        {"prototypes": [1]},
        {"prototypes": [3, 0]},
        {"prototypes": [1, 1]},
        {"prototypes": [1.0, 2.0]},
        {"prototypes": [[1, 2]]},
        {"vectors": np.zeros((9, 16), np.float32), "prototypes": [9, 0]},
    ],
)
def test_a_damaged_file(saved, voice, change):
    saved.enroll("zoe", [voice(1500), voice(2500)], prototypes=2)
    saved.save()
    path = saved.folder / "enrolled.npz"
    with np.load(path) as file:
        raw = dict(file)
    assert raw["prototypes"].tolist() == [1, 2]
    np.savez(path, **{**raw, **change})
    with pytest.raises(InputError, match="does not hold enrolled speakers"):
        SpeakerIdentifier.from_results(saved.folder)

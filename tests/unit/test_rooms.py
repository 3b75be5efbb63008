"""Rooms of the image method: their acoustics, and how a bank is kept."""

import copy
import itertools
import pickle
import random

import numpy as np
import pytest
import torch

from amsincnet_sb.nnet import rooms
from amsincnet_sb.nnet.channels import RandomChannel, RandomRoom
from amsincnet_sb.utils.errors import InputError

RATE, WHOLE = 16000, 16000  # Hz; a window into which whole responses fit


def impulses(**options):
    """The impulse responses of a bank ``[rooms, window]``."""
    options = {"rooms": 20, "window": WHOLE, **options}
    room = RandomRoom(1.0, **options)
    spectra = torch.polar(room.log_gain.exp(), room.phase)
    return torch.fft.irfft(spectra, room.window).numpy()


def decay_time(impulse, from_db, to_db):
    """RT60 by a line through Schroeder's integral, ISO 3382."""
    energy = np.square(impulse, dtype=float)[::-1].cumsum()[::-1]
    level = 10 * np.log10(energy / energy[0])
    part = (level < from_db) & (level > to_db)
    seconds = np.arange(len(impulse))[part] / RATE
    return -60 / np.polyfit(seconds, level[part], 1)[0]


@pytest.mark.parametrize("rt60", [0.3, 0.5, 0.8])
def test_reverberation_time(rt60):
    found = impulses(rt60=(rt60, rt60))
    late = [decay_time(impulse[1600:], 0, -20) for impulse in found]
    np.testing.assert_allclose(late, rt60, rtol=0.06)
    # Images do not decay exactly as Eyring has it, and slower if fast.
    whole = [decay_time(impulse, -5, -25) for impulse in found]
    assert np.median(whole) == pytest.approx(rt60, rel=0.15)


def mirrored(size, walls, mouth):
    """Images on an axis with their gains, a mirror after another."""
    yield mouth, 1.0
    for first in (0, 1):
        place, gain = mouth, 1.0
        for number in range(8):
            wall = (first + number) % 2
            place = 2 * wall * size - place
            gain *= walls[wall]
            yield place, gain


def test_images_are_those_of_mirrors():
    signs = set()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        room = rooms._draw_room(rng, (0.15, 1.0), (0.4, 3.0))
        signs.add(np.sign(room.reflected).min())
        direct = np.linalg.norm(room.mouth - room.ear)
        expected = np.zeros(500)
        for images in itertools.product(
            *map(mirrored, room.size, room.reflected, room.mouth)
        ):
            place, gains = np.transpose(images)
            distance = np.linalg.norm(place - room.ear)
            at = round((distance - direct) / 343.0 * RATE)
            if at < 500:
                expected[at] += gains.prod() / distance
        expected /= np.linalg.norm(expected[:8])
        (found,) = impulses(rooms=1, seed=seed)
        np.testing.assert_allclose(found[:500], expected, atol=1e-5)
    assert signs == {-1, 1}


def test_the_direct_sound_is_first_and_about_one():
    found = impulses(rt60=(0.15, 0.15))
    assert (found[:, 0] > 0.5).all() and (found[:, 0] < 1.001).all()
    assert (np.abs(found).argmax(1) == 0).mean() > 0.8
    assert np.abs(found[:, WHOLE // 2 :]).max() < 1e-4  # nothing before it


def test_near_voices_are_direct():
    ratios = []
    for metres in (0.5, 1.0, 2.0):
        energy = impulses(distance_m=(metres, metres), rt60=(0.5, 0.5)) ** 2
        ratio = energy[:, :40].sum(1) / energy[:, 40:].sum(1)
        ratios.append(10 * np.log10(ratio).mean())
    # Less than 6 dB a doubling, because walls are in the way of two metres.
    assert ratios[0] - 3 > ratios[1] > ratios[2] + 1.5


def test_what_is_longer_than_a_chunk_is_folded():
    options = {"rooms": 3, "rt60": (0.2, 0.5)}
    whole = impulses(window=9600, **options).reshape(3, 3, 3200)
    folded = impulses(window=3200, **options)
    np.testing.assert_allclose(folded, whole.sum(1), atol=1e-4)


def test_each_example_gets_a_room_of_the_bank_or_none():
    room = RandomRoom(0.3, rooms=4, window=400)
    torch.manual_seed(0)
    found = torch.stack(room.response(torch.zeros(4000, 400)))
    bank = torch.stack((room.log_gain, room.phase))
    bank = torch.cat((torch.zeros(2, 1, 201), bank), 1)
    same = (found.unsqueeze(2) == bank.unsqueeze(1)).all(3).all(0)
    assert (same.sum(1) == 1).all()
    shares = same.float().mean(0)
    expected = torch.tensor([0.7, *[0.075] * 4])
    torch.testing.assert_close(shares, expected, atol=0.025, rtol=0)


def test_nothing_changes_without_probability_or_in_evaluation():
    x = torch.randn(4, 400)
    never = RandomChannel([RandomRoom(0.0, rooms=2, window=400)])
    torch.testing.assert_close(never(x), x, atol=1e-5, rtol=0)
    always = RandomChannel([RandomRoom(1.0, rooms=2, window=400)])
    assert not torch.allclose(always(x), x, atol=0.1)
    assert torch.equal(always.eval()(x), x)


def test_the_bank_is_a_function_of_its_arguments():
    def states():
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),
            random.getstate(),
        )

    before = states()
    first = impulses(rooms=3, window=400)
    assert states() == before
    torch.manual_seed(5)
    np.random.seed(5)
    assert np.array_equal(impulses(rooms=3, window=400), first)
    assert not np.allclose(impulses(rooms=3, window=400, seed=1), first)


def test_copies_have_the_bank_and_checkpoints_do_not():
    room = RandomRoom(rooms=2, window=400)
    assert not room.state_dict() and not list(room.parameters())
    for other in (copy.deepcopy(room), pickle.loads(pickle.dumps(room))):
        assert torch.equal(other.log_gain, room.log_gain)
        assert torch.equal(other.phase, room.phase)
    assert {x.device.type for x in room.to("meta").buffers()} == {"meta"}


def test_compiled_as_eager():
    channel = RandomChannel([RandomRoom(0.5, rooms=4, window=400)])
    compiled = torch.compile(channel, backend="aot_eager", fullgraph=True)
    x, found = torch.randn(8, 400), []
    for module in (channel, compiled):
        torch.manual_seed(1)
        found.append(module(x))
    torch.testing.assert_close(*found)


def test_a_chunk_of_another_length():
    room = RandomRoom(rooms=1, window=400)
    with pytest.raises(InputError, match="have 500 samples.* window is 400"):
        room.response(torch.zeros(2, 500))


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"probability": -0.1}, "probability is -0.1"),
        ({"rooms": 0}, "rooms is 0"),
        ({"window": 0}, "window is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"rt60": (0.5, 0.2)}, r"rt60 is \(0.5, 0.2\)"),
        ({"rt60": (0.0, 0.2)}, r"rt60 is \(0.0, 0.2\)"),
        ({"distance_m": (1, 20)}, r"distance_m is \(1, 20\)"),
    ],
)
def test_wrong_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        RandomRoom(**{"rooms": 1, **wrong})

"""Rooms with walls: impulse responses of the image method, made beforehand."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from amsincnet_sb.nnet.augmentation import TINY, checked, checked_ranges, some
from amsincnet_sb.utils.errors import InputError

__all__ = ["RandomRoom"]

SPEED_OF_SOUND = 343.0  # m/s, at 20 °C
# Length, width and height in metres, from a box room to a classroom.
SMALLEST, LARGEST = (2.5, 2.3, 2.2), (9.0, 7.0, 4.0)
MOUTH = 0.15  # at least so far from each wall, as a share of the room
EAR_M = 0.15  # in metres: a microphone may stand close to a wall
HEIGHT = 0.3  # of the way from mouth to ear, where its length and width are 1
UNEVEN = 0.1  # by which walls reflect more or less than their mean
MOST_REFLECTED = 0.98  # by plaster on concrete
# Seconds. The number of images grows with the cube of the time, and by 100 ms
# there are so many that they sound like noise.
EARLY = 0.1
LEVEL = 0.02  # before its end, over which the noise's level is taken
DIRECT = 0.0005  # that count as the direct sound, with the nearest wall's echo
# The noise ends after 0.7 times the longest RT60, 42 dB below its beginning.
TAIL = 0.7


class RandomRoom(nn.Module):
    """A shoebox room, drawn from a bank that is made at construction.

    J. Allen and D. Berkley, "Image method for efficiently simulating
    small-room acoustics", 1979, https://doi.org/10.1121/1.382599: a wall is a
    mirror, behind which another mouth speaks at the same time. Unlike
    :class:`amsincnet_sb.nnet.responses.RandomReverberation`, single echoes
    follow from one geometry, as the first 0.1 s has them in real rooms. From
    there on it is J. Polack's noise (1988), ``10 ** (-3 · t / RT60)``, at the
    level reached. What is longer than a chunk is folded into its period.

    The walls reflect ``exp(-0.161 · V / (2 · S · RT60))`` on average (C.
    Eyring, 1930, https://doi.org/10.1121/1.1915175), with volume ``V`` and
    surface ``S``. In half of the rooms each reflection turns the sign: where
    none does, echoes add up at low frequencies, more than in real rooms.

    The bank takes 13 kB for each room with a window of 3200. It is a function
    of the arguments alone and in no checkpoint; ``.to(device)`` moves it.

    Arguments
    ---------
    probability : float
        That an example is in a room.
    rooms : int
        In the bank, each with one mouth and one microphone.
    rt60 : tuple of float
        Range of the reverberation time, in seconds, on a logarithmic scale.
    distance_m : tuple of float
        Range of the distance from mouth to microphone, in metres, on a
        logarithmic scale; shorter where a wall is in the way.
    window : int
        Length of the chunks, in samples. For others ``response`` raises an
        InputError.
    sample_rate : int
        In Hz.
    seed : int
        Of the bank. Which room an example gets is drawn from torch's generator.

    Example
    -------
    >>> from amsincnet_sb.nnet.responses import RandomChannel
    >>> channel = RandomChannel([RandomRoom(rooms=10)])
    >>> wavs = torch.randn(4, 3200)
    >>> channel(wavs).shape, torch.equal(channel.eval()(wavs), wavs)
    (torch.Size([4, 3200]), True)
    """

    def __init__(
        self,
        probability=0.5,
        rooms=800,
        rt60=(0.15, 1.0),
        distance_m=(0.4, 3.0),
        window=3200,
        sample_rate=16000,
        seed=0,
    ):
        super().__init__()
        checked(
            self,
            probability=(probability, 0, 1),
            rooms=(rooms, 1, math.inf),
            window=(window, 1, math.inf),
            seed=(seed, 0, math.inf),
        )
        checked_ranges(
            self, rt60=(rt60, 0.05, 10.0), distance_m=(distance_m, 0.1, 10.0)
        )
        self.sample_rate = sample_rate
        spectra = torch.view_as_real(torch.fft.rfft(self._bank()))
        real, imag = spectra[..., 0], spectra[..., 1]
        log_gain = (real.square() + imag.square() + TINY).log() / 2
        self.register_buffer("log_gain", log_gain, persistent=False)
        phase = torch.atan2(imag, real)
        self.register_buffer("phase", phase, persistent=False)

    def response(self, wavs):
        """See :class:`amsincnet_sb.nnet.responses.RandomChannel`."""
        if wavs.shape[1] != self.window:
            raise InputError(
                f"RandomRoom: chunks have {wavs.shape[1]} samples, but its "
                f"window is {self.window}; give it the window of the recipe."
            )
        room = torch.randint(self.rooms, (len(wavs),), device=wavs.device)
        there = some(wavs, self.probability)
        return (
            torch.where(there, self.log_gain[room], 0.0),
            torch.where(there, self.phase[room], 0.0),
        )

    def _bank(self):
        """Impulse responses, each one period: ``[rooms, window]``."""
        # Not from the global generators, on which a training relies.
        rng = np.random.default_rng(self.seed)
        tail = int(TAIL * self.rt60[1] * self.sample_rate)
        samples = int(EARLY * self.sample_rate) + tail
        periods = -(-samples // self.window)
        bank = np.empty((self.rooms, self.window), np.float32)
        for row in bank:
            room = _draw_room(rng, self.rt60, self.distance_m)
            impulse = _impulse_response(
                rng, room, periods * self.window, self.sample_rate
            )
            row[:] = impulse.reshape(periods, self.window).sum(0)
        return torch.from_numpy(bank)


class _Room(NamedTuple):
    """Three axes each: metres, and for both walls what they reflect."""

    size: np.ndarray
    reflected: np.ndarray  # [3, 2]
    mouth: np.ndarray
    ear: np.ndarray
    rt60: float


def _log_uniform(rng, low, high):
    return np.exp(rng.uniform(np.log(low), np.log(high)))


def _draw_room(rng, rt60, distance_m):
    """A room, and where in it one speaks and one listens."""
    size = _log_uniform(rng, SMALLEST, LARGEST)
    time = _log_uniform(rng, *rt60)
    surface = 2 * (size * np.roll(size, 1)).sum()
    reflected = np.exp(-0.161 * size.prod() / (2 * surface * time))
    reflected = reflected * rng.uniform(1 - UNEVEN, 1 + UNEVEN, (3, 2))
    reflected = reflected.clip(max=MOST_REFLECTED)
    if rng.random() < 0.5:
        reflected = -reflected
    mouth = size * rng.uniform(MOUTH, 1 - MOUTH, 3)
    way = rng.standard_normal(3) * (1, 1, HEIGHT)
    way *= _log_uniform(rng, *distance_m) / np.linalg.norm(way)
    ear = (mouth + way).clip(EAR_M, size - EAR_M)
    return _Room(size, reflected, mouth, ear, time)


def _impulse_response(rng, room, samples, sample_rate):
    """Images, then noise; the direct sound is first and about 1."""
    impulse = np.empty(samples)
    early = int(EARLY * sample_rate)
    impulse[:early] = _images(room, early, sample_rate)
    last = int(LEVEL * sample_rate)
    level = np.sqrt(np.square(impulse[early - last : early]).mean())
    noise = rng.standard_normal(samples - early)
    # The level is that of the middle of the time in which it was taken.
    t = np.arange(len(noise)) / sample_rate + LEVEL / 2
    impulse[early:] = level * noise * 10 ** (-3 * t / room.rt60)
    direct = impulse[: max(1, int(DIRECT * sample_rate))]
    return impulse / np.linalg.norm(direct)


def _images(room, samples, sample_rate):
    """The sum of all images, from the direct sound on, ``[samples]``."""
    direct = np.linalg.norm(room.mouth - room.ear)
    reach = direct + samples / sample_rate * SPEED_OF_SOUND
    (x, gain_x), (y, gain_y), (z, gain_z) = (
        _images_along(*axis, reach)
        for axis in zip(room.size, room.reflected, room.mouth, room.ear)
    )
    squares = x[:, None, None] + y[:, None] + z
    near = squares < reach**2
    distance = np.sqrt(squares[near])
    gain = (gain_x[:, None, None] * gain_y[:, None] * gain_z)[near]
    at = (distance - direct) * (sample_rate / SPEED_OF_SOUND)
    # Those that round up to the end belong to what comes then.
    at = at.round().astype(np.intp)
    return np.bincount(at, gain / distance, samples)[:samples]


def _images_along(size, reflected, mouth, ear, reach):
    """Of images along one axis, the squared distance and the gain."""
    most = int(reach / (2 * size)) + 1
    n = np.arange(-most, most + 1)[:, None]
    mirrored = np.array([0, 1])
    place = 2 * n * size + (1 - 2 * mirrored) * mouth - ear
    gain = reflected[0] ** abs(n - mirrored) * reflected[1] ** abs(n)
    near = abs(place) < reach
    return place[near] ** 2, gain[near]

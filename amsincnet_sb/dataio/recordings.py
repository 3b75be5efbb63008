"""Looking at every recording of a corpus once, before anything is trained."""

import hashlib
import os
from collections import Counter, defaultdict
from functools import partial

from tqdm import tqdm

from amsincnet_sb.dataio.audio import (
    audio_info,
    channels_cancel,
    check_resampling,
    is_silent,
    read_audio,
)
from amsincnet_sb.dataio.manifest import Utterance
from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.utils.errors import InputError

__all__ = ["SHORTEST", "check_recordings"]

SHORTEST = 0.2  # seconds; training cannot draw a chunk from less
USUAL_RATE = 16_000  # Hz
MONO = ("0", "1", "a", "mono")  # what lists call the one channel
BLOCK = 2**24  # samples held at once while a recording is checked
# Seconds in a list are rounded: an end may lie this far beyond the recording's
# (Kaldi allows the same), and a stated duration be this far off.
OVERSHOOT = 0.5


def check_recordings(listing):
    """Decode every utterance of a Listing once.

    Left out, with the reason: what cannot be read, or resampled to 16 kHz, is
    cut short, silent, NaN or infinite, or shorter than 200 ms; what contradicts
    its list; second copies of the same samples, in whatever file; and samples
    that two speakers claim, for both.

    Returns the utterances in the order given, (file, reason) of what is left
    out, notes, and a hash of all samples, names and speakers.
    """
    everything, left_out = hashlib.sha256(), list(listing.left_out)
    same, rates, channels = defaultdict(list), Counter(), Counter()
    clipped = 0
    check = partial(_check, listing.data_folder)
    checked = tqdm(
        prefetch(check, listing.utterances, group=16),
        total=len(listing.utterances),
        desc="recordings",
        disable=None,  # no bar unless someone watches
    )
    for listed, (utterance, found) in zip(listing.utterances, checked):
        if utterance is None:
            left_out.append((listed.wav, found))
            continue
        samples, info, beyond = found
        same[samples].append(utterance)
        everything.update(f"{listed} {samples.hex()}\n".encode())
        rates[info.sample_rate] += 1
        channels[info.channels] += 1
        clipped += beyond
    utterances, repeated = _without_copies(same.values())
    notes = [
        f"utterances at {rate} Hz, resampled when read: {n}"
        for rate, n in rates.items()
        if rate != USUAL_RATE
    ]
    notes += [
        f"utterances with {count} channels, averaged: {n}"
        for count, n in channels.items()
        if count > 1
    ]
    if clipped:
        notes.append(
            f"utterances that end up to {OVERSHOOT} s after their recording, "
            f"cut to it: {clipped}"
        )
    return utterances, left_out + repeated, notes, everything.hexdigest()


def _without_copies(groups):
    """The first of each group with the same samples; (file, reason) of rest."""
    utterances, left_out = [], []
    for first, *copies in groups:
        rivals = {u.spk_id: u.wav for u in (first, *copies)}
        if len(rivals) == 1:
            utterances.append(first)
            reason = f"it has the same samples as {first.wav}"
            left_out += [(u.wav, reason) for u in copies]
            continue
        for u in (first, *copies):
            name, wav = next(r for r in rivals.items() if r[0] != u.spk_id)
            reason = f"speaker {name} has the same samples in {wav}"
            left_out.append((u.wav, reason))
    return utterances, left_out


def _check(data_folder, listed):
    """(Utterance, (hash of samples, AudioInfo, clipped)) or (None, reason)."""
    path = os.path.join(data_folder, listed.wav)
    try:
        info = audio_info(path)
        check_resampling(path, info.sample_rate, USUAL_RATE)
        start, stop, beyond = _limits(listed, info)
        seconds = (stop - start) / info.sample_rate
        if seconds < SHORTEST:
            return None, f"it lasts {seconds:.4g} s and {SHORTEST} s are needed"
        contradiction = _contradiction(listed.claims, info, stop - start)
        if contradiction:
            return None, contradiction
        samples, silent = hashlib.sha256(), True
        for first in range(start, stop, BLOCK):
            last = min(first + BLOCK, stop)
            wave = read_audio(path, first, last, info.sample_rate)
            samples.update(wave.numpy().tobytes())
            silent = silent and is_silent(wave)
        if silent:
            if channels_cancel(path, start, stop):
                return None, "its channels cancel each other"
            return None, "it is silent"
        utterance = Utterance(
            listed.id, seconds, listed.wav, start, stop, listed.speaker
        )
        return utterance, (samples.digest(), info, beyond)
    except InputError as error:
        return None, str(error).removeprefix(f"{path}: ").rstrip(".")


def _limits(listed, info):
    """First sample, the one after the last, and whether that was cut."""
    start, stop, unit = listed.start, listed.stop, ""
    if listed.seconds:
        unit = f" s of {info.samples / info.sample_rate:.2f}"
        start = round(start * info.sample_rate)
        stop = None if stop is None else round(stop * info.sample_rate)
    stop = info.samples if stop is None else stop
    beyond = info.samples < stop
    if listed.seconds and stop <= info.samples + OVERSHOOT * info.sample_rate:
        stop = min(stop, info.samples)
    if not start < stop <= info.samples:
        end = "its end" if listed.stop is None else f"{listed.stop:.10g}"
        raise InputError(
            f"it has no samples from {listed.start:.10g} to {end}{unit}"
        )
    return start, stop, beyond


def _contradiction(claims, info, samples):
    """What a list says that is not so; None if all is."""
    lengths = samples, info.samples
    seconds = [length / info.sample_rate for length in lengths]
    if claims.length is not None and claims.length not in lengths:
        if all(abs(s - claims.length) > OVERSHOOT for s in seconds):
            return (
                f"its list says that its length is {claims.length:g}, but it "
                f"has {seconds[0]:.2f} s and {samples} samples"
            )
    if claims.duration is not None:
        if all(abs(s - claims.duration) > OVERSHOOT for s in seconds):
            return (
                f"its list says that it lasts {claims.duration:g} s, but from "
                f"start to stop it lasts {seconds[0]:.2f} s"
            )
    if claims.samples is not None and claims.samples not in lengths:
        return (
            f"its list says that it has {claims.samples} samples, but it has "
            f"{samples}"
        )
    if claims.rate is not None and claims.rate != info.sample_rate:
        return (
            f"its list counts samples at {claims.rate} Hz, but it has "
            f"{info.sample_rate} Hz"
        )
    if claims.channels is not None and claims.channels != info.channels:
        return (
            f"its list says that it has {claims.channels} channels, but it has "
            f"{info.channels}"
        )
    mono = info.channels == 1
    if claims.channel and mono and claims.channel.lower() not in MONO:
        return f"its list means channel {claims.channel}, but it has one"
    if claims.channel and not mono:
        return (
            f"its list means channel {claims.channel} of {info.channels}; "
            "write each channel to a file"
        )
    return None

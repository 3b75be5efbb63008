"""How probable it is that a segment is named rightly: fitted to a manifest.

Its utterances are put one behind the other, those of a few speakers in turn,
and segmented; one speaker of each group counts as unknown. A logistic
regression on a segment's lead and its seconds of speech (see
:data:`amsincnet_sb.inference.segments.CERTAINTY`) then tells how often segments
like it are right.
"""

from pathlib import Path

import numpy as np
import torch

from amsincnet_sb.dataio.audio import audio_info, read_audio
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.inference.segments import (
    CERTAINTY,
    Wanted,
    evidence,
    find_segments,
)
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.names import is_unknown

__all__ = ["certainty_from", "fit_certainty"]

TOGETHER = 6  # speakers of a group
EACH = 8  # utterances of a speaker in it
LONGEST, BETWEEN = 10, 0.3  # seconds of an utterance, and to the next one
FEWEST = 30  # segments to learn from
STIFFNESS = 0.1  # of the weights, which begin as CERTAINTY


def certainty_from(model, manifest, data_folder):
    """The part ``segments`` of a calibration; empty with too few utterances.

    Utterances that cannot be read are passed over.
    """
    rng = np.random.default_rng(0)
    of_speaker = {}
    for utterance in read_manifest(manifest):
        of_speaker.setdefault(utterance.spk_id, []).append(utterance)
    names = rng.permutation(sorted(of_speaker)).tolist()
    rows, right = [], []
    for start in range(0, len(names), TOGETHER):
        group = names[start : start + TOGETHER]
        wave, turns = _conversation(
            model, [of_speaker[name] for name in group], data_folder, rng
        )
        # The first is unknown, where others of the model are there.
        hidden = group[0] if len(group) > 1 else None
        known = tuple(n for n in model.speakers if n != hidden)
        if not len(wave) or not known:
            continue
        wanted = Wanted(least_speech=0.0, among=known)
        for segment in find_segments(model, wave, wanted):
            share = share_right(segment, turns, known)
            if share is not None:
                rows.append(evidence(segment.margin, segment.speech))
                right.append(share)
    if len(rows) < FEWEST:
        return {}
    weights = fit_certainty(np.array(rows), np.array(right))
    found = {
        "manifest": Path(manifest).name,
        "threshold": 0.5,
        "certainty": weights.tolist(),
        "segments": len(rows),
    }
    return {"segments": found}


def fit_certainty(rows, right):
    """Weights of a logistic regression, ``[4]``, by Newton's method.

    ``rows`` are ``[segments, 4]``, ``right`` the shares of them that are.
    """
    begin = np.array(CERTAINTY)
    weights = begin.copy()
    for _ in range(50):
        chance = torch.from_numpy(rows @ weights).sigmoid().numpy()
        slope = rows.T @ (chance - right) + STIFFNESS * (weights - begin)
        bend = (rows * (chance * (1 - chance))[:, None]).T @ rows
        bend += STIFFNESS * np.eye(len(weights))
        step = np.linalg.solve(bend, slope)
        weights -= step * min(1, 2 / max(1e-9, abs(step).max()))
        if abs(step).max() < 1e-6:
            break
    return weights


def _conversation(model, groups, data_folder, rng):
    """A waveform and its turns: start, end, speaker."""
    rate = model.embedding_model.sample_rate
    chosen = [
        utterance
        for group in groups
        for utterance in rng.permutation(np.array(group, object))[:EACH]
    ]
    parts, turns, now = [torch.zeros(0)], [], 0.0
    for utterance in rng.permutation(np.array(chosen, object)):
        path = Path(data_folder) / utterance.wav
        start, stop = utterance.start, utterance.stop
        try:
            longest = int(LONGEST * audio_info(path).sample_rate)
            stop = min(stop, start + longest)
            wave = read_audio(
                path, start, stop, rate, model.channel, clip=False
            )
        except InputError:  # told where the errors are measured
            continue
        parts += [wave, torch.zeros(int(BETWEEN * rate))]
        turns.append((now, now + len(wave) / rate, utterance.spk_id))
        now = turns[-1][1] + int(BETWEEN * rate) / rate
    return torch.cat(parts), turns


def share_right(segment, turns, known):
    """The share of a segment within turns that is of whom it names."""
    named = total = 0.0
    for start, end, speaker in turns:
        both = min(segment.end, end) - max(segment.start, start)
        if both > 0:
            total += both
            said = segment.speaker
            is_known = speaker in known
            right = said == speaker if is_known else is_unknown(said)
            named += both * right
    return named / total if total else None

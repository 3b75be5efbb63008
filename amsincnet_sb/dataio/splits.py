"""Dividing utterances into train, valid and test, without leaks.

What belongs together stays on one side: utterances that overlap in a
recording, and what the user names (two microphones of the same sentence,
sessions). What may belong together is noted.
"""

import hashlib
import os
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from pathlib import PurePosixPath
from typing import NamedTuple

__all__ = [
    "divided",
    "leaks",
    "real_files",
    "split_notes",
    "split_utterances",
]

SPLITS = ("train", "valid", "test")
IMBALANCE = 10  # times as many utterances of one speaker as of another

# Parts of names that tell microphones and sessions of a sentence apart.
_MARK = re.compile(
    r"(?<![a-z])(?P<word>mic|microphone|ch|chan|channel|array|beam|cam|camera|"
    r"dev|device|headset|lapel|phone|near|far|close|distant|left|right|sess|"
    r"session|ses|take|rep|copy)[0-9]*(?P<number>[-_. ]?[0-9]{1,2})?"
    r"[a-d]?(?![a-z0-9])",
    re.IGNORECASE,
)
STEM = r"([^/]+)\.[^.]+$"  # a --group by the file's name


def split_utterances(
    utterances,
    test_fraction=0.25,
    validation_sentences=0,
    seed=1234,
    groups=None,
    files=None,
):
    """Divide each speaker's utterances into train, valid and test.

    At least one of each speaker's, and `test_fraction` of them, are for
    testing, and `validation_sentences` are held out. What happens to an
    utterance depends on the seed, its own ID and its speaker's other
    utterances alone: more speakers change nothing. Utterances with the same
    entry in `groups` (ID -> text, or "" for none), of whatever speaker, and
    those of a speaker that overlap in a recording stay together; the numbers
    are then met as far as whole groups can. ``files`` are those of
    :func:`real_files`, where a recording may have several names.

    Returns split -> list of Utterance, in the order given, and (file, reason)
    of speakers with too few utterances, and of test utterances that speak
    over another speaker's training utterance.
    """
    units = _units(utterances, groups or {}, files)
    own = Counter(u.spk_id for u in utterances)
    free = Counter(speaker for unit in units for speaker in unit.sizes)
    reasons = {
        speaker: why
        for speaker in own
        if (why := _too_few(speaker, own, free, validation_sentences))
    }
    left_out = [
        (u.wav, reasons[u.spk_id]) for u in utterances if u.spk_id in reasons
    ]
    if reasons:
        usable = [u for u in utterances if u.spk_id not in reasons]
        units = _units(usable, groups or {}, files)
    # Those of several speakers first: the others adapt to them.
    units.sort(key=lambda unit: (len(unit.sizes) == 1, _drawn(seed, unit)))
    tested, place = {}, {}
    for speaker, number in own.items():
        most = number - 1 - validation_sentences
        tested[speaker] = min(max(round(test_fraction * number), 1), most)
    held_out = dict.fromkeys(own, validation_sentences)
    for split, wanted, spare in (
        ("test", tested, 1 + (validation_sentences > 0)),
        ("valid", held_out, 1),
    ):
        chosen, units = _chosen(units, wanted, free, spare)
        place |= {u: split for unit in chosen for u in unit.utterances}
    place |= {u: "train" for unit in units for u in unit.utterances}
    found = divided(utterances, place)
    for split in ("test", "valid"):
        over = leaks(found[split], found["train"], files)
        reason = "it speaks over another speaker's training utterance"
        left_out += [(u.wav, reason) for u in over]
        if over:
            found[split] = [u for u in found[split] if u not in over]
    return found, left_out


class _Unit(NamedTuple):
    """What must stay together."""

    utterances: list
    sizes: dict  # speaker -> their number


def _too_few(speaker, own, free, validation_sentences):
    """Why a speaker's utterances cannot be divided; None if they can."""
    needed, least = 2 + validation_sentences, 2 + (validation_sentences > 0)
    if own[speaker] < needed:
        return (
            f"speaker {speaker} has {own[speaker]} usable utterance"
            f"{'s' * (own[speaker] > 1)} and needs {needed}"
        )
    if free[speaker] < least:
        return (
            f"speaker {speaker}'s utterances overlap or belong together in "
            f"{free[speaker]} group{'s' * (free[speaker] > 1)}, and {least} "
            "are needed"
        )
    return None


def _chosen(units, wanted, free, spare):
    """The first units that fit into each speaker's number, and the others.

    Every speaker gets one at least and keeps `spare` units, as far as units
    of several speakers allow; `free` counts the units of each.
    """
    missing = dict(wanted)
    lacking = {speaker for speaker, number in wanted.items() if number}
    chosen, rest = [], []

    def divide(units, able):
        """Choose the units that are able and can be spared."""
        rest.clear()
        for unit in units:
            spared = all(free[speaker] > spare for speaker in unit.sizes)
            if not (spared and able(unit.sizes)):
                rest.append(unit)
                continue
            chosen.append(unit)
            lacking.difference_update(unit.sizes)
            for speaker, size in unit.sizes.items():
                free[speaker] -= 1
                missing[speaker] -= size

    divide(units, lambda own: all(own[s] <= missing[s] for s in own))
    if lacking:
        smallest_first = sorted(rest, key=lambda unit: len(unit.utterances))
        divide(smallest_first, lambda own: lacking & own.keys())
    return chosen, rest


def divided(utterances, place):
    """Split -> the utterances that `place` puts there, in the order given."""
    return {
        split: [u for u in utterances if place.get(u) == split]
        for split in SPLITS
    }


def _drawn(seed, unit):
    name = min(u.id for u in unit.utterances)
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def real_files(utterances, data_folder):
    """Path in the manifest -> the file, of which links are other names."""
    return {
        wav: os.path.realpath(os.path.join(data_folder, wav))
        for wav in {u.wav for u in utterances}
    }


def _file(utterance, files):
    """Its recording, whatever name it has there."""
    return (files or {}).get(utterance.wav, utterance.wav)


def _units(utterances, groups, files):
    """Lists of the utterances that must stay together."""
    parent = {u.id: u.id for u in utterances}

    def root(name):
        """Name of the unit of an utterance."""
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    first = {}
    for u in utterances:
        group = groups.get(u.id)
        if group:
            parent[root(u.id)] = root(first.setdefault(group, u.id))
    last = {}  # speaker and file -> what goes furthest so far
    for u in sorted(utterances, key=lambda u: u.start):
        key = u.spk_id, _file(u, files)
        other = last.get(key)
        if other and u.start < other.stop:
            parent[root(u.id)] = root(other.id)
        if not other or u.stop > other.stop:
            last[key] = u
    units = defaultdict(list)
    for u in utterances:
        units[root(u.id)].append(u)
    return [
        _Unit(own, dict(Counter(u.spk_id for u in own)))
        if len(own) > 1
        else _Unit(own, {own[0].spk_id: 1})
        for own in units.values()
    ]


def leaks(tested, trained, files=None):
    """Test utterances with samples that training utterances have too.

    ``files`` are those of :func:`real_files`, or every path is a file's.
    """
    shared = {_file(u, files) for u in tested}
    shared &= {_file(u, files) for u in trained}
    spans = defaultdict(list)
    for u in trained:
        if _file(u, files) in shared:
            spans[_file(u, files)].append((u.start, u.stop))
    merged = {}
    for wav, own in spans.items():
        whole = []
        for start, stop in sorted(own):
            if whole and start <= whole[-1][1]:
                whole[-1][1] = max(whole[-1][1], stop)
            else:
                whole.append([start, stop])
        merged[wav] = whole
    found = set()
    for u in tested:
        whole = merged.get(_file(u, files), [])
        # The last that begins before the utterance ends.
        at = bisect_left(whole, [u.stop]) - 1
        if at >= 0 and whole[at][1] > u.start:
            found.add(u)
    return found


def split_notes(splits, groups, files=None):
    """What a user should know about a division.

    Arguments
    ---------
    splits : dict
        Split -> list of Utterance.
    groups : dict
        ID -> what the user says belongs together; nothing is suspected then.
    files : dict, optional
        From :func:`real_files`.

    Returns
    -------
    list of str
    """
    train, test, notes = splits["train"], splits["test"], []
    everything = train + splits["valid"] + test
    alone = sum(not groups.get(u.id) for u in everything)
    if any(groups.values()):
        if alone:
            notes.append(f"{alone} utterances are in no group of --group")
    else:
        notes += _repeated(everything)
        recordings = {_file(u, files) for u in train}
        parts = sum(_file(u, files) in recordings for u in test)
        if parts:
            notes.append(
                f"{parts} of {len(test)} test utterances are parts of "
                "recordings that are trained on too, the same microphone and "
                "session; --group keeps what belongs together on one side"
            )
    speakers = Counter(u.spk_id for u in train).most_common()
    if speakers and speakers[0][1] >= IMBALANCE * speakers[-1][1]:
        (most, many), (least, few) = speakers[0], speakers[-1]
        notes.append(
            f"speaker {most} has {many} training utterances and {least} has "
            f"{few}: every utterance is drawn alike; --balance_speakers=True "
            "in training draws every speaker alike"
        )
    return notes


def _repeated(utterances):
    """A note on files of a speaker whose names say the same sentence."""
    same = defaultdict(set)
    for u in utterances:
        same[u.spk_id, _base_name(u.wav)].add(u.wav)
    pairs = [sorted(wavs) for wavs in same.values() if len(wavs) > 1]
    if not pairs:
        return []
    one, other, *_ = min(pairs)
    return [
        f"{sum(map(len, pairs))} recordings have names that repeat for their "
        f"speaker, such as {one} and {other}; if these are microphones or "
        "sessions of the same sentence, keep them on one side with --group "
        f"'{_suggestion(one, other)}'"
    ]


def _base_name(wav):
    """The name of a file without folders and marks of a microphone."""
    stem = PurePosixPath(wav).stem.lower()
    for number in ("", r"\g<number>"):  # it may be that of the sentence
        base = re.sub(r"[^a-z0-9]+", "-", _MARK.sub(f"-{number}", stem))
        if base.strip("-"):
            return base.strip("-")
    return stem


def _suggestion(one, other):
    """A pattern for --group that finds the same in two names."""
    stems = PurePosixPath(one).stem, PurePosixPath(other).stem
    found = [_MARK.search(stem) for stem in stems]
    if not all(found):
        return STEM
    words = "|".join(sorted({mark["word"] for mark in found}))
    words = words if "|" not in words else f"(?:{words})"
    for pattern in (
        rf"(.+?)[-_. ]*{words}",
        rf"^{words}[-_. ]?[0-9]*[-_. ]+(.+)\.",
        rf"^{words}[0-9]*[-_. ]*(.+)\.",
    ):
        names = [
            re.search(pattern, PurePosixPath(w).name) for w in (one, other)
        ]
        if all(names) and names[0][1] == names[1][1]:
            return pattern
    return STEM

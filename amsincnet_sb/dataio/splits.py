"""Dividing utterances into train, valid and test, without leaks.

What belongs together stays on one side: utterances that overlap in a
recording, and what the user names (two microphones of the same sentence,
sessions). What may belong together is noted.
"""

import hashlib
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from pathlib import PurePosixPath

__all__ = ["divided", "leaks", "split_notes", "split_utterances"]

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
):
    """Divide each speaker's utterances into train, valid and test.

    At least one of each speaker's, and `test_fraction` of them, are for
    testing, and `validation_sentences` are held out. What happens to an
    utterance depends on the seed, its own ID and its speaker's other
    utterances alone: more speakers change nothing. Utterances of a speaker
    that have the same entry in `groups` (ID -> text, or "" for none) or
    overlap in a recording stay together, so that the numbers are met as far
    as whole groups can.

    Returns split -> list of Utterance, in the order given, and (file, reason)
    of speakers with too few utterances, and of test utterances that speak
    over another speaker's training utterance.
    """
    speakers = defaultdict(list)
    for u in utterances:
        speakers[u.spk_id].append(u)
    place, left_out, needed = {}, [], 2 + validation_sentences
    for speaker, own in speakers.items():
        units = _units(own, groups or {})
        least = 2 + (validation_sentences > 0)
        if len(own) < needed or len(units) < least:
            reason = (
                f"speaker {speaker} has {len(own)} usable utterance"
                f"{'s' * (len(own) > 1)} and needs {needed}"
            )
            if len(own) >= needed:
                reason = (
                    f"speaker {speaker}'s utterances overlap or belong together in "
                    f"{len(units)} group{'s' * (len(units) > 1)}, and {least} "
                    "are needed"
                )
            left_out += [(u.wav, reason) for u in own]
            continue
        units.sort(key=lambda unit: _drawn(seed, unit))
        tested = round(test_fraction * len(own))
        tested = min(max(tested, 1), len(own) - 1 - validation_sentences)
        spare = least - 1
        for split, wanted in (
            ("test", tested),
            ("valid", validation_sentences),
        ):
            chosen = _fill(units, wanted, spare) if wanted else []
            place |= {u: split for unit in chosen for u in unit}
            units = [unit for unit in units if unit not in chosen]
            spare = 1
        place |= {u: "train" for unit in units for u in unit}
    found = divided(utterances, place)
    for split in ("test", "valid"):
        over = leaks(found[split], found["train"])
        reason = "it speaks over another speaker's training utterance"
        left_out += [(u.wav, reason) for u in over]
        found[split] = [u for u in found[split] if u not in over]
    return found, left_out


def divided(utterances, place):
    """Split -> the utterances that `place` puts there, in the order given."""
    return {
        split: [u for u in utterances if place.get(u) == split]
        for split in SPLITS
    }


def _drawn(seed, unit):
    name = min(u.id for u in unit)
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def _fill(units, wanted, spare):
    """The first units that fit into a number of utterances; at least one."""
    chosen = []
    for unit in units:
        if len(unit) <= wanted and len(units) - len(chosen) > spare:
            chosen.append(unit)
            wanted -= len(unit)
    return chosen or [min(units, key=len)]


def _units(utterances, groups):
    """Lists of the utterances of one speaker that must stay together."""
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
    last = {}  # file -> the utterance that goes furthest so far
    for u in sorted(utterances, key=lambda u: u.start):
        other = last.get(u.wav)
        if other and u.start < other.stop:
            parent[root(u.id)] = root(other.id)
        if not other or u.stop > other.stop:
            last[u.wav] = u
    units = defaultdict(list)
    for u in utterances:
        units[root(u.id)].append(u)
    return list(units.values())


def leaks(tested, trained):
    """Test utterances with samples that training utterances have too."""
    spans = defaultdict(list)
    for u in trained:
        spans[u.wav].append((u.start, u.stop))
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
        whole = merged.get(u.wav, [])
        # The last that begins before the utterance ends.
        at = bisect_left(whole, [u.stop]) - 1
        if at >= 0 and whole[at][1] > u.start:
            found.add(u)
    return found


def split_notes(splits, groups):
    """What a user should know about a division.

    Arguments
    ---------
    splits : dict
        Split -> list of Utterance.
    groups : dict
        ID -> what the user says belongs together; nothing is suspected then.

    Returns
    -------
    list of str
    """
    train, test, notes = splits["train"], splits["test"], []
    if not any(groups.values()):
        notes += _repeated(train + splits["valid"] + test)
        recordings = {u.wav for u in train}
        parts = sum(u.wav in recordings for u in test)
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

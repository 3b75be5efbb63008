"""What the columns of a list mean: path, speaker, times and the rest.

People call the same thing by many names, and different things by one. A column
that might say which part of a recording is meant is understood or refused,
never passed over: the wrong audio would be trained on.
"""

import re
import unicodedata
from math import isfinite
from typing import NamedTuple

from amsincnet_sb.utils.errors import InputError

__all__ = ["Claims", "Columns", "Listed"]

# What people call the columns, in the order of preference.
ALIASES = {
    "path": "path wav file filename file_path filepath file_name wav_path "
    "wav_file wav_filename audio audio_path audio_file audio_filepath",
    "speaker": "speaker spk_id speaker_id spk spkid speaker_name client_id "
    "label",
    "id": "id utt_id utt utterance utterance_id key",
    "split": "split set subset partition",
    "channel": "channel channel_id",
    "channels": "channels num_channels n_channels nchannels",
    "rate": "sample_rate sampling_rate samplerate",
    "samples": "num_samples n_samples",
    "length": "length len",
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
# Longer than any utterance in seconds; whole numbers beyond count samples.
LONGEST = 1000

_UNITS = {
    **dict.fromkeys("time s sec secs second seconds".split(), "seconds"),
    **dict.fromkeys("ms msec millisecond milliseconds".split(), "ms"),
    **dict.fromkeys(("sample", "samples"), "samples"),
}
_ROLES = {
    **dict.fromkeys(("start", "begin", "onset", "offset"), "start"),
    **dict.fromkeys(("end", "stop"), "stop"),
    **dict.fromkeys(("duration", "dur", "length", "len"), "duration"),
}
_TIME = re.compile(
    rf"(?:(?:segment|seg|utt|utterance|speech|audio|clip)_)?"
    # "starts" is no start in seconds, but "startsec" is.
    rf"({'|'.join(_ROLES)})(?:(?:_|(?!s$))({'|'.join(_UNITS)}))?"
)
# Units of names without one; start and begin take that of the other column.
_BARE = {"offset": "seconds", "onset": "seconds", "end": "seconds"}
_BARE |= {"duration": "seconds", "dur": "seconds", "stop": "samples"}
# Words of other names that may select a part of a recording.
_PART = re.compile(
    r"(?:start|beg|end|stop|onset|offset).*|.*(?:start|end|time)|duration|dur"
    r"|length|len|samples?|secs?|seconds|ms|msec|from|to|fin|chan|ch|channels?"
    r"|side|frames?|vad|intervals?|times|timestamps?|timecodes?|t[01]"
    r"|[tx](?:min|max)"
)
_NO_PART = set(
    "beginner beginners endangered endonym stopword stopwords weekend "
    "trend friend backend frontend legend daytime lifetime runtime".split()
)
# What makes words harmless: a sample's ID, the time of a date, from a country.
_BESIDE = {
    frozenset({"sample", "from", "to"}): set(
        "id name text rate format width type size language lang accent country "
        "city user translated response reply".split()
    ),
    frozenset({"time", "datetime", "timestamp"}): set(
        "date datetime day created recorded updated uploaded upload "
        "modified".split()
    ),
    frozenset({"end"}): {"punctuation"},
}
# "in" and "out" are ends where all words are like these: cut_in, but born_in.
_ENDS = {"in", "out"}
_ENDED = _ENDS | set(
    "cut point mark marker pos position seg segment utt utterance clip audio "
    "wav speech edit t s".split()
)
_WHOLE = re.compile(r"[0-9]{1,15}")
_NUMBER = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,30})?(?:[eE]-?[0-9]{1,3})?")


class Claims(NamedTuple):
    """What a list says of a recording, to be compared with it; "" or None."""

    duration: float | None = None  # s, of the utterance or the recording
    samples: int | None = None  # the same, counted
    length: float | None = None  # either
    rate: int | None = None  # Hz, where samples are counted
    channels: int | None = None  # their number
    channel: str = ""  # the one that is meant


class Listed(NamedTuple):
    """An utterance as a corpus names it, not yet looked at."""

    wav: str  # relative to the data folder
    speaker: str
    id: str
    split: str | None = None  # None where the corpus leaves it open
    start: int | float = 0  # sample at the file's own rate, or second
    stop: int | float | None = None  # None for the end
    seconds: bool = False  # whether start and stop are
    claims: Claims = Claims()
    group: str = ""  # what must stay on one side of the split


class Columns:
    """Reads the rows of a list by the names of its columns.

    Arguments
    ---------
    source : str or Path
        The list, for messages.
    rows : list of (str, dict)
        Where a row stands, and its values by column.
    speakers : bool
        Whether a column gives the speaker; else one that could is not used.
    group : str, optional
        Name of the column that says what stays together.

    Raises
    ------
    InputError
        No column gives the path or the speaker, two give the same or give it
        differently, or one looks like a time or channel that is not
        understood.

    Example
    -------
    >>> rows = [("line 2", {"wav": "a.wav", "spk": "a", "offset": "1.5"})]
    >>> columns = Columns("a.csv", rows)
    >>> columns.describe()
    'path: wav, speaker: spk, start: offset (seconds)'
    >>> columns.read(*rows[0])[:6]
    ('a.wav', 'a', '', None, 1.5, None)
    """

    def __init__(self, source, rows, speakers=True, group=None):
        names = list(dict.fromkeys(name for _, row in rows for name in row))
        known = {}
        for name in names:
            if plain(name) in known:
                raise InputError(
                    f"{source}: the columns {known[plain(name)]!r} and "
                    f"{name!r} have the same name; remove one."
                )
            known[plain(name)] = name
        self.source, self.names, self.group = source, names, group
        self.used = {}
        for what, aliases in ALIASES.items():
            found = [known[a] for a in aliases.split() if a in known]
            if what == "speaker" and not speakers:
                found = []
            self.used[what] = found[0] if found else None
            if what in ("path", "speaker")[: 1 + speakers]:
                self._check_named(what, found, rows)
        self.units = self._times(known)
        self._check_rest()
        self._check_units(rows)

    def _check_named(self, what, found, rows):
        """Refuse a list with no column for it, or several that differ."""
        if not found:
            aliases = ", ".join(ALIASES[what].split())
            raise InputError(
                f"{self.source}: no column gives the {what}; one of {aliases} "
                f"is needed, and there are {', '.join(map(str, self.names))}."
            )
        first, *others = found
        for other in others:
            # A label beside a speaker is of something else.
            if other == self.group or plain(other) == "label":
                continue
            pairs = {
                (_scalar(row, first), _scalar(row, other)) for _, row in rows
            }
            pairs = {pair for pair in pairs if all(pair)}
            # The name of a file beside its path says nothing else.
            same = all(another in (one, _base(one)) for one, another in pairs)
            if what == "speaker":  # names for numbers, say
                sides = [len({*side}) for side in zip(*pairs)]
                same = all(side == len(pairs) for side in sides)
            if not same:
                raise InputError(
                    f"{self.source}: {first} and {other} both look like the "
                    f"{what}, and differ; remove or rename one."
                )

    def _times(self, known):
        """Enter the columns of times; role -> unit."""
        units, words = {}, {}
        for name in known:
            found = _TIME.fullmatch(name)
            if not found or name in ALIASES["length"].split():
                continue
            word, unit = found.groups()
            role = _ROLES[word]
            if role in units:
                raise InputError(
                    f"{self.source}: {self.used[role]} and {known[name]} both "
                    f"give the {role}; remove one."
                )
            self.used[role], words[role] = known[name], word
            units[role] = _UNITS[unit] if unit else _BARE.get(word)
        if "start" in units and units["start"] is None:
            units["start"] = units.get("stop") or units.get("duration")
            if units["start"] is None:
                raise InputError(
                    f"{self.source}: {self.used['start']} may be in seconds "
                    "or in samples; call it offset (seconds), or add a column "
                    "end (then both are seconds) or stop (then samples)."
                )
        limits = ["start", "stop"] if "stop" in units else ["start", "duration"]
        limits = [role for role in limits if role in units]
        if len({units[role] == "samples" for role in limits}) > 1:
            told = " and ".join(
                f"{self.used[role]} in {units[role]}" for role in limits
            )
            raise InputError(
                f"{self.source}: by their names {told} count differently; "
                "start and stop are samples; start and end, or offset and "
                "duration, are seconds."
            )
        self.in_seconds = all(units[role] != "samples" for role in limits)
        return units

    def _check_rest(self):
        """Refuse columns that may be times; note those that are not used."""
        used = {*self.used.values(), self.group}
        self.rest = [name for name in self.names if name not in used]
        for name in self.rest:
            if _may_select(name):
                raise InputError(
                    f"{self.source}: column {name!r} looks like a time or a "
                    "channel, but what it means is not known; call it start "
                    "and stop (samples), offset, duration or end (seconds), "
                    "or channel; if it is something else, rename or remove it."
                )

    def _check_units(self, rows):
        """Refuse whole numbers in seconds that can only be samples."""
        for role in ("stop", "duration"):
            name = self.used.get(role)
            if self.units.get(role) != "seconds" or _TIME.fullmatch(
                plain(name)
            ).group(2):
                continue
            texts = [_text(where, row, name) for where, row in rows]
            if not all(_WHOLE.fullmatch(text) for text in texts if text):
                continue
            starts = len(texts) * [0]
            if role == "stop" and self.used.get("start"):
                starts = [row.get(self.used["start"]) for _, row in rows]
            for (where, _), text, start in zip(rows, texts, starts):
                begin = str(start or 0).strip()
                begin = int(begin) if _WHOLE.fullmatch(begin) else 0
                if text and int(text) - begin > LONGEST:
                    raise InputError(
                        f"{where}: {name} is {text}, which is read as seconds "
                        "and looks like samples or milliseconds; name samples "
                        f"start and stop, milliseconds {role}_ms, or write "
                        f"seconds as {text}.0."
                    )

    def describe(self):
        """The columns in words, used and not used."""
        names = {what: name for what, name in self.used.items() if name}
        told = [
            f"{what}: {name}"
            + (f" ({self.units[what]})" if what in self.units else "")
            for what, name in names.items()
        ]
        if self.group:
            told.append(f"group: {self.group}")
        rest = ", ".join(map(str, self.rest))
        return ", ".join(told) + (f"; not used: {rest}" if rest else "")

    def read(self, where, row):
        """A row as Listed, with the path as it is written.

        Raises InputError, which names the place, if a value is missing or
        cannot be what its column says.
        """
        text = {
            what: "" if name is None else _text(where, row, name)
            for what, name in self.used.items()
        }
        for role in self.units:  # a time that is no number is no missing one
            text[role] = text[role] or _nan(row.get(self.used[role]))
        for what in ("path", "speaker"):
            if self.used[what] is not None and not text[what]:
                raise InputError(f"{where}: the {what} is missing.")
        split = text["split"].lower()
        if self.used["split"] is not None and split not in SPLITS:
            raise InputError(
                f"{where}: {self.used['split']} is {text['split']!r} but must "
                "be train, valid or test."
            )
        start, stop, duration = (
            self._time(where, role, text.get(role))
            for role in ("start", "stop", "duration")
        )
        if duration is not None and "stop" not in self.units:
            stop, duration = (start or 0) + duration, None
        return Listed(
            text["path"],
            unicodedata.normalize("NFC", text["speaker"]),
            text["id"],
            SPLITS.get(split),
            start or 0,
            stop,
            self.in_seconds and not (start is stop is None),
            self._claims(where, text, duration),
            _text(where, row, self.group) if self.group else "",
        )

    def _claims(self, where, text, duration):
        samples, rate, channels = (
            self._whole(where, what, text[what])
            for what in ("samples", "rate", "channels")
        )
        length = self._time(where, "length", text["length"])
        if self.in_seconds:
            rate = None  # of no consequence
        if self.units.get("duration") == "samples":
            samples, duration = duration, None
        return Claims(
            duration, samples, length, rate, channels, text["channel"]
        )

    def _time(self, where, role, text):
        """A time in seconds (float) or samples (int); None where empty."""
        if not text:
            return None
        unit = self.units.get(role, "seconds")
        if unit == "samples":
            return self._whole(where, role, text)
        value = float(text) if _NUMBER.fullmatch(text) else -1.0
        if value < 0 or not isfinite(value):
            raise InputError(
                f"{where}: {self.used[role]} is {text!r} but must be {unit} "
                "such as 1.25."
            )
        return value / 1000 if unit == "ms" else value

    def _whole(self, where, what, text):
        if text and not _WHOLE.fullmatch(text):
            advice = "."
            if what in self.units:
                advice = (
                    " of samples; name seconds start and end, or offset and "
                    "duration."
                )
            raise InputError(
                f"{where}: {self.used[what]} is {text!r} but must be a whole "
                f"number{advice}"
            )
        return int(text) if text else None


def plain(name):
    """A column's name in lower case with one ``_`` between words.

    Example
    -------
    >>> plain("startTime"), plain("duration[ms]"), plain("ID")
    ('start_time', 'duration_ms', 'id')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", str(name))
    return re.sub(r"[\W_]+", "_", words).strip("_").lower()


def _may_select(name):
    """Whether a column's name may mean a part of a recording, or a channel.

    Example
    -------
    >>> [_may_select(x) for x in ("tstart", "cut_in", "from_s", "first_sample")]
    [True, True, True, True]
    >>> [_may_select(x) for x in ("gender", "born_in", "weekend", "date_time")]
    [False, False, False, False]
    """
    words = {*plain(name).split("_")}
    found = {word for word in words if _PART.fullmatch(word)} - _NO_PART
    for harmless, beside in _BESIDE.items():
        if words & beside:
            found -= harmless
    return bool(found or words & _ENDS and words <= _ENDED)


def _base(path):
    return re.split(r"[/\\]", path)[-1]


def _scalar(row, column):
    """A value as text; empty where it is missing, or is none."""
    value = row.get(column)
    # pandas writes NaN for what is missing.
    if value is None or isinstance(value, (dict, list)) or value != value:
        return ""
    return str(value).strip()


def _nan(value):
    return "NaN" if value != value else ""


def _text(where, row, column):
    """A value of a list; empty where there is none."""
    if isinstance(row.get(column), (dict, list, bool)):
        raise InputError(f"{where}: {column} must be text or a number.")
    return _scalar(row, column)

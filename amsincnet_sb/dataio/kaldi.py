"""Kaldi data folders: wav.scp, utt2spk and segments; nothing is run."""

import os
import re
import shlex

from amsincnet_sb.dataio.lists import text_lines
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import is_plain_file

__all__ = ["file_of_pipe", "kaldi_rows"]

ADVICE = "correct the Kaldi data folder"
# Commands that write a whole recording: program -> options with a value, and
# options without one, that change nothing about the samples.
COMMANDS = {
    "cat": ((), ()),
    "flac": ((), ("-c", "-d", "-s", "--stdout", "--decode", "--silent")),
    "sph2pipe": (("-f", "-c"), ("-p",)),
}
FORMATS = ("wav", "rif", "riff", "sph")  # of sph2pipe -f


def kaldi_rows(source):
    """The rows of a Kaldi data folder, as :class:`Columns` reads them.

    Arguments
    ---------
    source : Path
        Holds wav.scp and utt2spk, and possibly segments (seconds) and
        reco2file_and_channel.

    Returns
    -------
    rows : list of (str, dict)
    left_out : list of (str, str)
        Utterances of utt2spk without audio, and the reason.

    Raises
    ------
    InputError
        A line is malformed, names what other files do not have, or is a
        command that does more than write a file.
    """
    if not (source / "utt2spk").exists():
        raise InputError(
            f"{source}: it has wav.scp and no utt2spk, which says who speaks; "
            "add it."
        )
    speakers = _pairs(source / "utt2spk")
    lines = _pairs(source / "wav.scp")
    recordings = {name: file_of_pipe(*line) for name, line in lines.items()}
    if (source / "reco2file_and_channel").exists():
        pairs = _pairs(source / "reco2file_and_channel")
        for name, (where, text) in pairs.items():
            path, channel = recordings.get(name, ("", ""))
            recordings[name] = path, channel or text.split()[-1]
    if (source / "segments").exists():
        parts = _segments(source / "segments", recordings)
    else:
        parts = {name: (where, name, {}) for name, (where, _) in lines.items()}
    rows = []
    for utterance, (where, recording, times) in parts.items():
        if utterance not in speakers:
            raise InputError(
                f"{where}: {utterance} has no speaker in utt2spk; add it."
            )
        path, channel = recordings[recording]
        row = {"id": utterance, "path": path, "speaker": speakers[utterance][1]}
        row |= {"recording": recording, "channel": channel, **times}
        rows.append((where, row))
    reason = "utt2spk names it, but it has no audio"
    left_out = [(name, reason) for name in speakers if name not in parts]
    return rows, left_out


def _pairs(path):
    """Key -> (where, value) of a file with a key and a value a line."""
    is_plain_file(path)  # a pipe would block
    found = {}
    for where, line in text_lines(path, ADVICE):
        key, *value = line.split(maxsplit=1)
        if not value:
            raise InputError(f"{where}: it has nothing after {key}.")
        if key in found:
            raise InputError(f"{where}: the ID {key!r} occurs twice.")
        found[key] = where, value[0].strip()
    if not found:
        raise InputError(f"{path}: it names nothing.")
    return found


def _segments(path, recordings):
    """Utterance -> (where, recording, start and end in seconds)."""
    parts = {}
    for utterance, (where, text) in _pairs(path).items():
        recording, *times = text.split()
        if len(times) != 2:
            raise InputError(
                f"{where}: it must be an utterance, a recording, a start and "
                "an end in seconds."
            )
        if recording not in recordings:
            raise InputError(f"{where}: {recording} is not in wav.scp; add it.")
        start, end = times
        # Kaldi writes -1 for the end of the recording.
        end = "" if re.fullmatch(r"-1(\.0*)?", end) else end
        parts[utterance] = where, recording, {"offset": start, "end": end}
    return parts


def file_of_pipe(where, text):
    """(path, channel) of a file, or of a command that writes that file alone.

    Raises InputError for any other command: none is run.

    Example
    -------
    >>> file_of_pipe("wav.scp, line 1", "sph2pipe -f wav -p -c 2 'a b.sph' |")
    ('a b.sph', '2')
    >>> file_of_pipe("wav.scp, line 2", "a b.wav")
    ('a b.wav', '')
    """
    if not text.startswith("|") and not text.endswith("|"):
        return text, ""
    try:
        program, *words = shlex.split(text.removesuffix("|"))
    except ValueError:
        program, words = "", []
    name = os.path.basename(program)
    with_value, plain = COMMANDS.get(name, ((), ()))
    files, given, unknown = [], {}, name not in COMMANDS
    words = iter(words)
    for word in words:
        if word in with_value:
            given[word] = next(words, "")
        elif word.startswith("-"):
            letters = re.fullmatch("-[a-z]+", word)
            flags = [f"-{x}" for x in word[1:]] if letters else [word]
            unknown |= not set(flags) <= set(plain)
            given |= dict.fromkeys(flags)
        else:
            files.append(word)
    encodes = name == "flac" and not given.keys() & {"-d", "--decode"}
    converts = given.get("-f", "wav") not in FORMATS
    if unknown or encodes or converts or len(files) != 1:
        raise InputError(
            f"{where}: it is a command, and commands are not run; only cat, "
            "flac -c -d and sph2pipe -f wav of a file are understood; write "
            "its output to a file and name that."
        )
    return files[0], given.get("-c") or ""

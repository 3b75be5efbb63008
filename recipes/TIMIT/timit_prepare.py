"""TIMIT for speaker identification: a corpus folder becomes CSV manifests.

The protocol is that of SincNet: the SA sentences, which everybody reads, are
dropped; the SX sentences are for training, the SI sentences for testing; each
sentence is cut to its speech, from the first to the last sample named in its
.WRD file. No audio is copied. (SpeechBrain's ``timit_prepare.py`` is for speech
recognition: its training and test speakers are different people.)

Read are LDC's layout (``TRAIN/DR1/FVMH0/SX206.WAV``) in any case, SPHERE or
RIFF, the folder that holds it, copies with ``.WAV.wav`` names, and NLTK's flat
layout (``dr1-fvmh0/sx206.wav``).

LDC's catalogue: https://catalog.ldc.upenn.edu/LDC93S1
Protocol: M. Ravanelli, Y. Bengio, "Speaker Recognition from Raw Waveform with
SincNet", SLT 2018, https://arxiv.org/abs/1808.00158
"""

import os
import re
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import NamedTuple

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from amsincnet_sb.dataio.audio import audio_info, is_silent, read_audio
from amsincnet_sb.dataio.corpus import SHORTEST, divided
from amsincnet_sb.dataio.lists import corpus_files
from amsincnet_sb.dataio.manifest import (
    Provenance,
    Utterance,
    check_unedited,
    earlier_preparation,
    fingerprint,
    write_preparation,
)
from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import check_outputs, is_plain_file

logger = get_logger(__name__)

SUFFIXES = (".wav", ".wrd")
KEEP = "train on it as it is with --skip_prep=True"
WRD_RATE = 16_000  # Hz; .WRD files count samples of the original recording
MAX_WRD_BYTES = 100_000  # real ones have a few hundred

_LDC = re.compile(r"(train|test)/(dr[1-8])/([a-z0-9]+)/([^/]+)")
_FLAT = re.compile(r"()(dr[1-8])-([a-z0-9]+)/([^/]+)")
_FLAT_FOLDER = re.compile(r"dr[1-8]-[a-z0-9]+")
_SENTENCE = re.compile(r"(s[aix])[0-9]+")
_WORD = re.compile(r"\s*([0-9]{1,12})\s+([0-9]{1,12})(?:\s.*)?")
_OUTER = re.compile(r"timit.*|ldc93s1.*|data")  # folders around TRAIN


class Scan(NamedTuple):
    """What :func:`scan_timit` finds."""

    utterances: list  # by dialect region, speaker, sentence
    left_out: list  # (file, reason)
    notes: list  # oddities of what was used


class Sentence(NamedTuple):
    """One sentence of one speaker, with every copy of its audio."""

    dialect: str
    speaker: str
    name: str
    wavs: tuple
    wrd: str | None


def prepare_timit(
    data_folder,
    train_annotation,
    test_annotation,
    valid_annotation=None,
    all_speakers=False,
    validation_sentences=0,
    skip_prep=False,
):
    """Write TIMIT's manifests, unless they are up to date.

    A `prepare.json` beside `train_annotation` says what they were made from.
    When the corpus or an option has changed since, or a manifest is gone, the
    next call prepares again. A manifest that somebody wrote or changed is not
    replaced.

    Arguments
    ---------
    data_folder : str
        TIMIT, or the folder around it. Paths in the manifests are relative to
        it, so it is also what to give for SpeechBrain's ``$data_root``.
    train_annotation, test_annotation, valid_annotation : str
        CSV files to write. `valid_annotation` is written only when
        `validation_sentences` is not 0.
    all_speakers : bool
        Take the 168 speakers of TEST as well as the 462 of TRAIN.
    validation_sentences : int
        How many training sentences of each speaker, the last in order, to
        hold out for validation.
    skip_prep : bool
        Do nothing.

    Returns
    -------
    Provenance or None
        Speakers, sentences and hours of each split, and what was left out;
        None when skipped.

    Raises
    ------
    InputError
        The folder is not TIMIT, nothing usable remains, a speaker would have
        no training sentence left, or a manifest was changed by hand or cannot
        be written.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> folder = getfixture("tmp_path")
    >>> speaker = folder / "TIMIT" / "TRAIN" / "DR1" / "FVMH0"
    >>> speaker.mkdir(parents=True)
    >>> for name in ("SX206.WAV", "SI1466.WAV"):
    ...     soundfile.write(speaker / name, np.sin(np.arange(16000)), 16000)
    >>> summary = prepare_timit(
    ...     folder / "TIMIT", folder / "train.csv", folder / "test.csv"
    ... )
    >>> summary.counts["train"]["sentences"], summary.notes[0]
    (1, 'TRAIN/DR1/FVMH0/SI1466.WAV: no .WRD file, taken whole')
    """
    if skip_prep:
        return None
    if validation_sentences < 0 or (
        validation_sentences and not valid_annotation
    ):
        raise InputError(
            f"validation_sentences is {validation_sentences} but must be 0, "
            "or positive with valid_annotation given."
        )
    paths = {
        "train": train_annotation,
        "valid": valid_annotation,
        "test": test_annotation,
    }
    wanted = {
        k: v for k, v in paths.items() if k != "valid" or validation_sentences
    }
    beside = Path(train_annotation).parent
    root = _find_timit(data_folder, all_speakers)
    options = {
        "corpus": "TIMIT",
        "folder": root,
        "all_speakers": bool(all_speakers),
        "validation_sentences": validation_sentences,
    }
    files = corpus_files(Path(data_folder, root), SUFFIXES)
    current = fingerprint(options, ("\0".join(map(str, f)) for f in files))
    earlier = earlier_preparation(beside)
    if earlier and earlier.matches(current, wanted):
        logger.info(f"TIMIT is prepared and up to date in {beside}")
        return earlier
    if earlier:
        check_unedited(paths, earlier, KEEP)
    check_outputs([*paths.values(), beside / Provenance.FILE])

    scan = scan_timit(data_folder, all_speakers)
    summary = write_preparation(
        paths,
        _split(scan.utterances, validation_sentences),
        Provenance(options, current, left_out=scan.left_out, notes=scan.notes),
        KEEP,
    )
    for line in summary.report():
        logger.info(line)
    return summary


def scan_timit(data_folder, all_speakers=False):
    """Read every sentence of TIMIT and decide what can be used, as a Scan.

    Left out, with the reason: files that cannot be read, are cut short,
    silent or hold NaN; second copies; training sentences shorter than 200 ms;
    a speaker who turns up again under another dialect region or in TEST; and
    the test sentences of a speaker without a training sentence. The flat
    layout knows no TEST, and all of it is always taken.

    Raises InputError if the folder is not TIMIT, or nothing usable remains.
    """
    root = _find_timit(data_folder, all_speakers)
    sentences, left_out = _list_sentences(data_folder, root, all_speakers)
    kept, notes = [], []
    checked = tqdm(
        prefetch(partial(_check, data_folder), sentences, group=16),
        total=len(sentences),
        desc="TIMIT",
        disable=None,  # no bar unless someone watches
    )
    for utterance, bad, odd in checked:
        kept += [utterance] if utterance else []
        left_out += bad
        notes += odd
    trained = {u.spk_id for u in kept if _trains(u)}
    tested = {u.spk_id for u in kept if not _trains(u)}
    left_out += [
        (u.wav, f"speaker {u.spk_id} has no training sentence")
        for u in kept
        if u.spk_id not in trained
    ]
    if not trained & tested:
        why = [f"; the first problem is {': '.join(r)}" for r in left_out]
        raise InputError(
            f"data_folder {data_folder} has no speaker with a usable SX "
            "sentence to train on and a usable SI sentence to test with"
            f"{''.join(why[:1]).rstrip('.')}."
        )
    untested = sorted(trained - tested)
    notes += [f"speaker {name} has no test sentence" for name in untested]
    kept = [u for u in kept if u.spk_id in trained]
    return Scan(kept, sorted(left_out), notes)


def _split(utterances, validation_sentences):
    """Train, valid (the last of each speaker's SX sentences) and test."""
    speakers = defaultdict(list)
    for u in utterances:
        if _trains(u):
            speakers[u.spk_id].append(u)
    place = {u: "train" if _trains(u) else "test" for u in utterances}
    for speaker, own in speakers.items():
        if len(own) <= validation_sentences:
            raise InputError(
                f"validation_sentences is {validation_sentences}, but speaker "
                f"{speaker} has {len(own)} training sentences and must keep "
                "one."
            )
        held_out = own[len(own) - validation_sentences :]
        place |= dict.fromkeys(held_out, "valid")
    return divided(utterances, place)


def _find_timit(data_folder, all_speakers):
    """Where TRAIN, or the folders of the flat layout, lie in `data_folder`."""
    try:
        found = sorted(os.listdir(data_folder or ""))
    except OSError as error:
        raise InputError(
            f"data_folder {data_folder} cannot be listed ({error.strerror}); "
            "give the folder that holds TIMIT's TRAIN and TEST."
        ) from error
    wanted = ["test", "train"] if all_speakers else ["train"]
    pending, complete = ["."], {}
    for folder in pending:
        names = _folders(data_folder, folder)
        if any(_FLAT_FOLDER.fullmatch(name.lower()) for name in names):
            complete.setdefault(_real(data_folder, folder), folder)
            continue
        halves = {
            n.lower()
            for n in names
            if n.lower() in ("train", "test")
            and any(map(_is_region, _folders(data_folder, folder, n)))
        }
        missing = [half for half in wanted if half not in halves]
        if halves and not missing:
            complete.setdefault(_real(data_folder, folder), folder)
            continue
        if halves and not complete:
            raise InputError(
                f"data_folder {data_folder} has TIMIT's "
                f"{' and '.join(sorted(halves)).upper()} but no "
                f"{missing[0].upper()} folder with DR1 to DR8 in it; complete "
                "the copy."
            )
        if any(map(_is_region, names)) and not complete:
            raise InputError(
                f"data_folder {data_folder} has DR folders but no TRAIN; give "
                "the folder that holds TRAIN."
            )
        if folder.count("/") < 3:
            outer = (n for n in names if _OUTER.fullmatch(n.lower()))
            pending += [f"{folder}/{n}".removeprefix("./") for n in outer]
    if len(complete) > 1:
        raise InputError(
            f"data_folder {data_folder} holds several copies of TIMIT, "
            f"{' and '.join(complete.values())}; give the folder of one."
        )
    if complete:
        return next(iter(complete.values()))
    raise InputError(
        f"data_folder {data_folder} is not TIMIT: TRAIN/DR1/<speaker>/SX1.WAV "
        "or dr1-<speaker>/sx1.wav was looked for, and it holds "
        f"{', '.join(found[:5]) or 'nothing'}{', ...' * (len(found) > 5)}."
    )


def _list_sentences(data_folder, root, all_speakers):
    """The SX and SI sentences by their names, in order; what is left out."""
    wavs, wrds, homes = defaultdict(list), {}, defaultdict(set)
    left_out = []
    halves = ("train", "test", "") if all_speakers else ("train", "")
    for name, *_ in corpus_files(Path(data_folder, root), SUFFIXES):
        path = name if root == "." else f"{root}/{name}"
        found = _LDC.fullmatch(name.lower()) or _FLAT.fullmatch(name.lower())
        half, dialect, speaker, file = found.groups() if found else [""] * 4
        if found and half not in halves:
            continue
        sentence, _, suffix = file.partition(".")
        kind = _SENTENCE.fullmatch(sentence)
        if not kind or suffix not in ("wav", "wav.wav", "wrd"):
            if name.lower().endswith(".wav"):
                left_out.append((path, "it is not named as TIMIT's sentences"))
            continue
        if kind[1] == "sa":
            continue
        key = dialect, speaker, sentence, half
        if suffix == "wrd":
            wrds.setdefault(key, path)
            continue
        # TRAIN sorts before TEST, so that a speaker in both keeps TRAIN.
        homes[speaker].add((half != "train", dialect))
        wavs[key].append((suffix, path))

    sentences = []
    for key, copies in sorted(wavs.items()):
        dialect, speaker, sentence, half = key
        paths = tuple(path for _, path in sorted(copies))
        if (half != "train", dialect) != min(homes[speaker]):
            reason = f"speaker {speaker} also appears elsewhere"
            left_out += [(path, reason) for path in paths]
            continue
        sentences.append(
            Sentence(dialect, speaker, sentence, paths, wrds.get(key))
        )
    return sentences, left_out


def _check(data_folder, sentence):
    """Read a sentence in full: (Utterance or None, left out, notes)."""
    utterance, left_out, notes = None, [], []
    for wav in sentence.wavs:
        if utterance:
            left_out.append((wav, f"it is a second copy of {utterance.wav}"))
            continue
        path = os.path.join(data_folder, wav)
        try:
            info = audio_info(path)
            wave = read_audio(path, sample_rate=info.sample_rate)
        except InputError as error:
            left_out.append((wav, str(error).removeprefix(f"{path}: ")))
            continue
        remarks = []
        start, stop = _limits(data_folder, sentence.wrd, info, remarks)
        seconds = (stop - start) / info.sample_rate
        if is_silent(wave[start:stop]):
            left_out.append((wav, "it is silent"))
            continue
        if seconds < SHORTEST:
            if sentence.name.startswith("sx"):
                left_out.append((wav, f"it has {seconds:.3f} s of speech"))
                continue
            remarks.append(f"{seconds:.3f} s of speech")
        if info.channels > 1:
            remarks.append(f"{info.channels} channels, averaged")
        if info.sample_rate != WRD_RATE:
            remarks.append(f"{info.sample_rate} Hz, resampled when read")
        notes += [f"{wav}: {remark}" for remark in remarks]
        utterance = Utterance(
            f"{sentence.dialect}-{sentence.speaker}-{sentence.name}",
            seconds,
            wav,
            start,
            stop,
            sentence.speaker,
        )
    return utterance, left_out, notes


def parse_wrd(text):
    """Find the first and the last sample of the words in a .WRD file.

    Its lines are ``start stop word``; words may overlap, as in about twenty
    files of TIMIT. None when the text is not of that form.

    Example
    -------
    >>> parse_wrd("2680 7320 flying\\n7320 17160 standby\\n")
    (2680, 17160)
    """
    lines = [line for line in text.splitlines() if line.strip()]
    words = [_WORD.fullmatch(line) for line in lines]
    if not words or not all(words):
        return None
    start = min(int(word[1]) for word in words)
    stop = max(int(word[2]) for word in words)
    return (start, stop) if start < stop else None


def _limits(data_folder, wrd, info, remarks):
    """First and last sample of speech at the file's rate; may add remarks."""
    whole = 0, info.samples
    if wrd is None:
        remarks.append("no .WRD file, taken whole")
        return whole
    path = os.path.join(data_folder, wrd)
    try:
        is_plain_file(path)  # a pipe would block
        with open(path, "rb") as file:
            text = file.read(MAX_WRD_BYTES).decode("latin-1")
    except (OSError, InputError):
        text = ""
    span = parse_wrd(text)
    if span is None:
        remarks.append("malformed .WRD file, taken whole")
        return whole
    # Exact in whole numbers: a floor for the start, a ceiling for the stop.
    start = span[0] * info.sample_rate // WRD_RATE
    stop = -(-span[1] * info.sample_rate // WRD_RATE)
    if start >= info.samples:
        remarks.append(".WRD file of a longer recording, taken whole")
        return whole
    if stop > info.samples:
        remarks.append("words beyond the end of the audio, clipped")
    return start, min(stop, info.samples)


def _trains(utterance):
    return utterance.id.rsplit("-", 1)[1].startswith("sx")


def _is_region(name):
    return re.fullmatch(r"dr[1-8]", name.lower()) is not None


def _real(*parts):
    return os.path.realpath(os.path.join(*parts))


def _folders(*parts):
    try:
        with os.scandir(os.path.join(*parts)) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []

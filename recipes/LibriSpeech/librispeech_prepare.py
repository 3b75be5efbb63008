#!/usr/bin/env python3
"""LibriSpeech for speaker identification: a corpus folder becomes manifests.

As in the paper on SincNet, each speaker has 12 to 15 seconds to train on and a
test utterance of 2 to 6 seconds; all subsets together have its 2484 speakers.
Its lists were drawn at random and differ from ours. No audio is copied.

To prepare, do the following; it prints how to train:
> python librispeech_prepare.py /path/to/LibriSpeech manifests

Corpus: https://www.openslr.org/12
Protocol: M. Ravanelli, Y. Bengio, "Speaker Recognition from Raw Waveform with
SincNet", SLT 2018, https://arxiv.org/abs/1808.00158
"""

import amsincnet_sb.utils.imports  # isort: skip  # noqa: F401
import hashlib
import os
import re
from collections import defaultdict
from pathlib import Path

from amsincnet_sb.dataio.audio import audio_info
from amsincnet_sb.dataio.corpus import (
    SHORTEST,
    check_output,
    check_recordings,
    divided,
    training_advice,
    write_to_folder,
)
from amsincnet_sb.dataio.listings import Listed, Listing
from amsincnet_sb.dataio.lists import corpus_files
from amsincnet_sb.dataio.manifest import Provenance, fingerprint
from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.options import Parser, number
from amsincnet_sb.utils.errors import InputError, exit_on_input_error
from amsincnet_sb.utils.files import absolute

TRAIN_SECONDS = 12, 15  # of each speaker, all training utterances together
TEST_SECONDS = 2, 6  # of each speaker's test utterance

_FILE = re.compile(r"(?:.*/)?([0-9]+)/([0-9]+)/\1-\2-[0-9]+\.flac")


def prepare_librispeech(data_folder, output_folder, seed=1234):
    """Write LibriSpeech's manifests.

    Arguments
    ---------
    data_folder : str or Path
        Holds any of LibriSpeech's subsets, at any depth; what the paths in
        the manifests are relative to.
    output_folder : str or Path
        Gets train.csv, test.csv and prepare.json.
    seed : int
        Of the choice of utterances.

    Returns
    -------
    Provenance
        Speakers, utterances and hours of both, and what was left out.

    Raises
    ------
    InputError
        The folder is not LibriSpeech, fewer than two speakers have enough
        speech, or a manifest was changed by hand or cannot be written.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> folder, noise = getfixture("tmp_path"), np.random.default_rng(0)
    >>> for speaker in ("19", "26"):
    ...     chapter = folder / "train-clean-100" / speaker / "198"
    ...     chapter.mkdir(parents=True)
    ...     for i, seconds in enumerate((14, 9, 3)):
    ...         file = chapter / f"{speaker}-198-000{i}.flac"
    ...         wave = noise.uniform(-0.5, 0.5, 16000 * seconds)
    ...         soundfile.write(file, wave, 16000)
    >>> summary = prepare_librispeech(folder, folder / "manifests")
    >>> summary.counts["test"]["speakers"], summary.counts["test"]["sentences"]
    (2, 2)
    """
    check_output(output_folder)
    root = absolute(data_folder)
    speakers, left_out = _speakers(root)
    chosen = []
    for speaker, files in speakers.items():
        own = _choose(speaker, files, seed)
        chosen += own
        if not own:
            left_out.append((speaker, "the speaker has too little speech"))
    listing = Listing("LibriSpeech", root, chosen, left_out)
    utterances, left_out, notes, digest = check_recordings(listing)

    given = {listed.id: listed.split for listed in chosen}
    seconds = defaultdict(float)
    for u in utterances:
        seconds[u.spk_id, given[u.id]] += u.duration
    place = {
        u: given[u.id]
        for u in utterances
        if seconds[u.spk_id, "train"] >= TRAIN_SECONDS[0]
        and seconds[u.spk_id, "test"]
    }
    splits = divided(utterances, place)
    left_out += [
        (u.wav, "another of the speaker is unusable")
        for u in utterances
        if u not in place
    ]
    if len(splits["test"]) < 2:
        why = "".join(f", {file}: {why}" for file, why in left_out[:1])
        raise InputError(
            f"{data_folder} has fewer than two speakers with "
            f"{TRAIN_SECONDS[0]} s of usable speech to train on and a test "
            f"utterance{why.rstrip('.')}."
        )
    options = {"corpus": "LibriSpeech", "data_folder": root, "seed": seed}
    summary = Provenance(
        options,
        fingerprint(options, [digest]),
        left_out=left_out,
        notes=notes,
    )
    return write_to_folder(output_folder, splits, summary)


def _speakers(data_folder):
    """Speaker -> [(path, samples, Hz)], in the order of their numbers.

    Also what is left out: pairs (file, reason).
    """
    paths = {}
    for path, *_ in corpus_files(data_folder, (".flac",)):
        if _FILE.fullmatch(path):
            paths.setdefault(Path(path).stem, path)
    if not paths:
        raise InputError(
            f"{data_folder} is not LibriSpeech: no file called "
            "SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac is in it."
        )

    def measure(path):
        """Length and rate of a file, or what is wrong with it."""
        full = os.path.join(data_folder, path)
        try:
            info = audio_info(full)
        except InputError as error:
            return str(error).removeprefix(f"{full}: ").rstrip(".")
        return path, info.samples, info.sample_rate

    speakers, left_out = defaultdict(list), []
    measured = prefetch(measure, paths.values(), group=16)
    for path, found in zip(paths.values(), measured):
        if isinstance(found, str):
            left_out.append((path, found))
        else:
            speakers[Path(path).parts[-3]].append(found)
    return dict(sorted(speakers.items(), key=lambda s: int(s[0]))), left_out


def _choose(speaker, files, seed):
    """Draw the utterances of a speaker; none if there is too little speech.

    The test utterance is a whole file if any lasts 2 to 6 s, and otherwise
    the first 6 s of a longer one. Others are for training, until 12 s are
    reached; what exceeds 15 s is cut off the last.
    """

    def drawn(file):
        """A random order that is the same everywhere."""
        return hashlib.sha256(f"{seed} {Path(file[0]).stem}".encode()).digest()

    def listed(path, split, stop):
        """A row of the manifest."""
        return Listed(path, speaker, Path(path).stem, split, 0, stop)

    files = sorted(files, key=drawn)
    shortest, longest = TEST_SECONDS
    able = [f for f in files if f[1] >= shortest * f[2]]
    if not able:
        return []
    test = next((f for f in able if f[1] <= longest * f[2]), able[0])
    chosen = [listed(test[0], "test", min(test[1], longest * test[2]))]
    seconds = 0
    for path, frames, rate in files:
        if path == test[0] or frames < SHORTEST * rate:
            continue
        stop = min(frames, int((TRAIN_SECONDS[1] - seconds) * rate))
        chosen.append(listed(path, "train", stop))
        seconds += stop / rate
        if seconds >= TRAIN_SECONDS[0]:
            return chosen
    return []


def _parser():
    parser = Parser(
        description="LibriSpeech's manifests for speaker identification."
    )
    parser.add_argument("data_folder", help="holds subsets of LibriSpeech")
    parser.add_argument("output_folder", help="folder for manifests")
    parser.add_argument("--seed", type=number("--seed"), default=1234)
    return parser


def main(arguments=None):
    """Prepare the corpus named on the command line."""
    with exit_on_input_error():
        options = _parser().parse_args(arguments)
        summary = prepare_librispeech(
            options.data_folder, options.output_folder, options.seed
        )
        advice = training_advice(options.output_folder, summary)
        print(*summary.report(), *advice, sep="\n")


if __name__ == "__main__":
    main()

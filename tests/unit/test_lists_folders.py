"""Folders, Kaldi's and lhotse's: who speaks where, and which side it is on."""

import os
import shlex
import subprocess

import numpy as np
import pytest
import soundfile

from amsincnet_sb.cli import main
from amsincnet_sb.dataio.corpus import prepare_own_corpus, training_command
from amsincnet_sb.dataio.kaldi import file_of_pipe
from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.manifest import (
    Provenance,
    Utterance,
    read_manifest,
    write_manifest,
)
from amsincnet_sb.dataio.splits import leaks, split_notes, split_utterances
from amsincnet_sb.utils.errors import InputError

RATE = 8000


def put(root, *names, seconds=1):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = np.random.default_rng(list(os.fsencode(str(path))))
        wave = seed.uniform(-0.5, 0.5, int(seconds * RATE))
        with open(path, "wb") as file:
            soundfile.write(file, wave, RATE, format="WAV")


def manifest(out, split):
    return read_manifest(out / f"{split}.csv")


def speakers(listing):
    return sorted({row.speaker for row in listing.utterances})


# Who speaks -----------------------------------------------------------------


def test_speakers_one_level_deeper(tmp_path):
    put(
        tmp_path,
        *(f"{d}/{s}/{k}.wav" for d, s in ("Ax", "Ay", "Bz") for k in "12"),
    )
    found = list_corpus(tmp_path)
    assert speakers(found) == ["A", "B"]
    assert "1 of 2 speakers (A)" in found.notes[0]
    assert "use --speaker-level 2" in found.notes[0]
    found = list_corpus(tmp_path, speaker_level=2)
    assert speakers(found) == ["x", "y", "z"] and not found.notes
    assert found.taken[1] == "speakers: folders of level 2 (x, y, z)"
    with pytest.raises(InputError, match="level 3.*lower --speaker-level"):
        list_corpus(tmp_path, speaker_level=3)
    with pytest.raises(InputError, match="speaker_level is 0"):
        list_corpus(tmp_path, speaker_level=0)


def test_up_from_a_link(tmp_path, monkeypatch):
    real = tmp_path / "real"
    put(real, *(f"wavs/{s}/{k}.wav" for s in "ab" for k in "12"))
    (real / "deep").mkdir()
    (tmp_path / "link").symlink_to(real / "deep")
    monkeypatch.chdir(tmp_path)
    found = prepare_own_corpus("link/../wavs", "link/../out")
    assert found.options["data_folder"] == str(real / "wavs")
    assert f"--manifest={real}/out " in training_command("link/../out", found)


def test_one_folder_around_all_speakers(tmp_path):
    put(tmp_path, *(f"wav/{s}/{k}.wav" for s in "ab" for k in "12"))
    words = "one speaker alone, wav; .* use --speaker-level 2"
    with pytest.raises(InputError, match=words):
        prepare_own_corpus(tmp_path, tmp_path / "out")


def test_names_that_may_not_be_meant(tmp_path):
    put(tmp_path, "Ann/1.wav", "ann/1.wav", "unknown/1.wav")
    first, second = list_corpus(tmp_path).notes
    assert first == "Ann and ann are taken for different speakers"
    assert second.startswith("a speaker is called unknown")


def test_level_below_train_and_test(tmp_path):
    put(
        tmp_path,
        *(f"{d}/f/{s}/{d}.wav" for d in ("train", "test") for s in "ab"),
    )
    assert speakers(list_corpus(tmp_path, speaker_level=2)) == ["a", "b"]


def test_a_level_of_what_has_none(tmp_path):
    put(tmp_path, "a/1.wav")
    (tmp_path / "l.csv").write_text("path,speaker\na/1.wav,a\n")
    with pytest.raises(InputError, match="l.csv is a CSV .*not a folder of"):
        list_corpus(tmp_path / "l.csv", speaker_level=1)
    with pytest.raises(InputError, match="both name the speakers"):
        list_corpus(tmp_path, speaker_level=1, speaker_pattern="(a)")


def test_one_name_in_two_places_is_noted(tmp_path):
    put(tmp_path, "A/s1/1.wav", "B/s1/2.wav", "B/s2/3.wav")
    (note,) = list_corpus(tmp_path, speaker_level=2).notes
    assert "one person each, such as s1: A/s1, B/s1" in note


@pytest.mark.parametrize(
    "pattern, names",
    [
        (r"^([a-z]+)\d", ["ann", "bob"]),
        (r"(?P<speaker>ann|bob)\d(_x)?", ["ann", "bob"]),
        (r"(day\d)/", ["day1", "day2"]),
    ],
)
def test_speakers_in_names(tmp_path, pattern, names):
    put(
        tmp_path, "day1/ann1.wav", "day1/bob2.wav", "day2/ann3_x.wav", "odd.wav"
    )
    found = list_corpus(tmp_path, speaker_pattern=pattern)
    assert speakers(found) == names
    assert [file for file, _ in found.left_out] == ["odd.wav"]


def test_speakers_in_names_of_a_list(tmp_path):
    put(tmp_path, "ann1.wav", "bob1.wav")
    (tmp_path / "l.csv").write_text("file\nann1.wav\nbob1.wav\n")
    found = list_corpus(tmp_path / "l.csv", speaker_pattern=r"^(\D+)")
    assert speakers(found) == ["ann", "bob"]


@pytest.mark.parametrize(
    "option, value, words",
    [
        ("speaker_pattern", "(", "regular expression"),
        ("speaker_pattern", "x", "one group in brackets"),
        ("speaker_pattern", "(a)(b)", "one group in brackets"),
        ("speaker_pattern", "(zzz)", "finds no speaker in any name"),
        ("group", "(zzz)", "no column and finds nothing"),
        ("group", "session", "a column of the list or a regular"),
    ],
)
def test_patterns_that_find_nothing(tmp_path, option, value, words):
    put(tmp_path, "a/1.wav")
    with pytest.raises(InputError, match=words):
        list_corpus(tmp_path, **{option: value})


# Kaldi ----------------------------------------------------------------------


def write_lines(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines))


def test_segments_and_pipes(tmp_path):
    put(tmp_path, "a b.wav", "c.wav", seconds=3)
    data = tmp_path / "data"
    data.mkdir()
    write_lines(
        data / "wav.scp",
        f"r1 cat '{tmp_path}/a b.wav' |",
        f"r2 /usr/bin/sph2pipe -f wav -p {tmp_path}/c.wav |",
    )
    write_lines(
        data / "segments",
        *(f"u{i} r1 {i}.0 {i + 1}.00" for i in range(3)),
        *("v0 r2 0.25 1.5", "v1 r2 1.5 -1"),
    )
    people = [f"u{i} s" for i in range(3)] + ["v0 t", "v1 t", "gone t"]
    write_lines(data / "utt2spk", *people)
    summary = prepare_own_corpus(data, tmp_path / "out")
    used = manifest(tmp_path / "out", "train") + manifest(
        tmp_path / "out", "test"
    )
    assert sorted((u.id, u.wav, u.start, u.stop) for u in used) == [
        *((f"u{i}", "a b.wav", i * RATE, (i + 1) * RATE) for i in range(3)),
        ("v0", "c.wav", 2000, 12000),
        ("v1", "c.wav", 12000, 24000),
    ]
    assert summary.left_out[0][0] == "gone"
    with pytest.raises(InputError, match="1 group, and 2 are needed"):
        prepare_own_corpus(data, tmp_path / "o", group="recording")
    write_lines(data / "segments", "u0 r3 0 1")
    with pytest.raises(InputError, match="segments, line 1: r3 is not in"):
        list_corpus(data)


@pytest.mark.parametrize(
    "text, found",
    [
        ("cat x.wav|", ("x.wav", "")),
        ("flac -cds 'x y.flac' |", ("x y.flac", "")),
        ("flac --decode --stdout x.flac |", ("x.flac", "")),
        ("sph2pipe -c 1 -f wav x.sph |", ("x.sph", "1")),
        ("flac -c x.wav |", None),
        ("flac -c -d -s --skip=3 x.flac |", None),
        ("sph2pipe -f ulaw x.sph |", None),
        ("sph2pipe -f wav -t 1:2 x.sph |", None),
        ("cat a.wav b.wav |", None),
        ("cat a.wav | sox - -r 8k - |", None),
        ("sox x.wav -t wav - |", None),
        ("cat 'x.wav |", None),
        ("|", None),
        ("| cat x.wav", None),
    ],
)
def test_commands_are_read_and_not_run(text, found):
    if found:
        assert file_of_pipe("line 1", text) == found
        return
    with pytest.raises(InputError, match="line 1: .*not run.*write its output"):
        file_of_pipe("line 1", text)


# What belongs together ------------------------------------------------------


def sides(out):
    return {s: {u.wav for u in manifest(out, s)} for s in ("train", "test")}


def microphones(root):
    names = [
        f"p{s}/{m}_{k:02}.wav"
        for s in "12"
        for k in range(6)
        for m in ("far", "near")
    ]
    put(root, *names)
    return root


def test_microphones_stay_together(tmp_path):
    root, out = microphones(tmp_path / "c"), tmp_path / "out"
    summary = prepare_own_corpus(root, out)
    assert "24 recordings have names that repeat" in summary.notes[0]
    # What the note suggests is what helps.
    suggested = shlex.split(summary.notes[0])[-1]
    summary = prepare_own_corpus(root, out, group=suggested)
    assert "repeat" not in "".join(summary.notes)
    both = sides(out)
    assert [len(both[s]) for s in ("train", "test")] == [20, 4]
    number = {s: {wav[:3] + wav[-6:] for wav in both[s]} for s in both}
    assert not number["train"] & number["test"]


@pytest.mark.parametrize(
    "one, other, noted",
    [
        ("s/a_mic1.wav", "s/a_mic2.wav", True),
        ("s/mic1/a.wav", "s/mic2/a.wav", True),
        ("s/007-CH0.wav", "s/007-CH1.wav", True),
        ("s/session 1 a.wav", "s/session 2 a.wav", True),
        ("s/a.left.wav", "s/a.right.wav", True),
        ("s/a_1.wav", "s/a_2.wav", False),
        ("s/far_01.wav", "s/far_02.wav", False),
        ("s/a.wav", "t/a.wav", False),
        ("s/march.wav", "s/mach.wav", False),
    ],
)
def test_names_that_repeat(one, other, noted):
    own = [Utterance(w, 1.0, w, 0, 9, w[0]) for w in (one, other)]
    splits = {"train": own[:1], "valid": [], "test": own[1:]}
    assert bool(split_notes(splits, {})) == noted


def rows(*columns, header="path,speaker,offset,duration,day"):
    return "\n".join([header, *(",".join(map(str, c)) for c in columns)])


def test_a_column_keeps_days_together(tmp_path):
    put(tmp_path, "r.wav", "s.wav", seconds=8)
    parts = [
        (f"{s}.wav", s, i, 1, f"d{i // 2}") for s in "rs" for i in range(8)
    ]
    (tmp_path / "l.csv").write_text(rows(*parts))
    out = tmp_path / "out"
    prepare_own_corpus(
        tmp_path / "l.csv", out, group="day", validation_sentences=2
    )
    for speaker in "rs":
        days = {
            s: {
                u.start // RATE // 2
                for u in manifest(out, s)
                if u.spk_id == speaker
            }
            for s in ("train", "valid", "test")
        }
        assert [len(days[s]) for s in days] == [2, 1, 1]
        assert len(set.union(*days.values())) == 4


@pytest.mark.parametrize("held_out", [0, 1])
def test_conversations_of_several_speakers_stay_together(held_out):
    """Thirty talks of two of six people each, three turns a person."""
    own, groups = [], {}
    for talk in range(30):
        for s in {talk % 6, (talk + 1 + talk // 6) % 6}:
            for k in range(3):
                name = f"{talk}-{s}-{k}"
                own.append(Utterance(name, 1.0, name, 0, 9, f"s{s}"))
                groups[name] = f"talk {talk}"
    for seed in range(5):
        found, left_out = split_utterances(own, 0.3, held_out, seed, groups)
        talks = [{groups[u.id] for u in rows} for rows in found.values()]
        assert sum(map(len, talks)) == 30 and not left_out
        for split in ("train", "valid", "test")[:: 2 - held_out]:
            assert len({u.spk_id for u in found[split]}) == 6
        assert 20 <= len(found["test"]) <= 60  # of 180; 54 are asked for


def test_several_speakers_in_one_file(tmp_path):
    """Turns of two people, who interrupt each other once."""
    put(tmp_path, "talk.wav", seconds=12)
    turns = [("talk.wav", "ab"[i % 2], i, 1, "") for i in range(12)]
    turns[4] = ("talk.wav", "a", 4, 1.5, "")
    (tmp_path / "l.csv").write_text(rows(*turns))
    for seed in range(12):
        out = tmp_path / f"out{seed}"
        summary = prepare_own_corpus(tmp_path / "l.csv", out, seed=seed)
        train, test = manifest(out, "train"), manifest(out, "test")
        assert not leaks(test, train) and len(train + test) >= 11
        assert all("speaks over" in why for _, why in summary.left_out)
    assert any("parts of recordings" in note for note in summary.notes)


def test_overlapping_parts_stay_together():
    """Windows of two seconds, one second apart: pairs of a long recording."""
    own = [
        Utterance(
            f"{s}{i}",
            2.0,
            f"{s}.wav",
            3 * (i // 2) + i % 2,
            3 * (i // 2) + i % 2 + 2,
            s,
        )
        for s in "ab"
        for i in range(12)
    ]
    for seed in range(5):
        found, left_out = split_utterances(own, 0.3, 1, seed)
        assert not left_out and all(found.values())
        assert not leaks(found["test"], found["train"] + found["valid"])


def test_a_given_split_that_leaks(tmp_path):
    put(tmp_path, "a.wav", "b.wav", seconds=6)
    parts = [
        (f"{s}.wav", s, *p)
        for s in "ab"
        for p in ((0, 2, "train"), (1.5, 2, "test"), (4, 2, "test"))
    ]
    (tmp_path / "l.csv").write_text(
        rows(*parts, header="path,speaker,offset,duration,split")
    )
    summary = prepare_own_corpus(tmp_path / "l.csv", tmp_path / "out")
    assert [why for _, why in summary.left_out] == 2 * [
        "training utterances have samples of it"
    ]
    with pytest.raises(InputError, match="--group keeps together, into"):
        prepare_own_corpus(tmp_path / "l.csv", tmp_path / "out", group="path")


def test_very_many_of_one_speaker():
    many = [Utterance(f"m{i}", 1.0, f"m{i}.wav", 0, 9, "m") for i in range(40)]
    few = [Utterance(f"f{i}", 1.0, f"f{i}.wav", 0, 9, "f") for i in range(4)]
    splits = {"train": many + few, "valid": [], "test": []}
    (note,) = split_notes(splits, {})
    assert "m has 40 training utterances and f has 4" in note
    assert "--balance_speakers=True" in note
    assert not split_notes({**splits, "train": many[:39] + few}, {})


# Edited manifests, and what is printed --------------------------------------


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "valid.csv"])
def test_an_edited_manifest_is_not_lost(tmp_path, name):
    root, out = tmp_path / "c", tmp_path / "out"
    put(root, *(f"{s}/{k}.wav" for s in "ab" for k in range(4)))
    prepare_own_corpus(root, out, validation_sentences=1)
    edited = read_manifest(out / name)[1:]
    write_manifest(out / name, edited)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(
        InputError, match=f"{name} was changed since it was pre"
    ):
        prepare_own_corpus(root, out)
    assert before == {p.name: p.read_bytes() for p in out.iterdir()}
    (out / name).unlink()
    prepare_own_corpus(root, out)


def test_edited_while_unfinished(tmp_path):
    root, out = tmp_path / "c", tmp_path / "out"
    put(root, *(f"{s}/{k}.wav" for s in "ab" for k in range(4)))
    prepare_own_corpus(root, out)
    for seed in (2, 3):
        made = Provenance.read(out)
        made.written = sorted(made.manifests.values())
        made.write(out, {})  # as a kill leaves it
        prepare_own_corpus(root, out, seed=seed)
    made = Provenance.read(out)
    made.written = sorted(made.manifests.values())
    made.write(out, {})
    (out / "test.csv").write_text("mine")
    with pytest.raises(InputError, match="test.csv was changed"):
        prepare_own_corpus(root, out)


@pytest.mark.parametrize(
    "name",
    ["run #2", "x: y", "it's", "$HOME `id` \\", "a\nb\t", "-n é", b"\xff*"],
)
def test_the_command_works_as_typed(tmp_path, name):
    folder = os.path.join(str(tmp_path), os.fsdecode(name))
    made = Provenance({"data_folder": folder}, "")
    command = training_command(folder, made)
    assert command.isprintable()
    words = ["bash", "-c", f"printf '%s\\0' {command}"]
    typed = subprocess.run(words, capture_output=True, check=True).stdout
    *_, given, data, _ = map(os.fsdecode, typed.split(b"\0"))
    assert (given, data) == (f"--manifest={folder}", f"--data_folder={folder}")


def test_what_the_command_prints(tmp_path, capsys):
    root = microphones(tmp_path / "c")
    options = ["--output", str(tmp_path / "out"), "--speaker-level=1"]
    options += ["--group", r"_(\d+)\.", "--speaker_level", "1"]
    assert main(["prepare", str(root), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{root}: folder with a folder for each speaker"
    assert lines[1:3] == [
        "  24 recordings",
        "  speakers: folders of level 1 (p1, p2)",
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("", "--output", "out"),
        ("c", "--output", ""),
        ("c", "--output", "out", "--data-folder", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    tmp_path, capsys, monkeypatch, words
):
    microphones(tmp_path / "c")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["prepare", *words])
    assert "is empty; give a path" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["c"]

"""Anybody's recordings: every description, every check, the split."""

import csv
import json
import os
import zlib

import numpy as np
import pytest
import soundfile
from hypothesis import (
    given,
    settings,
    strategies as st,
)

from amsincnet_sb.dataio.corpus import (
    find_manifests,
    prepare_own_corpus,
    split_utterances,
)
from amsincnet_sb.dataio.manifest import Provenance, Utterance, read_manifest
from amsincnet_sb.utils.errors import InputError

SPEAKERS = ("ann", "bob", "Zoë")
RATE = 8000


def noise(name, frames=4000):
    seed = zlib.crc32(name.encode())
    return np.random.default_rng(seed).uniform(-0.5, 0.5, frames)


def put(path, wave=None, rate=RATE, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = noise(path.as_posix()) if wave is None else wave
    soundfile.write(path, wave, rate, **how)
    return path


@pytest.fixture
def tree(tmp_path):
    """Three speakers with four sentences each, at several depths."""
    root = tmp_path / "corpus"
    for speaker in SPEAKERS:
        for file in ("1.wav", "2.flac", "old/3.WAV", "old/er/4.aiff"):
            put(root / speaker / file, noise(f"{speaker}{file}"))
    (root / "ann" / "notes.txt").write_text("not a recording")
    return root


@pytest.fixture
def out(tmp_path):
    return tmp_path / "manifests"


def wavs(root):
    return sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.suffix.lower() in (".wav", ".flac", ".aiff")
    )


def splits(out):
    return {
        name: read_manifest(out / f"{name}.csv")
        for name in ("train", "valid", "test")
        if (out / f"{name}.csv").exists()
    }


def reasons(summary):
    return {os.path.basename(file): why for file, why in summary.left_out}


def refused(*arguments, **options):
    with pytest.raises(InputError) as error:
        prepare_own_corpus(*arguments, **options)
    text = str(error.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_folders_of_speakers(tree, out):
    summary = prepare_own_corpus(tree, out)
    found = splits(out)
    assert found.keys() == {"train", "test"}
    everything = found["train"] + found["test"]
    assert sorted(u.wav for u in everything) == wavs(tree)
    for u in everything:
        assert u.spk_id == u.wav.split("/")[0]
        assert (u.start, u.stop, u.duration) == (0, 4000, 0.5)
    for speaker in SPEAKERS:
        assert sum(u.spk_id == speaker for u in found["test"]) == 1
    assert summary.options["data_folder"] == str(tree)
    assert summary.left_out == []
    assert summary.notes == ["utterances at 8000 Hz, resampled when read: 12"]
    assert summary.counts["train"]["sentences"] == 9
    assert Provenance.read(out) == summary
    assert sorted(os.listdir(out)) == ["prepare.json", "test.csv", "train.csv"]


def test_a_data_folder_around_it(tree, out, tmp_path):
    prepare_own_corpus(tree, out, data_folder=tmp_path)
    assert {u.wav.split("/")[0] for u in splits(out)["train"]} == {"corpus"}
    inside = tree / "ann"
    assert "outside" in refused(tree, out, data_folder=inside)


def test_folders_that_are_split_already(tmp_path, out):
    for part, number in (("Train", 2), ("dev", 1), ("test", 1)):
        for speaker in SPEAKERS:
            for i in range(number):
                put(tmp_path / "own" / part / speaker / f"{i}.wav")
    put(tmp_path / "own" / "test" / "stranger" / "1.wav")
    summary = prepare_own_corpus(tmp_path / "own", out)
    sizes = {name: len(rows) for name, rows in splits(out).items()}
    assert sizes == {"train": 6, "valid": 3, "test": 3}
    assert all(u.wav.startswith("Train/") for u in splits(out)["train"])
    assert summary.left_out == [
        ("test/stranger/1.wav", "speaker stranger has no training utterance")
    ]


def test_what_is_left_out_and_why(tree, out):
    ann = tree / "ann"
    put(tree / "stray.wav")
    (ann / "empty.wav").touch()
    (ann / "text.wav").write_text("This is no audio.")
    (ann / "phone.m4a").write_bytes(b"\0\0\0 ftypM4A ")
    put(ann / "silent.wav", np.zeros(4000))
    put(ann / "short.wav", noise("short", 1599))
    nan = noise("nan")
    nan[7] = np.nan
    put(ann / "nan.wav", nan, subtype="FLOAT")
    cut = put(ann / "cut.wav")
    cut.write_bytes(cut.read_bytes()[:2000])
    put(ann / "zz copy.flac", soundfile.read(ann / "1.wav")[0])
    put(tree / "bob" / "of both.wav", noise("both"))
    put(tree / "Zoë" / "both.wav", noise("both"))
    (ann / "price$.wav").write_bytes((ann / "1.wav").read_bytes()[:-100])
    put(ann / "price$.wav", noise("price"))
    put(tree / "one" / "only.wav")
    put(ann / "stereo.wav", np.stack([noise("left"), noise("right")], 1))

    summary = prepare_own_corpus(tree, out)
    found = reasons(summary)
    expected = {
        "stray.wav": "no speaker's folder",
        "empty.wav": "empty",
        "text.wav": "cannot be read as audio",
        "phone.m4a": "cannot be read as audio",
        "silent.wav": "it is silent",
        "short.wav": "it lasts 0.200 s",
        "nan.wav": "NaN",
        "cut.wav": "cut short",
        "zz copy.flac": "the same samples as ann/1.wav",
        "of both.wav": "speaker Zoë has the same samples in Zoë/both.wav",
        "both.wav": "speaker bob has the same samples in bob/of both.wav",
        "price$.wav": "without $",
        "only.wav": "speaker one has 1 usable utterance and needs 2",
    }
    assert found.keys() == expected.keys()
    for name, why in expected.items():
        assert why in found[name], name
    assert "utterances with 2 channels, averaged: 1" in summary.notes
    used = [u.wav for rows in splits(out).values() for u in rows]
    assert len(used) == 13 and "ann/stereo.wav" in used


class TestSplit:
    def utterances(self, speakers, sentences):
        return [
            Utterance(f"{s}-{i}", 1.0, f"{s}/{i}.wav", 0, 9, f"s{s}")
            for s in range(speakers)
            for i in range(sentences)
        ]

    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(1, 12),
        st.floats(0.01, 0.99),
        st.integers(0, 3),
        st.integers(0, 99),
    )
    def test_sizes(self, sentences, fraction, held_out, seed):
        given = self.utterances(3, sentences)
        found, left_out = split_utterances(given, fraction, held_out, seed)
        if sentences < 2 + held_out:
            assert len(left_out) == len(given) and not any(found.values())
            return
        assert not left_out
        assert sorted(u.id for rows in found.values() for u in rows) == sorted(
            u.id for u in given
        )
        for rows in found.values():
            assert rows == [u for u in given if u in rows]
        for speaker in ("s0", "s1", "s2"):
            train, valid, test = (
                sum(u.spk_id == speaker for u in found[name])
                for name in ("train", "valid", "test")
            )
            assert valid == held_out and train >= 1 and test >= 1
            if 1 <= fraction * sentences <= sentences - 1 - held_out:
                assert abs(test - fraction * sentences) <= 0.5

    def test_more_speakers_change_nothing(self):
        few, many = self.utterances(3, 8), self.utterances(9, 8)
        assert set(split_utterances(few)[0]["test"]) < set(
            split_utterances(many)[0]["test"]
        )

    def test_the_seed_decides(self):
        given = self.utterances(9, 8)
        one, again, other = (
            split_utterances(given, seed=seed)[0]["test"] for seed in (1, 1, 2)
        )
        assert one == again != other
        # Not the same sentence of each speaker.
        assert len({u.id.split("-")[1] for u in one}) > 4


def rows_of(tree):
    return [{"path": wav, "speaker": wav.split("/")[0]} for wav in wavs(tree)]


def write_csv(path, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path, entries):
    path.write_text(json.dumps(entries))
    return path


def write_lines(folder, name, pairs):
    lines = [f"{key} {value}\n" for key, value in pairs]
    (folder / name).write_text("".join(lines), encoding="utf-8")


def write_kaldi(folder, tree):
    folder.mkdir()
    write_lines(folder, "utt2spk", [(w, w.split("/")[0]) for w in wavs(tree)])
    write_lines(folder, "wav.scp", [(w, tree / w) for w in wavs(tree)])
    return folder


def write_lists(folder, tree):
    """As for the authors' code; each speaker's last utterance is a test."""
    chosen = {False: [], True: []}
    for wav in wavs(tree):
        chosen[wav.endswith("4.aiff")].append(wav)
    folder.mkdir()
    for name, part in (("TIMIT_train", False), ("TIMIT_test", True)):
        (folder / f"{name}.scp").write_text("\n".join(chosen[part]) + "\n")
    labels = {wav: SPEAKERS.index(wav.split("/")[0]) for wav in wavs(tree)}
    np.save(folder / "TIMIT_labels.npy", labels)
    return folder


def speechbrain_rows(tree, root):
    return [
        {"ID": wav, "wav": f"{root}/{wav}", "spk_id": wav.split("/")[0]}
        for wav in wavs(tree)
    ]


# How the corpus is called, and a function that describes it in a new file.
DESCRIPTIONS = {
    "csv": ("CSV", lambda at, tree: write_csv(at / "a.csv", rows_of(tree))),
    "semicolons": (
        "CSV",
        lambda at, tree: write_csv(at / "a.csv", rows_of(tree), ";"),
    ),
    "tsv": (
        "CSV",
        lambda at, tree: write_csv(at / "a.tsv", rows_of(tree), "\t"),
    ),
    "speechbrain csv": (
        "CSV",
        lambda at, tree: write_csv(
            at / "a.csv", speechbrain_rows(tree, "$data_root")
        ),
    ),
    "speechbrain json": (
        "JSON",
        lambda at, tree: write_json(
            at / "a.json",
            {row.pop("ID"): row for row in speechbrain_rows(tree, "{root}")},
        ),
    ),
    "json list": (
        "JSON",
        lambda at, tree: write_json(at / "a.json", rows_of(tree)),
    ),
    "kaldi": ("Kaldi", lambda at, tree: write_kaldi(at / "kaldi", tree)),
}


class TestManifests:
    """The same corpus described in other ways gives the same manifests."""

    @pytest.fixture
    def expected(self, tree, tmp_path):
        prepare_own_corpus(tree, tmp_path / "expected")
        return splits(tmp_path / "expected")

    @pytest.mark.parametrize("name", DESCRIPTIONS)
    def test_description(self, tree, out, expected, tmp_path, name):
        kind, describe = DESCRIPTIONS[name]
        summary = prepare_own_corpus(describe(tmp_path, tree), out, tree)
        assert splits(out) == expected
        assert summary.options["corpus"].startswith(f"{kind} ")

    def test_elsewhere_with_absolute_paths(self, tree, out, expected, tmp_path):
        rows = [{**r, "path": str(tree / r["path"])} for r in rows_of(tree)]
        summary = prepare_own_corpus(write_csv(tmp_path / "a.csv", rows), out)
        assert summary.options["data_folder"] == str(tmp_path)
        (tmp_path / "deep").mkdir()
        deep = write_csv(tmp_path / "deep" / "a.csv", rows)
        summary = prepare_own_corpus(deep, out)
        assert summary.options["data_folder"] == str(tree)
        assert splits(out) == expected

    def test_lists_of_the_authors_code(self, tree, out, tmp_path):
        lists = write_lists(tmp_path / "lists", tree)
        summary = prepare_own_corpus(lists, out, tree)
        assert summary.options["corpus"].startswith("folder of .scp lists")
        found = {(u.wav, u.spk_id) for u in splits(out)["test"]}
        assert found == {
            (f"{name}/old/er/4.aiff", str(i)) for i, name in enumerate(SPEAKERS)
        }
        assert len(splits(out)["train"]) == 9

    def test_a_split_column_wins(self, tree, out):
        rows = rows_of(tree)
        for row in rows:
            number = int(os.path.basename(row["path"])[0])
            row["split"] = ["", "Test", "train", "train", "dev"][number]
        source = write_csv(tree / "all.csv", rows)
        prepare_own_corpus(source, out, seed=5)
        names = {
            split: {os.path.basename(u.wav)[0] for u in found}
            for split, found in splits(out).items()
        }
        assert names == {"test": {"1"}, "train": {"2", "3"}, "valid": {"4"}}
        sentence = refused(source, out, validation_sentences=1)
        assert "validation_sentences" in sentence

    def test_parts_of_a_recording(self, tmp_path, out):
        rows = []
        for speaker in SPEAKERS:
            put(tmp_path / f"{speaker}.wav", noise(speaker, 9000))
            for start, stop in ((0, 3000), (3000, 6000), (6000, "")):
                part = {"start": start, "stop": stop}
                rows.append({"wav": f"{speaker}.wav", "spk": speaker, **part})
        rows.append({**rows[0], "start": 8999, "stop": 20000})
        source = write_csv(tmp_path / "parts.csv", rows)
        summary = prepare_own_corpus(source, out)
        found = splits(out)
        limits = sorted(
            (u.start, u.stop)
            for u in found["train"] + found["test"]
            if u.spk_id == "bob"
        )
        assert limits == [(0, 3000), (3000, 6000), (6000, 9000)]
        assert [why for _, why in summary.left_out] == [
            "it has no samples from 8999 to 20000"
        ]


BAD_CSV = [
    "",
    "path,speaker\n",
    "path,speaker\na.wav\n",
    'path,speaker\n"a.wav,ann\n',
    "path,speaker\n,ann\n",
    "path,speaker,split\na.wav,ann,maybe\n",
    "path,speaker,start\na.wav,ann,1.5\n",
    "path,speaker,start\na.wav,ann,-1\n",
]
BAD_JSON = [
    "",
    "null",
    "3",
    "[]",
    '["a.wav"]',
    '{"a": "a.wav"}',
    '[{"path": ["a.wav"], "speaker": "ann"}]',
    '[{"path": null, "speaker": "ann"}]',
    "[" * 100_000,
]


class TestRefused:
    """One sentence, and nothing is written."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, out):
        yield
        assert not out.exists()

    def test_no_source(self, tmp_path, out):
        assert "no such file" in refused(tmp_path / "none", out)
        (tmp_path / "a.zip").touch()
        assert "neither" in refused(tmp_path / "a.zip", out)

    def test_no_recordings(self, tmp_path, out):
        (tmp_path / "own").mkdir()
        assert "folder for each speaker" in refused(tmp_path / "own", out)

    def test_one_speaker(self, tree, out):
        sentence = refused(tree.parent, out)
        assert "one speaker alone, corpus" in sentence

    def test_nothing_usable(self, tree, out):
        for wav in wavs(tree):
            (tree / wav).write_bytes(b"")
        sentence = refused(tree, out)
        assert "fewer than two speakers" in sentence and "empty" in sentence

    def test_one_sentence_each(self, tree, out):
        for wav in wavs(tree):
            if not wav.endswith("1.wav"):
                (tree / wav).unlink()
        assert "1 usable utterance and needs 2" in refused(tree, out)

    def test_no_test_sentence(self, tree, out):
        rows = [{**row, "split": "train"} for row in rows_of(tree)]
        source = write_csv(tree / "all.csv", rows)
        assert "no usable utterance to test with" in refused(source, out)

    def test_wrong_columns(self, tree, out):
        rows = [{"path": row["path"], "who": "x"} for row in rows_of(tree)]
        sentence = refused(write_csv(tree / "all.csv", rows), out)
        assert "speaker" in sentence and "there are path, who" in sentence
        (tree / "all.json").write_text(json.dumps(rows))
        assert "there are path, who" in refused(tree / "all.json", out)

    def test_missing_files(self, tree, out):
        rows = rows_of(tree)
        rows[1]["path"] = "ann/none.wav"
        rows[2]["path"] = "ann/neither.wav"
        sentence = refused(write_csv(tree / "all.csv", rows), out)
        assert "line 3" in sentence and "none.wav and 1 more" in sentence
        assert "--data-folder" in sentence

    def test_duplicate_ids(self, tree, out):
        rows = [{"ID": "same", **row} for row in rows_of(tree)]
        source = write_csv(tree / "all.csv", rows)
        assert "line 3: the ID 'same' occurs twice" in refused(source, out)
        (tree / "all.json").write_text('{"a": {}, "a": {}}')
        assert "'a' occurs twice" in refused(tree / "all.json", out)

    def test_outside_the_data_folder(self, tree, out):
        rows = rows_of(tree)
        rows[0]["path"] = "../secret.wav"
        put(tree.parent / "secret.wav")
        source = write_csv(tree / "all.csv", rows)
        assert "secret.wav is outside" in refused(source, out, tree)

    @pytest.mark.parametrize(
        "suffix, text",
        [
            *((".csv", text) for text in BAD_CSV),
            *((".json", text) for text in BAD_JSON),
        ],
    )
    def test_bad_lists(self, tmp_path, out, suffix, text):
        path = tmp_path / f"all{suffix}"
        path.write_text(text)
        assert str(path) in refused(path, out)

    def test_a_command_is_not_run(self, tmp_path, out):
        canary = tmp_path / "canary"
        write_lines(tmp_path, "utt2spk", [("a", "ann")])
        for command in (f"touch {canary} |", f"| touch {canary}"):
            write_lines(tmp_path, "wav.scp", [("a", command)])
            assert "line 1: it is a command" in refused(tmp_path, out)
        assert not canary.exists()

    def test_half_a_kaldi_folder(self, tree, tmp_path, out):
        kaldi = tmp_path / "data"
        kaldi.mkdir()
        wav = str(tree / "ann" / "1.wav")
        write_lines(kaldi, "wav.scp", [("a", wav), ("b", wav)])
        assert "no utt2spk" in refused(kaldi, out)
        write_lines(kaldi, "utt2spk", [("a", "ann")])
        assert "b has no speaker" in refused(kaldi, out)
        write_lines(kaldi, "utt2spk", [("a", "ann"), ("a", "bob")])
        assert "line 2: the ID 'a' occurs twice" in refused(kaldi, out)
        write_lines(kaldi, "utt2spk", [("a", "")])
        assert "nothing after a" in refused(kaldi, out)
        write_lines(kaldi, "segments", [("a", "b 0 1")])
        assert "it has segments" in refused(kaldi, out)

    def test_options(self, tree, out):
        for fraction in (0, 1, -1, float("nan")):
            assert "test_fraction" in refused(tree, out, test_fraction=fraction)
        assert "-1" in refused(tree, out, validation_sentences=-1)


class TestPreparedFolder:
    def test_made_again(self, tree, out):
        first = prepare_own_corpus(tree, out, validation_sentences=1)
        assert splits(out).keys() == {"train", "valid", "test"}
        second = prepare_own_corpus(tree, out)
        assert splits(out).keys() == {"train", "test"}
        assert second.fingerprint != first.fingerprint
        again = prepare_own_corpus(tree, out)
        assert again == second
        put(tree / "ann" / "1.wav", noise("another"))
        assert prepare_own_corpus(tree, out).fingerprint != again.fingerprint

    def test_nobody_elses_manifests_are_replaced(self, tree, out):
        out.mkdir()
        own = write_csv(out / "train.csv", rows_of(tree))
        before = own.read_text()
        assert "train.csv exists" in refused(tree, out)
        assert own.read_text() == before and len(os.listdir(out)) == 1

    def test_found_by_the_recipe(self, tree, out):
        summary = prepare_own_corpus(tree, out)
        corpus, options = find_manifests(out)
        assert corpus == summary and options == {
            "train_annotation": str(out / "train.csv"),
            "valid_annotation": str(out / "valid.csv"),
            "test_annotation": str(out / "test.csv"),
            "validation_sentences": 0,
        }
        with pytest.raises(InputError, match="--validation-sentences 2"):
            find_manifests(out, 2)
        prepare_own_corpus(tree, out, validation_sentences=1)
        assert find_manifests(out)[1]["validation_sentences"] == 1

    def test_unfinished(self, tree, out, monkeypatch):
        """Interrupted between two files, it is no preparation."""
        prepare_own_corpus(tree, out)

        def full(path, utterances):
            raise InputError(f"{path}: it cannot be written.")

        with monkeypatch.context() as patch:
            patch.setattr("amsincnet_sb.dataio.manifest.write_manifest", full)
            refused(tree, out, seed=1)
        for name in ("train.csv", "test.csv", "prepare.json"):
            with pytest.raises(InputError, match="not a finished preparation"):
                find_manifests(out)
            prepare_own_corpus(tree, out)
            (out / name).unlink()
        with pytest.raises(InputError, match="not a finished preparation"):
            find_manifests(out)

"""Manifests: what is written is read back, by us and by SpeechBrain."""

import csv
import io
import os

import pytest
from hypothesis import (
    HealthCheck,
    given,
    settings,
    strategies as st,
)
from speechbrain.dataio.dataset import DynamicItemDataset

from amsincnet_sb.dataio.lists import corpus_files
from amsincnet_sb.dataio.manifest import (
    COLUMNS,
    Provenance,
    Utterance,
    fingerprint,
    manifest_items,
    read_manifest,
    write_manifest,
    write_preparation,
)
from amsincnet_sb.utils.errors import InputError

ROWS = [
    Utterance("a-1", 0.1 + 0.2, "TRAIN/a/1.WAV", 7, 16000, "a"),
    Utterance('b, "the" 2', 2.0, "b c/ü,1.wav", 0, 32000, "b ç"),
]
GOOD = ["a-1", "1.0", "$data_root/a/1.wav", "0", "16000", "a"]


def table(*rows, header=COLUMNS):
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue()


def test_columns_may_be_more_and_elsewhere(tmp_path):
    path = tmp_path / "a.csv"
    header = ["extra", *reversed(COLUMNS)]
    path.write_text(table(["x", *reversed(GOOD)], header=header))
    expected = Utterance("a-1", 1.0, "a/1.wav", 0, 16000, "a")
    assert read_manifest(path) == [expected]


def test_speechbrain_gets_what_is_accepted(tmp_path):
    path = tmp_path / "a.csv"
    text = table([*GOOD, "$5"], header=[*COLUMNS, "price"])
    path.write_text(text, encoding="utf-8-sig")
    data = DynamicItemDataset(manifest_items(path, "/c")).data
    assert data["a-1"]["wav"] == "/c/a/1.wav"
    assert (data["a-1"]["start"], data["a-1"]["stop"]) == (0, 16000)


def test_a_speaker_who_is_not_trained(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text(table(GOOD, ["b-1", *GOOD[1:5], "b"]))
    assert len(read_manifest(path, {"a", "b"})) == 2
    with pytest.raises(InputError, match="test.csv, line 3: speaker 'b' has"):
        read_manifest(path, {"a"})


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("ID", "", "id is ''"),
        ("duration", "long", "duration is 'long'"),
        ("duration", "nan", "duration is nan"),
        ("duration", "-1", "duration is -1"),
        ("start", "-1", "start is '-1'"),
        ("start", "١", "start is"),
        ("start", "16000", "0 <= start < stop"),
        ("stop", "", "stop is ''"),
        ("stop", "9" * 5000, "stop is"),
        ("wav", "a/1.wav", "must start with \\$data_root/"),
        ("wav", "$data_root//etc/passwd", "inside the corpus folder"),
        ("wav", "$data_root/a/../../b.wav", "inside the corpus folder"),
        ("wav", "$data_root/a\\..\\..\\b.wav", "inside the corpus folder"),
        ("wav", "$data_root/C:\\b.wav", "inside the corpus folder"),
        ("wav", "$data_root/", "wav is ''"),
        ("wav", "$data_root/$data_root/x", "without \\$"),
        ("wav", "$data_root/a\0b.wav", "line 3|CSV"),
        ("spk_id", "", "spk_id is ''"),
        ("spk_id", "a\nb", "runs on to line 4"),
        ("spk_id", "a\x7f", "spk_id is"),
    ],
)
def test_bad_values_are_named_with_file_and_line(
    tmp_path, column, value, words
):
    row = ["a-2", *GOOD[1:]]
    row[COLUMNS.index(column)] = value
    path = tmp_path / "bad.csv"
    # Python 3.10's writer refuses what its reader is to refuse here.
    text = table(GOOD, [cell.replace("\0", "NUL") for cell in row])
    path.write_text(text.replace("NUL", "\0"), encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert "line 3" in message or "\n" in value or "\0" in value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1.*columns"),
        (table(GOOD[:5], header=COLUMNS[:5]), "which spk_id does not"),
        (table(GOOD + ["x"], header=COLUMNS + ["wav"]), "which wav does not"),
        (table(GOOD[:4]), "line 2: there are 4 values for 6"),
        (table(GOOD, GOOD), "line 3: ID 'a-1' occurs twice"),
        (table(GOOD) + '"open', "not a CSV file"),
        (b"\xff\xfe\0", "not text in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_bad_files(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words):
        read_manifest(path)


def test_duplicates_are_not_written(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(InputError, match="'a-1' occurs twice"):
        write_manifest(path, [ROWS[0], ROWS[0]])
    assert os.listdir(tmp_path) == []


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.tuples(
        *(text, st.floats(), text),
        *(st.integers(-10, 10**14), st.integers(-10, 10**14), text),
    )
)
def test_whatever_can_be_an_utterance_survives(tmp_path, values):
    try:
        utterance = Utterance(*values)
    except InputError:
        return
    path = tmp_path / "a.csv"
    write_manifest(path, [utterance])
    assert read_manifest(path) == [utterance]
    (row,) = DynamicItemDataset.from_csv(path, {"data_root": "/c"}).data.items()
    wav, start, stop = f"/c/{utterance.wav}", utterance.start, utterance.stop
    assert row[0] == utterance.id and row[1].pop("wav") == wav
    assert row[1] == {
        "duration": utterance.duration,
        "start": str(start),
        "stop": str(stop),
        "spk_id": utterance.spk_id,
    }


def test_corpus_files(tmp_path):
    names = ["b/2.WAV", "b/1.wav", "a.Wrd", "b/x.txt", ".h.wav", ".g/3.wav"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "b")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.wav").symlink_to("self.wav")
    found = corpus_files(tmp_path, (".wav", ".wrd"))
    names = ["a.Wrd", "b/1.wav", "b/2.WAV", "c/1.wav", "c/2.WAV", "gone.wav"]
    names.append("self.wav")
    sizes = [5, 7, 7, 7, 7, -1, -1]
    assert [entry[:2] for entry in found] == list(zip(names, sizes))
    with pytest.raises(InputError, match="cannot be listed"):
        corpus_files(tmp_path / "absent", (".wav",))


def test_fingerprint_follows_every_change():
    given = [({}, []), ({"n": 1}, []), ({}, ["a"]), ({}, ["a", "b"])]
    given.append(({}, ["\udcff"]))  # of a name that is not Unicode
    assert len({fingerprint(*one) for one in given}) == len(given)


def test_provenance_knows_its_manifests(tmp_path):
    paths = {s: tmp_path / f"{s}.csv" for s in ("train", "valid", "test")}
    splits = {"train": ROWS, "valid": [], "test": ROWS[:1]}
    paths["valid"].write_text("somebody else's")
    made = Provenance({"n": 1}, "abc", {}, [("x.wav", "empty")], ["odd"])
    write_preparation(paths, splits, made)
    assert paths["valid"].exists()
    stored = Provenance.read(tmp_path)
    assert stored == made
    assert stored.counts.keys() == {"train", "test"}
    assert stored.counts["train"]["speakers"] == 2
    assert stored.counts["train"]["hours"] == pytest.approx(2.3 / 3600)
    written = {s: paths[s] for s in ("train", "test")}
    assert stored.matches("abc", written)
    assert not stored.matches("abd", written)
    assert not stored.matches("abc", {"train": paths["train"]})
    assert not stored.matches("abc", written | {"valid": paths["test"]})
    paths["test"].write_text(paths["test"].read_text().replace("a-1", "a-2"))
    assert not stored.matches("abc", written)
    paths["test"].unlink()
    assert not stored.matches("abc", written)
    with pytest.raises(InputError, match="valid.csv was changed"):
        write_preparation(paths, splits | {"valid": ROWS}, made)
    assert paths["valid"].read_text() == "somebody else's"
    paths["valid"].unlink()
    write_preparation(paths, splits | {"valid": ROWS}, made)
    write_preparation(paths, splits, made)
    assert not paths["valid"].exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"format": 0}', '{"format": 1}', "[" * 9999, "\xff"],
)
def test_provenance_that_cannot_be_trusted(tmp_path, text):
    assert Provenance.read(tmp_path) is None
    (tmp_path / Provenance.FILE).write_text(text, encoding="latin-1")
    assert Provenance.read(tmp_path) is None


def test_very_many_left_out_files_are_counted(tmp_path):
    left_out = [(f"{i}.wav", "empty " * 20) for i in range(600_000)]
    made = Provenance({}, "", {}, left_out)
    write_preparation({"train": tmp_path / "train.csv"}, {"train": ROWS}, made)
    stored = Provenance.read(tmp_path)
    assert stored == made and len(stored.left_out) == 10_000
    assert "and 590000 more left out, listed nowhere" in stored.report()


def test_names_in_the_report_do_nothing_to_a_terminal():
    left_out = [("a\x1b[2Jä\udcff.wav", "empty")]
    (line,) = Provenance({}, "", {}, left_out).report()
    assert line == "left out a\\x1b[2Jä\\udcff.wav: empty"


def test_report_is_bounded():
    left_out = [(f"{i}.wav", "empty") for i in range(25)]
    lines = Provenance({}, "", {}, left_out, ["odd"]).report()
    assert lines[0] == "left out 0.wav: empty"
    assert lines[10] == "and 15 more left out, listed in prepare.json"
    assert lines[11:] == ["odd"]

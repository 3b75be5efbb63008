"""Lists of all kinds: what a column means, and what is refused."""

import gzip
import json
import os

import numpy as np
import pytest
import soundfile

from amsincnet_sb.dataio.corpus import prepare_own_corpus
from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.utils.errors import InputError

RATE = 8000


@pytest.fixture
def here(tmp_path):
    """Two recordings of four seconds, of different noise."""
    for seed, name in enumerate("ab"):
        wave = np.random.default_rng(seed).uniform(-0.5, 0.5, 4 * RATE)
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE)
    return tmp_path


def put(folder, name, text):
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def limits(source, **options):
    """(speaker, first sample, the one after the last) of each utterance."""
    out = source.parent / "out"
    prepare_own_corpus(source, out, **options)
    rows = [
        u for s in ("train", "test") for u in read_manifest(out / f"{s}.csv")
    ]
    return sorted((u.spk_id, u.start, u.stop) for u in rows)


def table(columns, *values, between=","):
    """A list of both recordings, a row for each of some values."""
    rows = [f"path,speaker,{columns}"]
    rows += [f"{name}.wav,{name},{value}" for name in "ab" for value in values]
    return "\n".join(rows).replace(",", between)


HALVES = [(s, i * RATE, (i + 2) * RATE) for s in "ab" for i in (0, 2)]


@pytest.mark.parametrize(
    "columns, first, second",
    [
        ("start,stop", "0,16000", "16000,32000"),
        ("start_sample,end_sample", "0,16000", "16000,32000"),
        ("start,end", "0,2", "2,4"),
        ("Start Time,End Time", "0.0,2.0", "2.0,4"),
        ("begin,end", "0.0,2.0", "2.0,"),
        ("offset,duration", ",2", "2,2.0"),
        ("start,duration", "0,2e0", "2,2"),
        ("start_ms,dur[ms]", "0,2000", "2000,2000"),
        ("startSec,endSec", "0,2", "2,4.3"),
        ("starttime,endtime", "0,2", "2,4"),
        ("STARTTIME,ENDTIME", "0.0,2.0", "2.0,4.0"),
        ("startms,endms", "0,2000", "2000,4000"),
        ("offset,segment_length_ms", "0,2000", "2,2000"),
        ("offset,duration,length", "0,2,2.0", "2,2,32000"),
        (",start,,stop", "x,0,,16000", "y,16000,z,32000"),
        # SpeechBrain's duration may be that of the recording.
        ("duration,start,stop", "4.0,0,16000", "2.0,16000,32000"),
        (
            "start,stop,num_samples,sample_rate",
            "0,16000,16000,8000",
            "16000,32000,32000,8000",
        ),
    ],
)
def test_times(here, columns, first, second):
    assert limits(put(here, "l.csv", table(columns, first, second))) == HALVES


@pytest.mark.parametrize(
    "columns, value, words",
    [
        ("start,stop", "0.0,2.0", "line 2: start is '0.0'.* samples"),
        ("start,end", "0,16000", "line 2: end is 16000.*samples"),
        ("offset,duration", "0,16000", "duration is 16000.*samples"),
        ("start", "3", "start may be in seconds or in samples"),
        ("offset,stop", "1.5,16000", "offset in seconds and stop in samples"),
        ("start_sample,duration", "0,1.5", "count differently"),
        ("start,offset,end", "0,0,1", "both give the start"),
        ("end,stop", "1,16000", "both give the stop"),
        ("offset", "-1", "offset is '-1' but must be seconds"),
        ("offset", "1:30", "offset is '1:30'"),
        ("offset", "1e999", "offset is '1e999'"),
        ("duration", "nan", "duration is 'nan'"),
        ("start_frame", "3", "'start_frame' looks like a time"),
        ("vad", "0-1", "'vad' looks like a time"),
        ("frames", "200", "'frames' looks like"),
        ("t0,t1", "0,1", "'t0' looks like"),
        ("in,out", "0,1", "'in' looks like"),
        ("Time In", "0", "'Time In' looks like"),
        ("side", "A", "'side' looks like a time or a channel"),
        ("mic channel", "1", "'mic channel' looks like a time or a channel"),
        ("path", "c.wav", "'path' occurs twice"),
        ("Path", "c.wav", "'path' and 'Path' have the same name"),
    ],
)
def test_what_is_not_clear_is_refused(here, columns, value, words):
    with pytest.raises(InputError, match=words):
        list_corpus(put(here, "l.csv", table(columns, value)))


@pytest.mark.parametrize(
    "columns",
    "tstart,tend start1,end1 first_sample,last_sample sample_from,sample_to "
    "from_s,to_s beg,fin seg_beg,seg_fin cut_in,cut_out begintime_s,segend "
    "InPoint,OutPoint starts,ends timestamp recording_time mic_channel "
    "interval t_in,t_out xmin,xmax".split(),
)
def test_what_may_be_a_part_is_refused(here, columns):
    values = ",".join("1" for _ in columns.split(","))
    with pytest.raises(InputError, match="looks like .* rename or remove it"):
        list_corpus(put(here, "l.csv", table(columns, values)))


def test_what_is_no_part_is_passed_over(here):
    columns = (
        "sentence,up_votes,down_votes,age,gender,accents,variant,locale,"
        "segment,sentence_domain,weekend,extended,date_time,recorded_time,"
        "utterance_end_punctuation,sample_id,from_country,born_in,first_name"
    )
    values = ",".join("x" for _ in columns.split(","))
    listing = list_corpus(put(here, "l.csv", table(columns, values)))
    assert listing.taken[1].endswith(columns.replace(",", ", "))


@pytest.mark.parametrize(
    "columns, value, words",
    [
        ("offset,duration", "3,1.6", "no samples from 3 to 4.6 s of 4.00"),
        ("start,stop,duration", "0,16000,3", "says that it lasts 3 s"),
        ("sample_rate,start,stop", "16000,0,16000", "at 16000 Hz"),
        (
            "sample_rate,start_samples,duration_samples",
            "16000,0,9000",
            "at 16000 Hz",
        ),
        ("num_samples", "9000", "9000 samples, but it has 32000"),
        ("length", "45", "length is 45, but it has 4.00 s and 32000"),
        ("channels", "2", "2 channels, but it has 1"),
        ("channel", "2", "means channel 2, but it has one"),
    ],
)
def test_what_contradicts_the_recording_is_left_out(
    here, columns, value, words
):
    source = put(here, "l.csv", table(columns, value))
    with pytest.raises(InputError, match=words):
        prepare_own_corpus(source, here / "out")


def test_a_channel_of_several_is_refused(here):
    wave = np.random.default_rng(5).uniform(-0.5, 0.5, (4 * RATE, 2))
    soundfile.write(here / "a.wav", wave, RATE)
    rows = ("0,0,1", "0,1,1", "0,2,1")
    source = put(here, "l.csv", table("channel,offset,duration", *rows))
    with pytest.raises(InputError, match="means channel 0 of 2; write each"):
        prepare_own_corpus(source, here / "out")


def objects(**names):
    """Both halves of both recordings, by these names."""
    return [
        {
            names["path"]: f"{s}.wav",
            names["speaker"]: s,
            names["start"]: start / RATE,
            names["length"]: 2.0,
            "text": 'He said "no',
        }
        for s, start, _ in HALVES
    ]


NEMO = objects(
    path="audio_filepath", speaker="speaker", start="offset", length="duration"
)
WESPEAKER = [
    {
        "key": f"{row['speaker']}-{i}",
        "wav": row["audio_filepath"],
        "spk": row["speaker"],
        "start": row["offset"],
        "end": row["offset"] + 2,
    }
    for i, row in enumerate(NEMO)
]


@pytest.mark.parametrize("rows", [NEMO, WESPEAKER], ids=["NeMo", "wespeaker"])
@pytest.mark.parametrize(
    "name", ["l.json", "l.jsonl", "raw.list", "l.jsonl.gz"]
)
def test_json_lines(here, name, rows):
    text = "\n".join(map(json.dumps, rows)) + "\n\n"
    assert limits(put(here, name, text)) == HALVES


@pytest.mark.parametrize(
    "name, text, words",
    [
        (
            "l.jsonl",
            '{"path": "a.wav", "speaker": 1}\n{"path"',
            "line 2: it is",
        ),
        ("l.jsonl", "[1]\n", "line 1: it must be an object"),
        ("l.jsonl", '{"a": 1, "a": 2}', "line 1: 'a' occurs twice"),
        ("l.jsonl", "\n", "no object or list"),
        ("l.jsonl.gz", None, "it is damaged"),
        ("shard.list", "shards/0.tar\n", "line 1: it is not JSON"),
        ("l.tsv", "path\tspeaker\na.wav\n", "line 2: there are 1 values for 2"),
        ("l.csv", 'path,speaker,text\na.wav,a,"x\ny"\n', "line 2: .*line 3"),
        ("l.csv", 'path;speaker\n"a.wav";a\n"b.wav;b\n', "line 3: .*CSV"),
        ("l.csv", 'path,speaker,x\na.wav,a,"a" b\n', "line 2: .*CSV"),
        ("l.csv", f"path,speaker\na.wav,{140_000 * 'x'}\n", "line 2: .*field"),
        ("l.csv", "\n  \n\npath;speaker\n\na.wav\n", "line 6: there are 1"),
        ("l.csv", "\npath,speaker,speaker\n,,\n", "line 2: column 'speaker'"),
    ],
)
def test_rows_that_cannot_be_read(here, name, text, words):
    path = put(here, name, text or "x" * 99)
    if text is None:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=words):
        list_corpus(path)


def test_blank_lines_before_the_header(here):
    source = put(here, "l.csv", "\n \npath;speaker\na.wav;a\nb.wav;b\n")
    listing = list_corpus(source)
    assert len(listing.utterances) == 2 and "';' between" in listing.kind


@pytest.mark.parametrize("name", ["l.csv", "l.json", "l.jsonl", "k/utt2spk"])
def test_a_named_pipe_is_refused(here, name):
    (here / "k").mkdir()
    put(here, "k/wav.scp", "a a.wav")
    os.mkfifo(here / name)
    source = here / "k" if "/" in name else here / name
    with pytest.raises(InputError, match=f"{name} is a .*not a file"):
        list_corpus(source)


def test_a_small_file_that_expands_without_end(here):
    path = put(here, "l.jsonl.gz", 9 * 2**20 * " ")
    with pytest.raises(InputError, match="expands more than 200fold"):
        list_corpus(path)


def test_quotation_marks_of_tsv_are_text(here):
    text = "path\tspeaker\toffset\tsentence\n"
    for i, mark in enumerate(('"', 'a "', '"b" c', '""', "'")):
        text += f"a.wav\ta\t{i / 2}\t{mark}\nb.wav\tb\t{i / 2}\t{mark}\n"
    listing = list_corpus(put(here, "l.tsv", text))
    assert len(listing.utterances) == 10 and listing.taken[0] == "10 rows"


def test_what_was_taken_is_told(here):
    text = table("offset,duration,Text", "0,2,hm", "2,2,ah", between=";")
    summary = prepare_own_corpus(put(here, "l.csv", text), here / "out")
    assert summary.options["corpus"] == "CSV manifest with ';' between values"
    assert summary.options["taken"] == [
        "4 rows",
        "path: path, speaker: speaker, start: offset (seconds), "
        "duration: duration (seconds); not used: Text",
    ]


def test_ends_are_rounded(here):
    source = put(here, "l.csv", table("offset,duration", "0,2", "2,2.4"))
    summary = prepare_own_corpus(source, here / "out")
    assert any("cut to it: 2" in note for note in summary.notes)


def test_speakers_in_paths_and_names_of_both_forms(here):
    for folder in ("clips/Zoe\u0308", "clips/Jürgen"):
        (here / folder).mkdir(parents=True)
    for i, name in enumerate(("Zoe\u0308", "Jürgen")):
        for k in range(2):
            wave = np.random.default_rng((i, k)).uniform(-0.5, 0.5, RATE)
            soundfile.write(here / f"clips/{name}/{k}.wav", wave, RATE)
    rows = ["path,speaker"]
    rows += [
        f"clips\\Zoë\\{k}.wav,{z}" for k, z in enumerate(("Zoë", "Zoe\u0308"))
    ]
    rows += [f"clips\\Jürgen\\{k}.wav,J" for k in range(2)]
    source = put(here, "l.csv", "\n".join(rows))
    assert [name for name, *_ in limits(source)] == ["J", "J", "Zoë", "Zoë"]


@pytest.mark.parametrize("name", ["a$b", "a\x07"])
def test_names_that_cannot_be_kept(here, name):
    source = put(
        here, "l.json", json.dumps([{"path": "a.wav", "speaker": name}])
    )
    with pytest.raises(InputError, match="rename the speaker"):
        list_corpus(source)


@pytest.mark.parametrize(
    "columns, values, words",
    [
        ("path,speaker,speaker_id", "a.wav,a,1 b.wav,b,1", "speaker_id both"),
        ("path,speaker,client_id", "a.wav,a,1 b.wav,a,2", "client_id both"),
        ("path,wav,speaker", "a.wav,b.wav,a b.wav,b.wav,b", "path and wav"),
        ("path,speaker,speaker_id", "a.wav,a,1 b.wav,b,0", None),
        ("path,speaker,spk_id", "a.wav,a,a b.wav,b,", None),
        ("path,wav,speaker", "a.wav,a.wav,a b.wav,b.wav,b", None),
        ("path,wav,speaker", "./a.wav,a.wav,a ./b.wav,b.wav,b", None),
        ("path,speaker,label", "a.wav,a,joy b.wav,b,joy", None),
    ],
)
def test_two_columns_for_one_thing(here, columns, values, words):
    text = "\n".join([columns, *values.split()])
    source = put(here, "l.csv", text)
    if words is None:
        assert len(list_corpus(source).utterances) == 2
        return
    with pytest.raises(InputError, match=f"{words}.*remove or rename one"):
        list_corpus(source)


def test_a_pattern_needs_no_speakers_in_the_list(here):
    """Not even where the list has an empty column of them."""
    source = put(here, "l.csv", "path,speaker\na.wav,\nb.wav,\n")
    listing = list_corpus(source, speaker_pattern=r"(.)\.wav")
    assert [row.speaker for row in listing.utterances] == ["a", "b"]
    assert listing.taken[1] == "path: path; not used: speaker"


@pytest.mark.parametrize("key", ["speaker", "path", "offset"])
def test_nan_is_nobody(here, key):
    rows = [{"path": f"{s}.wav", "speaker": s, "offset": 0.5} for s in "ab"]
    rows[1][key] = float("nan")
    source = put(here, "l.jsonl", "\n".join(map(json.dumps, rows)))
    words = f"the {key} is missing" if key != "offset" else "offset is 'NaN'"
    with pytest.raises(InputError, match=f"line 2: {words}"):
        list_corpus(source)


def test_nan_is_no_group(here):
    rows = [
        {"path": f"{s}.wav", "speaker": s, "day": float("nan")} for s in "ab"
    ]
    source = put(here, "l.jsonl", "\n".join(map(json.dumps, rows)))
    listing = list_corpus(source, group="day")
    assert [row.group for row in listing.utterances] == ["", ""]


def test_placeholders(here):
    """They stand for the data folder, unless they are folders' names."""
    for first in ("$root", "${root}", "{root}"):
        text = f"path,speaker\n{first}/a.wav,a\n{first}/b.wav,b\n"
        listing = list_corpus(put(here, "l.csv", text))
        assert [row.wav for row in listing.utterances] == ["a.wav", "b.wav"]
        assert listing.taken[2] == f"{first} in paths is read as {here}"
        (here / first).mkdir()
        (here / first / "a.wav").write_bytes((here / "a.wav").read_bytes())
        listing = list_corpus(here / "l.csv")
        assert [row.wav for row in listing.utterances] == [
            f"{first}/a.wav",
            "b.wav",
        ]
    source = put(here, "l.csv", "path,speaker\n$A/a.wav,a\n$B/b.wav,b\n")
    with pytest.raises(InputError, match=r"with \$A and with \$B"):
        list_corpus(source)
    source = put(here, "l.csv", "path,speaker\nx/$A/a.wav,a\nb.wav,b\n")
    with pytest.raises(InputError, match=r"x/\$A/a.wav does not exist"):
        list_corpus(source)


@pytest.mark.parametrize("path", ["x\0y/a.wav", "x\ud800y/a.wav", "~\0/a.wav"])
def test_what_is_no_path(here, path):
    rows = [{"path": path, "speaker": "a"}, {"path": "b.wav", "speaker": "b"}]
    source = put(here, "l.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="line 1: .* does not exist"):
        list_corpus(source)


def test_paths_in_the_home_folder(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "lists").mkdir()
    text = "path,speaker\n~/a.wav,a\n~/b.wav,b\n"
    listing = list_corpus(put(here / "lists", "l.csv", text))
    assert listing.data_folder == str(here)
    assert list_corpus(here / "lists/l.csv", "~").data_folder == str(here)
    with pytest.raises(InputError, match="gone: there is no such folder"):
        list_corpus(here / "lists/l.csv", here / "gone")

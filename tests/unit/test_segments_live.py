"""Who speaks, told while they do; with the voices of bands.py."""

import io
import json
import os
import struct
import sys

import bands
import numpy as np
import pytest
import soundfile
import torch
from bands import RATE, conversation, voice

from amsincnet_sb import cli
from amsincnet_sb.dataio.streams import read_stream
from amsincnet_sb.inference import timelines
from amsincnet_sb.inference.live import DELAY, LiveSegments
from amsincnet_sb.inference.segments import Wanted
from amsincnet_sb.utils.errors import InputError


@pytest.fixture
def who(monkeypatch):
    bands.by_energy(monkeypatch)
    return bands.model()


TURNS = (0, 2), (1, 2), (None, 1), (2, 1.5), (None, 0.3), (7, 2), (None, 1)
TURNS += (7, 2), (0, 3)
RIGHT = [
    (0, 2, "ann"),
    (2, 4, "bob"),
    (5, 6.5, "cat"),
    (6.8, 8.8, "unknown 1"),
    (9.8, 11.8, "unknown 1"),
    (11.8, 14.8, "ann"),
]


def told(live, wave, seconds=0.1):
    """What is told, and when, of a wave that comes in pieces."""
    step, now = int(seconds * RATE), 0.0
    for piece in torch.from_numpy(wave).split(step):
        now += len(piece) / RATE
        for segment in live.hear(piece):
            yield now, segment
    for segment in live.finish():
        yield now, segment


@pytest.mark.parametrize("seconds", [0.02, 0.1, 3])
def test_what_is_told_and_when(who, seconds):
    live = LiveSegments(who, Wanted())
    found = list(told(live, conversation(*TURNS), seconds))
    whole = [s for _, s in found if s.end is not None]
    assert [s.speaker for s in whole] == [name for *_, name in RIGHT]
    times = np.array([s[:2] for s in whole])
    assert abs(times - [row[:2] for row in RIGHT]).max() < 0.2
    begun = [(now, s) for now, s in found if s.end is None]
    assert [s.start for _, s in begun] == [s.start for s in whole]
    late = DELAY + max(0, seconds - 0.1)
    assert all(now - s.start <= late for now, s in begun)
    assert all(now - s.end <= late for now, s in found if s.end is not None)


def test_who_is_enrolled_meanwhile_is_heard_the_next_time(who):
    live, wave = LiveSegments(who, Wanted()), conversation((0, 2), (7, 2))
    found = live.hear(torch.from_numpy(wave[:RATE]))
    who.enroll("gus", [torch.from_numpy(voice(7, 2, 0))])
    found += live.hear(torch.from_numpy(wave[RATE:])) + live.finish()
    names = [s.speaker for s in found if s.end is not None]
    assert names == ["ann", "unknown 1"]
    again = [s for _, s in told(LiveSegments(who, Wanted()), wave)]
    names = [s.speaker for s in again if s.end is not None]
    assert names == ["ann", "gus"]


def test_it_ends_with_the_recording(who):
    """Frames are a tenth of a second, and end half of one later."""
    for samples in (48000, 47300, 46500):
        wave = voice(0, 3, 0)[:samples]
        *_, (_, last) = told(LiveSegments(who, Wanted()), wave)
        assert last.end <= round(samples / RATE, 2)


def test_memory_does_not_grow(who):
    live, sizes = LiveSegments(who, Wanted()), []
    for turn in range(40):
        live.hear(torch.from_numpy(voice(turn % 3, 3, turn)).float())
        parts = live._pending, live._decoder._ends, live.voices._levels
        listener = live.listener
        parts += listener._wave, listener._unsaid, listener._speech
        parts += listener.detect._last, live.voices._unknown
        sizes.append([len(part) for part in parts])
    assert max(map(max, sizes[20:])) <= max(map(max, sizes[:20]))


def test_a_tenth_of_a_second_need_not_be_whole_samples(who):
    """A rate and pieces with which a window ended one sample too early."""
    who.embedding_model.sample_rate, samples = 11025, 2591
    live, wave = LiveSegments(who, Wanted()), torch.from_numpy(voice(0, 3))
    found = [live.hear(piece) for piece in wave.float().split(samples)]
    (last,) = live.finish()
    assert any(found) and last.end == round(len(wave) / 11025, 2)


def wav(samples, rate=RATE, subtype="PCM_16", kind="WAV"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format=kind)
    return file.getvalue()


def sized(content, size):
    """A WAV whose header says another size of its data."""
    at = content.index(b"data") + 4
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


WAVE = voice(0, 0.5).astype(np.float32)
INT16 = (WAVE * 2**15).astype("<i2").tobytes()
STREAMS = {
    "raw": INT16,
    "half a sample at the end": INT16 + b"\0",
    "wav": wav(WAVE),
    "8 bits": wav(WAVE, subtype="PCM_U8"),
    "floating point": wav(WAVE, subtype="FLOAT"),
    "stereo": wav(np.stack([WAVE, WAVE], 1)),
    "endless": sized(wav(WAVE), 2**32 - 1),
    # All twelve bytes of its beginning are letters.
    "of letters": b"RIFFbigs" + wav(WAVE)[8:],
    "of no size": sized(wav(WAVE), 0),
    "of a size that is wrong": sized(wav(WAVE), 6000),
    "24 bits": wav(WAVE, subtype="PCM_24"),
    "large": wav(WAVE, kind="RF64"),
    "a large chunk before": wav(WAVE)[:12]
    + b"iXML\x01\x10\x01\0"
    + bytes(69634)
    + wav(WAVE)[12:],
    "a picture behind": wav(WAVE) + b"id3 \x02\x10\0\0" + bytes(4098),
    "a chunk behind an odd one": wav(WAVE[:-1], subtype="PCM_U8")
    + b"LIST\x04\0\0\0INFO",
    "another rate": wav(np.repeat(WAVE, 2), 2 * RATE),
}


class Slow(io.BytesIO):
    """A pipe that gives few bytes at a time."""

    def read1(self, size=-1):
        """At most 777 bytes."""
        return super().read1(min(size, 777))


@pytest.mark.parametrize("kind", STREAMS)
def test_streams(kind):
    found = torch.cat([*read_stream(Slow(STREAMS[kind]), None, RATE)]).numpy()
    assert abs(len(found) - len(WAVE)) <= 1
    found, right = found[400:-400], WAVE[400 : len(found) - 400]
    coarse = {"8 bits", "a chunk behind an odd one"}
    limits = dict.fromkeys(coarse, 0.01)
    limit = {**limits, "another rate": 0.1}.get(kind, 1e-4)
    assert abs(found - right).max() < limit


def test_streams_beyond_full_scale():
    content = wav(9 * WAVE, subtype="FLOAT")
    assert abs(9 * WAVE).max() > 1
    found = torch.cat([*read_stream(io.BytesIO(content), None, RATE)])
    np.testing.assert_array_equal(found, 9 * WAVE)


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"", "it holds no samples"),
        (wav(WAVE)[:30], "its header is cut short"),
        (wav(WAVE)[:5], "its header is cut short"),
        (wav(WAVE)[:44], "it holds no samples"),
        (b"RIFX" + wav(WAVE)[4:], "it is another kind of RIFF, not WAV or"),
        (b"RIFF\x24\x10\0\0AVI " + bytes(99), "it is another kind of RIFF"),
        (wav(WAVE, kind="W64"), "it is W64, not WAV or raw samples"),
        (wav(WAVE, kind="CAF"), "it is CAF, not WAV or raw samples"),
        (b"fLaC" + bytes(99), "it is FLAC, not WAV or raw samples"),
        (b"\xff\xf3\x84\xc4" + bytes(99), "it is MP3"),
        (b"\0\0\0\x1cftypM4A " + bytes(99), "it is MP4"),
        (b'{"error": "not found"}', "it is text"),
        (wav(WAVE, subtype="ALAW"), "its header says 1 channels of 8 bits"),
        (wav(WAVE * np.nan, subtype="FLOAT"), "it contains NaN"),
        (wav(WAVE * 1e9, subtype="FLOAT"), "its samples reach .*e[+]0"),
        (wav(WAVE)[:-1000], "it breaks off, 1000 of the 16000 bytes"),
        (wav(0 * WAVE), "it is silent; give a recording of speech"),
        (bytes(9000), "it is silent"),
        (wav(np.stack([WAVE, 0 * WAVE], 1) * 1e-5), "it is silent"),
        (wav(np.stack([WAVE, -WAVE], 1)), "its channels cancel each other"),
    ],
)
def test_streams_that_are_none(content, sentence):
    with pytest.raises(InputError, match=f"^-: {sentence}"):
        list(read_stream(io.BytesIO(content), None, RATE))


def test_a_rate_beside_a_header():
    content = wav(WAVE, 2 * RATE)
    assert list(read_stream(io.BytesIO(content), 2 * RATE, RATE))
    with pytest.raises(InputError, match="^-: its header says 32000 .* 16000;"):
        list(read_stream(io.BytesIO(content), RATE, RATE))


def test_what_came_before_it_broke_off():
    found = []
    with pytest.raises(InputError, match="it breaks off"):
        for piece in read_stream(Slow(wav(WAVE)[:-1000]), None, RATE):
            found.append(piece)
    np.testing.assert_allclose(torch.cat(found), WAVE[:-500], atol=1e-4)


@pytest.fixture
def run(who, monkeypatch, capsys):
    """Run ``segments`` on a stream; lines of both outputs."""
    monkeypatch.setattr("amsincnet_sb.commands.segments.load", lambda _: who)

    def run(content, *options, name="-"):
        stdin = io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", stdin)
        status = 0
        try:
            cli.main(["segments", "model", name, *map(str, options)])
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run


def test_files_are_opened_when_something_comes(run, tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new" / "a.rttm"
    old.write_text("earlier")
    status, _, (line,) = run(b"", "--csv", old, "--rttm", new)
    assert status == 2 and "no samples" in line
    assert old.read_text() == "earlier" and not new.parent.exists()
    wave = conversation((0, 2), (1, 2), (None, 1))
    content = (wave * 2**15).astype("<i2").tobytes()
    status, out, _ = run(content, "--csv", old, "--rttm", new)
    assert status in (0, None) and len(out) == 4
    assert len(old.read_text().splitlines()) == 3
    assert len(new.read_text().splitlines()) == 2


@pytest.mark.skipif(
    not os.path.exists("/proc/self/fd"), reason="no names of open files"
)
def test_what_is_heard_is_not_written_over(run, tmp_path):
    path, before = tmp_path / "a.wav", os.dup(0)
    path.write_bytes(wav(WAVE))
    with open(path, "rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        status, _, (line,) = run(wav(WAVE), "--csv", path)
    finally:
        os.dup2(before, 0)
        os.close(before)
    assert status == 2 and "it is an input as well" in line
    assert path.read_bytes() == wav(WAVE)


def test_the_other_name_of_standard_input(run):
    wave = conversation((0, 2), (1, 2), (None, 1))
    content = (wave * 2**15).astype("<i2").tobytes()
    expected = run(content)
    assert expected[1] and run(content, name="/dev/stdin") == expected


def test_what_was_decided_is_kept(who, tmp_path, monkeypatch, capsys):
    """The stream breaks off in a NaN."""
    monkeypatch.setattr("amsincnet_sb.commands.segments.load", lambda _: who)
    wave = np.append(conversation((0, 2), (1, 2), (None, 1)), np.nan)
    content = sized(wav(wave, subtype="FLOAT"), 2**32 - 1)
    stdin = io.TextIOWrapper(io.BytesIO(content))
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(SystemExit):
        cli.main(["segments", "model", "-", "--csv", str(tmp_path / "a.csv")])
    out, err = capsys.readouterr()
    assert "NaN" in err
    rows = [json.loads(row) for row in out.splitlines()]
    names = [row["speaker"] for row in rows if row["end"]]
    assert names == ["ann", "bob"]
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3


# A stream is heard no further than to the first answer that fails.
HEARD = pytest.mark.parametrize(
    "name, names", [("-", ["ann"]), ("a.wav", ["ann", "bob"])]
)


@HEARD
def test_no_reader_costs_no_file(run, tmp_path, monkeypatch, name, names):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr("amsincnet_sb.commands.segments.answer", broken)
    monkeypatch.chdir(tmp_path)
    content = wav(conversation((0, 2), (1, 2)))
    (tmp_path / "a.wav").write_bytes(content)
    run(content, "--csv", "a.csv", name=name)
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows[1:]] == names


@HEARD
def test_a_full_disk_costs_no_answer(run, tmp_path, monkeypatch, name, names):
    def full(*_):
        raise InputError("a.rttm cannot be written: No space left on device.")

    monkeypatch.setitem(timelines.FORMATS, "rttm", full)
    monkeypatch.chdir(tmp_path)
    content = wav(conversation((0, 2), (1, 2)))
    (tmp_path / "a.wav").write_bytes(content)
    status, out, (line,) = run(content, "--rttm", "a.rttm", name=name)
    assert status == 2 and "No space left" in line
    found = [json.loads(row)["speaker"] for row in out]
    assert [*dict.fromkeys(found)] == names

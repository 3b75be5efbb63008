"""Readers of files from strangers: whatever they hold, one sentence at most.

Each starts from a file that is right and breaks it, or from noise. FUZZ_CASES
sets the number of cases of each; ``make test-slow`` takes ten thousand.
"""

import io
import json
import os
import pickle
import resource
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import (
    HealthCheck,
    given,
    settings,
    strategies as st,
)

from amsincnet_sb.dataio.audio import audio_info, read_audio
from amsincnet_sb.dataio.listings import list_corpus
from amsincnet_sb.dataio.manifest import Provenance, read_manifest
from amsincnet_sb.dataio.scp import read_labels, read_scp
from amsincnet_sb.inference.evaluation import read_trials
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.original import load_original
from amsincnet_sb.report import read_evaluation
from amsincnet_sb.training.hparams import plain_options
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.training.results import read_margins, read_sentences
from amsincnet_sb.utils.errors import InputError

MEMORY = 2**18  # kB
CASES = int(os.environ.get("FUZZ_CASES", 50))

fuzz = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES < 1000,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def broken(draw, *valid, words=()):
    """Bytes that were right before somebody touched them."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(valid)))
    pieces = st.one_of(
        st.binary(max_size=8),
        st.sampled_from(
            [b"-1", b"0", b"1e999", b"nan", b"\x00", b"\n", b'"', b"\xff\xfe"]
            + [b"99999999999999999999", b"../../etc/passwd", b"\xe2\x80\xa8"]
            + [b"A" * 5000, *words]
        ),
    )
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([0, 0, 1, 2, 4, 16, len(data)]))
        data[at : at + size] = draw(pieces)
    if draw(st.integers(0, 7)) == 0:
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


def only_input_errors(read, path):
    """What it answers, or None for a refusal in one sentence."""
    try:
        return read(path)
    except InputError as error:
        assert str(error).strip() and "Traceback" not in str(error)
        return None


def status(name):
    """A size in /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1])


@pytest.fixture(autouse=True)
def bounded_memory():
    """No reader takes much more memory than its small file can fill."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # Whatever is wrong with a reader, the machine goes on.
    allowed = 1024 * status("VmSize") + 2**34
    resource.setrlimit(resource.RLIMIT_AS, (allowed, limits[1]))
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    before = status("VmRSS")
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert status("VmHWM") - before < MEMORY


def written(write, *arguments, **options):
    """What a function writes into a file."""
    file = io.BytesIO()
    write(file, *arguments, **options)
    return file.getvalue()


def audio_file(**options):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (400, 2))
    return written(soundfile.write, wave, 16000, **options)


def saved_labels(protocol):
    labels = np.array({"train/a.wav": 0, "train/b.wav": np.int64(1)}, object)
    header = np.lib.format.header_data_from_array_1_0(labels)
    header = written(np.lib.format.write_array_header_1_0, header)
    return header + pickle.dumps(labels, protocol=protocol)


def saved_weights(zipped):
    options = {"_use_new_zipfile_serialization": zipped}
    return written(lambda f: torch.save({"a": torch.ones(2)}, f, **options))


RIFF = audio_file(format="WAV", subtype="PCM_16")
PROVENANCE = Provenance({}, "", {}, [("a", "b")], [], {"train": ""})
YAML = "margin: 0.1\nlayers: [1]\nopt: !new:torch.optim.Adam\n    lr: 2\n"


def audio(path):
    info = only_input_errors(audio_info, path)
    wave = read_audio(path)
    assert info is not None and len(wave) > 0
    assert wave.dtype == torch.float32 and wave.abs().max() <= 1


def manifest(path):
    found = read_manifest(path)
    assert len({utterance.id for utterance in found}) == len(found)
    for utterance in found:
        assert not os.path.isabs(utterance.wav)
        assert ".." not in utterance.wav.replace("\\", "/").split("/")
        assert 0 <= utterance.start < utterance.stop


def labels(path):
    for wav, index in read_labels(path).items():
        assert type(wav) is str and type(index) is int


def hparams(path):
    (path.parent / "base.yaml").write_text(YAML)
    plain_options(str(path), {})


def own_corpus(path, source=None):
    """A list of the recordings of two speakers."""
    for speaker in "ab":
        if not (path.parent / f"{speaker}.wav").exists():
            (path.parent / f"{speaker}.wav").write_bytes(RIFF)
    for listed in list_corpus(source or path).utterances:
        assert ".." not in listed.wav.split("/")


def kaldi(path):
    """A file that holds wav.scp, utt2spk and segments, commas between."""
    (path.parent / "segments").unlink(missing_ok=True)
    parts = path.read_bytes().split(b",")
    for name, data in zip(("wav.scp", "utt2spk", "segments"), parts):
        (path.parent / name).write_bytes(data)
    own_corpus(path, path.parent)


def model(path):
    """One file of a model's folder, the others as they were written."""
    if not (path.parent / "classifier.ckpt").exists():
        made = path.parent / "made"
        write_pretrained(made, *SMALL_MODEL, ["ann", "bob"], 10.0)
        for file in (made / "config.json", *made.glob("*.ckpt")):
            if not (path.parent / file.name).exists():
                file.rename(path.parent / file.name)
    who = SpeakerIdentifier.from_results(path.parent)
    assert np.isfinite(who.scale) and len({*who.speakers}) > 0


def enrolled(names, vectors):
    return written(
        np.savez, speakers=np.array(names), vectors=np.array(vectors, "float32")
    )


SMALL_MODEL = (
    SincNet(
        window=200,
        hop=50,
        cnn_channels=[4],
        cnn_kernel_sizes=[51],
        cnn_pools=[3],
        fc_neurons=[4],
    ),
    CosineClassifier(4, 2),
)
CONFIG = {
    "format": 1,
    "network": "SincNet",
    "embedding_model": SMALL_MODEL[0].arguments,
    "classifier": {
        "name": "CosineClassifier",
        "input_size": 4,
        "out_neurons": 2,
    },
    "scale": 10.0,
    "speakers": ["ann", "bob"],
}
RATES = {"miss": [0.0, 1.0], "false_alarm": [1.0, 0.0]}
ERRORS = {"eer": 1.0, "threshold": 0.5, "calibrated": None}
EVALUATION = {
    "sentences": 2,
    "speakers": 2,
    "closed_set": {"sentences": 2, "frame_error": 1.0, "sentence_error": 0.0},
    "open_set": {**ERRORS, "known": 1, "unknown": 1, "unknown_are": "others"},
    "verification": {
        **ERRORS,
        "min_dcf": 1.0,
        "targets": 1,
        "nontargets": 1,
        "det": RATES,
    },
}
JSON_WORDS = [b"[" * 3000, b"null", b"{}", b"[]", b"true", b'"a"', b"9" * 400]
JSON_WORDS += [b"99999999", b"NaN", b"-Infinity", b"1e308", b'{"a": ' * 3000]


LISTS = st.one_of(
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    broken(
        b"path,speaker,split\na.wav,a,train\nb.wav,b,test\n",
        b'{"x": {"wav": "a.wav", "spk_id": "a", "start": 0, "stop": 5}}',
        b'[{"path": "b.wav", "speaker": 7}]',
        b'{"audio_filepath": "a.wav", "label": "a", "duration": 0.5}\n'
        b'{"audio_filepath": "b.wav", "label": "b", "offset": 0.1}\n',
        b"wav\tspk\tbegin\tend_ms\na.wav\ta\t0\t9\nb.wav\tb\t0\t9\n",
        words=[
            b"start",
            b"stop",
            b"channel",
            b"duration",
            b"\t",
            b"{}",
            b"null",
            b"[" * 3000,
            b"a.wav",
            b"b.wav",
            b"b\\",
        ],
    ),
)
# Name of the file, a function that reads it, and what it may hold.
READERS = {
    "fuzz.wav": (
        audio,
        broken(
            RIFF,
            audio_file(format="NIST", subtype="PCM_16"),
            audio_file(format="FLAC"),
            audio_file(format="WAV", subtype="FLOAT"),
            words=[b"sample_count -i 99999999999", b"sample_rate -i 0"]
            + [b"channel_count -i 1000", b"sample_n_bytes -i 0", b"end_head"]
            + [b"sample_coding -s26 pcm,embedded-shorten-v2.00"],
        ),
    ),
    "manifest.csv": (
        manifest,
        broken(
            b"ID,duration,wav,start,stop,spk_id\n"
            b"a-0,1.0,$data_root/a/0.wav,0,16000,a\n"
            b"a-1,1.0,$data_root/a/1.wav,1,16001,b\n",
            words=[b"$data_root/", b"$data_root/../x.wav", b"/etc/x", b"C:\\x"],
        ),
    ),
    "labels.npy": (
        labels,
        broken(*map(saved_labels, range(5)), words=[b"cos\nsystem\n", b"."]),
    ),
    "file.yaml": (
        hparams,
        broken(
            b"margin: 0.05\nrecipe: !include:base.yaml\n    margin: 0.05\n",
            b"recipe: !include:base.yaml\n    opt:\n        lr: 1\n",
            words=[b"!!python/object/apply:os.getcwd []", b"&a [*a]", b"{"]
            + [b"!include:base.yaml", b"!include:file.yaml", b": ", b"? [a]"]
            + [b"<<: *x"],
        ),
    ),
    "own.csv": (own_corpus, LISTS),
    "own.tsv": (own_corpus, LISTS),
    "own.json": (own_corpus, LISTS),
    "own.jsonl": (own_corpus, LISTS),
    "kaldi": (
        kaldi,
        broken(
            b"a-1 a.wav\nb-1 b.wav\n,a-1 a\nb-1 b\n",
            b"a cat a.wav|\n,u-1 a\nu-2 a\n,u-1 a 0 1\nu-2 a 1 -1\n",
            words=[b"cat a.wav |", b",", b"sph2pipe -c", b"|", b"' |"],
        ),
    ),
    "trials.txt": (
        lambda path: read_trials(path, ["a", "b", "c"]),
        broken(b"1 a b\n0 a c\n0 b c\n", words=[b"1 a a", b" ", b"2 a b"]),
    ),
    "train.scp": (
        read_scp,
        broken(b"train/dr1/a/x.wav\n# no\n\ntrain/dr1/b/y.wav\n"),
    ),
    "metrics.jsonl": (
        lambda path: MetricsLog(path).records(),
        broken(b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n'),
    ),
    Provenance.FILE: (
        lambda path: Provenance.read(path.parent),
        broken(
            json.dumps({"format": 1, **asdict(PROVENANCE)}).encode(),
            words=[b"[" * 3000, b"null", b"{}", b"1"],
        ),
    ),
    "config.json": (
        model,
        broken(json.dumps(CONFIG).encode(), words=JSON_WORDS),
    ),
    "calibration.json": (
        model,
        broken(
            b'{"verification": {"threshold": 0.5}, "identification": '
            b'{"threshold": 0.3, "own_cosine": 0.3}}',
            words=JSON_WORDS,
        ),
    ),
    "enrolled.npz": (
        model,
        broken(enrolled(["ann", "bob"], [[1.0] * 4] * 2)),
    ),
    "evaluation.json": (
        read_evaluation,
        broken(json.dumps(EVALUATION).encode(), words=JSON_WORDS),
    ),
    "sentences.csv": (
        read_sentences,
        broken(b"speaker,decision\nann,bob\nbob,bob\n", words=[b",", b"=1"]),
    ),
    "margins.csv": (
        read_margins,
        broken(
            b"recipe,margin,seed,frame_error,sentence_error\n"
            b"a,0.1,1,2.0,3.0\na,0.2,1,2.0,3.0\n",
            words=[b",", b",,"],
        ),
    ),
    "model_raw.pkl": (
        load_original,
        broken(*map(saved_weights, (0, 1)), words=[b"cos\nsystem\n"]),
    ),
}


@pytest.mark.parametrize("name", READERS)
@fuzz
@given(data=st.data())
def test_reader(tmp_path_factory, name, data):
    read, strategy = READERS[name]
    path = tmp_path_factory.getbasetemp() / f"fuzz {name}" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(strategy))
    only_input_errors(read, path)


@pytest.mark.parametrize(
    "text",
    [
        "!include:base.yamlbase.yaml\nmargin: 0.05\n",
        "recipe: !include:base.yaml\n    opt: #!new:list\n    l\n\n",
        "b!!python/object/apply:os.getcwd []ase: 1\nmargin: 1\n",
    ],
)
def test_yaml_that_was_not_read_well(tmp_path, text):
    (tmp_path / "file.yaml").write_text(text)
    only_input_errors(hparams, tmp_path / "file.yaml")

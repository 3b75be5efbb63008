"""Another run, or another process, in an output folder is refused."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile

from amsincnet_sb.dataio.corpus import prepare_own_corpus
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.locks import sole_process

HPARAMS = "am_sincnet.yaml"


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Three speakers of their own, and preparations that differ."""
    folder = tmp_path_factory.mktemp("own")
    noise = np.random.default_rng(0)
    for name in ("ann", "b => c", "'==', \"d\""):
        (folder / "a" / name).mkdir(parents=True)
        for number in range(6):
            wave = noise.uniform(-0.5, 0.5, 6000)
            path = folder / "a" / name / f"{number}.wav"
            soundfile.write(path, wave, 16000)
    shutil.copytree(folder / "a", folder / "same names")
    soundfile.write(
        folder / "same names" / "ann" / "0.wav",
        noise.uniform(-0.5, 0.5, 6000),
        16000,
    )
    prepare_own_corpus(folder / "a", folder / "m")
    prepare_own_corpus(folder / "a", folder / "half", test_fraction=0.5)
    prepare_own_corpus(folder / "a", folder / "valid", validation_sentences=1)
    return folder


@pytest.fixture
def started(recipe, own, tmp_path):
    """A run of one epoch on them, which is not changed by what is refused."""
    output = tmp_path / "results"
    recipe(HPARAMS, output, **options(own), number_of_epochs=1)
    before = contents(output)
    yield output
    assert contents(output) == before


def options(own, **more):
    return {"manifest": own / "m", "data_folder": own / "a", **more}


def test_another_run_is_refused(recipe, refused, own, started):
    for changes, words in (
        ({"seed": 5}, "another run: seed is 1234 there and 5 here; give"),
        ({"margin": 0.1, "lr": 0.1}, "margin is 0.3 there and 0.1 here, lr is"),
        ({"batch_size": 4}, "batch_size is 8 there and 4 here"),
        ({"cnn_channels": "[4,4,5]"}, "cnn_channels is [4, 4, 4] there and ["),
        ({"max_grad_norm": 5}, "max_grad_norm is inf there and 5.0 here"),
        ({"weight_decay": 0.1}, "weight_decay is 0.3 there and 0.1 here"),
        ({"codecs": "{gsm: 0.1}"}, "codecs.gsm is absent there and 0.1 here"),
        ({"number_of_epochs": 2, "seed": 5}, "another run: seed is 1234 there"),
        (
            {"manifest": own / "half"},
            "a run on other utterances (its training list has 12",
        ),
        (
            {"manifest": own / "valid"},
            "validation_sentences is 0 there and 1",
        ),
        ({"data_folder": own / "same names"}, "a run on other recordings"),
    ):
        sentence = refused(HPARAMS, **options(own, **changes))
        assert words in sentence
        assert sentence.endswith("of this one), or remove that one.")
    for hparams, words in (
        ("sincnet.yaml", "scale is 30.0 there and 1.0 here"),
        ("am_sincnet_m005.yaml", "margin is 0.3 there and 0.05 here"),
    ):
        assert words in refused(hparams, **options(own))


def test_keys_that_came_later_are_compared(recipe, refused, own, tmp_path):
    """A run of a version that did not splice does not begin to."""
    output = tmp_path / "results"
    recipe(HPARAMS, output, **options(own), number_of_epochs=1)
    path = output / "save/run.json"
    record = json.loads(path.read_text())
    del record["options"]["splice_probability"]
    path.write_text(json.dumps(record))
    sentence = refused(HPARAMS, **options(own, number_of_epochs=2))
    assert "splice_probability is 0.0 there and 0.5 here" in sentence


def test_what_may_change(recipe, own, tmp_path):
    """Where things lie, how it is computed, and how long."""
    recipe(HPARAMS, tmp_path / "first", **options(own), number_of_epochs=1)
    shutil.copytree(own / "m", tmp_path / "m")
    shutil.copytree(own / "a", tmp_path / "a")
    output = shutil.move(tmp_path / "first", tmp_path / "run #2")
    recipe(
        HPARAMS,
        output,
        manifest=tmp_path / "m",
        data_folder=tmp_path / "a",
        number_of_epochs=2,
        windows_per_batch=64,
        valid_interval=2,
        max_resident_gb=0,
        capture_step=False,
        ckpt_interval_steps=100,
    )
    epochs = [record["epoch"] for record in recipe.metrics(output)]
    assert epochs == [1, 2]
    # And it is repeated from its own file, by which the folder is the same.
    flat = output / "hyperparams.yaml"
    none = dict.fromkeys(["data_folder", *recipe.small])
    recipe(flat, output, **none)
    assert [record["epoch"] for record in recipe.metrics(output)] == epochs


def test_fewer_epochs_than_are_done(recipe, refused, tmp_path):
    """The model would be called that of a shorter training."""
    output = recipe(HPARAMS, tmp_path / "results")
    before = contents(output)
    sentence = "trained 6 steps; with number_of_epochs of 1 it would have 3"
    assert sentence in refused(HPARAMS, number_of_epochs=1)
    assert contents(output) == before
    recipe(HPARAMS, output, number_of_epochs=1, debug=True)


def test_a_test_leaves_the_record_of_the_training(recipe, tmp_path):
    """Which is another length, and other options, than it is asked for."""
    output = recipe(HPARAMS, tmp_path / "results")
    kept = output / "save" / "run.json", output / "hyperparams.yaml"
    before = [path.read_bytes() for path in kept]
    for options in ({"number_of_epochs": 5}, {"eval_precision": "bf16"}):
        recipe(HPARAMS, output, test_only=True, **options)
        assert [path.read_bytes() for path in kept] == before


def test_manifests_of_the_run_are_put_back(recipe, refused, corpus, tmp_path):
    """TIMIT is prepared in the folder before it can be compared."""
    output = recipe(HPARAMS, tmp_path / "results")
    before = contents(output)
    other = shutil.copytree(corpus, tmp_path / "other" / "TIMIT")
    shutil.rmtree(next(other.glob("TRAIN/DR*/*")))
    assert "other speakers" in refused(HPARAMS, data_folder=other)
    assert "validation_sentences is 0 there" in refused(
        HPARAMS, validation_sentences=1
    )
    assert contents(output) == before


def test_results_without_a_record_go_on(recipe, own, tmp_path):
    output = tmp_path / "results"
    recipe(HPARAMS, output, **options(own), number_of_epochs=1)
    record = output / "save" / "run.json"
    kept = record.read_text()
    record.unlink()
    recipe(HPARAMS, output, **options(own), number_of_epochs=1)
    assert record.read_text() == kept


def test_a_record_of_an_earlier_version(recipe, refused, own, tmp_path):
    """Before there were other losses and filters to choose from."""
    output = tmp_path / "results"
    recipe(HPARAMS, output, **options(own), number_of_epochs=1)
    path = output / "save" / "run.json"
    record = json.loads(path.read_text())
    known = record["options"]
    for key in ("loss", "subcentres", "filters", "filters_from", "minutes"):
        known.pop(key, None)
    del known["embedding_model"]["filters"]
    for key, tag in (
        ("compute_cost", "!new:speechbrain.nnet.losses.AMSoftmax"),
        (
            "classifier",
            "!new:speechbrain.lobes.models.AMSincNet.CosineClassifier",
        ),
        ("compute_scores", "!name:amsincnet_sb.nnet.scoring.log_posteriors"),
    ):
        known[key]["!"] = tag
        del known[key]["loss"]
    del known["classifier"]["subcentres"]
    path.write_text(json.dumps(record))
    for other in ({"loss": "aam"}, {"filters": "gabor"}):
        error = refused(HPARAMS, **options(own, **other))
        assert next(iter(other.values())) in error
    recipe(HPARAMS, output, **options(own), number_of_epochs=2)


def test_a_damaged_record(refused, started):
    record = started / "save" / "run.json"
    kept = record.read_text()
    for text in ("", "[]", '{"format": 1}', '{"format": 9}', kept[:-9]):
        record.write_text(text)
        assert f"{record}" in refused(HPARAMS)
    record.write_text(kept)


def test_speakers_of_any_name_go_on(recipe, own, tmp_path):
    """Those of the started run have names that look like its label file."""
    output = tmp_path / "results"
    for epochs in (1, 2):
        recipe(HPARAMS, output, **options(own), number_of_epochs=epochs)
    with open(own / "m" / "train.csv", newline="") as file:
        names = {row["spk_id"] for row in csv.DictReader(file)}
    assert names == {"ann", "b => c", "'==', \"d\""}
    decisions = recipe.sentences(output).values()
    assert {row["speaker"] for row in decisions} == names


def test_one_process_at_a_time(refused, tmp_path):
    """A lock that a killed process does not leave behind."""
    output = tmp_path / "results"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert holder.stdout.readline() == b"held\n"
    before = contents(output)
    sentence = refused(HPARAMS)
    assert f"{output} is in use by process {holder.pid} on " in sentence
    assert contents(output) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with sole_process(output):
        assert str(os.getpid()) in (output / ".lock").read_text()
    assert not list(output.iterdir())


HOLD = """
import sys, time
from amsincnet_sb.utils.locks import sole_process
with sole_process(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_leaves_nothing(tmp_path, monkeypatch):
    with sole_process(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with sole_process(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"):
        with sole_process(tmp_path / "file"):
            pass
    # No room for the name of its holder.
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "write", Mock(side_effect=full))
        for folder in (tmp_path / "b" / "c", tmp_path / "a"):
            with pytest.raises(InputError, match="No space left"):
                with sole_process(folder):
                    pass
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "file", "kept"]
    # A link in its place leads nowhere else.
    (tmp_path / "a" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(InputError, match="cannot be written"):
        with sole_process(tmp_path / "a"):
            pass
    assert not (tmp_path / "victim").exists()

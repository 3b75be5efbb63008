"""What people get wrong: one clear sentence, or handled and reported."""

import shutil
import subprocess
import sys

import pytest
import torch
from recipe_process import environment


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def own(corpus, tmp_path):
    """A copy of the corpus to be spoiled."""
    return shutil.copytree(corpus, tmp_path / "own" / "TIMIT")


def test_no_data_folder(recipe, results):
    """As a process: the exit status, and nothing but the sentence."""
    arguments = recipe.arguments("am_sincnet_m005.yaml", results)
    ended = subprocess.run(
        [sys.executable, "train.py", arguments[0]],
        cwd=recipe.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert (
        "--data_folder=/path/to/TIMIT" in last and "demo-corpus TIMIT`" in last
    )
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not (recipe.folder / "results" / "am_sincnet" / "m0.05").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        ({"data_folder": "/none/TIMTI"}, ["/none/TIMTI", "TRAIN"]),
        ({"all_speakers": "True"}, ["no TEST"]),
        ({"validation_sentences": 5}, ["validation_sentences"]),
        ({"number_of_epoch": 3}, ["`number_of_epoch`", "`number_of_epochs`"]),
        ({"test_only": True}, ["/results/save", "--test_only"]),
        ({"window": 60}, ["window"]),
        ({"jit": True}, ["use --compile"]),
        ({"optimizer_step_limit": "1e3"}, ["'1e3'", "a whole number"]),
        ({"profile_training": True}, ["takes 10 steps", "the epoch has 3"]),
        ({"grad_accumulation_factor": 2}, ["a larger --batch_size"]),
        ({"embedding_size": 9}, ["make them equal"]),
        ({"batch_size": 1}, ["at least 2"]),
        ({"batches_per_epoch": 0}, ["at least 1"]),
        ({"max_grad_norm": -1}, ["max_grad_norm is -1.0", "above 0"]),
        ({"margin": 1.5}, ["margin", "1.5"]),
        ({"margin": ".nan"}, ["margin", "nan"]),
    ],
)
def test_options_that_cannot_be(refused, options, words):
    sentence = refused(**options)
    assert all(word in sentence for word in words)


def test_a_limit_of_steps(recipe, results):
    """Also within an interval; the model is that of its last step."""
    options = {"valid_interval": 9, "number_of_epochs": 9}
    options["batches_per_epoch"] = 2
    for limit in (3, 3, 5):  # the second time there is nothing to do
        recipe("sinc_tdnn.yaml", results, optimizer_step_limit=limit, **options)
        assert [row["step"] for row in recipe.metrics(results)][-1] == limit


def test_training_goes_on_after_a_limit_of_steps(recipe, results, tmp_path):
    """Within an epoch and at its end, as if there had been none."""
    through = recipe("sinc_tdnn.yaml", tmp_path / "through")
    for limit in (2, 2, 3, 3, 5, None):
        recipe("sinc_tdnn.yaml", results, optimizer_step_limit=limit)
    assert recipe.state(results) == recipe.state(through)
    rows = [(row["epoch"], row["step"]) for row in recipe.metrics(results)]
    assert rows == [(1, 2), (1, 3), (2, 5), (2, 6)]


def test_an_unfinished_training_is_evaluated_without_a_model(recipe, results):
    """A sweep would take it for a finished one."""
    recipe("sinc_tdnn.yaml", results, optimizer_step_limit=3)
    shutil.rmtree(results / "pretrained")
    recipe("sinc_tdnn.yaml", results, test_only=True)
    assert not (results / "pretrained").exists()
    assert recipe.metrics(results)[-1]["step"] == 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs to be without")
def test_options_for_a_gpu(refused):
    assert "fp16" in refused(precision="fp16")
    assert "no such GPU" in refused(device="cuda")


def test_one_speaker_alone(refused, own):
    for folder in sorted(own.glob("*/DR*/*"))[1:]:
        shutil.rmtree(folder)
    sentence = refused(data_folder=own)
    assert "train.csv has one speaker alone" in sentence


def test_a_started_run_on_another_corpus(recipe, refused, own, results):
    recipe("am_sincnet.yaml", results, data_folder=own)
    shutil.rmtree(next(own.glob("TRAIN/DR*/*")))
    sentence = refused(data_folder=own)
    assert "a run on other speakers" in sentence
    assert "--output_folder" in sentence


@pytest.mark.parametrize("kept", [0.5, None])
def test_a_damaged_list_of_speakers(recipe, refused, finished, results, kept):
    shutil.copytree(finished, results)
    path = results / "save" / "label_encoder.txt"
    text = path.read_text(encoding="utf-8")
    damaged = "\0\1" if kept is None else text[: int(kept * len(text))]
    path.write_text(damaged, encoding="utf-8")
    assert f"{path} is damaged" in refused("am_sincnet_m005.yaml")
    path.unlink()
    recipe("am_sincnet_m005.yaml", results, whole=True)
    assert path.read_text(encoding="utf-8") == text

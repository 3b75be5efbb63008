"""Training learns, and the options of the command line reach it."""

import shutil

import pytest
import soundfile
import torch

from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.nnet.losses import AMSoftmax

HPARAMS = "am_sincnet_m005.yaml"


@pytest.fixture(scope="module")
def snippets(corpus, tmp_path_factory):
    """The training utterances cut to 200 ms: one window each, 20 in all."""
    folder = tmp_path_factory.mktemp("snippets") / "TIMIT"
    shutil.copytree(corpus, folder)
    for path in folder.glob("TRAIN/*/*/SX*.WAV"):
        wave, rate = soundfile.read(path)
        soundfile.write(path, wave[12000:15200], rate, format="WAV")
        path.with_suffix(".WRD").unlink()
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "am_sincnet_m020.yaml",
        "am_sincnet_original.yaml",
        "sinc_tdnn.yaml",
        "sincnet.yaml",
    ],
)
def test_twenty_windows_are_overfitted(recipe, snippets, tmp_path, name):
    plain = {}
    if "original" not in name:  # without regularisation
        plain = {"equalizer_std_db": 0, "mixture_probability": 0}
    if name == "sinc_tdnn.yaml":
        plain.update(band_mask=0, sinc_channels=16, tdnn_channels="[16,16]")
    output = recipe(
        name,
        tmp_path / "results",
        **plain,
        data_folder=snippets,
        window=3200,
        hop=3200,
        fc_neurons="[32,32,32]",
        embedding_size=32,
        dropout=0,
        batch_size=32,
        batches_per_epoch=20,
        lr=0.003,
    )
    first, last = recipe.metrics(output)
    # Chance is 75 %.
    assert last["train_frame_error"] < 5
    assert last["train_loss"] < first["train_loss"]


def test_the_margin_reaches_the_loss(recipe, tmp_path, monkeypatch):
    margins = []
    forward = AMSoftmax.forward

    def watched(self, *arguments, **options):
        margins.append(self.margin.item())
        return forward(self, *arguments, **options)

    monkeypatch.setattr(AMSoftmax, "forward", watched)
    recipe(
        HPARAMS,
        tmp_path / "results",
        margin=0.07,
        batches_per_epoch=10,
        number_of_epochs=1,
        capture_step=False,  # the loss is called in every step
    )
    # A ramp over a fifth of the run, then the whole of it.
    assert margins[:3] == pytest.approx([0, 0.035, 0.07])
    assert margins[3:] == pytest.approx([0.07] * len(margins[3:]))


def test_a_held_out_sentence_is_watched_instead(recipe, tmp_path):
    output = recipe(
        "am_sincnet.yaml", tmp_path / "results", validation_sentences=1
    )
    records = recipe.metrics(output)
    assert [r["split"] for r in records] == ["valid", "valid", "test"]
    assert [r["epoch"] for r in records] == [1, 2, 2]
    sizes = [
        len(read_manifest(output / "manifests" / f"{split}.csv"))
        for split in ("train", "valid", "test")
    ]
    assert sizes == [16, 4, 12]
    assert len(recipe.sentences(output)) == 12
    # Multiples of 25: four utterances.
    assert all(r["sentence_error"] % 25 == 0 for r in records[:2])


def test_bfloat16_on_the_cpu(recipe, tmp_path):
    exact, rounded = (
        recipe.metrics(
            recipe(
                HPARAMS,
                tmp_path / precision,
                precision=precision,
                eval_precision=precision,
                device="cpu",
            )
        )[0]["train_loss"]
        for precision in ("fp32", "bf16")
    )
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.1)
    weights = torch.load(
        tmp_path / "bf16" / "pretrained" / "embedding_model.ckpt",
        weights_only=True,
    )
    floats = [x for x in weights.values() if x.is_floating_point()]
    assert {x.dtype for x in floats} == {torch.float32}


def test_evaluation_repeats(recipe, finished, tmp_path, monkeypatch):
    """And leaves what training alone needs undone."""
    monkeypatch.setattr(recipe.module, "compile_ahead", None)
    again = shutil.copytree(finished, tmp_path / "again")
    (again / "sentences.csv").unlink()
    recipe(HPARAMS, again, test_only=True)
    for view in (recipe.state, recipe.metrics, recipe.sentences):
        assert view(again) == view(finished)


@pytest.mark.parametrize(
    "option, value, same",
    [
        ("max_resident_gb", 0, True),  # the audio stays in its files
        ("max_grad_norm", 1e6, True),
        ("max_grad_norm", 1e-3, False),
        ("seed", 1235, False),
    ],
)
def test_results_of_another_option(
    recipe, finished, tmp_path, option, value, same
):
    output = recipe(HPARAMS, tmp_path / "results", **{option: value})
    for view in (recipe.state, recipe.metrics, recipe.sentences):
        assert (view(output) == view(finished)) is same


def test_coded_versions_take_memory_too(recipe, finished, tmp_path):
    """With them the audio is too much, which stays in its files."""
    rows = read_manifest(finished / "manifests" / "train.csv")
    gigabytes = sum(row.stop - row.start for row in rows) * 2 / 1e9
    for times, streams in ((1.5, True), (2.5, False)):
        output = recipe(
            HPARAMS,
            tmp_path / str(times),
            codecs="{gsm: 0.5}",
            max_resident_gb=times * gigabytes,
        )
        log = (output / "log.txt").read_text()
        assert ("codecs has no effect" in log) is streams

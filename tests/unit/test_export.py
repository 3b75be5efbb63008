"""Models for other programs: the same numbers, and nothing to execute."""

import json
import sys

import numpy as np
import pytest
import torch

from amsincnet_sb.inference.export import (
    BLOCK,
    WaveformScorer,
    check_onnx,
    export_onnx,
)
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

WINDOW, HOP = 200, 50
SPEAKERS = ["ann", "çat => 1"]


def sincnet():
    return SincNet(
        window=WINDOW,
        hop=HOP,
        cnn_channels=(4, 3),
        cnn_kernel_sizes=(21, 5),
        cnn_pools=(3, 3),
        fc_neurons=[12, 8],
        linear_embedding=True,
        released_init=False,
    )


def sinc_tdnn():
    return SincTDNN(
        window=WINDOW,
        hop=HOP,
        sinc_channels=4,
        sinc_kernel_size=21,
        tdnn_channels=(6, 6),
        tdnn_kernel_sizes=(5, 3),
        tdnn_strides=(3, 1),
        fc_neurons=[12, 8],
        band_mask=2,
    )


def identifier(kind, network=sincnet):
    torch.manual_seed(0)
    net = network()
    with torch.no_grad():
        for _ in range(20):
            net(torch.randn(32, WINDOW))
    classify = kind(8, 2)
    torch.nn.init.normal_(next(classify.parameters()))
    who = SpeakerIdentifier(net.eval(), classify.eval(), SPEAKERS, 10.0)
    if kind is CosineClassifier:
        # Recordings of a tone have enough in common.
        tone = torch.sin(torch.arange(2000) * 0.3)
        who.enroll("zoe", [tone, tone[100:]])
    return who


def recording(samples):
    generator = torch.Generator().manual_seed(samples)
    return 0.1 * torch.randn(samples, generator=generator)


# One window, its neighbours, more than a block of windows.
LENGTHS = [30, 70, 199, 200, 249, 250, 1000, WINDOW + HOP * BLOCK, 5000]


MODELS = [
    (CosineClassifier, sincnet),
    (SoftmaxClassifier, sincnet),
    (CosineClassifier, sinc_tdnn),
]


@pytest.mark.parametrize("kind, network", MODELS)
@pytest.mark.parametrize("samples", LENGTHS)
def test_a_model_as_one_function(kind, network, samples):
    who = identifier(kind, network)
    filters = who.embedding_model.sinc.filters
    scores, embedding = WaveformScorer(who)(recording(samples))
    expected = who.analyse(recording(samples))
    assert len(scores) == len(who.speakers)
    assert torch.allclose(scores, expected.scores, atol=1e-4)
    assert torch.allclose(embedding, expected.embedding, atol=1e-4)
    assert who.embedding_model.sinc.filters == filters


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    who = identifier(*request.param)
    return who, path, export_onnx(who, path)


class TestOnnx:
    def test_the_same_numbers_at_any_length(self, exported):
        import onnxruntime

        who, path, found = exported
        assert found.difference < 1e-5
        assert found.onnx_seconds > 0 and found.torch_seconds > 0
        session = onnxruntime.InferenceSession(path)
        for samples in LENGTHS:
            wave = recording(samples)
            answer = session.run(None, {"waveform": wave.numpy()})
            expected = who.analyse(wave)
            for ours, theirs in zip(
                (expected.scores, expected.embedding), answer
            ):
                assert theirs.dtype == np.float32
                np.testing.assert_allclose(theirs, ours, atol=1e-4)

    def test_what_is_in_the_file(self, exported):
        import onnx

        who, path, _ = exported
        file = onnx.load(path)
        onnx.checker.check_model(file)
        metadata = {entry.key: entry.value for entry in file.metadata_props}
        assert json.loads(metadata["speakers"]) == who.speakers
        assert metadata["sample_rate"] == "16000"
        assert (metadata["window"], metadata["hop"]) == ("200", "50")
        (body,) = [
            attribute.g
            for node in file.graph.node
            for attribute in node.attribute
            if attribute.name == "body"
        ]
        operators = {n.op_type for n in [*file.graph.node, *body.node]}
        assert "Conv" in operators
        # The filters are numbers, not formulas.
        assert not operators & {"Sin", "Cos", "Where"}
        shapes = [list(each.dims) for each in file.graph.initializer]
        shapes += [list(each.dims) for each in body.initializer]
        assert [4, 1, 21] in shapes

    def test_a_wrong_file_is_found_out(self, exported):
        who, path, _ = exported

        class Other:
            def run(self, names, feed):
                expected = who.analyse(torch.from_numpy(feed["waveform"]))
                scores = expected.scores.numpy().copy()
                scores[0] *= 1.1
                return scores, expected.embedding.numpy()

        assert check_onnx(who, Other()).difference > 1e-2


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install"):
        export_onnx(identifier(CosineClassifier), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_with_packages_that_do_not_fit(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise IndexError("list index out of range")

    pytest.importorskip("onnxscript")
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(InputError, match="onnxscript [0-9].* pip install -U"):
        export_onnx(identifier(CosineClassifier), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class TestSafetensors:
    @pytest.fixture
    def folder(self, tmp_path):
        pytest.importorskip("safetensors")
        identifier(CosineClassifier).save(tmp_path / "m", safetensors=True)
        return tmp_path / "m"

    def test_round_trip(self, folder):
        who = identifier(CosineClassifier)
        again = SpeakerIdentifier.from_results(folder)
        assert again.speakers == [*SPEAKERS, "zoe"]
        wave = recording(3000)
        for ours, theirs in zip(who.analyse(wave), again.analyse(wave)):
            assert torch.allclose(ours, theirs, atol=1e-6)

    def test_nothing_to_execute(self, folder):
        from safetensors.numpy import load_file

        names = sorted(path.name for path in folder.iterdir())
        assert names == ["config.json", "enrolled.npz", "model.safetensors"]
        tensors = load_file(folder / "model.safetensors")
        who = identifier(CosineClassifier)
        state = who.embedding_model.state_dict()
        assert {k for k in tensors if k.startswith("embedding_model.")} == {
            f"embedding_model.{key}" for key in state
        }
        np.testing.assert_array_equal(
            tensors["classifier.weight"], who.classifier.weight.detach()
        )
        # Enough to make the network again, in plain JSON.
        config = json.loads((folder / "config.json").read_text())
        assert SincNet(**config["embedding_model"]).arguments == (
            who.embedding_model.arguments
        )

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(path.read_bytes()[:-40]),
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(b"\xff" * 400),
        ],
    )
    def test_damage(self, folder, damage):
        damage(folder / "model.safetensors")
        with pytest.raises(InputError, match="does not hold the weights"):
            SpeakerIdentifier.from_results(folder)

    def test_without_the_package(self, folder, tmp_path, monkeypatch):
        modules = sys.modules
        for name in ("safetensors", "safetensors.torch"):
            monkeypatch.setitem(modules, name, None)
        with pytest.raises(InputError, match="pip install"):
            SpeakerIdentifier.from_results(folder)
        with pytest.raises(InputError, match="pip install"):
            identifier(CosineClassifier).save(tmp_path / "n", safetensors=True)
        assert not (tmp_path / "n").exists()

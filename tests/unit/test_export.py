"""Models for other programs: the same scores, and nothing to execute."""

import json
import sys

import numpy as np
import pytest
import torch

from amsincnet_sb.inference.export import BLOCK, check_onnx, export_onnx
from amsincnet_sb.inference.identifier import SpeakerIdentifier
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

WINDOW, HOP = 200, 50
SPEAKERS = ["ann", "çat => 1"]


def sinc_tdnn():
    return SincTDNN(
        window=WINDOW,
        hop=HOP,
        sinc_channels=4,
        sinc_kernel_size=21,
        tdnn_channels=(6, 6),
        tdnn_kernel_sizes=(5, 3),
        tdnn_strides=(3, 1),
        fc_neurons=[12, 16],
        band_mask=2,
    )


@pytest.fixture(scope="module")
def identifier(small):
    """Makes a model that has seen some noise, of a kind of classifier."""

    def make(kind, network=None):
        torch.manual_seed(0)
        net = network() if network else SincNet(**small)
        with torch.no_grad():
            for _ in range(20):
                net(torch.randn(32, WINDOW))
        classify = kind(16, 2)
        torch.nn.init.normal_(next(classify.parameters()))
        parts = net.eval(), classify.eval(), SPEAKERS, 10.0
        who = SpeakerIdentifier(*parts, hop=HOP)
        if kind is CosineClassifier:
            # Recordings of a tone have enough in common.
            tone = torch.sin(torch.arange(2000) * 0.3)
            who.enroll("zoe", [tone, tone[100:]])
        return who

    return make


def recording(samples):
    generator = torch.Generator().manual_seed(samples)
    return 0.1 * torch.randn(samples, generator=generator)


# One window, its neighbours, more than a block of windows.
LENGTHS = [30, 70, 199, 200, 249, 250, 1000, WINDOW + HOP * BLOCK, 5000]


MODELS = [
    (CosineClassifier, None),
    (SoftmaxClassifier, None),
    (CosineClassifier, sinc_tdnn),
]


@pytest.fixture(scope="module", params=MODELS)
def exported(identifier, request, tmp_path_factory):
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    who = identifier(*request.param)
    filters = who.embedding_model.sinc.filters
    found = export_onnx(who, path)
    assert who.embedding_model.sinc.filters == filters  # as it was
    return who, path, found


class TestOnnx:
    def test_the_same_values_at_any_length(self, exported, analyse):
        import onnxruntime

        who, path, found = exported
        assert found.difference < 1e-5
        assert found.onnx_seconds > 0 and found.torch_seconds > 0
        session = onnxruntime.InferenceSession(path)
        for samples in LENGTHS:
            wave = recording(samples)
            answer = session.run(None, {"waveform": wave.numpy()})
            expected = analyse(who, wave)
            for ours, theirs in zip(
                (expected.scores, expected.embedding), answer
            ):
                assert theirs.dtype == np.float32
                np.testing.assert_allclose(theirs, ours, atol=1e-4)

    def test_digital_silence_is_left_out(self, exported, analyse):
        import onnxruntime

        who, path, _ = exported
        session = onnxruntime.InferenceSession(path)
        wave = recording(10000)
        wave[500:9000] = 0
        _, found = session.run(None, {"waveform": wave.numpy()})
        expected = analyse(who, wave).embedding
        np.testing.assert_allclose(found, expected, atol=1e-4)
        # Unless there is nothing else.
        for values in session.run(None, {"waveform": 0 * wave.numpy()}):
            assert np.isfinite(values).all()

    def test_content_of_the_file(self, exported):
        import onnx

        who, path, _ = exported
        file = onnx.load(path)
        onnx.checker.check_model(file)
        metadata = {entry.key: entry.value for entry in file.metadata_props}
        assert json.loads(metadata["speakers"]) == who.speakers
        assert metadata["sample_rate"] == "16000"
        assert (metadata["window"], metadata["hop"]) == ("200", "50")
        # The filters are constants, not formulas.
        assert "Sin" not in {node.op_type for node in file.graph.node}

    @pytest.mark.parametrize("only_silent", [False, True])
    def test_a_wrong_file_is_found_out(self, exported, analyse, only_silent):
        who, path, _ = exported

        class Other:
            def run(self, names, feed):
                wave = torch.from_numpy(feed["waveform"])
                expected = analyse(who, wave)
                scores = expected.scores.numpy().copy()
                if not only_silent or (wave == 0).any():
                    scores[0] *= 1.1
                return scores, expected.embedding.numpy()

        assert check_onnx(who, Other()).difference > 1e-2


def test_onnx_without_its_packages(identifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install"):
        export_onnx(identifier(CosineClassifier), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_with_packages_that_do_not_fit(identifier, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise IndexError("list index out of range")

    pytest.importorskip("onnxscript")
    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(InputError, match="onnxscript [0-9].* pip install -U"):
        export_onnx(identifier(CosineClassifier), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


class TestSafetensors:
    @pytest.fixture
    def who(self, identifier):
        return identifier(CosineClassifier)

    @pytest.fixture
    def folder(self, who, tmp_path):
        pytest.importorskip("safetensors")
        who.save(tmp_path / "m", safetensors=True)
        return tmp_path / "m"

    def test_round_trip(self, who, analyse, folder):
        again = SpeakerIdentifier.from_results(folder, hop=HOP)
        assert again.speakers == [*SPEAKERS, "zoe"]
        wave = recording(3000)
        for ours, theirs in zip(analyse(who, wave), analyse(again, wave)):
            assert torch.allclose(ours, theirs, atol=1e-6)

    def test_nothing_to_execute(self, who, folder):
        from safetensors.numpy import load_file

        names = sorted(path.name for path in folder.iterdir())
        model = ["config.json", "enrolled.npz", "model.safetensors"]
        assert names == ["README.md", *model]
        tensors = load_file(folder / "model.safetensors")
        state = who.embedding_model.state_dict()
        assert {k for k in tensors if k.startswith("embedding_model.")} == {
            f"embedding_model.{key}" for key in state
        }
        np.testing.assert_array_equal(
            tensors["classifier.weight"], who.classifier.trained.weight.detach()
        )

    @pytest.mark.parametrize(
        "content",
        [lambda whole: whole[:-40], lambda _: b"", lambda _: b"\xff" * 400],
    )
    def test_damage(self, folder, content):
        path = folder / "model.safetensors"
        path.write_bytes(content(path.read_bytes()))
        with pytest.raises(InputError, match="does not hold the weights"):
            SpeakerIdentifier.from_results(folder, hop=HOP)

    def test_without_the_package(self, who, folder, tmp_path, monkeypatch):
        for name in ("safetensors", "safetensors.torch"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match="pip install"):
            SpeakerIdentifier.from_results(folder, hop=HOP)
        with pytest.raises(InputError, match="pip install"):
            who.save(tmp_path / "n", safetensors=True)
        assert not (tmp_path / "n").exists()

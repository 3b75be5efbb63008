"""Reading models of the authors' code."""

import math
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from strangers import Call, refusal

from amsincnet_sb.inference.pretrained import read_pretrained
from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.original import _their_names, import_original, load_original
from amsincnet_sb.utils.errors import InputError

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODEL = FIXTURES / "model_raw_small.pkl"
CFG = MODEL.with_suffix(".cfg")
CNN, DNN, CLASSIFIER = "CNN_model_par", "DNN1_model_par", "DNN2_model_par"


@pytest.fixture
def parts():
    """The small model's three state dicts, free to be spoilt."""
    return torch.load(MODEL, weights_only=True)


@pytest.fixture
def save(tmp_path):
    """Saves a model beside the small model's configuration."""
    shutil.copy(CFG, tmp_path)

    def save(contents, **how):
        path = tmp_path / "model_raw_test.pkl"
        torch.save(contents, path, **how)
        return path

    return save


def _refusal(path, *words, cfg=CFG, blamed=None):
    reason = refusal(load_original, path, cfg, blamed=blamed)
    assert all(word in reason for word in words)


# Models ----------------------------------------------------------------------


def _assert_equals_theirs(models):
    with np.load(FIXTURES / "small_model.npz") as numbers:
        wave = torch.tensor(numbers["wave"])
        expected = numbers["eval:log_prob"]
    network, classifier = models
    with torch.no_grad():
        ours = classifier(network(wave))[:, 0].numpy()
    assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()


def test_outputs_are_those_of_the_released_code():
    network, classifier = load_original(MODEL)
    assert not network.training and not classifier.training
    for model in (network, classifier):
        for tensor in model.parameters():
            assert tensor.dtype == torch.float32 and tensor.requires_grad
    _assert_equals_theirs((network, classifier))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_formats(parts, save, zipped, container):
    parts = container((k, container(v)) for k, v in parts.items())
    path = save(parts, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) == zipped
    _assert_equals_theirs(load_original(str(path)))
    for part in parts.values():  # old checkpoints do not count batches
        for name in [k for k in part if "num_batches" in k]:
            del part[name]
    _assert_equals_theirs(load_original(save(parts)))


def _cfg(path, **values):
    """The small model's configuration with other values; None leaves out."""
    text = CFG.read_text()
    for key, value in values.items():
        line = "" if value is None else f"{key}={value}"
        text, found = re.subn(f"^{key}=.*$", line, text, flags=re.MULTILINE)
        assert found == 1
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "blamed, words, values",
    [
        (MODEL, "(8, 250) but must have (8, 249)", {"cnn_len_filt": "53,5,5"}),
        (MODEL, "ln.0.gamma", {"cnn_max_pool_len": "2,3,3"}),
        (MODEL, "ln.1.gamma", {"cnn_N_filt": "8,7,6"}),
        (MODEL, "ln0.gamma", {"cw_len": 40}),
        (MODEL, "no place", {"fc_lay": "16,16"}),
        (MODEL, "wx.3.weight is missing", {"fc_lay": "16,16,16,16"}),
        (None, "fs is '0'", {"fs": 0}),
        (None, "cw_shift is 'ten'", {"cw_shift": "ten"}),
        (None, "fc_lay", {"fc_lay": ""}),
        (None, "cnn_N_filt", {"cnn_N_filt": "-8,6,6"}),
        (None, "cnn_n_filt", {"cnn_N_filt": None}),
        (None, "fc_use_batchnorm", {"fc_use_batchnorm": "True,False,True"}),
        (None, "must be True", {"cnn_use_laynorm_inp": "False"}),
        (None, "leaky_relu", {"fc_act": "relu,relu,relu"}),
        (None, "class_use_batchnorm", {"class_use_batchnorm": None}),
        # Sizes that make no sense cost nothing.
        (MODEL, "", {"cnn_len_filt": "5,5", "cw_len": 999999999}),
        (MODEL, "", {"cw_len": 1}),
        (MODEL, "", dict.fromkeys(["fs", "cw_len", "fc_lay"], 999999999)),
        (MODEL, "", {"cnn_N_filt": "999999999,6,6"}),
    ],
)
def test_configurations_that_do_not_fit(tmp_path, blamed, words, values):
    cfg = _cfg(tmp_path / "a.cfg", **values)
    _refusal(MODEL, words, cfg=cfg, blamed=blamed or cfg)


@pytest.mark.parametrize(
    "content", [b"", b"fs=1", b"[a", b"\xff\xfe", b"[a]\n"]
)
def test_no_configuration(tmp_path, content):
    path = tmp_path / "a.cfg"
    _refusal(MODEL, "cannot be read", cfg=path, blamed=path)
    with pytest.raises(InputError, match="is a folder and not a file"):
        load_original(MODEL, tmp_path)
    path.write_bytes(content)
    _refusal(MODEL, "not a configuration", cfg=path, blamed=path)


def test_where_the_configuration_is_found(parts, tmp_path):
    path = tmp_path / "model_raw_x.pkl"
    torch.save(parts, path)
    # None: the published architecture.
    _refusal(path, "published architecture", "--cfg", cfg=None)
    _cfg(tmp_path / "a.cfg", cw_shift=2)
    assert load_original(path)[0].hop == 32
    _cfg(tmp_path / "b.cfg")
    _refusal(path, "2 .cfg files", cfg=None)
    assert load_original(path, tmp_path / "b.cfg")[0].hop == 160


# rate, window, channels, taps, pools, fully connected, classes
ARCHITECTURES = {
    # Its filters have 250 taps in the file, which the authors' code makes odd.
    "even taps": (16000, 3200, [8, 6, 6], [251, 5, 5], [3, 3, 3], [16] * 3, 12),
    "8kHz, no pool": (8000, 400, [5, 4], [51, 3], [1, 1], [16, 8], 2),
    "one-layer": (44100, 882, [7], [65], [3], [9, 8, 7, 6], 30),
    "four-layers": (16000, 2000, [4] * 4, [81, 5, 4, 2], [4] * 4, [8], 4),
}


def _their_parts(models):
    """State dicts as the authors' code would save this network."""
    parts = {CNN: {}, DNN: {}, CLASSIFIER: {}}
    for model, table in zip(models, _their_names(models[0].arguments)):
        for name, tensor in model.state_dict().items():
            if name in table:
                part, theirs = table[name].split("/")
                parts[part][theirs] = tensor.double()
    return parts


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(save, tmp_path, name):
    rate, window, channels, taps, pools, fc, classes = ARCHITECTURES[name]
    network = SincNet(
        **reference.arguments_of(ARCHITECTURES[name]), hop=rate // 100
    )
    models = network, SoftmaxClassifier(fc[-1], classes)
    for model in models:
        reference.as_if_trained(model).eval()
    path = save(_their_parts(models))
    if name == "even taps":
        taps = [taps[0] - 1, *taps[1:]]
    cfg = _cfg(
        tmp_path / "other.cfg",
        fs=rate,
        cw_len=1000 * window // rate,
        cnn_N_filt=",".join(map(str, channels)),
        cnn_len_filt=", ".join(map(str, taps)),
        cnn_max_pool_len=",".join(map(str, pools)),
        fc_lay=",".join(map(str, fc)),
    )
    loaded = load_original(path, cfg)
    assert loaded[0].arguments == network.arguments
    waves = torch.randn(3, window)
    with torch.no_grad():
        expected = models[1](network(waves))
        assert torch.equal(loaded[1](loaded[0](waves)), expected)


# Spoilt models ---------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["whole", "part", "tensor", "key"])
def test_a_bomb_does_not_go_off(parts, save, canary, zipped, where):
    bomb = Call(open, canary, "w")
    things = {
        "whole": bomb,
        "part": {**parts, DNN: bomb},
        "tensor": {**parts, DNN: {"wx.0.weight": bomb}},
        "key": {**parts, DNN: {("wx.0.weight", bomb): torch.zeros(1)}},
    }
    path = save(things[where], _use_new_zipfile_serialization=zipped)
    _refusal(path, "tensors and nothing else")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_bomb(tmp_path, canary, protocol):
    path = tmp_path / "model_raw_x.pkl"
    path.write_bytes(pickle.dumps(Call(open, canary, "w"), protocol))
    _refusal(path, "tensors and nothing else")


@pytest.mark.parametrize("other", [1.5, "text", None, [torch.zeros(1)], {}])
def test_other_things_than_tensors_and_other_parts(parts, save, other):
    _refusal(save({**parts, "optimizer": {}}), "nothing else")
    parts[CNN]["ln0.gamma"] = other
    _refusal(save(parts), CNN)
    _refusal(save(other))


@pytest.mark.parametrize("zipped", [True, False])
def test_no_files_and_parts_of_files(parts, save, tmp_path, zipped):
    _refusal(tmp_path / "a.pkl", "No such file")
    _refusal(tmp_path)
    path = save(parts, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    cuts = [whole[:size] for size in (0, 9, 100, 5000, len(whole) - 1)]
    for content in (b"not a model\n", b"PK\x03\x04", *cuts):
        path.write_bytes(content)
        _refusal(path, "not a whole file")


def test_more_than_the_size_of_the_file(parts, save, tmp_path):
    parts[CNN]["ln0.gamma"] = torch.ones(1).expand(10**12)
    _refusal(save(parts), "claim")
    path = tmp_path / "model_raw_x.pkl"
    with (
        zipfile.ZipFile(MODEL) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
        target.writestr("model_raw_small/data/999", b"\0" * 10**6)
    _refusal(path, "unpacks")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize(
    "part, name",
    [(CNN, "conv.0.filt_b1"), (DNN, "bn.1.running_var"), (DNN, "wx.0.weight")],
)
def test_not_finite(parts, save, part, name, value):
    tensor = parts[part][name].double()
    parts[part][name] = tensor.long()
    _refusal(save(parts), f"{part}/{name}", "whole numbers")
    tensor.flatten()[0] = value
    parts[part][name] = tensor
    _refusal(save(parts), f"{part}/{name}", "NaN, infinite")


def test_every_used_weight_is_needed_and_has_one_shape(parts, save):
    tables = _their_names(load_original(MODEL)[0].arguments)
    used = [theirs.split("/") for table in tables for theirs in table.values()]
    assert len(used) == 36
    for part, name in used:
        tensor = parts[part].pop(name)
        _refusal(save(parts), f"{part}/{name}", "missing")
        for wrong in (tensor[:-1], tensor[None], tensor.sum()):
            parts[part][name] = wrong
            _refusal(save(parts), part)
        parts[part][name] = tensor


@pytest.mark.parametrize(
    "part, name, size, words",
    [
        (CNN, "bn0.weight", 800, "no place"),  # cnn_use_batchnorm_inp
        (DNN, "bn0.weight", 156, "no place"),  # fc_use_batchnorm_inp
        (CLASSIFIER, "ln0.gamma", 16, "no place"),  # class_use_laynorm_inp
        (CLASSIFIER, "wx.1.weight", 16, "no place"),
        (DNN, "ln.0.gamma.more", 16, "no place"),
        (DNN, "bn.7.weight", 16, "no place"),
        (CNN, "bn.1.running_mean", 6, "idle"),
        (CNN, "conv.0.low_hz_", 8, "later versions of SincNet"),
    ],
)
def test_unknown_weights(parts, save, part, name, size, words):
    parts[part][name] = torch.full((size,), 0.5)
    if name == "conv.0.low_hz_":
        del parts[part]["conv.0.filt_b1"]
    _refusal(save(parts), words)


# Import ----------------------------------------------------------------------


def _save_labels(folder, names):
    labels = {f"train/dr1/{n}/si1.wav": i for i, n in enumerate(names)}
    np.save(folder / "labels.npy", labels)
    return folder / "labels.npy"


DIGITS = [str(i) for i in range(10)]
NAMES = [f"spk{i}" for i in (7, 3, 9, 1, 0, 2, 4, 5, 6, 8)]


@pytest.mark.parametrize(
    "names, speakers",
    # Of two classes of ten, one may be called like another's number.
    [(None, DIGITS), (NAMES, NAMES), (["5", "ann"], DIGITS)],
)
def test_import(tmp_path, names, speakers):
    labels = None if names is None else _save_labels(tmp_path, names)
    cfg = _cfg(tmp_path / "8kHz.cfg", fs=8000, cw_len=100)
    import_original(MODEL, tmp_path / "out", labels, cfg)
    network, classifier, config = read_pretrained(tmp_path / "out")
    assert config["speakers"] == speakers
    assert (network.sample_rate, network.hop) == (8000, 80)
    import_original(MODEL, tmp_path / "16kHz", labels)
    _assert_equals_theirs(read_pretrained(tmp_path / "16kHz")[:2])


@pytest.mark.parametrize("held", ["pretrained", "save", "."])
def test_import_replaces_no_model(tmp_path, held):
    folder = tmp_path / "out" / held
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("mine")
    with pytest.raises(InputError, match="out.* exists already; name a new"):
        import_original(MODEL, tmp_path / "out")
    assert [*folder.iterdir()] == [folder / "config.json"]


def test_import_with_names_that_no_model_can_have(tmp_path):
    labels = _save_labels(tmp_path, [f"spk\n{i}" for i in range(10)])
    with pytest.raises(InputError, match="rename the speaker"):
        import_original(MODEL, tmp_path / "out", labels)


def test_import_with_labels_of_another_model(tmp_path):
    labels = _save_labels(tmp_path, [f"spk{i}" for i in range(11)])
    with pytest.raises(InputError, match="labels.npy: it has a class 10"):
        import_original(MODEL, tmp_path / "out", labels)
    assert not (tmp_path / "out").exists()

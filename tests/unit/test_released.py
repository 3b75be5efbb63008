"""Reading what users of the released code have: models, labels, lists."""

import json
import logging
import math
import os
import pickle
import zipfile
from collections import OrderedDict
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

from amsincnet_sb.inference.pretrained import read_pretrained
from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.original import (
    corpus_from_scp,
    import_released,
    load_released,
    read_labels,
    read_scp,
    speaker_table,
)
from amsincnet_sb.published import published_curves
from amsincnet_sb.utils.errors import InputError

FIXTURES = Path(__file__).parents[1] / "fixtures"
MODEL = FIXTURES / "model_raw_small.pkl"
CNN, DNN, CLASSIFIER = "CNN_model_par", "DNN1_model_par", "DNN2_model_par"


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, canary):
        self.canary = os.fspath(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    # It works where nobody is careful.
    pickle.loads(pickle.dumps(Bomb(path))).close()
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


@pytest.fixture
def parts():
    """The small model's three state dicts, free to be spoilt."""
    return torch.load(MODEL, weights_only=True)


@pytest.fixture
def save(tmp_path):
    def save(contents, **how):
        path = tmp_path / "model_raw_test.pkl"
        torch.save(contents, path, **how)
        return path

    return save


def _refusal(path, *words, **keywords):
    """The message, which must be one sentence that names the file."""
    with pytest.raises(InputError) as caught:
        load_released(path, **keywords)
    return _check_message(caught, path, *words)


def _check_message(caught, path, *words):
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    reason = message[len(f"{path}: ") :]
    assert reason.endswith(".") and "\n" not in reason
    assert ". " not in reason, "one sentence"
    for word in words:
        assert word in reason
    return reason


# Models ----------------------------------------------------------------------


def _assert_equals_released(models):
    with np.load(FIXTURES / "small_model.npz") as numbers:
        wave = torch.tensor(numbers["wave"])
        expected = numbers["eval:log_prob"]
    network, classifier = models
    with torch.no_grad():
        ours = classifier(network(wave))[:, 0].numpy()
    assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()


def test_outputs_are_those_of_the_released_code():
    network, classifier = load_released(MODEL)
    assert not network.training and not classifier.training
    assert network.hop == 160 and network.sample_rate == 16000
    assert network.sinc.kernel_size == 51
    assert network.cnn_pools == (3, 3, 3)
    for model in (network, classifier):
        for tensor in model.parameters():
            assert tensor.dtype == torch.float32 and tensor.requires_grad
    _assert_equals_released((network, classifier))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("container", [dict, OrderedDict])
def test_formats(parts, save, zipped, container):
    parts = container((k, container(v)) for k, v in parts.items())
    path = save(parts, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(path) == zipped
    _assert_equals_released(load_released(path))
    _assert_equals_released(load_released(str(path)))


def test_old_checkpoints_count_no_batches(parts, save):
    for part in parts.values():
        for name in [k for k in part if "num_batches" in k]:
            del part[name]
    _assert_equals_released(load_released(save(parts)))


def test_double_and_half_become_single(parts, save):
    doubled = {
        p: {k: v.double() if v.is_floating_point() else v for k, v in d.items()}
        for p, d in parts.items()
    }
    _assert_equals_released(load_released(save(doubled)))
    parts[CLASSIFIER]["wx.0.bias"] = parts[CLASSIFIER]["wx.0.bias"].half()
    _, classifier = load_released(save(parts))
    assert classifier.linear.bias.dtype == torch.float32


def test_rate_and_hop():
    network, _ = load_released(MODEL, sample_rate=8000)
    assert (network.sample_rate, network.hop) == (8000, 80)
    low, _ = network.sinc.cutoffs_hz()
    low_16k, _ = load_released(MODEL, hop=40)[0].sinc.cutoffs_hz()
    # In units of the rate, but for the 50 Hz.
    torch.testing.assert_close(2 * (low - 50), low_16k - 50)
    assert load_released(MODEL, hop=40)[0].hop == 40
    with pytest.raises(InputError, match="sample_rate is 0"):
        load_released(MODEL, sample_rate=0)


def test_ambiguous_taps_are_told_and_settled(caplog):
    with caplog.at_level(logging.WARNING):
        network, _ = load_released(MODEL)
    assert "51 taps" in caplog.text and "(49, 3)" in caplog.text
    caplog.clear()
    for taps in (49, 48):  # the released code makes taps odd
        network, _ = load_released(MODEL, sinc_kernel_size=taps)
        assert network.sinc.kernel_size == 49
    network, _ = load_released(MODEL, sinc_kernel_size=51, pools=[3, 3, 3])
    assert network.sinc.kernel_size == 51
    assert not caplog.text


@pytest.mark.parametrize(
    "keywords",
    [
        {"sinc_kernel_size": 53},
        {"sinc_kernel_size": -3},
        {"pools": [2, 3, 3], "sinc_kernel_size": 51},
        {"pools": [3, 2, 3]},
        {"pools": [3, 3, 0]},
        {"pools": [0, 3, 3]},
        {"pools": [3, 3]},
    ],
)
def test_keywords_that_do_not_fit(keywords):
    _refusal(MODEL, **keywords)


# rate, window, channels, taps, pools, fully connected, classes
ARCHITECTURES = {
    "released": (16000, 3200, [8, 6, 6], [251, 5, 5], [3, 3, 3], [16] * 3, 12),
    "8kHz": (8000, 1600, [8, 6], [129, 5], [3, 3], [16, 8], 5),
    "pool-2": (16000, 1600, [5, 4, 3], [101, 3, 7], [2, 2, 2], [8], 2),
    "no-pool": (16000, 400, [5, 4], [51, 3], [1, 1], [8], 2),
    "one-layer": (44100, 1000, [7], [65], [3], [9, 8, 7, 6], 30),
    "four-layers": (16000, 2000, [4] * 4, [81, 5, 4, 2], [4] * 4, [8], 4),
}


def _released_parts(network, classifier):
    """State dicts as the released code would save this network."""
    cnn, dnn, last = {}, {}, {}
    cnn["conv.0.filt_b1"] = network.sinc.low.double()
    cnn["conv.0.filt_band"] = network.sinc.band.double()
    for i, conv in enumerate(network.convs, start=1):
        cnn[f"conv.{i}.weight"], cnn[f"conv.{i}.bias"] = conv.parameters()
    cnn["ln0.gamma"], cnn["ln0.beta"] = network.input_norm.parameters()
    for i, norm in enumerate(network.cnn_norms):
        cnn[f"ln.{i}.gamma"], cnn[f"ln.{i}.beta"] = norm.parameters()
        _add_idle(cnn, i, len(norm.weight), layer_norm=False)
    dnn["ln0.gamma"], dnn["ln0.beta"] = network.flat_norm.parameters()
    for i, (wx, bn) in enumerate(zip(network.linears, network.fc_norms)):
        dnn[f"wx.{i}.weight"], dnn[f"wx.{i}.bias"] = wx.parameters()
        for name, tensor in bn.state_dict().items():
            dnn[f"bn.{i}.{name}"] = tensor
        dnn[f"ln.{i}.gamma"] = torch.rand(wx.out_features)
        dnn[f"ln.{i}.beta"] = torch.rand(wx.out_features)
    last["wx.0.weight"], last["wx.0.bias"] = classifier.linear.parameters()
    _add_idle(last, 0, classifier.linear.out_features, layer_norm=True)
    parts = {CNN: cnn, DNN: dnn, CLASSIFIER: last}
    return {p: {k: v.detach() for k, v in d.items()} for p, d in parts.items()}


def _add_idle(part, i, size, layer_norm):
    for name, tensor in torch.nn.BatchNorm1d(size).state_dict().items():
        part[f"bn.{i}.{name}"] = tensor
    if layer_norm:
        part[f"ln.{i}.gamma"] = torch.rand(size)
        part[f"ln.{i}.beta"] = torch.rand(size)


def _random_models(rate, window, channels, taps, pools, fc, classes):
    torch.manual_seed(window)
    network = SincNet(
        sample_rate=rate,
        window=window,
        hop=rate // 100,
        cnn_channels=channels,
        cnn_kernel_sizes=taps,
        cnn_pools=pools,
        fc_neurons=fc,
    )
    classifier = SoftmaxClassifier(fc[-1], classes)
    with torch.no_grad():
        for model in (network, classifier):
            for tensor in model.parameters():
                tensor.mul_(1 + 0.1 * torch.rand_like(tensor)).add_(0.01)
    network(torch.randn(4, window))  # moves the running statistics
    return network.eval(), classifier.eval()


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures(save, name, settled):
    rate, window, _, taps, pools, *_ = ARCHITECTURES[name]
    network, classifier = _random_models(*ARCHITECTURES[name])
    path = save(_released_parts(network, classifier))
    keywords = {"sinc_kernel_size": taps[0], "pools": pools} if settled else {}
    loaded = load_released(path, sample_rate=rate, **keywords)
    assert loaded[0].arguments == network.arguments
    waves = torch.randn(3, window)
    with torch.no_grad():
        expected = classifier(network(waves))
        assert torch.equal(loaded[1](loaded[0](waves)), expected)


def test_the_published_architecture_is_not_ambiguous(save, caplog):
    network, classifier = _random_models(*ARCHITECTURES["released"])
    load_released(save(_released_parts(network, classifier)))
    assert not caplog.text


# Spoilt models ---------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["whole", "part", "tensor", "key"])
def test_a_bomb_does_not_go_off(parts, save, canary, zipped, where):
    bomb = Bomb(canary)
    if where == "whole":
        parts = bomb
    elif where == "part":
        parts[DNN] = bomb
    elif where == "tensor":
        parts[DNN]["wx.0.weight"] = bomb
    else:
        parts[DNN][("wx.0.weight", bomb)] = torch.zeros(1)
    path = save(parts, _use_new_zipfile_serialization=zipped)
    _refusal(path, "tensors and nothing else")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_bomb(tmp_path, canary):
    path = tmp_path / "model_raw_x.pkl"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Bomb(canary), protocol))
        _refusal(path, "tensors and nothing else")


@pytest.mark.parametrize("other", [1.5, "text", None, [torch.zeros(1)], {}])
def test_other_things_than_tensors(parts, save, other):
    parts[CNN]["ln0.gamma"] = other
    _refusal(save(parts), CNN)
    _refusal(save(other))


def test_no_such_file_folder_empty_text(tmp_path):
    _refusal(tmp_path / "missing.pkl", "No such file")
    _refusal(tmp_path)
    for name, content in {
        "empty.pkl": b"",
        "text.pkl": b"not a model\n",
        "zip.pkl": b"PK\x03\x04",
        "noise.pkl": bytes(range(256)) * 9,
    }.items():
        (tmp_path / name).write_bytes(content)
        _refusal(tmp_path / name, "not a whole file")


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(parts, save, zipped):
    path = save(parts, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for size in [1, 2, 4, 9, 100, 5000, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        _refusal(path, "not a whole file")


def test_changed_bytes_are_refused_or_harmless(tmp_path):
    whole = MODEL.read_bytes()
    path = tmp_path / "model_raw_x.pkl"
    rng = np.random.default_rng(0)
    for at in rng.integers(0, 9000, size=60):  # header and pickle
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        try:
            load_released(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")


def test_compressed_archives_are_refused(tmp_path):
    path = tmp_path / "model_raw_x.pkl"
    with (
        zipfile.ZipFile(MODEL) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
        target.writestr("model_raw_small/data/999", b"\0" * 10**6)
    _refusal(path, "unpacks")


def test_a_tensor_larger_than_the_file(parts, save):
    parts[CNN]["ln0.gamma"] = torch.ones(1).expand(10**12)
    _refusal(save(parts), "claim")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize(
    "part, name",
    [(CNN, "conv.0.filt_b1"), (DNN, "bn.1.running_var"), (DNN, "wx.0.weight")],
)
def test_not_finite(parts, save, part, name, value):
    tensor = parts[part][name].double()
    tensor.flatten()[0] = value
    parts[part][name] = tensor
    _refusal(save(parts), f"{part}/{name}", "finite")


def test_whole_numbers_are_no_weights(parts, save):
    parts[DNN]["wx.0.bias"] = parts[DNN]["wx.0.bias"].long()
    _refusal(save(parts), "wx.0.bias")


def test_every_used_weight_is_needed_and_has_one_shape(save):
    numbers = np.load(FIXTURES / "small_model.npz")
    used = [
        key.removeprefix("am_m005:grad/").split("/", 1)
        for key in numbers
        if key.startswith("am_m005:grad/")
    ]
    used += [
        ["DNN1", f"bn.{i}.{k}"]
        for i in range(3)
        for k in ("running_mean", "running_var")
    ]
    assert len(used) == 36
    for part, name in used:
        part += "_model_par"
        parts = torch.load(MODEL, weights_only=True)
        tensor = parts[part].pop(name)
        # Without its weight the last layer looks as if it were not there.
        _refusal(save(parts))
        for wrong in (tensor[:-1], tensor[None], tensor.sum()):
            parts[part][name] = wrong
            _refusal(save(parts))


def test_missing_and_added_parts(parts, save):
    for part in (CNN, DNN, CLASSIFIER):
        _refusal(save({k: v for k, v in parts.items() if k != part}))
    _refusal(save({**parts, "optimizer": {}}), "nothing else")


@pytest.mark.parametrize(
    "part, name, size",
    [
        (CNN, "bn0.weight", 800),  # cnn_use_batchnorm_inp
        (DNN, "bn0.weight", 156),  # fc_use_batchnorm_inp
        (CLASSIFIER, "ln0.gamma", 16),  # class_use_laynorm_inp
        (CLASSIFIER, "wx.1.weight", 16),
        (CNN, "conv.7.bias", 6),
        (DNN, "ln.0.gamma.more", 16),
        (DNN, "bn.7.weight", 16),
    ],
)
def test_unknown_weights(parts, save, part, name, size):
    parts[part][name] = torch.ones(size)
    _refusal(save(parts), f"{part}/{name}", "no place")


def test_other_members_of_the_family(parts, save):
    moved = dict(parts[CNN])
    moved["bn.1.running_mean"] = torch.rand(6)
    _refusal(save({**parts, CNN: moved}), "bn.1.running_mean", "idle")
    newer = dict(parts[CNN])
    newer["conv.0.low_hz_"] = newer.pop("conv.0.filt_b1")[:, None]
    newer["conv.0.band_hz_"] = newer.pop("conv.0.filt_band")[:, None]
    _refusal(save({**parts, CNN: newer}), "later versions of SincNet")


# Import ----------------------------------------------------------------------


def _labels_file(path, labels):
    np.save(path, labels)
    return path


def _save_labels(folder, names):
    labels = {f"train/dr1/{n}/si1.wav": i for i, n in enumerate(names)}
    return _labels_file(folder / "labels.npy", labels)


def test_import(tmp_path):
    names = [f"spk{i}" for i in (7, 3, 9, 1, 0, 2, 4, 5, 6, 8)]
    labels = _save_labels(tmp_path, names)
    import_released(MODEL, tmp_path / "out", labels, pools=[3, 3, 3])
    network, classifier, config = read_pretrained(tmp_path / "out")
    assert config["speakers"] == names
    _assert_equals_released((network, classifier))


def test_import_without_labels(tmp_path):
    import_released(MODEL, tmp_path / "out", sample_rate=8000)
    network, _, config = read_pretrained(tmp_path / "out")
    assert config["speakers"] == [str(i) for i in range(10)]
    assert network.sample_rate == 8000


def test_import_with_labels_of_another_model(tmp_path):
    labels = _save_labels(tmp_path, [f"spk{i}" for i in range(11)])
    with pytest.raises(InputError) as caught:
        import_released(MODEL, tmp_path / "out", labels)
    _check_message(caught, labels, "class 10", str(MODEL))
    assert not (tmp_path / "out").exists()


def test_import_names_classes_apart(tmp_path):
    # Two classes of ten, one of them called like another's number.
    labels = _save_labels(tmp_path, ["5", "ann"])
    import_released(MODEL, tmp_path / "out", labels)
    speakers = read_pretrained(tmp_path / "out")[2]["speakers"]
    assert speakers == [str(i) for i in range(10)]


# Labels ----------------------------------------------------------------------

TIMIT = {
    "train/dr1/fcjf0/si1027.wav": 0,
    "train/dr1/fcjf0/sx37.wav": 0,
    "test/dr2/mabc0/si1.wav": 461,
}
# What numpy writes before the pickle of one object.
HEADER = b"\x93NUMPY\x01\x00v\x00"
HEADER += b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117)
HEADER += b"\n"


def _npy(path, thing, protocol=2):
    array = np.empty((), dtype=object)
    array[()] = thing
    path.write_bytes(HEADER + pickle.dumps(array, protocol))
    return path


@pytest.fixture
def npy(tmp_path):
    return tmp_path / "TIMIT_labels.npy"


def _labels_refusal(path, *words):
    with pytest.raises(InputError) as caught:
        read_labels(path)
    return _check_message(caught, path, *words)


def test_labels(npy):
    np.save(npy, TIMIT)
    assert npy.read_bytes().startswith(HEADER)
    assert read_labels(npy) == TIMIT


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "kind", [int, np.int64, np.int32, np.int16, np.uint8, np.dtype(">i8").type]
)
def test_label_values_of_any_integer_type(npy, protocol, kind):
    expected = {k: v % 200 for k, v in TIMIT.items()}
    _npy(npy, {k: kind(v) for k, v in expected.items()}, protocol)
    labels = read_labels(npy)
    assert labels == expected
    assert {type(v) for v in labels.values()} == {int}


def test_labels_of_python_2(npy):
    # numpy.save(path, {'a/b.wav': 5, 'a/c.wav': numpy.int64(7)}) there
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\n"
        b"q\x02K\x00\x85U\x01b\x87Rq\x03(K\x01)cnumpy\ndtype\nq\x04U\x02O8K\x00"
        b"K\x01\x87Rq\x05(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
        b"\x89]q\x06}q\x07(U\x07a/b.wavK\x05U\x07a/c.wavcnumpy.core.multiarray"
        b"\nscalar\nq\x08h\x04U\x02i8K\x00K\x01\x87Rq\x09(K\x03U\x01<NNNJ\xff"
        b"\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08\x07\x00\x00\x00\x00\x00\x00"
        b"\x00\x86Rq\nuatb."
    )
    npy.write_bytes(HEADER + pickled)
    both = np.load(npy, allow_pickle=True, encoding="latin1").item()
    assert read_labels(npy) == both == {"a/b.wav": 5, "a/c.wav": 7}


@pytest.mark.parametrize(
    "other",
    [
        {"a": 1.5},
        {"a": True},
        {"a": "1"},
        {"a": None},
        {"a": [1]},
        {"a": {"b": 1}},
        {"a": np.float32(1)},
        {"a": np.bool_(True)},
        {"a": np.arange(1)},
        {1: 1},
        {b"a": 1},
        {("a",): 1},
        [1, 2],
        "text",
        7,
        None,
        Path("x"),
        OrderedDict(a=1),
        {"a": 1 + 0j},
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_labels_of_anything_else(npy, other, protocol):
    _labels_refusal(_npy(npy, other, protocol), "only a dictionary")


def test_arrays_are_no_labels(npy):
    for array in (np.arange(3), np.array([TIMIT], dtype=object), np.array(1)):
        np.save(npy, array, allow_pickle=True)
        _labels_refusal(npy)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("where", ["whole", "value", "key", "array", "bare"])
def test_a_bomb_in_the_labels(npy, canary, protocol, where):
    bomb = Bomb(canary)
    if where == "bare":  # neither header nor array
        npy.write_bytes(pickle.dumps(bomb, protocol))
    elif where == "array":
        npy.write_bytes(HEADER + pickle.dumps(bomb, protocol))
    else:
        thing = {"whole": bomb, "value": {"a": bomb}, "key": {(bomb,): 1}}
        _npy(npy, thing[where], protocol)
    _labels_refusal(npy)


@pytest.mark.parametrize(
    "name",
    ["os system", "builtins eval", "numpy load", "numpy.core.multiarray x"],
)
def test_names_that_a_pickle_may_not_ask_for(npy, name):
    module, attribute = name.split()
    npy.write_bytes(HEADER + f"c{module}\n{attribute}\n.".encode())
    _labels_refusal(npy, repr(name))


def test_a_key_that_takes_for_ever_to_hash(npy):
    # (((…, …), (…, …)), …): 60 instructions, 2**60 leaves
    tuples = b"".join(b"q%ch%c\x86" % (i, i) for i in range(60))
    npy.write_bytes(HEADER + b"\x80\x02}K\x01" + tuples + b"K\x05s.")
    _labels_refusal(npy, "a key is not text")


def test_labels_truncated_or_missing(npy):
    _labels_refusal(npy, "No such file")
    np.save(npy, TIMIT)
    whole = npy.read_bytes()
    for size in range(len(whole)):
        npy.write_bytes(whole[:size])
        _labels_refusal(npy)


def test_labels_too_large(npy):
    with open(npy, "wb") as file:
        file.truncate(129 * 2**20)  # a hole: takes no room
    _labels_refusal(npy, "larger than")


FUZZ = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(st.dictionaries(st.text(), st.integers()), st.sampled_from([2, 4, 5]))
def test_any_labels_come_back(npy, labels, protocol):
    assert read_labels(_npy(npy, labels, protocol)) == labels


@FUZZ
@given(st.data())
def test_fuzzed_labels(npy, data):
    whole = bytearray(HEADER + pickle.dumps(np.array(TIMIT, dtype=object), 4))
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] = data.draw(st.integers(0, 255))
        npy.write_bytes(whole)
    else:
        npy.write_bytes(HEADER + data.draw(st.binary(max_size=64)) + b".")
    try:
        labels = read_labels(npy)
    except InputError as error:
        assert str(error).startswith(f"{npy}: ")
    else:
        assert all(type(k) is str for k in labels)
        assert all(type(v) is int for v in labels.values())


# Speakers and lists ----------------------------------------------------------


def test_speakers_are_called_after_their_folders():
    assert speaker_table(TIMIT) == {0: "fcjf0", 461: "mabc0"}


@pytest.mark.parametrize(
    "labels",
    [
        {"a/x.wav": 0, "b/x.wav": 0, "c/x.wav": 11},  # two folders, one class
        {"a/x.wav": 0, "a/y.wav": 11},  # one folder, two classes
        {"a/x.wav": 0, "y.wav": 11},  # no folder
    ],
)
def test_speakers_are_called_after_their_number(labels):
    assert speaker_table(labels) == {0: "00", 11: "11"}


@pytest.mark.parametrize("labels", [{}, {"a/b.wav": -1}])
def test_labels_that_are_no_classes(labels):
    with pytest.raises(InputError, match="numbered from 0"):
        speaker_table(labels)


def test_scp(tmp_path):
    path = tmp_path / "train.scp"
    path.write_bytes(
        b"\xef\xbb\xbftrain/a/1.wav\r\n\n   \n# a comment\n  train/b c/2.wav \n"
    )
    assert read_scp(path) == ["train/a/1.wav", "train/b c/2.wav"]


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"\xff\xfe\n"])
def test_scp_that_is_none(tmp_path, content):
    path = tmp_path / "train.scp"
    path.write_bytes(content)
    for bad in (path, tmp_path, tmp_path / "missing.scp"):
        with pytest.raises(InputError) as caught:
            read_scp(bad)
        _check_message(caught, bad)


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_fuzzed_scp(tmp_path, content):
    path = tmp_path / "fuzz.scp"
    path.write_bytes(content)
    try:
        wavs = read_scp(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ")
    else:
        assert wavs and all(w == w.strip() != "" for w in wavs)


@pytest.fixture
def corpus(tmp_path):
    """Files in mixed case, lists in lower case, labels."""
    root = tmp_path / "corpus"
    labels = {}
    for part, names in {"TRAIN": ["SX1", "SX2"], "TEST": ["SI1"]}.items():
        for label, speaker in enumerate(["MDAB0", "FAKS0"]):
            for n, name in enumerate(names):
                wav = f"{part}/DR1/{speaker}/{name}.WAV"
                (root / wav).parent.mkdir(parents=True, exist_ok=True)
                noise = np.random.default_rng(n).uniform(-0.1, 0.1, 4000 + n)
                soundfile.write(root / wav, noise, 8000, format="WAV")
                labels[wav.lower()] = label
    for part in ("train", "test"):
        lines = [w for w in labels if w.startswith(part)]
        (tmp_path / f"{part}.scp").write_text("\n".join(lines) + "\n")
    return root, tmp_path / "train.scp", tmp_path / "test.scp", labels


def test_corpus_from_scp(corpus):
    train, test = corpus_from_scp(*corpus)
    assert [u.spk_id for u in train] == ["mdab0"] * 2 + ["faks0"] * 2
    assert [u.spk_id for u in test] == ["mdab0", "faks0"]
    second = train[1]
    assert second.wav == "TRAIN/DR1/MDAB0/SX2.WAV"
    assert second.id == "TRAIN-DR1-MDAB0-SX2"
    assert (second.start, second.stop) == (0, 4001)
    assert second.duration == 4001 / 8000


def _append(path, line):
    path.write_text(path.read_text() + line + "\n")


@pytest.mark.parametrize(
    "line, words",
    [
        ("test/dr1/nobody/si1.wav", "dictionary of labels"),
        ("test/dr1/mdab0/si1.wav", "already"),
        ("train/dr1/mdab0/sx1.wav", "already"),
        ("test/dr1/mdab0/gone.wav", "no such file"),
        ("../secret.wav", "inside the corpus folder"),
        ("test/dr1/mcpm0/si1.wav", "no sentence in"),
    ],
)
def test_lists_that_do_not_fit(corpus, line, words):
    root, _, test, labels = corpus
    labels["test/dr1/mdab0/gone.wav"] = 0
    labels["../secret.wav"] = 0
    labels["test/dr1/mcpm0/si1.wav"] = 2
    for wav in ("TEST/DR1/MCPM0/SI1.WAV", "../secret.wav"):
        (root / wav).parent.mkdir(exist_ok=True)
        soundfile.write(root / wav, np.full(9, 0.1), 8000, format="WAV")
    _append(test, line)
    with pytest.raises(InputError, match=words):
        corpus_from_scp(*corpus)


# Published curves ------------------------------------------------------------


def test_published_curves():
    curves = published_curves()
    margins = [m / 100 for m in range(5, 100, 5)]
    assert list(curves) == [None, *margins]
    for curve in curves.values():
        assert len({len(column) for column in curve}) == 1
        assert (np.diff(curve.epoch) == 8).all() and curve.epoch[0] == 0
    # The figures that the paper and its logs are known by.
    late = [
        (curves[m].frame_error[i], curves[m].sentence_error[i])
        for m in margins
        for i in np.flatnonzero(
            (curves[m].epoch >= 296) & (curves[m].epoch <= 352)
        )
    ]
    frame, sentence = np.mean(late, axis=0)
    assert frame == pytest.approx(28.0, abs=0.05)
    assert sentence == pytest.approx(0.43, abs=0.005)
    for margin in margins:
        last = curves[margin].train_loss[-1]
        assert 3.50 < last - 30 * margin < 3.51
    json.dumps([float(x) for x in curves[None].frame_error])

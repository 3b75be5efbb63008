"""Models of the authors' code: ``model_raw_*.pkl`` and its ``.cfg`` file.

A pickle runs code of its author when it is read in the ordinary way; nothing
in these runs here. Lists and labels are read by ``dataio.scp``.
"""

import configparser
import os
import re
from pathlib import Path

import torch

from amsincnet_sb.dataio.manifest import check_speaker
from amsincnet_sb.dataio.scp import read_labels, speaker_table
from amsincnet_sb.inference.pretrained import find_pretrained, write_pretrained
from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import is_plain_file
from amsincnet_sb.utils.locks import sole_process
from amsincnet_sb.utils.reading import TooLarge, read_tensors

__all__ = ["import_original", "load_original"]

CNN, DNN, CLASSIFIER = "CNN_model_par", "DNN1_model_par", "DNN2_model_par"
# The published architecture. A configuration may have other sizes; where a
# value stands for all layers, another value is another architecture.
PUBLISHED_CFG = """
[windowing]
fs=16000
cw_len=200
cw_shift=10
[cnn]
cnn_N_filt=80,60,60
cnn_len_filt=251,5,5
cnn_max_pool_len=3,3,3
cnn_use_laynorm_inp=True
cnn_use_batchnorm_inp=False
cnn_use_laynorm=True
cnn_use_batchnorm=False
cnn_act=leaky_relu
[dnn]
fc_lay=2048,2048,2048
fc_use_laynorm_inp=True
fc_use_batchnorm_inp=False
fc_use_laynorm=False
fc_use_batchnorm=True
fc_act=leaky_relu
[class]
class_use_laynorm_inp=False
class_use_batchnorm_inp=False
class_use_laynorm=False
class_use_batchnorm=False
class_act=softmax
"""
# Every layer has both normalisations and uses one of them or none.
_UNUSED = re.compile(
    r"\w+/bn\.\d+\.num_batches_tracked"
    r"|(CNN|DNN2)_model_par/bn\.\d+\.(weight|bias|running_mean|running_var)"
    r"|DNN[12]_model_par/ln\.\d+\.(gamma|beta)"
)
_WHOLE_NUMBERS = re.compile(r"\s*[1-9]\d{0,8}(\s*,\s*[1-9]\d{0,8})*\s*")


def load_original(path, cfg=None):
    """Read a model saved by the authors' SincNet or AM-SincNet code.

    ``path`` is a ``model_raw_*.pkl``: three state dicts in one file of
    ``torch.save``, of any version. ``cfg`` is the configuration of its
    training, by default the only ``.cfg`` file beside the model; without one
    the architecture is the published one.

    Returns a SincNet and a SoftmaxClassifier in float32, in evaluation mode.
    An InputError says that a file cannot be read, holds anything but tensors,
    is of another architecture, or has weights that are NaN or infinite.
    """
    architecture, plan = _architecture(path, cfg)
    try:
        weights = _read_weights(path)
        with torch.device("meta"):  # sizes that make no sense cost nothing
            models = _build(architecture, weights)
            tables = _their_names(architecture)
            _check_weights(weights, models, tables, plan)
        models = _build(architecture, weights)
        for model, table in zip(models, tables):
            model.load_state_dict(
                {ours: weights[name].float() for ours, name in table.items()}
            )
            model.eval()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error.__cause__
    return models


def import_original(path, output_folder, labels=None, cfg=None):
    """Turn a model of the authors' code into a results folder.

    Its folder ``pretrained`` is for every command of this package and for
    SpeechBrain's ``EncoderClassifier``. ``labels`` is the dictionary of labels
    (``TIMIT_labels.npy``) that the model was trained with: speakers are named
    by :func:`~amsincnet_sb.dataio.scp.speaker_table`; those that it does not
    name, and all without it, by their labels. ``path`` and ``cfg`` are those
    of :func:`load_original`. An InputError says that the folder holds a model
    or a training already: neither is replaced.
    """
    place = find_pretrained(output_folder)  # one half replaced is restored
    for held in (place, place / "config.json", Path(output_folder) / "save"):
        if held != Path(output_folder) and os.path.lexists(held):
            raise InputError(
                f"{held} exists already; name a new folder for the model."
            )
    network, classifier = load_original(path, cfg)
    classes = classifier.linear.out_features
    names = {} if labels is None else speaker_table(read_labels(labels))
    if any(label >= classes for label in names):
        raise InputError(
            f"{labels}: it has a class {max(names)}, but {path} knows only "
            f"the classes 0 to {classes - 1}; give the dictionary that it "
            "was trained with."
        )
    for name in names.values():
        check_speaker(name, labels)
    digits = speaker_table({str(label): label for label in range(classes)})
    speakers = list({**digits, **names}.values())
    if len(set(speakers)) < classes:  # a folder is called like another's label
        speakers = list(digits.values())
    with sole_process(output_folder):
        write_pretrained(
            Path(output_folder) / "pretrained", network, classifier, speakers
        )


# Configuration ---------------------------------------------------------------


def _architecture(path, cfg):
    """The arguments of SincNet, and the name of what they come from."""
    if cfg is None:
        beside = sorted(Path(path).parent.glob("*.cfg"))
        if len(beside) > 1:
            raise InputError(
                f"{path}: {len(beside)} .cfg files are beside it; give the "
                "one of its training as --cfg."
            )
        cfg = beside[0] if beside else None
    published = configparser.ConfigParser(interpolation=None)
    published.read_string(PUBLISHED_CFG)
    if cfg is None:
        plan = "the published architecture; if it is another, give its .cfg "
        return _arguments(published), plan + "file as --cfg"
    config = configparser.ConfigParser(interpolation=None)
    is_plain_file(cfg)  # a pipe would block
    try:
        config.read_string(Path(cfg).read_text(encoding="utf-8"))
        _check_kinds(config, published)
        return _arguments(config), f"the architecture of {cfg}"
    except OSError as error:
        raise InputError(
            f"{cfg}: it cannot be read ({error.strerror})."
        ) from error
    except (configparser.Error, UnicodeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"{cfg}: it is not a configuration of the authors' code ({reason})."
        ) from error
    except InputError as error:
        raise InputError(f"{cfg}: {error}") from error.__cause__


def _check_kinds(config, published):
    """Layers must be normalised and activated as the published ones are."""
    for section in published.sections():
        for key, value in published[section].items():
            if "_use_" not in key and not key.endswith("_act"):
                continue
            text = config.get(section, key)
            if {word.strip() for word in text.split(",")} != {value}:
                raise InputError(
                    f"{key} is {text!r} but must be {value}, because only the "
                    "architecture that was published is read."
                )


def _arguments(config):
    def values(section, key):
        """Whole numbers between commas, each at least 1."""
        text = config.get(section, key)
        if not _WHOLE_NUMBERS.fullmatch(text):
            raise InputError(
                f"{key} is {text!r} but must be whole numbers from 1, between "
                "commas."
            )
        return [int(word) for word in text.split(",")]

    rate, window_ms, hop_ms = (
        values("windowing", key)[0] for key in ("fs", "cw_len", "cw_shift")
    )
    taps = values("cnn", "cnn_len_filt")
    taps[0] += 1 - taps[0] % 2  # as the authors' code does
    return {
        "sample_rate": rate,
        "window": rate * window_ms // 1000,
        "hop": rate * hop_ms // 1000,
        "cnn_channels": values("cnn", "cnn_N_filt"),
        "cnn_kernel_sizes": taps,
        "cnn_pools": values("cnn", "cnn_max_pool_len"),
        "fc_neurons": values("dnn", "fc_lay"),
    }


def _build(architecture, weights):
    name = f"{CLASSIFIER}/wx.0.weight"
    if name not in weights or weights[name].dim() != 2:
        raise InputError(f"{name} is missing or no matrix.")
    try:
        network = SincNet(**architecture)
    except (ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(
            f"no network can be built from its .cfg file ({reason})."
        ) from error
    embedding_size = architecture["fc_neurons"][-1]
    return network, SoftmaxClassifier(embedding_size, len(weights[name]))


# Weights ---------------------------------------------------------------------


def _read_weights(path):
    """All tensors of a model, keyed ``part/name``."""
    is_plain_file(path)  # a pipe would block
    try:
        size = os.path.getsize(path)
        parts = _unpickle(path)
    except OSError as error:
        raise InputError(
            f"it cannot be read ({error.strerror or error})."
        ) from error

    if not isinstance(parts, dict) or set(parts) != {CNN, DNN, CLASSIFIER}:
        raise InputError(
            f"it must hold {CNN}, {DNN} and {CLASSIFIER} and nothing else."
        )
    weights = {}
    for part, tensors in parts.items():
        if not isinstance(tensors, dict):
            raise InputError(f"{part} is not a state dict.")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not _is_plain(tensor):
                raise InputError(
                    f"{part} holds something that is not a tensor under a name."
                )
            weights[f"{part}/{name}"] = tensor.detach()
    # Strides of zero can make a few bytes look like a huge tensor.
    if sum(t.numel() * t.element_size() for t in weights.values()) > size:
        raise InputError("its tensors claim to be larger than the file.")
    return weights


def _unpickle(path):
    try:
        return read_tensors(path)
    except OSError:
        raise
    except TooLarge as error:
        raise InputError(f"{error}.") from error
    except Exception as error:  # foreign bytes can raise anything at all
        raise InputError(
            "it is not a whole file of torch.save that holds tensors and "
            "nothing else."
        ) from error


def _is_plain(tensor):
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_nested
    )


def _their_names(architecture):
    """For both modules: our name -> their name of every weight."""
    network, classifier = {}, {}

    def add(table, ours, theirs, gain="weight", bias="bias"):
        """Names of a layer with a gain and a bias."""
        table[f"{ours}.weight"] = f"{theirs}.{gain}"
        table[f"{ours}.bias"] = f"{theirs}.{bias}"

    add(network, "input_norm", f"{CNN}/ln0", "gamma", "beta")
    network["sinc.low"] = f"{CNN}/conv.0.filt_b1"
    network["sinc.band"] = f"{CNN}/conv.0.filt_band"
    for i in range(len(architecture["cnn_channels"])):
        add(network, f"cnn_norms.{i}", f"{CNN}/ln.{i}", "gamma", "beta")
        if i:
            add(network, f"convs.{i - 1}", f"{CNN}/conv.{i}")
    add(network, "flat_norm", f"{DNN}/ln0", "gamma", "beta")
    for i in range(len(architecture["fc_neurons"])):
        add(network, f"linears.{i}", f"{DNN}/wx.{i}")
        add(network, f"fc_norms.{i}", f"{DNN}/bn.{i}")
        for name in ("running_mean", "running_var"):
            network[f"fc_norms.{i}.{name}"] = f"{DNN}/bn.{i}.{name}"
    add(classifier, "linear", f"{CLASSIFIER}/wx.0")
    return network, classifier


def _check_weights(weights, models, tables, plan):
    """Raise InputError unless the file holds just what the models need."""
    if f"{CNN}/conv.0.low_hz_" in weights:
        raise InputError(
            "its sinc layer is that of later versions of SincNet, with "
            "cut-offs in Hz, whose filters differ from AM-SincNet's."
        )
    used = {}
    for model, table in zip(models, tables):
        state = model.state_dict()
        used.update((name, state[ours].shape) for ours, name in table.items())
    unknown = sorted(
        name for name in weights.keys() - used if not _UNUSED.fullmatch(name)
    )
    if unknown:
        raise InputError(f"{unknown[0]} has no place in {plan}.")
    for name, shape in used.items():
        if name not in weights:
            raise InputError(f"{name} is missing, which is part of {plan}.")
        tensor = weights[name]
        if tensor.shape != shape:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)} but must have "
                f"{tuple(shape)} in {plan}."
            )
        # In float32, because a large float64 becomes infinite there.
        finite = tensor.float().isfinite().all()
        if not finite or not tensor.is_floating_point():
            raise InputError(
                f"{name} has values that are NaN, infinite or whole numbers."
            )
    for name in weights.keys() - used:
        if name.endswith("running_mean") and weights[name].any():
            raise InputError(
                f"{name} has moved, so that the model was trained with a "
                "BatchNorm that the published architecture leaves idle."
            )

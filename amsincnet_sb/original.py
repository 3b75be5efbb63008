"""Models of the released AM-SincNet code, ``model_raw_*.pkl``.

They are pickles, which run whatever they like when read in the ordinary way;
nothing in them runs here. Lists and labels are read by ``dataio.scp``.
"""

import logging
import math
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch

from amsincnet_sb.dataio.scp import read_labels, speaker_table
from amsincnet_sb.inference.pretrained import write_pretrained
from amsincnet_sb.lobes.classifiers import SoftmaxClassifier
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError

__all__ = ["import_released", "load_released"]

logger = logging.getLogger(__name__)

PARTS = ("CNN_model_par", "DNN1_model_par", "DNN2_model_par")
MAX_SINC_POOL = 16

# Every released layer owns both normalisations and uses at most one of them.
_UNUSED = re.compile(
    r"\w+/bn\.\d+\.num_batches_tracked"
    r"|(CNN|DNN2)_model_par/bn\.\d+\.(weight|bias|running_mean|running_var)"
    r"|DNN[12]_model_par/ln\.\d+\.(gamma|beta)"
)


def load_released(
    path, sample_rate=16000, hop=None, sinc_kernel_size=None, pools=None
):
    """Read a model saved by the released SincNet or AM-SincNet code.

    The architecture follows from the shapes of the weights. Two things are
    not among them and are deduced from the layers' lengths in time: the taps
    of the sinc filters and the pooling. Where several fit, filters longer
    than a third of the window come last; then the pooling of the other
    layers, 3, and larger pooling are preferred, in this order; then the taps
    ``K`` with the rounder ``K - 1`` (251, 129, 101, 51; the released code
    makes taps odd). A warning names the choices, and the keywords settle
    the matter.

    What shapes cannot tell is taken to be as released: LayerNorm at the input
    and in the convolutional part, BatchNorm in the fully connected part,
    LeakyReLU(0.2), cut-offs raised by 50 Hz. A model trained with other flags
    in its ``.cfg`` file is refused where its weights show it (an input
    normalisation missing or added, statistics in a BatchNorm that should be
    idle); where they do not, it is read and computes something else than it
    did in the released code.

    Arguments
    ---------
    path : str or Path
        A ``model_raw_*.pkl``: three state dicts in one file of
        ``torch.save``, of any version.
    sample_rate : int
        Of the training data, in Hz.
    hop : int, optional
        Samples between windows of a longer waveform; the default is 10 ms.
    sinc_kernel_size : int, optional
        Taps of the sinc filters, the first of ``cnn_len_filt`` in the
        ``.cfg`` file. An even number is raised to the next odd one, as the
        released code does.
    pools : sequence of int, optional
        Pooling of each layer, ``cnn_max_pool_len`` in the ``.cfg`` file.

    Returns
    -------
    SincNet, SoftmaxClassifier
        In float32, in evaluation mode.

    Raises
    ------
    InputError
        The file cannot be read, holds anything but tensors, is of another
        architecture, or has weights that are not finite; or the keywords do
        not fit it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "model_raw_best.pkl"
    >>> _ = path.write_text("not a model")
    >>> load_released(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: ...model_raw_best.pkl: it is not a \
whole file of torch.save that holds tensors and nothing else.
    """
    if sample_rate < 1000:
        raise InputError(
            f"sample_rate is {sample_rate} but must be at least 1000 Hz."
        )
    try:
        weights = _read_weights(path)
        shapes = _infer_shapes(weights)
        taps, pools = _choose_taps_and_pools(
            path, shapes, sinc_kernel_size, pools
        )
        with torch.device("meta"):  # sizes that make no sense cost nothing
            models = _build(shapes, taps, pools, sample_rate, hop)
            tables = _released_names(shapes)
            _check_weights(weights, models, tables)
        models = _build(shapes, taps, pools, sample_rate, hop)
        for model, table in zip(models, tables):
            model.load_state_dict(
                {ours: weights[name].float() for ours, name in table.items()}
            )
            model.eval()
    except ValueError as error:  # InputError is one, and SincNet raises it
        raise InputError(f"{path}: {error}") from None
    return models


def _read_weights(path):
    """All tensors of a released model, keyed ``part/name``."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            parts = _unpickle(file, size)
    except OSError as error:
        raise InputError(
            f"it cannot be read ({error.strerror or error})."
        ) from error

    if not isinstance(parts, dict) or set(parts) != set(PARTS):
        raise InputError(
            f"a released model holds {', '.join(PARTS)} and nothing else."
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
        raise InputError("its tensors claim more numbers than it holds.")
    return weights


def _unpickle(file, size):
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                unpacked = sum(f.file_size for f in archive.infolist())
            if unpacked > size:  # torch.save does not compress
                raise InputError("it unpacks to more than its own size.")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
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


class _Shapes(NamedTuple):
    """What the weights' shapes say."""

    window: int
    channels: list  # of the sinc layer and each convolution
    conv_taps: list  # of each convolution
    times: list  # samples behind each pooling
    fc_neurons: list
    classes: int


def _infer_shapes(weights):
    cnn, dnn, classifier = PARTS

    def shape(name, rank):
        """Shape of a weight that must be there."""
        if name not in weights:
            raise InputError(
                f"{name} is missing; only the architecture released with "
                "SincNet and AM-SincNet is read."
            )
        found = tuple(weights[name].shape)
        if len(found) != rank or 0 in found:
            raise InputError(f"{name} has the impossible shape {found}.")
        return found

    def stack(name, rank, first=0):
        """Shapes of a numbered series, which has at least one entry."""
        shapes = [shape(name.format(first), rank)]
        while name.format(first + len(shapes)) in weights:
            shapes.append(shape(name.format(first + len(shapes)), rank))
        return shapes

    if f"{cnn}/conv.0.low_hz_" in weights:
        raise InputError(
            "its sinc layer is that of later versions of SincNet, with "
            "cut-offs in Hz, whose filters differ from AM-SincNet's."
        )
    sinc = shape(f"{cnn}/conv.0.filt_b1", rank=1)
    norms = stack(cnn + "/ln.{}.gamma", rank=2)
    convs = stack(cnn + "/conv.{}.weight", 3, 1) if len(norms) > 1 else []
    linears = stack(dnn + "/wx.{}.weight", rank=2)
    if len(norms) != 1 + len(convs):
        raise InputError(
            f"{cnn} has {1 + len(convs)} layers but {len(norms)} LayerNorms."
        )
    return _Shapes(
        window=shape(f"{cnn}/ln0.gamma", rank=1)[0],
        channels=[sinc[0]] + [conv[0] for conv in convs],
        conv_taps=[conv[2] for conv in convs],
        times=[norm[1] for norm in norms],
        fc_neurons=[linear[0] for linear in linears],
        classes=shape(f"{classifier}/wx.0.weight", rank=2)[0],
    )


def _choose_taps_and_pools(path, shapes, sinc_taps, pools):
    """Taps and pooling of every layer that fit the layers' lengths."""
    times = shapes.times
    given = [None] * len(times) if pools is None else list(pools)
    if len(given) != len(times):
        raise InputError(
            f"pools has {len(given)} entries but the model {len(times)} layers."
        )
    if sinc_taps is not None:
        sinc_taps += 1 - sinc_taps % 2

    conv_pools = []
    for i, taps in enumerate(shapes.conv_taps, start=1):
        length, time = times[i - 1] - taps + 1, times[i]
        # All that give length // pool == time.
        fitting = range(length // (time + 1) + 1, length // time + 1)
        if given[i] is not None:
            fitting = [pool for pool in fitting if pool == given[i]]
        if not fitting:
            raise InputError(
                f"convolution {i} cannot turn {times[i - 1]} samples into "
                f"{time} with {taps} taps and "
                + ("any pooling." if pools is None else f"pooling {given[i]}.")
            )
        conv_pools.append(3 if 3 in fitting else fitting[0])

    window, time = shapes.window, times[0]
    fitting = [
        (taps, pool)
        for pool in (
            range(1, MAX_SINC_POOL + 1) if pools is None else given[:1]
        )
        # All that give (window - taps + 1) // pool == time.
        for taps in range(
            max(3, window + 2 - pool * (time + 1)), window + 2 - pool * time
        )
        if taps % 2 and sinc_taps in (None, taps)
    ]
    if not fitting:
        raise InputError(
            f"the sinc layer cannot turn {window} samples into {time} with "
            + ("any" if sinc_taps is pools is None else "the given")
            + " taps and pooling."
        )

    def preference(candidate):
        """The more alike, the larger."""
        taps, pool = candidate
        return (
            taps <= window / 3,
            pool in conv_pools,
            pool == 3,
            pool,
            math.gcd(taps - 1, 32000),  # how round: powers of 2 and 5
            taps,
        )

    best = max(fitting, key=preference)
    rivals = [c for c in fitting if c != best and c[0] <= window / 3]
    if rivals:
        logger.warning(
            "%s: taken to have sinc filters of %d taps and pooling by %d, "
            "but (taps, pooling) could also be %s; sinc_kernel_size and "
            "pools settle it.",
            path,
            *best,
            ", ".join(map(str, sorted(rivals))),
        )
    taps, pool = best
    return [taps, *shapes.conv_taps], [pool, *conv_pools]


def _build(shapes, taps, pools, sample_rate, hop):
    network = SincNet(
        sample_rate,
        shapes.window,
        round(sample_rate / 100) if hop is None else hop,
        shapes.channels,
        taps,
        pools,
        shapes.fc_neurons,
    )
    return network, SoftmaxClassifier(shapes.fc_neurons[-1], shapes.classes)


def _released_names(shapes):
    """For both modules: our name -> released name of every weight."""
    cnn, dnn, classifier = PARTS
    network, scores = {}, {}

    def add(table, ours, theirs, gain="weight", bias="bias"):
        """Names of a layer with a gain and a bias."""
        table[f"{ours}.weight"] = f"{theirs}.{gain}"
        table[f"{ours}.bias"] = f"{theirs}.{bias}"

    add(network, "input_norm", f"{cnn}/ln0", "gamma", "beta")
    network["sinc.low"] = f"{cnn}/conv.0.filt_b1"
    network["sinc.band"] = f"{cnn}/conv.0.filt_band"
    for i in range(len(shapes.times)):
        add(network, f"cnn_norms.{i}", f"{cnn}/ln.{i}", "gamma", "beta")
    for i in range(len(shapes.conv_taps)):
        add(network, f"convs.{i}", f"{cnn}/conv.{i + 1}")
    add(network, "flat_norm", f"{dnn}/ln0", "gamma", "beta")
    for i in range(len(shapes.fc_neurons)):
        add(network, f"linears.{i}", f"{dnn}/wx.{i}")
        add(network, f"fc_norms.{i}", f"{dnn}/bn.{i}")
        for name in ("running_mean", "running_var"):
            network[f"fc_norms.{i}.{name}"] = f"{dnn}/bn.{i}.{name}"
    add(scores, "linear", f"{classifier}/wx.0")
    return network, scores


def _check_weights(weights, models, tables):
    """Raise InputError unless the file holds just what the models need."""
    used = {}
    for model, table in zip(models, tables):
        shapes = {k: v.shape for k, v in model.state_dict().items()}
        used.update((theirs, shapes[ours]) for ours, theirs in table.items())
    unknown = sorted(
        name for name in weights.keys() - used if not _UNUSED.fullmatch(name)
    )
    if unknown:
        raise InputError(
            f"{unknown[0]} has no place in the architecture released with "
            "SincNet and AM-SincNet."
        )
    for name, shape in used.items():
        if name not in weights:
            raise InputError(f"{name} is missing.")
        tensor = weights[name]
        if tensor.shape != shape:
            raise InputError(
                f"{name} has shape {tuple(tensor.shape)} but the other "
                f"weights ask for {tuple(shape)}."
            )
        # In float32, because a large float64 becomes infinite there.
        if (
            not tensor.is_floating_point()
            or not tensor.float().isfinite().all()
        ):
            raise InputError(
                f"{name} holds something else than finite floating-point "
                "numbers."
            )
    for name in weights.keys() - used:
        if name.endswith("running_mean") and weights[name].any():
            raise InputError(
                f"{name} has moved, so that the model was trained with a "
                "BatchNorm that the released architecture leaves idle."
            )


def import_released(path, output_folder, labels=None, **architecture):
    """Turn a released model into a results folder.

    Arguments
    ---------
    path : str or Path
        A ``model_raw_*.pkl``.
    output_folder : str or Path
        Gets a folder ``pretrained`` that every command of this package
        accepts, and SpeechBrain's ``EncoderClassifier`` too.
    labels : str or Path, optional
        The dictionary of labels (``TIMIT_labels.npy``) it was trained with.
        Speakers are named by ``dataio.scp.speaker_table``; those it does not
        name, and all without it, by their indices.
    **architecture
        See :func:`load_released`.

    Raises
    ------
    InputError
        As :func:`load_released` and :func:`read_labels`, and if a label is
        beyond the model's classes.
    """
    network, classifier = load_released(path, **architecture)
    classes = classifier.linear.out_features
    names = {} if labels is None else speaker_table(read_labels(labels))
    if any(n >= classes for n in names):
        raise InputError(
            f"{labels}: it has a class {max(names)}, but {path} knows only "
            f"the classes 0 to {classes - 1}; give the dictionary that it "
            "was trained with."
        )
    numbers = speaker_table({str(n): n for n in range(classes)})
    named = [names.get(n, numbers[n]) for n in range(classes)]
    if len(set(named)) < classes:  # a folder is called like another's number
        named = list(numbers.values())
    write_pretrained(
        Path(output_folder) / "pretrained", network, classifier, named
    )

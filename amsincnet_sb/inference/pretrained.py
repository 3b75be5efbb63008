"""A trained model as a folder that others can load."""

import json
import os
from pathlib import Path

import torch

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, replaced_folder

__all__ = ["find_pretrained", "read_pretrained", "write_pretrained"]

NETWORKS = {kind.__name__: kind for kind in (SincNet, SincTDNN)}
CLASSIFIERS = {
    kind.__name__: kind for kind in (CosineClassifier, SoftmaxClassifier)
}

SAFETENSORS = "model.safetensors"

HYPERPARAMS = """\
# Written by amsincnet_sb. Loads with SpeechBrain alone:
#   EncoderClassifier.from_hparams(source="this folder")
#   SpeakerRecognition.from_hparams(source="this folder")

compute_features: !new:torch.nn.Identity
# Takes the mean off, which the model's first layer does anyway.
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:{network}
{embedding_model}
classifier: !new:amsincnet_sb.lobes.classifiers.{classifier}
    input_size: {input_size}
    out_neurons: {out_neurons}

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
"""


def write_pretrained(
    folder,
    embedding_model,
    classifier,
    speakers,
    scale=1.0,
    safetensors=False,
    own_cosine=None,
):
    """Write a model as SpeechBrain and this package load it.

    The folder holds the weights (``embedding_model.ckpt``,
    ``classifier.ckpt``), the names of the speakers (``label_encoder.ckpt``),
    ``hyperparams.yaml`` for SpeechBrain, and ``config.json``, which says the
    same without anything that is executed on loading. It can be moved. An
    older folder of that name is replaced as a whole.

    Arguments
    ---------
    folder : str or Path
        Where to.
    embedding_model : torch.nn.Module
        The trained network, a SincNet or a SincTDNN.
    classifier : torch.nn.Module
        A classifier of :mod:`amsincnet_sb.lobes.classifiers`.
    speakers : list of str
        Names, in the order of the classifier's outputs.
    scale : float
        What its outputs are multiplied by before a softmax: the loss's scale
        for cosines.
    safetensors : bool
        Write ``config.json`` and ``model.safetensors`` alone: nothing that
        anybody could execute, for this package and other programs, but not
        for SpeechBrain.
    own_cosine : float, optional
        Mean output of a CosineClassifier for the true speaker, over windows
        that were not trained on: what an enrolled speaker is to score.

    Raises
    ------
    InputError
        If the folder cannot be written, or the package safetensors is
        missing.

    Example
    -------
    >>> from amsincnet_sb.lobes.classifiers import CosineClassifier
    >>> from amsincnet_sb.lobes.sincnet import SincNet
    >>> folder = getfixture("tmp_path") / "pretrained"
    >>> net = SincNet(fc_neurons=[8, 8, 8])
    >>> write_pretrained(folder, net, CosineClassifier(8, 2), ["ann", "bob"])
    >>> sorted(path.name for path in folder.iterdir())[:2]
    ['classifier.ckpt', 'config.json']
    """
    folder = os.path.abspath(folder)
    if safetensors:
        to_bytes = _safetensors().save
    size = embedding_model.embedding_size
    network, kind = type(embedding_model), type(classifier).__name__
    config = {
        "format": 1,
        "network": network.__name__,
        "embedding_model": embedding_model.arguments,
        "classifier": {
            "name": kind,
            "input_size": size,
            "out_neurons": len(speakers),
        },
        # Before a softmax; log-probabilities are scaled already.
        "scale": scale if kind == "CosineClassifier" else 1.0,
        "speakers": list(speakers),
    }
    if own_cosine is not None and kind == "CosineClassifier":
        config["own_cosine"] = own_cosine
    # JSON is yaml, so lists and numbers can be written as they are.
    arguments = "\n".join(
        f"    {key}: {json.dumps(value)}"
        for key, value in embedding_model.arguments.items()
    )
    states = {
        name: {k: v.cpu() for k, v in module.state_dict().items()}
        for name, module in (
            ("embedding_model", embedding_model),
            ("classifier", classifier),
        )
    }
    with replaced_folder(folder) as temporary:
        with atomic_write(temporary / "config.json") as file:
            json.dump(config, file, indent=1)
        if safetensors:
            tensors = {
                f"{name}.{key}": tensor.contiguous()
                for name, state in states.items()
                for key, tensor in state.items()
            }
            with atomic_write(temporary / SAFETENSORS, "wb") as file:
                file.write(to_bytes(tensors, {"format": "pt"}))
            return
        for name, state in states.items():
            with atomic_write(temporary / f"{name}.ckpt", "wb") as file:
                torch.save(state, file)
        with atomic_write(temporary / "hyperparams.yaml") as file:
            file.write(
                HYPERPARAMS.format(
                    network=f"{network.__module__}.{network.__qualname__}",
                    embedding_model=arguments,
                    classifier=kind,
                    input_size=size,
                    out_neurons=len(speakers),
                )
            )
        with atomic_write(temporary / "label_encoder.ckpt") as file:
            # The format of SpeechBrain's CategoricalEncoder.
            for index, name in enumerate(speakers):
                literal = repr(name).replace(" => ", " \\x3d> ")
                file.write(f"{literal} => {index}\n")
            file.write("================\n'starting_index' => 0\n")


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError(
            "The package safetensors is needed; install it with pip install "
            "'amsincnet_sb[export]'."
        ) from error
    return safetensors.torch


def _weights_file(folder, name):
    """Where the weights of a module are."""
    path = folder / SAFETENSORS
    return path if path.is_file() else folder / f"{name}.ckpt"


def _read_state(path, name):
    """The weights of a module, by key."""
    if path.name != SAFETENSORS:
        return torch.load(path, map_location="cpu", weights_only=True)
    prefix = f"{name}."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in _safetensors().load_file(path).items()
        if key.startswith(prefix)
    }


def find_pretrained(folder):
    """The folder that holds a model itself.

    Arguments
    ---------
    folder : str or Path
        ``pretrained/``, or the results folder that holds it.

    Returns
    -------
    Path
        ``pretrained/``; ``folder`` itself if there is none in it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "pretrained").mkdir()
    >>> find_pretrained(folder).name
    'pretrained'
    """
    inner = Path(folder) / "pretrained"
    return inner if inner.is_dir() else Path(folder)


def read_pretrained(folder):
    """Load a model written by :func:`write_pretrained`.

    Nothing in the folder is executed: the weights are read as tensors and
    nothing else, from ``model.safetensors`` where there is one; the rest is
    JSON.

    Arguments
    ---------
    folder : str or Path
        ``pretrained/``, or the results folder that holds it.

    Returns
    -------
    embedding_model : torch.nn.Module
        In evaluation mode, on the CPU.
    classifier : torch.nn.Module
        Likewise.
    config : dict
        The content of ``config.json``.

    Raises
    ------
    InputError
        If there is no such model, or a part of it is missing or damaged.
    """
    given, folder = Path(folder), find_pretrained(folder)
    if not folder.is_dir():
        raise InputError(
            f"{given} is not a folder; give the results folder of a finished "
            "training run."
        )
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            f"{given} holds no trained model (no {path.name} in it or in "
            "pretrained/); give the results folder of a finished run."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        classifier = config["classifier"]
        kind = CLASSIFIERS[classifier["name"]]
        speakers = [str(name) for name in config["speakers"]]
        # Models written before there was another network do not say it.
        network = NETWORKS[config.get("network", "SincNet")]
        embedding_model = network(**config["embedding_model"])
        classifier = kind(classifier["input_size"], len(speakers))
        config["scale"] = float(config["scale"])
        if "own_cosine" in config:
            config["own_cosine"] = float(config["own_cosine"])
        config["speakers"] = speakers
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,  # what torch answers to sizes that cannot be
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"{path} does not describe a model of this package ({error}); "
            "write it again by training or importing."
        ) from error
    for name, module in (
        ("embedding_model", embedding_model),
        ("classifier", classifier),
    ):
        weights = _weights_file(folder, name)
        try:
            module.load_state_dict(_read_state(weights, name))
        except InputError:
            raise
        except Exception as error:
            # Whatever a damaged or hostile file makes torch raise.
            reason = str(error).strip().split("\n")[0][:200]
            raise InputError(
                f"{weights} does not hold the weights that {path.name} "
                f"describes ({reason})."
            ) from error
        module.eval().requires_grad_(False)
    return embedding_model, classifier, config

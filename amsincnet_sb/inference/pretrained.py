"""A trained model as a folder for SpeechBrain, this package and others."""

import json
import os
from pathlib import Path

import torch

from amsincnet_sb.dataio.label_file import label_file
from amsincnet_sb.inference.model_card import put_card
from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import (
    atomic_write,
    is_plain_file,
    read_json,
    replaced_folder,
)

__all__ = [
    "OWN_COSINE",
    "find_pretrained",
    "read_pretrained",
    "write_pretrained",
]

NETWORKS = {kind.__name__: kind for kind in (SincNet, SincTDNN)}
CLASSIFIERS = {
    kind.__name__: kind for kind in (CosineClassifier, SoftmaxClassifier)
}

PARTS = "embedding_model", "classifier"
SAFETENSORS = "model.safetensors"
# Mean cosine of a speaker's windows with that speaker's class vector, of a
# model that does not say it.
OWN_COSINE = 0.3

HYPERPARAMS = """\
# A model of amsincnet_sb, which must be installed: SpeechBrain loads it with
#   EncoderClassifier.from_hparams(source="this folder")
#   SpeakerRecognition.from_hparams(source="this folder")

compute_features: !new:torch.nn.Identity
# Takes the mean off, which the model's first layer does anyway.
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
# For encode_batch(normalize=True)
mean_var_norm_emb: !new:amsincnet_sb.nnet.normalization.UnitLength

embedding_model: !new:{network}
{arguments}
classifier: !new:amsincnet_sb.lobes.classifiers.{name}
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
    training=None,
):
    """Write a model as SpeechBrain and this package load it.

    The folder holds the weights (``embedding_model.ckpt``,
    ``classifier.ckpt``), the names of the speakers (``label_encoder.ckpt``),
    ``hyperparams.yaml`` for SpeechBrain, and ``config.json``, which says the
    same without anything that is executed on loading. It can be moved. An
    older folder of that name is replaced as a whole. Its ``README.md`` is a
    model card with what ``training`` says
    (:func:`~amsincnet_sb.inference.model_card.describe_training`), unless
    somebody has changed it.

    With ``safetensors`` it holds ``config.json``, ``model.safetensors`` and
    the card alone: nothing that can be executed, for this package and other programs,
    but not for SpeechBrain. For the other arguments see
    :class:`amsincnet_sb.inference.identifier.SpeakerIdentifier`.
    """
    folder = os.path.abspath(folder)
    if safetensors:
        to_bytes = _safetensors().save
    cosines = type(classifier) is CosineClassifier
    config = {
        "format": 1,
        "network": type(embedding_model).__name__,
        "embedding_model": embedding_model.arguments,
        "classifier": {
            "name": type(classifier).__name__,
            "input_size": embedding_model.embedding_size,
            "out_neurons": len(speakers),
        },
        # Log-probabilities are scaled already.
        "scale": scale if cosines else 1.0,
        "speakers": list(speakers),
    }
    if cosines and own_cosine is not None:
        config["own_cosine"] = own_cosine
    if training:
        config["training"] = training
    states = {
        name: {k: v.cpu() for k, v in module.state_dict().items()}
        for name, module in zip(PARTS, (embedding_model, classifier))
    }
    with replaced_folder(folder) as temporary:
        loads = not safetensors
        put_card(Path(folder), temporary, embedding_model, config, loads)
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
            file.write(_hyperparams(type(embedding_model), config))
        with atomic_write(temporary / "label_encoder.ckpt") as file:
            file.write(label_file(speakers))


def _hyperparams(network, config):
    # JSON is yaml, so lists and values can be written as they are.
    arguments = "\n".join(
        f"    {key}: {json.dumps(value)}"
        for key, value in config["embedding_model"].items()
    )
    return HYPERPARAMS.format(
        network=f"{network.__module__}.{network.__qualname__}",
        arguments=arguments,
        **config["classifier"],
    )


def _safetensors():
    try:
        import safetensors.torch
    except ImportError as error:
        raise InputError(
            "The package safetensors is needed; install it with pip install "
            "'amsincnet_sb[export]'."
        ) from error
    return safetensors.torch


def find_pretrained(folder):
    """``pretrained/`` in a results folder; another folder as it is."""
    inner = Path(folder) / "pretrained"
    return inner if inner.is_dir() else Path(folder)


def read_pretrained(folder, device="cpu"):
    """Load a model written by :func:`write_pretrained`.

    Nothing in the folder is executed: the weights are read as tensors and
    nothing else, from ``model.safetensors`` where there is one; the rest is
    JSON.

    ``folder`` is ``pretrained/``, or the results folder that holds it. Returns
    the network and the classifier, in evaluation mode on the device, and the
    content of ``config.json``.
    """
    given, folder = Path(folder), find_pretrained(folder)
    if not folder.is_dir():
        raise InputError(
            f"{given} is not a folder; give the results folder of a finished "
            "training run."
        )
    path = folder / "config.json"
    if not is_plain_file(path):
        raise InputError(
            f"{given} holds no trained model (no {path.name} in it or in "
            "pretrained/); give the results folder of a finished run."
        )
    embedding_model, classifier, config = _build(path)
    for name, module in zip(PARTS, (embedding_model, classifier)):
        _load_weights(module, name, folder)
        module.eval().requires_grad_(False)
        try:
            module.to(device)
        except (AssertionError, RuntimeError) as error:
            raise InputError(
                f"The device {device!r} cannot be used here; try 'cpu'."
            ) from error
    return embedding_model, classifier, config


def _build(path):
    """The modules that config.json describes, and its content."""
    config = read_json(path, "write it again by training or importing")
    try:
        config["speakers"] = [str(name) for name in config["speakers"]]
        config["scale"] = float(config["scale"])
        config["own_cosine"] = float(config.get("own_cosine", OWN_COSINE))
        # Models written before there was another network do not say it.
        network = NETWORKS[config.get("network", "SincNet")]
        embedding_model = network(**config["embedding_model"])
        described = config["classifier"]
        classifier = CLASSIFIERS[described["name"]](
            described["input_size"], len(config["speakers"])
        )
    except Exception as error:
        # Whatever values of a stranger make torch and the networks raise.
        raise InputError(
            f"{path} does not describe a model of this package ({error}); "
            "write it again by training or importing."
        ) from error
    return embedding_model, classifier, config


def _load_weights(module, name, folder):
    path = folder / SAFETENSORS
    if not is_plain_file(path):
        path = folder / f"{name}.ckpt"
        is_plain_file(path)  # a pipe would block
    try:
        if path.name == SAFETENSORS:
            start = f"{name}."
            state = {
                key.removeprefix(start): tensor
                for key, tensor in _safetensors().load_file(path).items()
                if key.startswith(start)
            }
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except InputError:
        raise
    except Exception as error:
        # Whatever a damaged or hostile file makes torch raise.
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"{path} does not hold the weights that config.json describes "
            f"({reason})."
        ) from error

"""A trained model as a folder for SpeechBrain, this package and others."""

import contextlib
import json
import logging
from pathlib import Path

import torch

from amsincnet_sb.dataio.label_file import label_file
from amsincnet_sb.inference.additions import (
    MARK,
    carry_over,
    fingerprint,
    read_additions,
    save_additions,
)
from amsincnet_sb.inference.model_card import CARD, put_card
from amsincnet_sb.inference.model_config import FORMAT, OWN_COSINE, read_config
from amsincnet_sb.kernels.finiteness import all_finite
from amsincnet_sb.lobes.classifiers import CosineClassifier
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import (
    atomic_write,
    exclusive,
    is_plain_file,
    replaced_folder,
    restore_folder,
)
from amsincnet_sb.utils.reading import read_tensors

__all__ = [
    "OWN_COSINE",
    "find_pretrained",
    "read_pretrained",
    "write_pretrained",
]

logger = logging.getLogger(__name__)

PARTS = "embedding_model", "classifier"
CONFIG, SAFETENSORS = "config.json", "model.safetensors"
RETRIES = 5  # where a model is replaced while it is read
FILES = {
    CARD,
    CONFIG,
    SAFETENSORS,
    "hyperparams.yaml",
    "label_encoder.ckpt",
} | {f"{part}.ckpt" for part in PARTS}

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
{sizes}

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
    additions=None,
):
    """Write a model as SpeechBrain and this package load it.

    The folder holds the weights (``embedding_model.ckpt``,
    ``classifier.ckpt``), the names of the speakers (``label_encoder.ckpt``),
    ``hyperparams.yaml`` for SpeechBrain, and ``config.json``, which says the
    same without anything that is executed on loading. It can be moved. A model
    that is there already is replaced as a whole, and what else is in its
    folder is kept: enrolled speakers, thresholds and whatever people have put
    there. ``additions`` (:class:`~amsincnet_sb.inference.additions.Additions`)
    are those of a copy. Its ``README.md`` is a model card with what
    ``training`` says
    (:func:`~amsincnet_sb.inference.model_card.describe_training`), unless
    somebody has changed it.

    With ``safetensors`` it holds ``config.json``, ``model.safetensors`` and
    the card alone: nothing that can be executed, for this package and other
    programs, but not for SpeechBrain. For the other arguments see
    :class:`amsincnet_sb.inference.identifier.SpeakerIdentifier`.
    """
    folder = Path(folder).absolute()
    for name, module in zip(PARTS, (embedding_model, classifier)):
        if not all_finite(module.state_dict().values()):
            raise InputError(
                f"{folder}: no model is written, because the weights of the "
                f"{name} are NaN or infinite; what was there is intact."
            )
    if safetensors:
        to_bytes = _safetensors().save
    cosines = type(classifier) is CosineClassifier
    config = {
        "format": FORMAT,
        "network": type(embedding_model).__name__,
        "embedding_model": embedding_model.arguments,
        "classifier": {
            "name": type(classifier).__name__,
            "input_size": embedding_model.embedding_size,
            "out_neurons": len(speakers),
            **_subcentres(classifier),
        },
        # Log-probabilities are scaled already.
        "scale": scale if cosines else 1.0,
        "speakers": list(speakers),
    }
    if cosines and own_cosine is not None:
        config["own_cosine"] = own_cosine
    if training:
        config["training"] = training
    config[MARK] = mark = fingerprint(embedding_model, classifier)
    states = {
        name: {k: v.cpu() for k, v in module.state_dict().items()}
        for name, module in zip(PARTS, (embedding_model, classifier))
    }
    with _locked(folder), replaced_folder(folder) as temporary:
        loads = not safetensors
        put_card(folder, temporary, embedding_model, config, loads)
        with atomic_write(temporary / CONFIG) as file:
            json.dump(config, file, indent=1)
        if safetensors:
            tensors = {
                f"{name}.{key}": tensor.contiguous()
                for name, state in states.items()
                for key, tensor in state.items()
            }
            with atomic_write(temporary / SAFETENSORS, "wb") as file:
                file.write(to_bytes(tensors, {"format": "pt"}))
        else:
            for name, state in states.items():
                with atomic_write(temporary / f"{name}.ckpt", "wb") as file:
                    torch.save(state, file)
            with atomic_write(temporary / "hyperparams.yaml") as file:
                file.write(_hyperparams(type(embedding_model), config))
            with atomic_write(temporary / "label_encoder.ckpt") as file:
                file.write(label_file(speakers))
        if additions is not None:
            save_additions(temporary, additions, mark)
        elif folder.is_dir():
            _keep_additions(folder, temporary, mark)


def _keep_additions(folder, temporary, mark):
    """Take over what people have put beside the old model; say what is idle."""
    carry_over(folder, temporary, FILES, lambda: _mark_of(folder))
    with contextlib.suppress(InputError):  # damage is told when they are used
        for name in read_additions(temporary, None, lambda: mark).outdated:
            logger.warning(
                "Note: %s was made with other weights than the model has now: "
                "it is kept, and not used.",
                folder / name,
            )


@contextlib.contextmanager
def _locked(folder):
    """Nobody enrols speakers in a model while it is being replaced."""
    with contextlib.ExitStack() as stack:
        if is_plain_file(folder / CONFIG):
            stack.enter_context(exclusive(folder / CONFIG))
        yield


def _mark_of(folder):
    """The fingerprint of the model in a folder, as far as it has one."""
    try:
        return fingerprint(*read_pretrained(folder)[:2])
    except InputError:
        return "damaged"


def _hyperparams(network, config):
    sizes = dict(config["classifier"])
    return HYPERPARAMS.format(
        network=f"{network.__module__}.{network.__qualname__}",
        arguments=_arguments(config["embedding_model"]),
        name=sizes.pop("name"),
        sizes=_arguments(sizes),
    )


def _arguments(values):
    # JSON is yaml, so lists and values can be written as they are.
    return "\n".join(
        f"    {key}: {json.dumps(value)}" for key, value in values.items()
    )


def _subcentres(classifier):
    """As an argument, if there are several: older versions know none."""
    number = getattr(classifier, "subcentres", 1)
    return {"subcentres": number} if number > 1 else {}


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
    restore_folder(inner)
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
    for _ in range(RETRIES):
        before = _identity(folder)
        try:
            found = _read_folder(given, folder, device)
        except InputError:
            if _identity(folder) == before:
                raise
        else:
            if _identity(folder) == before:
                return found
    raise InputError(
        f"{given} is being written again and again; wait for the end of it."
    )


def _identity(folder):
    """Changes when another model takes the folder's place."""
    try:
        here, config = folder.stat(), (folder / CONFIG).stat()
    except OSError:
        return None
    return here.st_dev, here.st_ino, config.st_ino, config.st_mtime_ns


def _read_folder(given, folder, device):
    """See :func:`read_pretrained`."""
    path = folder / CONFIG
    if not is_plain_file(path):
        raise InputError(
            f"{given} holds no trained model (no {path.name} in it or in "
            "pretrained/); give the results folder of a finished run."
        )
    config, *modules = read_config(path)
    for name, module in zip(PARTS, modules):
        _load_weights(module, name, folder)
        module.eval().requires_grad_(False)
    _check_answer(*modules, path)
    for module in modules:
        try:
            module.to(device)
        except (AssertionError, RuntimeError) as error:
            raise InputError(
                f"The device {device!r} cannot be used here; try 'cpu'."
            ) from error
    return *modules, config


def _load_weights(module, name, folder):
    """Give a module on "meta" its weights, once their size is known."""
    path = folder / SAFETENSORS
    if not is_plain_file(path):
        path = folder / f"{name}.ckpt"
        if not is_plain_file(path):
            raise InputError(f"{path} does not exist; copy the whole folder.")
    try:
        # Nothing is allocated for more weights than the file can hold.
        wanted = module.state_dict()
        count = sum(x.numel() for x in wanted.values())
        if count > path.stat().st_size:
            raise ValueError(f"{count} values are more than it has bytes")
        state = _read_state(path, name)
        module.load_state_dict(
            {key: _like(wanted.get(key), x) for key, x in state.items()},
            assign=True,
        )
    except InputError:
        raise
    except Exception as error:
        # Whatever a damaged or hostile file makes torch raise.
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"{path} does not hold the weights that config.json describes "
            f"({reason})."
        ) from error
    for key, tensor in module.state_dict().items():
        if not all_finite([tensor]):
            raise InputError(
                f"{path}: the weights {key} of the {name} are NaN or infinite; "
                "train again, or take an older copy."
            )


def _read_state(path, name):
    if path.name != SAFETENSORS:
        return read_tensors(path)
    start = f"{name}."
    return {
        key.removeprefix(start): tensor
        for key, tensor in _safetensors().load_file(path).items()
        if key.startswith(start)
    }


def _like(wanted, tensor):
    """A tensor in the dtype of another, in memory of its own."""
    if wanted is None or tensor.shape != wanted.shape:
        return tensor  # load_state_dict says so
    return tensor.to(wanted.dtype).contiguous()


@torch.no_grad()
def _check_answer(embedding_model, classifier, path):
    """Refuse a model that cannot answer: whatever made it so, NaN comes out."""
    window = torch.linspace(0, 30, embedding_model.window) ** 2
    try:
        answer = classifier(embedding_model(window.sin()[None]))
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise InputError(
            f"{path} describes a model that cannot be computed ({reason})."
        ) from error
    if not all_finite([answer]):
        raise InputError(
            f"{path}: the model answers with NaN or infinite values; its "
            "settings or weights are damaged."
        )

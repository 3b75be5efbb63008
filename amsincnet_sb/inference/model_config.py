"""``config.json`` of a trained model: what it may say, and the modules it means."""

import math
import re

import torch

from amsincnet_sb.lobes.classifiers import CosineClassifier, SoftmaxClassifier
from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
from amsincnet_sb.lobes.sincnet import SincNet
from amsincnet_sb.training.permitted import check_options
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.reading import read_json

__all__ = ["FORMAT", "OWN_COSINE", "read_config"]

FORMAT = 1  # of config.json; the first versions do not say it

NETWORKS = {kind.__name__: kind for kind in (SincNet, SincTDNN)}
CLASSIFIERS = {
    kind.__name__: kind for kind in (CosineClassifier, SoftmaxClassifier)
}
# Mean cosine of a speaker's windows with that speaker's class vector, of a
# model that does not say it.
OWN_COSINE = 0.3
REWRITE = "write it again by training or importing"
LARGEST_MAP = 2**24  # channels times samples of a window


def read_config(path):
    """The content of a ``config.json``, and network and classifier by it.

    The modules are on the device "meta": they have shapes and no memory. An
    InputError says that a value is missing, of the wrong type or out of the
    range that training permits.
    """
    config = read_json(path, REWRITE)
    if (found := config.get("format", FORMAT)) != FORMAT:
        raise InputError(
            f"{path} was written by a later version (format {found!r}); "
            "update amsincnet_sb."
        )
    try:
        config["speakers"] = [str(name) for name in config["speakers"]]
        _check_names(config["speakers"])
        own = config.setdefault("own_cosine", OWN_COSINE)
        if isinstance(own, bool) or not -1.01 <= own <= 1.01:
            raise ValueError(f"own_cosine is {own} but must be a cosine")
        check_options({"scale": config["scale"], **config["embedding_model"]})
        # Models written before there was another network do not say it.
        network = NETWORKS[config.get("network", "SincNet")]
        described = config["classifier"]
        check_options(described)
        with torch.device("meta"):
            embedding_model = network(**config["embedding_model"])
            classifier = CLASSIFIERS[described["name"]](
                described["input_size"],
                len(config["speakers"]),
                **{k: v for k, v in described.items() if k == "subcentres"},
            )
        _check_sizes(embedding_model.arguments)
    except Exception as error:
        # Whatever values of a stranger make torch and the networks raise.
        raise InputError(
            f"{path} does not describe a model of this package "
            f"({str(error).rstrip('.')}); {REWRITE}."
        ) from error
    return config, embedding_model, classifier


def _check_names(speakers):
    seen = set()
    for name in speakers:
        if name in seen:
            raise ValueError(f"speakers has {name!r} twice")
        # As manifests refuse them: they would write into a terminal. Others
        # that cannot be printed (a no-break space) and "unknown" are trained.
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name):
            raise ValueError(f"{name!r} cannot be the name of a speaker")
        seen.add(name)


def _check_sizes(arguments):
    """What no parameter has the size of, but memory is taken for."""
    for key, value in arguments.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}")
        if key.endswith("channels"):
            largest = max(value) if isinstance(value, list) else value
            if largest * arguments["window"] > LARGEST_MAP:
                raise ValueError(
                    f"{key} is {value} with a window of {arguments['window']} "
                    f"samples, whose product may be {LARGEST_MAP}"
                )

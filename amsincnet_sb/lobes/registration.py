"""Our layers under SpeechBrain's own names."""

import importlib
import sys
import types

__all__ = ["register"]

# SpeechBrain module -> where each name in it comes from
REGISTERED = {
    "speechbrain.lobes.models.AMSincNet": {
        "SincNet": "amsincnet_sb.lobes.sincnet",
        "SincTDNN": "amsincnet_sb.lobes.sinc_tdnn",
        "CosineClassifier": "amsincnet_sb.lobes.classifiers",
        "SoftmaxClassifier": "amsincnet_sb.lobes.classifiers",
    },
    "speechbrain.lobes.features": {
        "SincFeatures": "amsincnet_sb.lobes.features",
    },
    "speechbrain.nnet.losses": {
        "AMSoftmax": "amsincnet_sb.nnet.losses",
        "ReleasedAMSoftmax": "amsincnet_sb.nnet.losses",
        "MarginWarmup": "amsincnet_sb.nnet.warmup",
    },
}


def register():
    """Make the lobes and losses reachable under SpeechBrain's own names.

    Afterwards ``!new:speechbrain.lobes.models.AMSincNet.SincNet`` and
    ``!new:speechbrain.nnet.losses.AMSoftmax`` work in any hyperparameter
    file; first line of the file: ``__register: !apply:amsincnet_sb.register``.
    Calling it again changes nothing. The objects keep their own module names,
    so pickling and checkpoints do not depend on it.

    Raises
    ------
    RuntimeError
        If SpeechBrain has something else under one of the names; nothing of
        SpeechBrain's is ever replaced.

    Example
    -------
    >>> import pydoc
    >>> register()
    >>> pydoc.locate("speechbrain.lobes.models.AMSincNet.SincNet").__module__
    'amsincnet_sb.lobes.sincnet'
    """
    for target, names in REGISTERED.items():
        module = _module(target)
        for name, source in names.items():
            ours = getattr(importlib.import_module(source), name)
            if getattr(module, name, ours) is not ours:
                raise RuntimeError(
                    f"{target}.{name} exists already and is not ours; use "
                    f"{source}.{name} by its own path instead."
                )
            setattr(module, name, ours)


def _module(name):
    """The module of that name, made if SpeechBrain has none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it is there, but something it needs is not
            raise
        parent, _, leaf = name.rpartition(".")
        module = types.ModuleType(name, "Registered by amsincnet_sb.")
        sys.modules[name] = module
        setattr(importlib.import_module(parent), leaf, module)
        return module

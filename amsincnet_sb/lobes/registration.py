"""Our layers and losses under SpeechBrain's own names."""

import importlib
import sys
import types

__all__ = ["register"]

# SpeechBrain's module: {name in it: our module}
_REGISTERED = {
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
        "MarginWarmup": "amsincnet_sb.nnet.losses",
    },
}


def register() -> None:
    """Make the lobes and losses reachable under SpeechBrain's own names.

    Afterwards ``!new:speechbrain.lobes.models.AMSincNet.SincNet`` and
    ``!new:speechbrain.nnet.losses.AMSoftmax`` work in any hyperparameter
    file that starts with ``__register: !apply:amsincnet_sb.register``. Calling
    it again changes nothing. The classes keep their own module names, so
    pickles and checkpoints do not depend on it.

    Raises
    ------
    RuntimeError
        If SpeechBrain has another object of that name; it is not replaced.

    Example
    -------
    >>> import pydoc
    >>> register()
    >>> pydoc.locate("speechbrain.lobes.models.AMSincNet.SincNet").__module__
    'amsincnet_sb.lobes.sincnet'
    """
    for target, names in _REGISTERED.items():
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
    """Import a module of SpeechBrain, or make it if there is none."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # it exists; one of its imports is missing
            raise
        parent, _, leaf = name.rpartition(".")
        module = types.ModuleType(name, "Registered by amsincnet_sb.")
        sys.modules[name] = module
        setattr(importlib.import_module(parent), leaf, module)
        return module

"""AM-SincNet for SpeechBrain.

Learnable band-pass filters on the raw waveform, trained with an
additive-margin softmax, for speaker identification.

The names below are imported when they are first used, so that
``import amsincnet_sb`` itself takes no time.

Example
-------
>>> import amsincnet_sb
>>> amsincnet_sb.AMSoftmax(margin=0.2).scale
30.0
"""

import importlib
from typing import TYPE_CHECKING

from amsincnet_sb import _moved

if TYPE_CHECKING:  # what type checkers and editors know of _PUBLIC
    from amsincnet_sb.inference.identifier import SpeakerIdentifier
    from amsincnet_sb.lobes.classifiers import CosineClassifier
    from amsincnet_sb.lobes.features import SincFeatures
    from amsincnet_sb.lobes.registration import register
    from amsincnet_sb.lobes.sinc_tdnn import SincTDNN
    from amsincnet_sb.lobes.sincnet import SincNet
    from amsincnet_sb.nnet.losses import AMSoftmax, MarginWarmup
    from amsincnet_sb.nnet.sinc import SincConv

__version__ = "0.2.0"

_PUBLIC = {
    "SincConv": "amsincnet_sb.nnet.sinc",
    "SincFeatures": "amsincnet_sb.lobes.features",
    "SincNet": "amsincnet_sb.lobes.sincnet",
    "SincTDNN": "amsincnet_sb.lobes.sinc_tdnn",
    "CosineClassifier": "amsincnet_sb.lobes.classifiers",
    "AMSoftmax": "amsincnet_sb.nnet.losses",
    "MarginWarmup": "amsincnet_sb.nnet.losses",
    "SpeakerIdentifier": "amsincnet_sb.inference.identifier",
    "register": "amsincnet_sb.lobes.registration",
}
__all__ = ["__version__", *_PUBLIC]

_moved.install()


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_PUBLIC})

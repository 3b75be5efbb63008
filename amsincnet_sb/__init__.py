"""AM-SincNet for SpeechBrain.

Learnable band-pass filters on the raw waveform, trained with an
additive-margin softmax, for speaker identification.
"""

from amsincnet_sb.registration import register

__version__ = "0.1.0"
__all__ = ["register", "__version__"]

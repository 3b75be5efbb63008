"""Fast forms of the networks' layers, with one interface for both devices.

:class:`Kernels` declares the interface, :mod:`.cpu` and :mod:`.cuda`
implement it, and :func:`kernels_for` chooses between them by the device of a
tensor. Values and gradients are those of the plain form in torch; under
autocast matmuls are in its precision.
"""

from typing import Protocol

import torch

from amsincnet_sb.kernels import cpu

__all__ = ["Kernels", "kernels_for"]

# torch 2.6 has the general question alone, which is narrowed below.
_is_exporting = getattr(
    torch.compiler, "is_exporting", torch.compiler.is_compiling
)
# Importing the kernels for GPUs takes seconds.
_cuda = None
if torch.cuda.is_available():
    from amsincnet_sb.kernels import cuda as _cuda


def kernels_for(x):
    """The kernels for the device of a tensor: a module like :class:`Kernels`.

    None where the plain form is to be used: while a network is exported, and
    on devices without kernels.

    Example
    -------
    >>> kernels_for(torch.zeros(1)).__name__
    'amsincnet_sb.kernels.cpu'
    """
    if torch.jit.is_tracing():
        return None
    # torch.compile answers "exporting" to this as well.
    exporting = _is_exporting()
    if exporting and not torch.compiler.is_dynamo_compiling():
        return None
    if _cuda is not None and _cuda.supports(x):
        return _cuda
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return cpu
    return None


class Kernels(Protocol):
    """The functions of :mod:`.cpu` and :mod:`.cuda`.

    Waveforms are ``[batch, time]`` and feature maps, other than torch's,
    ``[batch, time, channels]``. Other arguments, wherever they occur:

    ==============  =======================================================
    ``input_norm``  gain and bias of the input's TimeLayerNorm, each
                    ``[time]``; None for a normalisation without them
    ``filters``     ``[channels, taps]``, symmetric in time, ``taps`` odd.
                    On a CPU their gradient is that of symmetric filters:
                    mirrored taps share it equally.
    ``convs``       weight ``[out, in, taps]`` and bias ``[out]`` of each
                    convolution behind the sinc layer
    ``norms``       gain and bias of the TimeLayerNorm behind the pooling of
                    each layer, each ``[channels, pooled time]``
    ``pools``       size of the max-pooling behind each layer; behind the sinc
                    layer it takes magnitudes
    ``eps``         added to the TimeLayerNorms' standard deviations
    ``slope``       negative slope of the LeakyReLUs, at least 0
    ``floor``       where positive, the TimeLayerNorm behind the sinc layer
                    gets ``log(magnitude + floor)``
    ``dtype``       of the matmuls
    ==============  =======================================================

    The ``frozen_`` functions prepare layers for evaluation: they return
    functions of the input alone, without gradient, which later changes of the
    parameters do not reach.
    """

    @staticmethod
    def cnn(x, input_norm, filters, convs, norms, pools, eps, slope):
        """SincNet's convolutional part.

        Returns ``[batch, channels * time]``, channel-major. On a CPU filters
        that are not symmetric are a ValueError.
        """

    @staticmethod
    def sinc_map(
        x, input_norm, filters, norm, pool, eps, slope, floor=0.0, keep=None
    ):
        """SincTDNN's sinc layer, with one ``norm`` and one ``pool``.

        Without a ``norm``, and then without ``keep``, neither it nor the
        LeakyReLU is applied, and the result may be of higher precision.
        ``keep``, ``[batch, channels]`` of bool, masks: channels that are
        False are zero. Returns ``[batch, time, channels]``.
        """

    @staticmethod
    def conv(x, weight, stride=1):
        """A strided convolution of a feature map without padding or bias.

        ``weight`` is ``[out, in, taps]``. Returns
        ``[batch, (time - taps) // stride + 1, out]``.
        """

    @staticmethod
    def linear(x, weight, bias):
        """:func:`torch.nn.functional.linear` of ``[batch, in]``."""

    @staticmethod
    def statistics(x):
        """:func:`amsincnet_sb.nnet.pooling.statistics`, for evaluation."""

    @staticmethod
    def frozen_cnn(
        input_norm, filters, convs, norms, pools, eps, slope, dtype, floor=0.0
    ):
        """:meth:`cnn`, waveforms to ``[batch, time, channels]``.

        A first norm of ``[channels]`` is a gain and a bias alone. On CUDA
        there are no ``convs`` behind it.
        """

    @staticmethod
    def frozen_conv(weight, bias, stride, slope, residual, dtype):
        """:meth:`conv` with a bias ``[out]`` and a LeakyReLU.

        With ``residual`` the middle of the input is added to the output. The
        feature maps are of the given dtype, too.
        """

    @staticmethod
    def frozen_linear(weight, bias, dtype):
        """:meth:`linear`, of the given dtype."""

"""Batch normalisation with the statistics of all processes' batches.

torch's own ``SyncBatchNorm`` refuses tensors on a CPU.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["SynchronizedBatchNorm", "synchronize_batchnorm"]


class SynchronizedBatchNorm(_BatchNorm):
    """BatchNorm over the batches of all processes, on any device.

    In training it computes on several processes what BatchNorm computes on
    one from their batches put together, forward and backward, when gradients
    are averaged over the processes afterwards; else it is BatchNorm. Its
    parameters, buffers and state dictionary are those of BatchNorm.

    Arguments
    ---------
    num_features, eps, momentum, affine, track_running_stats :
        See torch.nn.BatchNorm1d. Inputs are ``[batch, features, …]``.

    Example
    -------
    >>> x = torch.randn(8, 3)
    >>> ours, torchs = SynchronizedBatchNorm(3), nn.BatchNorm1d(3)
    >>> torch.equal(ours(x), torchs(x))  # of one process
    True
    """

    def _check_input_dim(self, x):
        if x.dim() < 2:
            raise ValueError(
                f"SynchronizedBatchNorm: the input has {x.dim()} dimensions "
                "but needs at least 2."
            )

    def forward(self, x):
        """Normalise.

        Arguments
        ---------
        x : torch.Tensor
            ``[batch, features, …]``.

        Returns
        -------
        torch.Tensor
            The same shape and type.
        """
        several = (
            dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        )
        if not (several and self.training):
            return super().forward(x)
        self._check_input_dim(x)
        momentum = self.momentum
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / self.num_batches_tracked
        y, mean, var, count = _synchronized(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            with torch.no_grad():
                unbiased = var * (count / (count - 1))
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(unbiased, momentum)
        return y


def synchronize_batchnorm(module):
    """Put :class:`SynchronizedBatchNorm` in the place of every BatchNorm.

    Arguments
    ---------
    module : torch.nn.Module
        Changed in place; parameters and buffers stay the same objects.

    Returns
    -------
    torch.nn.Module
        The same; another one only if it is a BatchNorm itself.

    Example
    -------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> synchronize_batchnorm(net)[1]
    SynchronizedBatchNorm(3, eps=1e-05, momentum=0.1, affine=True, ...)
    """
    if isinstance(module, _BatchNorm):
        if isinstance(module, (SynchronizedBatchNorm, nn.SyncBatchNorm)):
            return module
        new = SynchronizedBatchNorm(
            module.num_features,
            module.eps,
            module.momentum,
            affine=False,
            track_running_stats=False,
        )
        new.affine = module.affine
        new.track_running_stats = module.track_running_stats
        new.weight, new.bias = module.weight, module.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(new, name, getattr(module, name))
        return new.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batchnorm(child))
    return module


@torch.compiler.disable
def _synchronized(x, weight, bias, eps):
    return _Normalize.apply(x, weight, bias, eps)


class _Normalize(torch.autograd.Function):
    """Normalised input; mean, variance and size of the joint batch."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        """Normalise by the joint statistics."""
        wide = x.float() if x.dtype in (torch.half, torch.bfloat16) else x
        axes = [axis for axis in range(x.dim()) if axis != 1]
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean = wide.mean(axes)
        squares = (wide - mean.view(shape)).square().sum(axes)
        count = mean.new_full((1,), x.numel() / x.shape[1])
        mine = torch.cat([mean, squares, count])
        all_of_them = mine.new_empty(dist.get_world_size(), len(mine))
        dist.all_gather(list(all_of_them.unbind()), mine)
        means, squares, counts = all_of_them.split(
            [len(mean), len(mean), 1], dim=1
        )
        # Deviations add up without loss only about the common mean.
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        squares = squares + counts * (means - mean).square()
        var = squares.sum(0) / total
        scale = torch.rsqrt(var + eps)
        normal = (wide - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(normal, scale, weight, total)
        ctx.mark_non_differentiable(mean, var, total)
        y = normal
        if weight is not None:
            y = y * weight.view(shape) + bias.view(shape)
        return y.to(x.dtype), mean, var, total

    @staticmethod
    def backward(ctx, grad, *_):
        """Through the joint statistics too."""
        normal, scale, weight, total = ctx.saved_tensors
        wide = grad.to(normal.dtype)
        axes = [axis for axis in range(grad.dim()) if axis != 1]
        shape = [1, -1] + [1] * (grad.dim() - 2)
        d_bias = wide.sum(axes)
        d_weight = (wide * normal).sum(axes)
        sums = torch.stack([d_bias, d_weight])
        dist.all_reduce(sums)
        sums = sums / total
        d_x = wide - sums[0].view(shape) - normal * sums[1].view(shape)
        d_x = d_x * scale.view(shape)
        if weight is not None:
            return (
                (d_x * weight.view(shape)).to(grad.dtype),
                d_weight,
                d_bias,
                None,
            )
        return d_x.to(grad.dtype), None, None, None

"""Sums over an epoch, which survive a checkpoint in its middle."""

import torch
import torch.distributed as dist
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from amsincnet_sb.training.distributed import add_over_ranks, rank, world_size

__all__ = ["Totals"]


@register_checkpoint_hooks
class Totals:
    """Sums over an epoch by name, kept on the device and in checkpoints.

    Each process has its own, in ``values`` (``[names]``, float64);
    :meth:`read` adds them over all.

    Example
    -------
    >>> totals = Totals(["loss", "examples"], "cpu")
    >>> totals.add(loss=torch.tensor(3.0), examples=2)
    >>> totals.add(loss=torch.tensor(1.0), examples=2)
    >>> totals.read()
    {'loss': 4.0, 'examples': 4.0}
    """

    def __init__(self, names, device):
        self.values = torch.zeros(len(names), dtype=torch.float64).to(device)
        self.sums = dict(zip(names, self.values.unbind()))
        self._of_ranks = None

    def add(self, **values):
        """Add floats or scalar tensors by name; does not wait for the device."""
        for name, value in values.items():
            self.sums[name].add_(value)

    def read(self):
        """Name -> sum over all processes, all of which must call it."""
        values = add_over_ranks(self.values.clone())
        return dict(zip(self.sums, values.tolist()))

    def clear(self):
        """Back to zero, in place."""
        self.values.zero_()

    def gather(self):
        """Collect the sums of all processes, before the main one saves."""
        self._of_ranks = [self.values]
        if world_size() > 1:
            self._of_ranks = [
                torch.zeros_like(self.values) for _ in range(world_size())
            ]
            dist.all_gather(self._of_ranks, self.values)

    @mark_as_saver
    def _save(self, path):
        rows = torch.stack(self._of_ranks or [self.values]).cpu()
        torch.save(dict(zip(self.sums, rows.unbind(1))), path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        self.clear()
        if end_of_epoch:
            return
        saved = torch.load(path, weights_only=True)
        for name, value in self.sums.items():
            row = saved[name].reshape(-1)
            if len(row) == world_size():
                value.copy_(row[rank()])
            elif rank() == 0:  # saved by another number of processes
                value.copy_(row.sum())

"""The guard against steps with NaN or infinite losses and gradients."""

import torch

from amsincnet_sb.kernels import cpu, kernels_for

__all__ = ["StepGuard"]


class StepGuard:
    """Undoes what a step changed beside the parameters.

    That is ``tensors``, contiguous and on one device: buffers of modules, sums.
    They are copied together, as bytes: a few small kernels, however many there
    are. Nothing waits for a GPU.
    """

    def __init__(self, tensors):
        self.tensors = [t for t in tensors if t.numel()]
        self._bytes = [t.view(-1).view(torch.uint8) for t in self.tensors]
        self._parts, self._fast = [], None
        if not self.tensors:
            return
        # Each where a tensor of any type can be.
        sizes = [-(-len(part) // 16) * 16 for part in self._bytes]
        self._old = self._bytes[0].new_zeros(sum(sizes))
        self._parts = [
            part[: len(own)]
            for part, own in zip(self._old.split(sizes), self._bytes)
        ]
        kernels = kernels_for(torch.empty(0, device=self._old.device))
        if kernels not in (None, cpu):
            from amsincnet_sb.kernels.cuda.restore import Restore

            self._fast = Restore(list(zip(self._bytes, self._parts)))

    @torch.no_grad()
    def take(self):
        """Remember the present values."""
        if self.tensors:
            torch._foreach_copy_(self._parts, self._bytes)

    @torch.no_grad()
    def restore(self):
        """Go back to them."""
        if self.tensors:
            torch._foreach_copy_(self._bytes, self._parts)

    @torch.no_grad()
    def restore_unless(self, finite):
        """Go back to them where the scalar bool tensor ``finite`` is False."""
        if self._fast is not None:
            self._fast(finite)
        elif finite.device.type == "cpu":
            if not finite:
                self.restore()
        else:
            for now, old in zip(self._bytes, self._parts):
                torch.where(finite, now, old, out=now)

"""The guard against steps with NaN or infinite losses and gradients."""

import torch

__all__ = ["StepGuard"]


class StepGuard:
    """Undoes what a step changed beside the parameters.

    That is ``tensors``: buffers of modules, sums. They are copied together, as
    bytes: a few small kernels, however many there are. Nothing waits for the
    device.
    """

    def __init__(self, tensors):
        self.tensors = list(tensors)
        self._bytes = [t.view(-1).view(torch.uint8) for t in self.tensors]
        if not self.tensors:
            return
        sizes = [len(part) for part in self._bytes]
        self._old = torch.cat(self._bytes)
        self._now = self._old.clone()
        self._old_parts = self._old.split(sizes)
        self._now_parts = self._now.split(sizes)

    @torch.no_grad()
    def take(self):
        """Remember the present values."""
        if self.tensors:
            torch._foreach_copy_(self._old_parts, self._bytes)

    @torch.no_grad()
    def restore(self):
        """Go back to them."""
        if self.tensors:
            torch._foreach_copy_(self._bytes, self._old_parts)

    @torch.no_grad()
    def restore_unless(self, finite):
        """Go back to them where the scalar bool tensor ``finite`` is False."""
        if self.tensors:
            torch._foreach_copy_(self._now_parts, self._bytes)
            torch.where(finite, self._now, self._old, out=self._now)
            torch._foreach_copy_(self._bytes, self._now_parts)

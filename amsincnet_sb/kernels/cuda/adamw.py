"""AdamW's step of all tensors in one kernel.

torch's fused kernels take half as long again at the memory's speed, and
torch's compiler, which is as fast as this, takes eight seconds to compile it.
"""

import math

import torch

from amsincnet_sb.kernels.cuda.support import supports

__all__ = ["AdamWUpdate"]

BLOCK = 1024  # values of a program
MARKED = 2  # blocks of a program that only reads


class AdamWUpdate:
    """The step of a ``torch.optim.AdamW`` that has its state.

    Captured in a CUDA graph, it needs :meth:`finish_capture` before the first
    replay. The state stays the optimizer's. Adding the same numbers in another
    order than torch, it rounds otherwise.

    I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR
    2019, https://arxiv.org/abs/1711.05101.

    Arguments
    ---------
    optimizer : torch.optim.AdamW
        One that :meth:`fits`.
    """

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self._device = optimizer.param_groups[0]["params"][0].device
        groups = len(optimizer.param_groups)
        # Of groups whose learning rate is not on the device.
        self._rates = torch.zeros(groups, device=self._device)
        self._options = None
        self._located = None
        self._rows = None
        self._waiting = False

    @staticmethod
    def fits(optimizer):
        """Whether an optimizer, and the device of its parameters, are known."""
        # Not a subclass, whose step may be another one.
        known = type(optimizer) is torch.optim.AdamW
        # Of which it makes its counts of steps.
        known = known and torch.get_default_dtype() == torch.float32
        return known and all(
            not (group["amsgrad"] or group["maximize"])
            and not group["differentiable"]
            and all(isinstance(beta, float) for beta in group["betas"])
            and all(
                p.dtype == torch.float32 and p.is_contiguous() and supports(p)
                for p in group["params"]
            )
            for group in optimizer.param_groups
        )

    @torch.no_grad()
    def finiteness(self):
        """A scalar that is finite if, and only if, all gradients are.

        The next update is that of the gradients that are here now.
        """
        from amsincnet_sb.kernels.cuda import triton_tables

        self._located = self._locate()
        flag = torch.zeros((), device=self._device)
        if self._located:
            triton_tables.mark_gradients[(-(-len(self.owners) // MARKED),)](
                self.table,
                self.owners,
                flag,
                len(self.owners),
                ALIGNED=self.aligned,
                BLOCK=BLOCK,
                MANY=MARKED,
                num_warps=4,
            )
        return flag

    @torch.no_grad()
    def __call__(self, finite):
        """Update all parameters that have a gradient.

        Nothing changes where the scalar bool tensor ``finite`` is False. The
        learning rates may be tensors.
        """
        from amsincnet_sb.kernels.cuda import triton_tables

        located = self._located or self._locate()
        self._located = None
        if not located:
            return
        triton_tables.adamw[(len(self.owners),)](
            self.table,
            self.owners,
            finite.view(torch.int8),
            self._numbers(),
            ALIGNED=self.aligned,
            BLOCK=BLOCK,
            num_warps=4,
        )
        # All programs of a tensor have read it.
        counts = [count for *_, count in located]
        # A list, because torch reads a single number on the host.
        torch._foreach_add_(counts, [finite.float()] * len(counts))

    def finish_capture(self):
        """Tell the graph where its tensors are, which lie there for good."""
        if self._waiting:
            self.table.copy_(torch.tensor(self._rows))
            self._waiting = False

    def _locate(self):
        """Parameters with a gradient, gradients and state, put in the table.

        The table says where the tensors are, ``owners`` which of its rows a
        program belongs to.
        """
        found, rows, owners = [], [], []
        # Loading makes other groups of options.
        for number, group in enumerate(self._optimizer.param_groups):
            rate = self._rate(number, group["lr"])
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self._optimizer.state[p]
                moments = state["exp_avg"], state["exp_avg_sq"]
                tensors = p, p.grad.contiguous(), *moments, state["step"]
                found.append(tensors)
                addresses = [tensor.data_ptr() for tensor in (*tensors, rate)]
                row = [*addresses, number, p.numel(), len(owners)]
                owners += [len(rows)] * -(-p.numel() // BLOCK)
                rows.append(row)
        if rows != self._rows:
            self._keep(rows, owners)
        return found

    def _keep(self, rows, owners):
        """Have the table made of its rows."""
        sizes = [row[-2:] for row in rows]
        if not self._rows or sizes != [row[-2:] for row in self._rows]:
            columns = len(rows[0]) if rows else 0
            self.table = torch.zeros(
                len(rows), columns, dtype=torch.int64, device=self._device
            )
            self.owners = torch.tensor(owners, device=self._device)
        self._rows = rows
        self.aligned = not any(x % 16 for row in rows for x in row[:4])
        self._waiting = True
        # A graph's tensors are there when it is replayed, not before.
        if not _is_capturing(self._device):
            self.finish_capture()

    def _rate(self, number, lr):
        """A group's learning rate, on the device."""
        if torch.is_tensor(lr) and lr.device == self._device:
            if lr.dtype == torch.float32:
                return lr
        return self._rates[number].copy_(torch.as_tensor(lr))

    def _numbers(self):
        """See the kernel."""
        options = [
            (*group["betas"], group["eps"], group["weight_decay"])
            for group in self._optimizer.param_groups
        ]
        if options != self._options:
            self._options = options
            rows = [
                [
                    math.log(first) if first else -math.inf,
                    math.log(second) if second else -math.inf,
                    1 - first,
                    1 - second,
                    eps,
                    decay,
                ]
                for first, second, eps, decay in options
            ]
            self._on_device = torch.tensor(
                rows, dtype=torch.float64, device=self._device
            )
        return self._on_device


def _is_capturing(device):
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

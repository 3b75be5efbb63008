"""AdamW's step of all tensors in one kernel.

torch's fused kernels take half as long again at the memory's speed, and
torch's compiler, which is as fast as this, takes eight seconds to compile it.
"""

import math

import torch

from amsincnet_sb.kernels.cuda.support import supports

__all__ = ["AdamWUpdate"]

BLOCK = 1024  # values of a program


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
        self._groups = [_Group() for _ in optimizer.param_groups]

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
    def __call__(self, finite):
        """Update all parameters that have a gradient.

        Nothing changes where the scalar bool tensor ``finite`` is False. The
        learning rates may be tensors.
        """
        # Loading makes other groups of options.
        for ours, group in zip(self._groups, self._optimizer.param_groups):
            ours.update(group, self._optimizer.state, finite)

    def finish_capture(self):
        """Tell the graph where its tensors are, which lie there for good."""
        for ours in self._groups:
            ours.write_table()


class _Group:
    """Where the tensors of a parameter group are, and its options."""

    def __init__(self):
        self.rows = None
        self.numbers = None
        self.waiting = False

    def update(self, group, state, finite):
        """See AdamWUpdate."""
        from amsincnet_sb.kernels.cuda import triton_adamw

        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        states = [state[p] for p in parameters]
        tensors = [
            (p, p.grad.contiguous(), s["exp_avg"], s["exp_avg_sq"], s["step"])
            for p, s in zip(parameters, states)
        ]
        self._locate(tensors, finite.device)
        lr = group["lr"]
        if not torch.is_tensor(lr):
            lr = torch.tensor(lr, device=finite.device)
        triton_adamw.adamw[(len(self.owners),)](
            self.table,
            self.owners,
            finite.view(torch.int8),
            lr,
            self._numbers(group, finite.device),
            ALIGNED=self.aligned,
            BLOCK=BLOCK,
            num_warps=4,
        )
        # All programs of a tensor have read it.
        counts = [s["step"] for s in states]
        # A list, because torch reads a single number on the host.
        torch._foreach_add_(counts, [finite.float()] * len(counts))

    def write_table(self):
        """Put the addresses where the kernel reads them."""
        if self.waiting:
            self.table.copy_(torch.tensor(self.rows))
            self.waiting = False

    def _locate(self, tensors, device):
        """Make the table of tensors and of the programs they belong to."""
        rows, owners = [], []
        for number, (p, *others) in enumerate(tensors):
            addresses = [tensor.data_ptr() for tensor in (p, *others)]
            rows.append([*addresses, p.numel(), len(owners)])
            owners += [number] * -(-p.numel() // BLOCK)
        if rows == self.rows:
            return
        sizes = [row[5:] for row in rows]
        if self.rows is None or sizes != [row[5:] for row in self.rows]:
            self.table = torch.zeros(
                len(rows), len(rows[0]), dtype=torch.int64, device=device
            )
            self.owners = torch.tensor(owners, device=device)
        self.rows = rows
        self.aligned = not any(x % 16 for row in rows for x in row[:4])
        self.waiting = True
        # A graph's tensors are there when it is replayed, not before.
        if not _is_capturing(device):
            self.write_table()

    def _numbers(self, group, device):
        """See the kernel."""
        first, second = group["betas"]
        numbers = [
            math.log(first) if first else -math.inf,
            math.log(second) if second else -math.inf,
            1 - first,
            1 - second,
            group["eps"],
            group["weight_decay"],
        ]
        if numbers != self.numbers:
            self.numbers = numbers
            self.on_device = torch.tensor(
                numbers, dtype=torch.float64, device=device
            )
        return self.on_device


def _is_capturing(device):
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()

"""The same random numbers for two computations of one step."""

import contextlib

import torch

__all__ = ["RepeatedDraws"]


class RepeatedDraws:
    """Lets what is drawn at random be drawn once more.

    Noise, channels and masks belong to a step; two gradients of it, as
    :class:`~amsincnet_sb.training.sharpness.Sharpness` needs, are of one
    function only where both draw alike.

    On CUDA the first draws come from a twin of the device's generator, which a
    CUDA graph can hold, too: the twin has to be registered before it is
    captured (:meth:`register`) and set before each replay (:meth:`refresh`).

    Arguments
    ---------
    device : torch.device or str
        Whose default generator it is.

    Example
    -------
    >>> draws = RepeatedDraws("cpu")
    >>> draws.refresh()
    >>> with draws.first():
    ...     once = torch.rand(3)
    >>> bool((torch.rand(3) == once).all())
    True
    """

    def __init__(self, device):
        device = torch.device(device)
        self._twin = None
        self._generator = torch.default_generator
        if device.type == "cuda":
            torch.cuda.init()
            index = device.index
            if index is None:
                index = torch.cuda.current_device()
            self._generator = torch.cuda.default_generators[index]
            self._twin = self._generator.clone_state()

    def refresh(self):
        """Bring the twin to where the generator is; not while capturing."""
        if self._twin is not None:
            self._twin.manual_seed(self._generator.initial_seed())
            self._twin.set_offset(self._generator.get_offset())

    def register(self, graph):
        """Let a graph that is to be captured draw from the twin, too."""
        if self._twin is not None:
            graph.register_generator_state(self._twin)

    @contextlib.contextmanager
    def first(self):
        """Context whose draws leave the generator where it was."""
        if self._twin is None:
            before = self._generator.get_state()
            try:
                yield
            finally:
                self._generator.set_state(before)
            return
        own = self._generator.graphsafe_get_state()
        self._generator.graphsafe_set_state(self._twin)
        try:
            yield
        finally:
            self._generator.graphsafe_set_state(own)

"""Work on a CPU side by side, each piece in one thread."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import torch

__all__ = ["one_thread_each"]


@contextlib.contextmanager
def one_thread_each(wanted=True):
    """A ``map`` over pieces of work, with as many threads as torch may have.

    It is Python's own if threads are not ``wanted``, or torch may have one.
    All else runs in one thread. Those that share each step wait for the slowest
    at its end, which beside another process takes many times as long. Modes of
    torch such as ``no_grad`` are not handed on to the threads.

    Example
    -------
    >>> with one_thread_each() as side_by_side:
    ...     list(side_by_side(torch.numel, [torch.ones(2), torch.ones(3)]))
    [2, 3]
    """
    threads = torch.get_num_threads()
    if threads == 1 or not wanted:
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(
            threads, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)

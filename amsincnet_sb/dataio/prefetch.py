"""Reading while something else computes."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor

__all__ = ["read_ahead"]


def read_ahead(items, depth=8):
    """The items of an iterator, made in a thread before they are asked for.

    Arguments
    ---------
    items : iterable
        Its items are made one after the other, in one thread.
    depth : int
        How many are made before they are asked for.

    Yields
    ------
    object
        The same items in the same order; at last what the iterator raises.

    Example
    -------
    >>> list(read_ahead(range(3)))
    [0, 1, 2]
    """
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1)
    try:
        ahead = deque(pool.submit(next, iterator, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, iterator, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)

"""Reading files in threads while something else computes."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

__all__ = ["prefetch"]


def prefetch(function, items, threads=2, depth=8, group=1):
    """Yield the results of a function, in order, computed ahead in threads.

    Unlike the worker processes of torch's DataLoader, threads share the audio
    in memory, start at once and pass results on without copying them. What
    has not begun when an item raises, or when the generator is closed, is
    cancelled; what has begun is waited for in the first case only.

    Arguments
    ---------
    function : callable
        Gets an item.
    items : iterable
        Taken one by one, in the caller's thread, only as far as is needed.
    threads : int
        How many items are worked on at a time. More than two pay off where a
        file is slow to open; nearby, they wait for Python's lock instead.
    depth : int
        How many groups are computed before they are asked for.
    group : int
        Items that a thread takes at once. 16 short files are read as fast as
        without threads; one at a time, handing them over costs a third.

    Example
    -------
    >>> list(prefetch(len, ["a", "bc"]))
    [1, 2]
    """
    items = iter(items)
    pool = ThreadPoolExecutor(threads, "prefetch")

    def work(members):
        """Results of a group of items."""
        return [function(item) for item in members]

    def submitted():
        """The groups, each handed to a thread."""
        while members := list(islice(items, group)):
            yield pool.submit(work, members)

    futures, wait = submitted(), True
    try:
        ahead = deque(islice(futures, depth))
        while ahead:
            results = ahead.popleft().result()
            ahead.extend(islice(futures, 1))
            yield from results
    except GeneratorExit:
        # Perhaps of the garbage collector, in whatever thread and within
        # whatever lock; the threads may need that lock to end.
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)

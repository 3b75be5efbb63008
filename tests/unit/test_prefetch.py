"""Results in order, whoever computes them, and no more than needed."""

import threading

import pytest

from amsincnet_sb.dataio.prefetch import prefetch

WAYS = [{}, {"threads": 1}, {"threads": 4, "depth": 2}, {"group": 16}]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_everything_once_and_in_order(way):
    for count in (0, 1, 15, 100):
        found = list(prefetch(lambda item: 2 * item, range(count), **way))
        assert found == list(range(0, 2 * count, 2))


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("bad", [0, 50])
def test_an_error_ends_it(way, bad):
    def work(item):
        if item == bad:
            raise ValueError(item)
        return item

    results = []
    with pytest.raises(ValueError, match=str(bad)):
        results.extend(prefetch(work, range(100), **way))
    group = way.get("group", 1)
    assert results == list(range(bad // group * group))


def test_threads_wait_together():
    barrier = threading.Barrier(4, timeout=10)
    list(prefetch(lambda _: barrier.wait(), range(8), threads=4))


def test_no_more_is_taken_than_the_depth():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    others = set(threading.enumerate())  # of tests before, not yet collected
    ahead = prefetch(str, items(), depth=3, group=2)
    assert next(ahead) == "0" and len(taken) <= 8
    started = {*threading.enumerate()} - others
    assert any("prefetch" in thread.name for thread in started)
    ahead.close()
    for thread in started:
        thread.join(10)
    assert len(taken) <= 8
    assert not {*threading.enumerate()} - others


def test_collecting_it_waits_for_nothing():
    """Python collects garbage in any thread, whatever lock that holds."""
    begun, collected, found = threading.Event(), threading.Event(), []

    def work(item):
        """The second item ends once the generator has been collected."""
        if item:
            begun.set()
            found.append(collected.wait(5))
        return item

    ahead = prefetch(work, range(2), threads=1)
    assert next(ahead) == 0
    (thread,) = ahead.gi_frame.f_locals["pool"]._threads
    assert begun.wait(10)
    del ahead
    collected.set()
    thread.join(10)
    assert found == [True]

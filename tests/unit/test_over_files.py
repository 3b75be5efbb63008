"""Items in order, whoever does them."""

import threading
import time

import pytest

from amsincnet_sb.dataio.over_files import TRIAL, over_files


def run(function, count):
    """Results, and how many items the main thread did itself."""
    own, main = [], threading.get_ident()

    def noted(item):
        if threading.get_ident() == main:
            own.append(item)
        return function(item)

    return list(over_files(noted, range(count))), len(own)


@pytest.mark.parametrize("count", [0, 1, TRIAL, TRIAL + 1, 5 * TRIAL])
def test_everything_once_and_in_order(count):
    assert run(lambda item: 2 * item, count)[0] == list(range(0, 2 * count, 2))


def test_threads_wait_together():
    results, own = run(lambda item: time.sleep(0.002) or item, 5 * TRIAL)
    assert results == list(range(5 * TRIAL))
    assert own == TRIAL


def test_no_threads_where_they_only_wait_for_each_other():
    lock = threading.Lock()

    def work(item):
        with lock:
            # Longer where it is not alone, as with the interpreter's lock.
            alone = threading.active_count() == alone_count
            time.sleep(0.0005 if alone else 0.002)
        return item

    alone_count = threading.active_count()
    results, own = run(work, 5 * TRIAL)
    assert results == list(range(5 * TRIAL))
    assert own == 3 * TRIAL


@pytest.mark.parametrize("bad", [3, TRIAL + 3, 4 * TRIAL])
def test_an_error_ends_it(bad):
    def work(item):
        if item == bad:
            raise ValueError(item)
        return item

    results = []
    with pytest.raises(ValueError, match=str(bad)):
        for result in over_files(work, range(5 * TRIAL)):
            results.append(result)
    assert results == list(range(len(results))) and len(results) <= bad

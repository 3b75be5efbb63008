"""A sweep on a cluster of dask: two workers, one of which is killed."""

import os
import signal
import sys
import time

import pytest

from amsincnet_sb.training import executors
from amsincnet_sb.training.executors import open_executor
from amsincnet_sb.utils.errors import InputError

distributed = pytest.importorskip("distributed")

# Works in its folder alone; the first time it says so, then waits for the end
# of its worker, and takes its time to leave.
UNIT = """
import os, pathlib, signal, sys, time
from amsincnet_sb.utils.locks import sole_process
folder = pathlib.Path(sys.argv[1])
with sole_process(folder):
    first = not (folder / "begun").exists()
    (folder / "begun").touch()
    if first and sys.argv[2] == "waits":
        def end(*_):
            time.sleep(1.5)
            (folder / "saved").touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, end)
        (folder / "part").write_text(str(os.getppid()))
        (folder / "part").rename(folder / "worker")
        time.sleep(60)
    assert first or (folder / "saved").exists()
    print("done")
"""


@pytest.fixture(scope="module")
def cluster():
    options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "dashboard_address": None,
    }
    with distributed.LocalCluster(**options) as cluster:
        yield cluster


@pytest.fixture
def unit(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return lambda folder, kind: [sys.executable, "-c", UNIT, folder, kind]


@pytest.mark.skipif(sys.platform != "linux", reason="ends with its parent")
def test_a_worker_is_killed(cluster, unit, tmp_path):
    kinds = {"a": "waits", "b": "ends", "c": "ends"}
    with open_executor(cluster.scheduler_address) as submit:
        futures = [
            submit(unit(tmp_path / name, kind), tmp_path / name)
            for name, kind in kinds.items()
        ]
        worker = tmp_path / "a" / "worker"
        while not worker.exists():
            time.sleep(0.05)
        os.kill(int(worker.read_text()), signal.SIGKILL)
        assert [future.result(60) for future in futures] == [0, 0, 0]
    for name in kinds:
        assert (tmp_path / f"{name}.log").read_text() == "done\n"


def test_a_status_and_an_error(cluster, tmp_path):
    with open_executor(cluster.scheduler_address) as submit:
        assert submit(["false"], tmp_path / "a").result(30) == 1
        with pytest.raises(FileNotFoundError):
            submit(["/no/such/command"], tmp_path / "b").result(30)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [("somewhere", "must be the address"), ("tcp://127.0.0.1:9", "answers at")],
)
def test_no_scheduler(address, complaint, monkeypatch):
    monkeypatch.setattr(executors, "ANSWER", 1.0)
    with (
        pytest.raises(InputError, match=complaint),
        open_executor(address),
    ):
        pass

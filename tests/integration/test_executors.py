"""A sweep on a cluster of dask: two workers, one of which is killed."""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest

from amsincnet_sb.cli import main
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
    [("somewhere", "must be a scheduler"), ("tcp://127.0.0.1:9", "answers at")],
)
def test_no_scheduler(address, complaint, monkeypatch):
    monkeypatch.setattr(executors, "ANSWER", 1.0)
    with (
        pytest.raises(InputError, match=complaint),
        open_executor(address),
    ):
        pass


def test_recordings_in_parts(
    cluster, finished, corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr("amsincnet_sb.commands.bulk.PART", 2)
    files = sorted(map(str, corpus.glob("TRAIN/*/*/SI*.WAV")))[:3]
    bad = tmp_path / "two\nlines.wav"
    bad.write_text("no audio")
    scheduler = tmp_path / "scheduler.json"
    scheduler.write_text(json.dumps({"address": cluster.scheduler_address}))
    model = shutil.copytree(finished / "pretrained", tmp_path / "model")
    ask = ["identify", str(model), *files, str(bad), "--top=2", "--unknown"]
    alone, together = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    assert main([*ask, "--output", str(alone)]) == 2
    first = capsys.readouterr()
    assert len(alone.read_text().splitlines()) == 3 and first.out == ""
    options = ["--output", str(together), f"--executor={scheduler}"]
    assert main([*ask, *options]) == 2
    second = capsys.readouterr()
    assert second.err.splitlines()[-2:] == first.err.splitlines()[-2:]
    assert f"Error: {bad}: " in second.err
    assert second.err.count("Note: this model has no calibrated") == 1
    assert json.loads(second.out) == {"output": str(together), "files": 3}
    pairs = zip(*map(answers, (alone, together)), strict=True)
    for (file, speaker, score), (other, same, close) in pairs:
        assert (file, speaker) == (other, same)
        # Windows share a batch with other files', in bfloat16 at the worst.
        assert close == pytest.approx(score, rel=1e-2, abs=1e-2)
    assert not (tmp_path / "2.jsonl.parts").exists()

    ask = ["embed", str(finished), *files[:2]]
    output = tmp_path / "e.npz"
    assert main([*ask, f"--output={output}"]) == 0
    alone = np.load(output)
    expected = alone["files"].tolist(), alone["embeddings"]
    # The second part has nothing that can be used.
    ask += [str(bad), f"--output={output}", f"--executor={scheduler}"]
    assert main(ask) == 2
    assert f"Error: {bad}: " in capsys.readouterr().err
    together = np.load(output)
    assert together["files"].tolist() == expected[0] == files[:2]
    np.testing.assert_allclose(
        together["embeddings"], expected[1], rtol=1e-2, atol=1e-2
    )


def answers(path):
    """File, speaker and score of the best candidates."""
    found = map(json.loads, path.read_text().splitlines())
    best = [(each["file"], each["candidates"][0]) for each in found]
    return [(file, c["speaker"], c["score"]) for file, c in best]


def test_parts_that_are_done_are_passed_over(tmp_path, monkeypatch, capsys):
    """But not those of other recordings, or of a part that failed."""
    (tmp_path / "m").mkdir()
    recordings = [tmp_path / f"{n}.wav" for n in range(5)]
    for path in recordings:
        path.write_text("1")
    asked, broken = [], set()

    @contextlib.contextmanager
    def executor(address):
        def submit(command, folder):
            future = Future()
            asked.append(folder.name)
            output = Path(command[command.index("--output") + 1])
            folder.mkdir(exist_ok=True)
            log = "Error: It broke.\n" if folder.name in broken else ""
            folder.with_suffix(".log").write_text(log)
            if not log:
                output.write_text(folder.name + "\n")
            future.set_result(2 if log else 0)
            return future

        yield submit

    monkeypatch.setattr("amsincnet_sb.commands.bulk.PART", 2)
    monkeypatch.setattr(executors, "open_executor", executor)
    ask = ["identify", str(tmp_path / "m"), *map(str, recordings)]
    ask += ["--output", str(tmp_path / "a.jsonl"), "--executor=x"]
    broken.add("000001")
    with pytest.raises(SystemExit, match="2"):
        main(ask)
    assert "1 of 3 parts have failed, one of them so: It broke." in (
        capsys.readouterr().err
    )
    assert asked == ["000000", "000001", "000002"]
    assert not (tmp_path / "a.jsonl").exists()
    asked.clear(), broken.clear()
    parts = shutil.copytree(tmp_path / "a.jsonl.parts", tmp_path / "kept")
    assert main(ask) == 0
    assert asked == ["000001"]
    assert (tmp_path / "a.jsonl").read_text() == "000000\n000001\n000002\n"
    asked.clear()
    shutil.move(parts, tmp_path / "a.jsonl.parts")
    recordings[4].write_text("another")
    assert main(ask) == 0
    assert asked == ["000000", "000001", "000002"]


def test_no_recording_at_all(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    ask = ["embed", str(tmp_path), str(tmp_path / "empty"), "--executor=x"]
    assert main([*ask, "--output", str(tmp_path / "e.npz")]) == 2
    assert "the folder has no audio files" in capsys.readouterr().err

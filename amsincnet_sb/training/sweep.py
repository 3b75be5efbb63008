"""Many runs of a recipe: margins, seeds and baselines in one table."""

import csv
import json
import os
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from amsincnet_sb.training.hparams import plain_options, resolve_overlay
from amsincnet_sb.training.metrics_log import History
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = ["Run", "Sweep", "parse_margins", "summarize"]

COLUMNS = ["recipe", "margin", "seed", "frame_error", "sentence_error"]


def parse_margins(text):
    """Margins as typed.

    Arguments
    ---------
    text : str
        ``first:last:step``, or numbers between commas.

    Returns
    -------
    list of float

    Raises
    ------
    InputError
        If it is neither, or a margin is not between 0 and 1.

    Example
    -------
    >>> parse_margins("0.05:0.2:0.05"), parse_margins("0.1,0.35")
    ([0.05, 0.1, 0.15, 0.2], [0.1, 0.35])
    """
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            count = round((last - first) / step) + 1
            margins = [round(first + i * step, 6) for i in range(count)]
        else:
            margins = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        margins = []
    if not margins or not all(0 <= margin <= 1 for margin in margins):
        raise InputError(
            f"--margins is {text!r} but must be first:last:step or numbers "
            "between commas, each from 0 to 1."
        )
    return margins


@dataclass(frozen=True)
class Run:
    """One training run.

    Arguments
    ---------
    hparams : str
        Hyperparameter file.
    recipe : str
        Its name in the table.
    margin : float
        Of the loss.
    seed : int
        Of everything random.
    """

    hparams: str
    recipe: str
    margin: float
    seed: int

    def __str__(self):
        return f"{self.recipe} m{self.margin:g} seed {self.seed}"


class Sweep:
    """A grid of runs in one folder, which can be interrupted and continued.

    Every run is ``train.py`` in a process of its own, so that whatever
    happens to one happens to it alone. Runs that are finished are skipped;
    one that was interrupted goes on where it was.

    Arguments
    ---------
    hparams : str or Path
        Hyperparameter file with a ``margin``.
    output : str or Path
        Folder for the runs and the table.
    margins : list of float
        For ``hparams``.
    seeds : int
        Runs of each, with the seeds 1234, 1235, …
    baselines : sequence of str or Path
        Further files, run with their own margin.
    options : sequence of str
        Further options of ``train.py``, ``--key=value``.
    script : str or Path, optional
        ``train.py``; by default the one beside the file's folder.

    Raises
    ------
    InputError
        If a file is missing, or the folder holds a sweep with other options.
    """

    first_seed = 1234

    def __init__(
        self,
        hparams,
        output,
        margins,
        seeds=3,
        baselines=(),
        options=(),
        script=None,
    ):
        if seeds < 1:
            raise InputError(f"--seeds is {seeds} but must be at least 1.")
        self.output = Path(output).absolute()
        self.options = list(options)
        self.script = _find_script(hparams, script)
        numbers = range(self.first_seed, self.first_seed + seeds)
        self.runs = [
            Run(os.path.abspath(file), Path(file).stem, margin, seed)
            for file, values in (
                (hparams, margins),
                *((file, [_own_margin(file)]) for file in baselines),
            )
            for margin in values
            for seed in numbers
        ]
        self._keep_options()

    def _keep_options(self):
        path = self.output / "sweep.json"
        if path.exists():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["options"] != self.options:
                raise InputError(
                    f"{self.output} holds a sweep with other options "
                    f"({' '.join(known['options'])}); give another --output."
                )
            return
        self.output.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            json.dump({"options": self.options}, file)

    def folder(self, run):
        """Results folder of a run.

        Arguments
        ---------
        run : Run
            One of :attr:`runs`.

        Returns
        -------
        Path
        """
        return self.output / run.recipe / f"m{run.margin:g}" / str(run.seed)

    def errors(self, run):
        """Errors of a finished run.

        Arguments
        ---------
        run : Run
            One of :attr:`runs`.

        Returns
        -------
        dict or None
            The last evaluation of the test set; None before the run's end.
        """
        folder = self.folder(run)
        # The last thing that train.py makes.
        if not (folder / "pretrained" / "config.json").exists():
            return None
        tests = [
            record
            for record in History(folder / "metrics.jsonl").records()
            if record["split"] == "test"
        ]
        return tests[-1] if tests else None

    def run(self, devices=(), jobs_per_device=1, say=print):
        """Do what is not done yet, and write the table.

        Arguments
        ---------
        devices : sequence of str
            GPUs, as ``CUDA_VISIBLE_DEVICES`` names them; none for the CPU.
        jobs_per_device : int
            Runs at a time on each.
        say : callable
            Gets a line for every run.

        Returns
        -------
        list of Run
            Those that failed.
        """
        free = queue.Queue()
        for device in list(devices or [""]) * jobs_per_device:
            free.put(device)
        todo = [run for run in self.runs if self.errors(run) is None]
        done = len(self.runs) - len(todo)
        if done:
            say(f"{done} of {len(self.runs)} runs are done already")
        failed, lock = [], threading.Lock()
        processes = set()

        def work(run):
            """One run, and its line."""
            nonlocal done
            device, start = free.get(), time.time()
            try:
                process = self._start(run, device)
                processes.add(process)
                status = process.wait()
                processes.discard(process)
            finally:
                free.put(device)
            with lock:
                done += 1
                errors = self.errors(run) if status == 0 else None
                if errors is None:
                    failed.append(run)
                    what = f"failed, see {self._log(run)}"
                else:
                    self.write_table()
                    what = (
                        f"frame error {errors['frame_error']:.2f} %, sentence "
                        f"error {errors['sentence_error']:.3f} %"
                    )
                seconds = time.time() - start
                say(f"{done}/{len(self.runs)} {run}: {what}, {seconds:.0f} s")

        with ThreadPoolExecutor(free.qsize()) as pool:
            try:
                for _ in pool.map(work, todo):
                    pass
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(processes):
                    process.terminate()  # a checkpoint is saved
                raise
        self.write_table()
        return failed

    def _log(self, run):
        return self.folder(run).with_suffix(".log")

    def _start(self, run, device):
        folder = self.folder(run)
        folder.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if device:
            environment["CUDA_VISIBLE_DEVICES"] = device
        command = [
            *(sys.executable, self.script.name, run.hparams),
            *(f"--margin={run.margin}", f"--seed={run.seed}"),
            *(f"--output_folder={folder}", *self.options),
        ]
        with open(self._log(run), "w", encoding="utf-8") as log:
            return subprocess.Popen(
                command,
                cwd=self.script.parent,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def table(self):
        """The finished runs.

        Returns
        -------
        list of dict
            With the keys recipe, margin, seed, frame_error, sentence_error.
        """
        rows = []
        for run in self.runs:
            errors = self.errors(run)
            if errors is not None:
                values = (run.recipe, run.margin, run.seed)
                values += errors["frame_error"], errors["sentence_error"]
                rows.append(dict(zip(COLUMNS, values)))
        return rows

    def write_table(self):
        """``margins.csv`` with a row a run, ``margins.md`` with means."""
        rows = self.table()
        with atomic_write(self.output / "margins.csv") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        with atomic_write(self.output / "margins.md") as file:
            file.write(summarize(rows))


def summarize(rows):
    """A Markdown table with mean and range over the seeds.

    Arguments
    ---------
    rows : list of dict
        See :meth:`Sweep.table`.

    Returns
    -------
    str

    Example
    -------
    >>> row = {"recipe": "a", "margin": 0.1, "seed": 1, "frame_error": 30.0}
    >>> rows = [{**row, "sentence_error": e} for e in (1.0, 2.0)]
    >>> print(summarize(rows).splitlines()[-1])
    | a | 0.1 | 2 | 30.00 (30.00-30.00) | 1.500 (1.000-2.000) |
    """
    groups = {}
    for row in rows:
        groups.setdefault((row["recipe"], row["margin"]), []).append(row)
    lines = [
        "| recipe | margin | seeds | frame error % | sentence error % |",
        "|---|---|---|---|---|",
    ]
    for (recipe, margin), runs in groups.items():
        cells = []
        for key, digits in (("frame_error", 2), ("sentence_error", 3)):
            values = [run[key] for run in runs]
            mean = sum(values) / len(values)
            cells.append(
                f"{mean:.{digits}f} ({min(values):.{digits}f}-"
                f"{max(values):.{digits}f})"
            )
        lines.append(
            f"| {recipe} | {margin:g} | {len(runs)} | {cells[0]} | {cells[1]} |"
        )
    return "\n".join(lines) + "\n"


def _find_script(hparams, script):
    if script is None:
        beside = Path(hparams).absolute().parent.parent / "train.py"
        script = beside if beside.is_file() else Path("train.py")
    script = Path(script).absolute()
    if not Path(hparams).is_file():
        raise InputError(f"{hparams} does not exist; give a yaml file.")
    if not script.is_file():
        raise InputError(
            f"{script} does not exist; call this in a recipe's folder, or say "
            "with --script where its train.py is."
        )
    return script


def _own_margin(file):
    if not Path(file).is_file():
        raise InputError(f"{file} does not exist; give a yaml file.")
    base, overrides = resolve_overlay(file, {"data_folder": ""})
    return float(plain_options(base, overrides, {}).get("margin", 0.0))

"""Train with many margins, other options and seeds, and compare.

> amsincnet sweep am_sincnet --data_folder /path/to/TIMIT

or ``python sweep.py``. Every run is a process of ``train.py``. Finished runs
are skipped and interrupted ones continue where they were.
"""

import amsincnet_sb.utils.imports  # isort: skip  # noqa: F401
import csv
import hashlib
import json
import math
import os
import sys
from collections import defaultdict
from concurrent.futures import as_completed
from itertools import product
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from amsincnet_sb.dataio.manifest import Provenance
from amsincnet_sb.options import Parser, number, one_spelling
from amsincnet_sb.plots import plot_margins
from amsincnet_sb.training.device import visible_gpus
from amsincnet_sb.training.executors import open_executor
from amsincnet_sb.training.hparams import plain_options
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.training.recipe_files import find_hparams
from amsincnet_sb.training.run_record import as_json
from amsincnet_sb.training.signals import STOPPED
from amsincnet_sb.utils.errors import (
    InputError,
    did_you_mean,
    exit_on_input_error,
)
from amsincnet_sb.utils.files import (
    atomic_write,
    check_output,
    spreadsheet_cell,
)
from amsincnet_sb.utils.locks import sole_process
from amsincnet_sb.utils.reading import read_json

ERRORS = ["frame_error", "sentence_error"]
FIRST_SEED = 1234
MOST = 1000  # margins, or seeds; more is a slip
EVERY_MARGIN = "0.05:0.95:0.05"
OWN_OPTIONS = {  # keys that are no business of --grid
    "margin": "--margins",
    "seed": "--seeds",
    "output_folder": "--output",
    "data_folder": "--data-folder",
    "manifest": "--manifest",
}
ANOTHER = "give another --output"


def parse_margins(text):
    """Read margins given as ``first:last:step`` or between commas.

    Example
    -------
    >>> parse_margins("0.05:0.2:0.05"), parse_margins("0.1,0.35")
    ([0.05, 0.1, 0.15, 0.2], [0.1, 0.35])
    >>> parse_margins("0.1:0.5:0.15")
    [0.1, 0.25, 0.4]
    """
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            count = min(math.floor((last - first) / step + 1e-6) + 1, MOST)
            margins = [round(first + i * step, 6) for i in range(count)]
        else:
            margins = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        margins = []
    right = 0 < len(margins) < MOST and all(0 <= m <= 1 for m in margins)
    if not right:
        raise InputError(
            f"--margins is {text!r} but must be first:last:step or margins "
            "between commas, each from 0 to 1."
        )
    return [*dict.fromkeys(margin + 0.0 for margin in margins)]  # -0 is 0


def _short(margin):
    """A margin in six digits, or in as many as tell it from others."""
    short = f"{margin:g}"
    return short if float(short) == margin else str(margin)


class Run(NamedTuple):
    """A training run. A softmax has no margin."""

    hparams: str
    recipe: str
    margin: float | None
    seed: int
    options: tuple[tuple[str, str], ...] = ()  # of the grid

    def __str__(self):
        return f"{self.recipe} {self.setting} seed {self.seed}"

    @property
    def setting(self):
        """A name for the margin and the options, which a folder can have."""
        loss = "softmax" if self.margin is None else f"m{_short(self.margin)}"
        pairs = [f"{k}={quote(v, safe='[],+')}" for k, v in self.options]
        return ",".join([loss, *pairs])


class Sweep:
    """A grid of runs in one folder, which can be interrupted and continued.

    A file with all ``margins`` and all values of the keys of ``grid``, a dict
    of lists of texts, and further files, the ``baselines``, with their own;
    ``seeds`` runs of each, with the seeds 1234, 1235, … ``options`` go to
    ``train.py``.
    """

    def __init__(
        self,
        hparams,
        output,
        margins,
        seeds=3,
        baselines=(),
        options=(),
        grid=None,
    ):
        if seeds < 1:
            raise InputError(f"--seeds is {seeds} but must be at least 1.")
        self.grid = dict(grid or {})
        _check_grid(hparams, self.grid)
        self.output = Path(output).expanduser().absolute()
        self.options = list(options)
        self.script = _find_script(hparams)
        # The name of what it writes.
        self.table = self.output / ("grid" if self.grid else "margins")
        self.columns = ["recipe", "margin", *self.grid, "seed", *ERRORS]
        settings = [
            (hparams, margin, tuple(zip(self.grid, values)))
            for margin in margins
            for values in product(*self.grid.values())
        ]
        settings += [(file, _own_margin(file), ()) for file in baselines]
        self.runs = [
            Run(os.path.abspath(file), Path(file).stem, margin, seed, options_)
            for file, margin, options_ in settings
            for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        ]
        files = defaultdict(set)
        for run in self.runs:
            files[self.folder(run)].add(run.hparams)
        for folder, several in files.items():
            if len(several) > 1:
                raise InputError(
                    f"{' and '.join(sorted(several))} would both train in "
                    f"{folder}; give one of them another name or margin."
                )
        self.runs = [*dict.fromkeys(self.runs)]
        self._keep_options()

    def _keep_options(self):
        for suffix in ("csv", "md", "png"):
            check_output(self.table.with_suffix(f".{suffix}"))
        path = self.output / "sweep.json"
        made_from = self._made_from()
        if path.exists():
            kept = read_json(path, ANOTHER)
            known, before = kept.get("options"), kept.get("made_from", {})
            if not isinstance(known, list) or not isinstance(before, dict):
                raise InputError(f"{path} is of no sweep; {ANOTHER}.")
            if known != self.options:
                raise InputError(
                    f"{self.output} holds a sweep with other options "
                    f"({' '.join(map(str, known))}); {ANOTHER}."
                )
            for name, digest in made_from.items():
                if before.get(name, digest) != digest:
                    raise InputError(
                        f"{self.output} holds a sweep for which {name} was "
                        f"another; {ANOTHER}."
                    )
            made_from = {**before, **made_from}
        with atomic_write(path) as file:
            kept = {"options": self.options, "made_from": made_from}
            json.dump(kept, file, indent=1)

    def _made_from(self):
        """Hashes of what all runs are made from, by its name.

        A run that is finished is not started again, to be compared itself.
        """
        found = {}
        # Once for all margins and seeds.
        for recipe, file in {r.recipe: r.hparams for r in self.runs}.items():
            options = plain_options(file, {"data_folder": ""})
            found[recipe] = json.dumps(as_json(options, ""))
        for option in self.options:
            key, _, folder = option.partition("=")
            preparation = key == "--manifest" and Provenance.read(folder)
            if preparation:
                found[f"the preparation {folder}"] = (
                    f"{preparation.fingerprint} {preparation.manifests}"
                )
        return {
            name: hashlib.sha256(text.encode()).hexdigest()[:16]
            for name, text in found.items()
        }

    def folder(self, run):
        """The results folder of a run."""
        return self.output / run.recipe / run.setting / str(run.seed)

    def errors(self, run):
        """The last evaluation of the test set; None before the run's end."""
        folder = self.folder(run)
        # The last file that train.py writes.
        if not (folder / "pretrained" / "config.json").exists():
            return None
        records = MetricsLog(folder / "metrics.jsonl").records()
        tests = [
            record
            for record in records
            if record.get("split") == "test" and {*ERRORS} <= {*record}
        ]
        return tests[-1] if tests else None

    def run(self, submit, say=print):
        """Do the runs that are not finished; returns those that failed.

        ``submit`` queues a command and its folder, and returns a future, see
        :func:`amsincnet_sb.training.executors.open_executor`; ``say`` gets a
        line per run.
        """
        todo = [run for run in self.runs if self.errors(run) is None]
        done = len(self.runs) - len(todo)
        if done:
            say(f"{done} of {len(self.runs)} runs are done already")
        failed = []
        futures = {
            submit(self._command(run), self.folder(run)): run for run in todo
        }
        for nth, future in enumerate(as_completed(futures), done + 1):
            run = futures[future]
            outcome = self._outcome(run, future)
            if outcome is None:
                self.write_table()
                errors = self.errors(run)
                outcome = (
                    f"frame error {errors['frame_error']:.2f} %, sentence "
                    f"error {errors['sentence_error']:.3f} %, "
                    f"{errors['seconds']:.0f} s"
                )
            else:
                failed.append(run)
            say(f"{nth}/{len(self.runs)} {run}: {outcome}")
        return failed

    def _outcome(self, run, future):
        """Why there is no result of a run, or None."""
        log = self.folder(run).with_suffix(".log")
        if future.exception() is not None:
            return f"failed: {future.exception()}"
        if future.result() == STOPPED:
            return f"stopped, see {log}"
        if future.result() or self.errors(run) is None:
            return f"failed, see {log}"
        return None

    def _command(self, run):
        options = [f"--seed={run.seed}", f"--output_folder={self.folder(run)}"]
        if run.margin is not None:
            options.append(f"--margin={run.margin}")
        options += [f"--{key}={value}" for key, value in run.options]
        command = [sys.executable, str(self.script), run.hparams]
        return [*command, *options, *self.options]

    def write_table(self):
        """Write the finished runs to ``margins.csv`` and ``margins.md``.

        With a grid, to ``grid.csv`` and ``grid.md``.
        """
        rows = []
        for run in self.runs:
            errors = self.errors(run)
            if errors is not None:
                # A grid over losses has the key of an evaluation.
                row = {**errors, **run._asdict(), **dict(run.options)}
                rows.append({key: row.get(key) for key in self.columns})
        with atomic_write(self.table.with_suffix(".csv")) as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {key: _cell(value) for key, value in row.items()}
                for row in rows
            )
        with atomic_write(self.table.with_suffix(".md")) as file:
            file.write(summarize(rows))
        return rows


def summarize(rows):
    """Write a Markdown table with mean and range over the seeds.

    Example
    -------
    >>> row = {"recipe": "a", "margin": 0.1, "seed": 1, "frame_error": 30.0}
    >>> rows = [{**row, "sentence_error": e} for e in (1.0, 2.0)]
    >>> print(summarize(rows).splitlines()[-1])
    | a | 0.1 | 2 | 30.00 (30.00-30.00) | 1.500 (1.000-2.000) |
    """
    names = ["recipe", "margin"]
    names += [
        n for n in (rows or [{}])[0] if n not in [*names, "seed", *ERRORS]
    ]
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[n] for n in names), []).append(row)
    head = [*names, "seeds", "frame error %", "sentence error %"]
    table = f"| {' | '.join(head)} |\n" + "|---" * len(head) + "|\n"
    for (recipe, margin, *others), runs in groups.items():
        named = "none" if margin is None else _short(margin)
        others = ["" if value is None else value for value in others]
        cells = [recipe, named, *others, str(len(runs))]
        for key, digits in zip(ERRORS, (2, 3)):
            values = [run[key] for run in runs]
            shown = sum(values) / len(values), min(values), max(values)
            mean, low, high = (f"{value:.{digits}f}" for value in shown)
            cells.append(f"{mean} ({low}-{high})")
        table += f"| {' | '.join(cells)} |\n"
    return table


def _cell(value):
    return spreadsheet_cell(value) if isinstance(value, str) else value


def _check_grid(hparams, grid):
    """Refuse keys that the file has not, or that have options of their own."""
    known = plain_options(hparams, {"data_folder": ""}) if grid else {}
    for key in grid:
        if key in OWN_OPTIONS:
            raise InputError(f"--grid {key}: use {OWN_OPTIONS[key]}.")
        if key not in known:
            meant = did_you_mean(key, known)
            raise InputError(f"--grid: {hparams} has no key {key}{meant}")


def _find_script(hparams):
    """The train.py of the file's recipe, or the one beside this script."""
    if not Path(hparams).is_file():
        raise InputError(f"{hparams} does not exist; give a yaml file.")
    script = Path(hparams).absolute().parent.parent / "train.py"
    return script if script.is_file() else Path(__file__).parent / "train.py"


def _own_margin(file):
    """The margin of a hyperparameter file, None where it has none."""
    options = plain_options(file, {"data_folder": ""})
    cost = getattr(options.get("compute_cost"), "tag", "")
    if options.get("loss") == "softmax" or f"{cost}".endswith("nll_loss"):
        return None
    margin = options.get("margin")
    if margin is not None and not isinstance(margin, int | float):
        raise InputError(f"{file}: margin is {margin!r} but must be a number.")
    return margin


def _parser(prog):
    parser = Parser(
        prog=prog,
        description="Train a recipe with many margins, values of other keys "
        "and seeds: one process per run, as many at a time as there are GPUs. "
        "Started again, it continues where it was. Writes margins.csv, "
        "margins.md and margins.png (with --grid: grid.csv, grid.md). Options "
        "behind -- go to train.py, as in -- --number_of_epochs=30. Exit "
        "status: 1 if a run failed.",
    )
    add = parser.add_argument
    add("hparams", help="configuration or hyperparameter file with a margin")
    margins = "first:last:step or a,b,c (default: 0.05:0.95:0.05, or the "
    add("--margins", help=margins + "file's own with --grid)")
    grid = "a key of the file and its values; again for a product"
    add(
        "--grid",
        nargs="+",
        action="append",
        metavar=("KEY", "VALUE"),
        help=grid,
    )
    seeds = number("--seeds", least=1, most=MOST)
    add("--seeds", type=seeds, default=3, help="runs of each (default: 3)")
    add("--data-folder", help="corpus")
    add("--manifest", help="folder made by amsincnet prepare")
    further = "further files, each run with its own margin"
    add("--baselines", nargs="*", default=[], metavar="FILE", help=further)
    add("--output", default="results/sweep", help="default: results/sweep")
    jobs = "runs at a time on each GPU, or on the CPU (default: 1)"
    one = number("--jobs-per-device", least=1)
    add("--jobs-per-device", type=one, default=1, help=jobs)
    executor = "run on the workers of a scheduler of dask: its address or file"
    add("--executor", default="", help=executor)
    return parser


def main(arguments=None, prog=None):
    """Run a sweep; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = _parser(prog).parse_args(one_spelling(arguments[:end]))
    options.hparams = find_hparams(options.hparams)
    options.baselines = [find_hparams(file) for file in options.baselines]
    places = []
    for key in ("data_folder", "manifest"):
        place = getattr(options, key)
        if place is None:
            continue
        place = Path(place).expanduser().absolute()
        if not place.is_dir():
            option = key.replace("_", "-")
            raise InputError(f"--{option} is {place} but must be a folder.")
        places.append(f"--{key}={place}")
    # Before a folder is made.
    own = _own_margin(options.hparams)
    grid = {}
    for key, *values in options.grid or []:
        if key in grid:
            raise InputError(f"--grid {key} is there twice; join its values.")
        if not values:
            raise InputError(f"--grid {key} has no value.")
        grid[key] = values
    if own is None and (options.margins or not grid):
        raise InputError(f"{options.hparams} has no margin to sweep over.")
    for file in options.baselines:
        _own_margin(file)
    if grid and not options.margins:
        margins = [own]
    else:
        margins = parse_margins(options.margins or EVERY_MARGIN)
    with (
        open_executor(
            options.executor, visible_gpus(), options.jobs_per_device
        ) as submit,
        sole_process(Path(options.output).expanduser()),
    ):
        sweep = Sweep(
            options.hparams,
            options.output,
            margins,
            options.seeds,
            options.baselines,
            places + arguments[end + 1 :],
            grid,
        )
        failed = sweep.run(submit)
        rows = sweep.write_table()
        print(summarize(rows), end="")
        name = sweep.runs[0].recipe
        several = {row["margin"] for row in rows if row["recipe"] == name}
        if len(several) > 1 and not grid:
            table = sweep.table.with_suffix(".csv")
            plot_margins(table, table.with_suffix(".png"))
    return 1 if failed else 0


if __name__ == "__main__":
    with exit_on_input_error():
        sys.exit(main())

"""Whether the errors of other settings differ from those of the first.

> python tests/benchmarks/significance.py SWEEP/am_sincnet/m0.3 \\
      SWEEP/am_sincnet/m0.3,filters=gabor SWEEP/sincnet/softmax

A folder has a results folder for each seed, as those of `amsincnet sweep`, with
the same test utterances. The table has mean and range of the errors over the
seeds, and for each but the first the difference to it with its 95 % interval
and the probability p of one as large if the two were alike. Both are over test
utterances, each with its mean error over the seeds, and paired; utterances of a
speaker are not independent, so speakers are drawn, with all their utterances:
interval by bootstrap, p by exchanging the two for random speakers.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amsincnet_sb.training.results import read_sentences  # noqa: E402
from amsincnet_sb.utils.errors import (  # noqa: E402
    InputError,
    exit_on_input_error,
)

DRAWS = 9999
ERRORS = ["frame", "sentence"]


def read_errors(folder):
    """Errors of a setting in per cent, ``[seeds, utterances, 2]``.

    Also the utterances, each with its speaker.
    """
    paths = sorted(Path(folder).glob("*/sentences.csv"))
    if not paths:
        raise InputError(
            f"{folder} has no folder with a sentences.csv; give the one above "
            "the results folders of the seeds."
        )
    errors, utterances = [], None
    for path in paths:
        rows = {row["sentence"]: row for row in read_sentences(path)}
        found = [(name, rows[name]["speaker"]) for name in sorted(rows)]
        if utterances not in (None, found):
            raise InputError(f"{path} is of other utterances than {paths[0]}.")
        utterances = found
        errors.append(
            [
                (
                    float(rows[name]["frame_error"]),
                    100.0 * (rows[name]["decision"] != speaker),
                )
                for name, speaker in found
            ]
        )
    return np.array(errors), utterances


def compare(differences, speakers):
    """Mean of paired differences, its 95 % interval, and p.

    ``differences`` and ``speakers`` are those of the utterances.

    Example
    -------
    >>> speakers = [f"speaker {n // 3}" for n in range(90)]
    >>> mean, low, high, p = compare([1.0, 0.0, 2.0] * 30, speakers)
    >>> mean, bool(p < 0.001), compare([1.0, -1.0] * 45, range(90))[3] > 0.9
    (1.0, True, True)
    """
    names, owner = np.unique(speakers, return_inverse=True)
    sums = np.bincount(owner, weights=differences)
    counts = np.bincount(owner)

    def mean(sums, counts, axis=-1):
        """Over the utterances of the drawn speakers."""
        return sums.sum(axis) / counts.sum(axis)

    if not sums.any():
        return 0.0, 0.0, 0.0, 1.0
    interval = stats.bootstrap(
        (sums, counts),
        mean,
        n_resamples=DRAWS,
        paired=True,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    found = stats.permutation_test(
        (sums,),
        lambda x, axis=-1: x.sum(axis),
        permutation_type="samples",
        n_resamples=DRAWS,
        random_state=np.random.default_rng(0),
    )
    values = mean(sums, counts), interval.low, interval.high, found.pvalue
    return tuple(float(value) for value in values)


def table(folders):
    """The lines of a Markdown table."""
    head = ["setting", "seeds"]
    for error in ERRORS:
        head += [f"{error} error %", "difference (95 %)", "p"]
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    first = None
    for folder in folders:
        errors, utterances = read_errors(folder)
        if first is None:
            first, known = errors.mean(0), utterances
        elif utterances != known:
            raise InputError(
                f"{folder} is of other utterances than {folders[0]}."
            )
        cells = [str(folder), str(len(errors))]
        speakers = [speaker for _, speaker in utterances]
        for kind in range(len(ERRORS)):
            seeds = errors[:, :, kind].mean(1)
            cells.append(
                f"{seeds.mean():.2f} ({seeds.min():.2f}-{seeds.max():.2f})"
            )
            if folder == folders[0]:
                cells += ["", ""]
                continue
            apart = errors.mean(0)[:, kind] - first[:, kind]
            mean, low, high, p = compare(apart, speakers)
            cells += [f"{mean:+.2f} ({low:+.2f} to {high:+.2f})", f"{p:.4f}"]
        yield f"| {' | '.join(cells)} |"


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", help="a folder of seeds each")
    print(*table(parser.parse_args().folders), sep="\n")


if __name__ == "__main__":
    with exit_on_input_error():
        main()

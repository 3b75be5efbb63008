"""The statistics of the comparisons, on errors that are known."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from amsincnet_sb.utils.errors import InputError

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from significance import compare, read_errors, table  # noqa: E402

SPEAKERS = [f"s{n // 3}" for n in range(60)]


def write(folder, seeds):
    """Results of seeds, each (frame errors, wrong) of the utterances."""
    for seed, (frames, wrong) in enumerate(seeds):
        path = folder / str(seed) / "sentences.csv"
        path.parent.mkdir(parents=True)
        with open(path, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["sentence", "speaker", "decision", "frame_error"])
            for n, speaker in enumerate(SPEAKERS):
                decision = "other" if wrong[n] else speaker
                rows.writerow([f"u{n:03}", speaker, decision, frames[n]])
    return folder


def test_a_row_per_setting(tmp_path):
    generator = np.random.default_rng(0)
    frames = generator.uniform(20, 60, (2, 60))
    none, some = np.zeros(60), np.arange(60) < 15
    a = write(tmp_path / "a", [(frames[0], none), (frames[1], some)])
    b = write(tmp_path / "b", [(frames[0] + 2, none), (frames[1] + 4, some)])
    lines = [*table([a, b])]
    means = frames.mean(1)
    first = f"{means.mean():.2f} ({means.min():.2f}-{means.max():.2f})"
    assert lines[2] == f"| {a} | 2 | {first} |  |  | 12.50 (0.00-25.00) |  |  |"
    cells = lines[3].split(" | ")
    assert cells[3].startswith("+3.00 (+3.00 to +3.00)")
    assert float(cells[4]) < 0.001
    assert cells[6:] == ["+0.00 (+0.00 to +0.00)", "1.0000 |"]


def test_p_is_that_of_exchanges_of_speakers():
    """With one utterance each it is the sign test; with copies the same."""
    differences = np.array([1.0] * 9 + [-1.0] * 3)
    p = compare(differences, range(12))[3]
    assert p == pytest.approx(stats.binomtest(3, 12).pvalue, abs=0.01)
    copies = np.repeat(differences, 5)
    mean, low, high, again = compare(copies, np.repeat(range(12), 5))
    assert again == pytest.approx(p, abs=0.01)
    assert mean == 0.5 and low <= 0 < 0.5 < high <= 1.0


def test_what_cannot_be_compared(tmp_path):
    errors = (np.zeros(60), np.zeros(60))
    a, b = (write(tmp_path / name, [errors]) for name in "ab")
    path = b / "0" / "sentences.csv"
    path.write_text(path.read_text().replace("u000", "v000"))
    with pytest.raises(InputError, match="b is of other utterances than .*a"):
        [*table([a, b])]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no folder with a sentences"):
        read_errors(tmp_path / "empty")

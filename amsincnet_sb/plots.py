"""Pictures of a run."""

import csv
import logging
from collections import Counter

import numpy as np
import torch

from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.published import published_curves
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = [
    "plot_confusions",
    "plot_curves",
    "plot_det",
    "plot_filters",
    "plot_margins",
]

MATRIX = 40  # speakers of a confusion matrix whose names can be read
ERRORS = {
    "frame_error": "Frame error (%)",
    "sentence_error": "Sentence error (%)",
}


def _pyplot():
    """matplotlib without a window, or None where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    # SpeechBrain's log.txt takes everything, and fonts are looked at in detail.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib import pyplot

    return pyplot


def _quantiles(rates):
    """Rates to the scale of a DET plot: quantiles of a normal distribution."""
    return torch.special.ndtri(torch.as_tensor(rates)).numpy()


def _save(figure, path):
    with atomic_write(path, "wb") as file:
        figure.savefig(file, dpi=150, bbox_inches="tight", format="png")


def _published(axis, key):
    """The published test errors, in grey."""
    curves = published_curves()
    sincnet = curves.pop(None)
    epochs = min((c.epoch for c in curves.values()), key=len)
    errors = np.array(
        [np.interp(epochs, c.epoch, getattr(c, key)) for c in curves.values()]
    )
    axis.fill_between(
        epochs,
        errors.min(0),
        errors.max(0),
        color="0.75",
        label="published AM-SincNet (TIMIT)",
    )
    axis.plot(
        sincnet.epoch,
        getattr(sincnet, key),
        color="0.45",
        linestyle="--",
        label="published SincNet (TIMIT)",
    )


def plot_curves(metrics_file, path, published=False):
    """Learning curves of a run: loss, frame error, sentence error.

    Arguments
    ---------
    metrics_file : str or Path
        ``metrics.jsonl``.
    path : str or Path
        The picture (PNG). Nothing is made where matplotlib is missing or
        nothing has been trained.
    published : bool
        Draw the published errors on TIMIT beside them: the range of the 19
        margins, and SincNet with a plain softmax.

    Returns
    -------
    bool
        Whether there is a picture.
    """
    records = [
        r for r in MetricsLog(metrics_file).records() if "train_loss" in r
    ]
    plt = _pyplot()
    if plt is None or not records:
        return False
    panels = [
        ("Loss", [("train_loss", "training"), ("loss", None)]),
        (
            ERRORS["frame_error"],
            [("train_frame_error", "training"), ("frame_error", None)],
        ),
        (ERRORS["sentence_error"], [("sentence_error", None)]),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    for axis, (title, curves) in zip(axes, panels):
        for key, label in curves:
            axis.plot(
                [record["epoch"] for record in records],
                [record[key] for record in records],
                marker="." if len(records) < 60 else None,
                color="C0" if label else "C1",
                label=label or records[-1]["split"],
            )
        if published and key != "loss":
            _published(axis, key)
        axis.set(title=title, xlabel="Epoch", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    _save(figure, path)
    plt.close(figure)
    return True


def plot_det(miss, false_alarm, path, label=None):
    """Detection error trade-off: misses against false alarms.

    Both axes are scaled by the quantiles of a normal distribution, on which
    the curve of normally distributed scores is straight.

    Arguments
    ---------
    miss, false_alarm : sequence of float
        Rates from 0 to 1, as :func:`amsincnet_sb.inference.scoring
        .det_points` gives them.
    path : str or Path
        The picture (PNG). Nothing is made where matplotlib is missing.
    label : str, optional
        What is drawn.

    Returns
    -------
    bool
        Whether there is a picture.
    """
    plt = _pyplot()
    if plt is None:
        return False
    percent = np.array([0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60])
    rates = np.array([false_alarm, miss], dtype=float)
    # Nothing finer than a single trial can be seen, nor is a system of use
    # that is wrong more often than right.
    inside = rates[(rates > 0) & (rates < 1)]
    least = min(0.005, inside.min() / 2) if inside.size else 0.005
    most = 0.6
    x, y = _quantiles(rates.clip(least / 10, 1 - least / 10))
    figure, axis = plt.subplots(figsize=(5.2, 5), layout="constrained")
    axis.plot(x, y, drawstyle="steps-post", label=label)
    limits = _quantiles([least, most])
    axis.plot(limits, limits, color="0.6", linestyle=":", label="equal errors")
    ticks = percent[(percent / 100 >= least) & (percent / 100 <= most)]
    for axes in (axis.xaxis, axis.yaxis):
        axes.set_ticks(_quantiles(ticks / 100), [f"{tick:g}" for tick in ticks])
    axis.set(
        title="Detection error trade-off",
        xlabel="False alarms (%)",
        ylabel="Misses (%)",
        xlim=limits,
        ylim=limits,
        aspect="equal",
    )
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)
    plt.close(figure)
    return True


def plot_confusions(sentences_file, path, most=15):
    """Who is taken for whom.

    Arguments
    ---------
    sentences_file : str or Path
        ``sentences.csv`` of an evaluation.
    path : str or Path
        The picture (PNG). Nothing is made where matplotlib is missing.
    most : int
        Pairs to list, those with the most wrong sentences.

    Returns
    -------
    bool
        Whether there is a picture.

    Raises
    ------
    InputError
        If the file is missing or holds no sentences.
    """
    try:
        with open(sentences_file, newline="", encoding="utf-8") as file:
            rows = [
                (row["speaker"], row["decision"])
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{sentences_file} cannot be read as the sentences.csv of a run "
            f"({error!r}); evaluate the model again."
        ) from error
    if not rows:
        raise InputError(f"{sentences_file} lists no sentence.")
    plt = _pyplot()
    if plt is None:
        return False
    wrong = Counter(pair for pair in rows if pair[0] != pair[1])
    pairs = wrong.most_common(most)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 5.2), layout="constrained"
    )
    # A matrix of hundreds of speakers shows nothing: those most often wrong.
    often = Counter()
    for (speaker, decision), count in wrong.items():
        often[speaker] += count
        often[decision] += count
    names = sorted({speaker for speaker, _ in rows})
    names += sorted(set(often) - set(names))
    if len(names) > MATRIX:
        names = sorted(name for name, _ in often.most_common(MATRIX))
    index = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    for speaker, decision in rows:
        if speaker in index and decision in index:
            matrix[index[speaker], index[decision]] += 1
    picture = left.imshow(matrix, cmap="Blues", vmin=0)
    left.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    left.set_yticks(range(len(names)), names, fontsize=7)
    left.set(title="Test sentences", xlabel="Decision", ylabel="Speaker")
    bar = figure.colorbar(picture, ax=left, label="Sentences")
    bar.locator = plt.MaxNLocator(integer=True)
    bar.update_ticks()

    total = wrong.total()
    right.set(
        title=f"{total} of {len(rows)} sentences wrong",
        xlabel="Sentences",
    )
    if pairs:
        right.barh(
            [
                f"{speaker} taken for {decision}"
                for (speaker, decision), _ in pairs
            ],
            [count for _, count in pairs],
            color="C3",
        )
        right.invert_yaxis()
        right.set_ylim(max(len(pairs), 12) - 0.5, -0.5)
        right.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    else:
        right.axis("off")
    _save(figure, path)
    plt.close(figure)
    return True


def plot_margins(table, path, published=False):
    """Error against margin: mean over seeds, and their range.

    Arguments
    ---------
    table : str or Path
        CSV with a row a run and the columns ``recipe``, ``margin``, ``seed``,
        ``frame_error`` and ``sentence_error`` (in per cent). A recipe that
        was run with several margins is a curve, another one a horizontal
        band.
    path : str or Path
        The picture (PNG). Nothing is made where matplotlib is missing.
    published : bool
        Draw the published errors on TIMIT beside them: means of the last
        eight evaluations.

    Returns
    -------
    bool
        Whether there is a picture.

    Raises
    ------
    InputError
        If the table cannot be read, or no recipe has two margins.
    """
    recipes = _read_margins(table)
    curves = {name: runs for name, runs in recipes.items() if len(runs) > 1}
    if not curves:
        raise InputError(f"{table} has no recipe with two margins to compare.")
    plt = _pyplot()
    if plt is None:
        return False
    figure, axes = plt.subplots(1, 2, figsize=(13, 4), layout="constrained")
    for column, (axis, title) in enumerate(zip(axes, ERRORS.values())):
        for number, (name, runs) in enumerate(recipes.items()):
            margins = sorted(runs)
            errors = [[run[column] for run in runs[m]] for m in margins]
            color = f"C{number}"
            means = [np.mean(each) for each in errors]
            low, high = zip(*((min(each), max(each)) for each in errors))
            seeds = min(map(len, errors)), max(map(len, errors))
            label = f"{name} ({_span(*seeds)} seed{'s' * (seeds[1] > 1)})"
            if name in curves:
                axis.plot(margins, means, color=color, marker=".", label=label)
                axis.fill_between(margins, low, high, color=color, alpha=0.2)
            else:
                axis.axhline(means[0], color=color, linestyle="--", label=label)
                axis.axhspan(low[0], high[0], color=color, alpha=0.2)
        if published:
            _published_margins(axis, [*ERRORS][column])
        axis.set(xlabel="Margin", ylabel=title, ylim=(0, None))
        axis.grid(alpha=0.3)
    figure.suptitle("Mean over seeds; shaded: their range")
    handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center")
    _save(figure, path)
    plt.close(figure)
    return True


def _span(low, high):
    return f"{low}" if low == high else f"{low} to {high}"


def _read_margins(table):
    """Recipe -> margin (None where it has none) -> list of error pairs."""
    recipes = {}
    try:
        with open(table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                errors = tuple(float(row[key]) for key in ERRORS)
                margin = float(row["margin"]) if row["margin"] else None
                if not np.isfinite([margin or 0.0, *errors]).all():
                    raise ValueError("a value is not finite")
                runs = recipes.setdefault(row["recipe"], {})
                runs.setdefault(margin, []).append(errors)
        for name, runs in recipes.items():
            if None in runs and len(runs) > 1:
                raise ValueError(f"{name} has rows with and without margin")
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"{table} cannot be read as the table of a sweep ({error!r}); it "
            "must have the columns recipe, margin, seed, frame_error and "
            "sentence_error."
        ) from error
    return recipes


def _published_margins(axis, key):
    """The published errors at the end of training, in grey."""
    curves = published_curves()
    sincnet = getattr(curves.pop(None), key)[-8:]
    errors = np.array([getattr(curve, key)[-8:] for curve in curves.values()])
    axis.plot(
        list(curves),
        errors.mean(1),
        color="0.5",
        marker=".",
        label="published AM-SincNet (TIMIT)",
    )
    axis.axhline(
        sincnet.mean(),
        color="0.5",
        linestyle="--",
        label="published SincNet (TIMIT)",
    )


def plot_filters(sinc, path):
    """Learned filters against those the training started with.

    Three panels: the band of every filter, the frequency responses of a few,
    and the cumulative response of all of them (as in the SincNet paper),
    which shows the frequencies a network listens to.

    Arguments
    ---------
    sinc : amsincnet_sb.nnet.sinc.SincConv
        The trained layer.
    path : str or Path
        The picture (PNG). Nothing is made where matplotlib is missing.

    Returns
    -------
    bool
        Whether there is a picture.
    """
    plt = _pyplot()
    if plt is None:
        return False
    start = SincConv(
        sinc.out_channels,
        sinc.kernel_size,
        sinc.sample_rate,
        sinc.min_low_hz,
        sinc.min_band_hz,
    )
    looks = [
        (start, "start (mel)", {"color": "0.6", "linestyle": "--"}),
        (sinc, "learned", {"color": "C0"}),
    ]
    figure, (bands, few, sums) = plt.subplots(
        1, 3, figsize=(15, 4.2), layout="constrained"
    )
    numbers = np.arange(1, sinc.out_channels + 1)
    shown = np.linspace(1, sinc.out_channels - 2, 6).round().astype(int)
    shown = np.unique(shown.clip(0, sinc.out_channels - 1))
    for layer, label, style in looks:
        low, high = (hz.cpu().numpy() / 1000 for hz in layer.cutoffs_hz())
        impulses = layer.filters().detach().cpu().double().numpy()
        response = np.abs(np.fft.rfft(impulses, 4096))
        khz = np.fft.rfftfreq(4096, 1 / layer.sample_rate) / 1000
        color = style["color"]
        bands.vlines(
            numbers if layer is sinc else numbers - 0.4,
            low,
            high,
            color=color,
            label=label,
        )
        for row in response[shown]:
            with np.errstate(divide="ignore"):
                decibel = 20 * np.log10(row / response.max())
            few.plot(khz, decibel, **style, linewidth=1)
        cumulative = response.sum(0)
        sums.plot(khz, cumulative / cumulative.max(), **style, label=label)
    before, after = (
        torch.stack(layer.cutoffs_hz()).cpu() for layer in (start, sinc)
    )
    moved = (after - before).abs().mean().item()
    bands.set(
        title=f"Pass-bands; cut-offs moved {moved:.0f} Hz on average",
        xlabel="Filter",
        ylabel="Frequency (kHz)",
    )
    few.set(
        title=f"{len(shown)} of the {sinc.out_channels} filters",
        xlabel="Frequency (kHz)",
        ylabel="Magnitude (dB)",
        ylim=(-60, 14),
    )
    sums.set(
        title="Cumulative frequency response",
        xlabel="Frequency (kHz)",
        ylabel="Sum of magnitudes (greatest = 1)",
        ylim=(0, 1.05),
    )
    few.legend(
        few.get_lines()[:: len(shown)],
        [label for _, label, _ in looks],
        loc="upper center",
        ncols=2,
    )
    bands.legend(loc="upper left")
    sums.legend()
    for axis in (bands, few, sums):
        axis.grid(alpha=0.3)
    _save(figure, path)
    plt.close(figure)
    return True

"""Pictures of a run."""

import csv
import logging
from collections import Counter

import numpy as np
import torch

from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.published import published_curves
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write
from amsincnet_sb.utils.history import History

__all__ = ["plot_confusions", "plot_curves", "plot_det", "plot_filters"]

MATRIX = 40  # speakers of a confusion matrix whose names can be read


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
    records = [r for r in History(metrics_file).records() if "train_loss" in r]
    plt = _pyplot()
    if plt is None or not records:
        return False
    panels = [
        ("Loss", [("train_loss", "training"), ("loss", None)]),
        (
            "Frame error (%)",
            [("train_frame_error", "training"), ("frame_error", None)],
        ),
        ("Sentence error (%)", [("sentence_error", None)]),
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
        Rates from 0 to 1, as :func:`amsincnet_sb.utils.verification
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

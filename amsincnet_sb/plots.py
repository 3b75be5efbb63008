"""Pictures of a run.

Every ``plot_*`` function writes a PNG, ``path``, and returns whether it did:
there is none where matplotlib is not installed.
"""

import contextlib
import logging
import re
import warnings
from collections import Counter

import numpy as np
import torch

from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.training.results import (
    published_curves,
    read_margins,
    read_sentences,
)
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = [
    "plot_confusions",
    "plot_curves",
    "plot_det",
    "plot_filters",
    "plot_margins",
    "plot_segments",
]

logger = logging.getLogger(__name__)

PAIRS = 15  # of speakers taken for one another, the most frequent ones
MATRIX = 40  # speakers of a confusion matrix whose names can be read
ERRORS = {
    "frame_error": "Frame error (%)",
    "sentence_error": "Sentence error (%)",
}
# For names in letters that matplotlib's own font lacks, where installed.
FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "WenQuanYi Micro Hei",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
)
PUBLISHED = "published AM-SincNet (TIMIT)", "published SincNet (TIMIT)"


def _pyplot():
    """matplotlib without a window, or None where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    # A name is no formula, whatever dollars are in it.
    matplotlib.rcParams["text.parse_math"] = False
    # SpeechBrain's log.txt takes everything, and fonts are looked at in detail.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib import font_manager, pyplot

    families = matplotlib.rcParams["font.family"]
    more = {*FONTS} & {font.name for font in font_manager.fontManager.ttflist}
    more -= {*families}
    matplotlib.rcParams["font.family"] = [
        *families,
        *filter(more.__contains__, FONTS),
    ]
    return pyplot


@contextlib.contextmanager
def _noting_boxes(path):
    """One note about letters that no font has, in place of warnings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("always", "Glyph ")
        yield
    boxes = 0
    for one in told:
        if re.match("Glyph .* missing", str(one.message)):
            boxes += 1
        else:
            where = one.category, one.filename, one.lineno
            warnings.warn_explicit(one.message, *where)
    if boxes:
        logger.warning(
            "Note: %s has boxes for letters that no font here has; install "
            "one of them, such as Noto Sans CJK.",
            path,
        )


def _short(name):
    """A name that leaves room for the picture."""
    name = name.encode(errors="replace").decode()
    return name if len(name) <= 40 else f"{name[:39]}…"


def _draw(path, panels, size, fill):
    """Save a row of panels that ``fill(figure, *axes)`` draws."""
    plt = _pyplot()
    if plt is None:
        return False
    figure, axes = plt.subplots(
        1, panels, figsize=size, layout="constrained", squeeze=False
    )
    with _noting_boxes(path), atomic_write(path, "wb") as file:
        fill(figure, *axes[0])
        figure.savefig(file, dpi=150, bbox_inches="tight", format="png")
    plt.close(figure)
    return True


def plot_curves(metrics_file, path, published=False):
    """Learning curves of a ``metrics.jsonl``, if anything was trained.

    ``published`` draws the published errors on TIMIT beside them: the range
    of the 19 margins, and SincNet with a plain softmax.
    """
    records = MetricsLog(metrics_file).records()
    records = [record for record in records if "train_loss" in record]
    if not records:
        return False
    # Of the set that was watched, not of another one that ends the training.
    watched = records[0].get("split")
    records = [record for record in records if record.get("split") == watched]
    panels = [
        ("Loss", ["train_loss", "loss"]),
        (ERRORS["frame_error"], ["train_frame_error", "frame_error"]),
        (ERRORS["sentence_error"], ["sentence_error"]),
    ]
    drawn = ["epoch", *(key for _, keys in panels for key in keys)]
    try:
        columns = {k: [float(record[k]) for record in records] for k in drawn}
        split = str(records[-1]["split"])
    except (KeyError, OverflowError) as error:
        raise InputError(
            f"{metrics_file} has an evaluation without {error}; train again."
        ) from error

    def fill(_, *axes):
        """Draw into the axes."""
        for axis, (title, keys) in zip(axes, panels):
            for key in keys:
                training = key.startswith("train_")
                axis.plot(
                    columns["epoch"],
                    columns[key],
                    marker="." if len(records) < 60 else None,
                    color="C0" if training else "C1",
                    label="training" if training else _short(split),
                )
            if published and keys[-1] in ERRORS:
                _published_curves(axis, keys[-1])
            axis.set(title=title, xlabel="Epoch", ylim=(0, None))
            axis.grid(alpha=0.3)
            axis.legend()

    return _draw(path, 3, (12, 3.4), fill)


def _published_curves(axis, key):
    curves = published_curves()
    sincnet = curves.pop(None)
    epochs = min((c.epoch for c in curves.values()), key=len)
    errors = np.array(
        [np.interp(epochs, c.epoch, getattr(c, key)) for c in curves.values()]
    )
    low, high = errors.min(0), errors.max(0)
    axis.fill_between(epochs, low, high, color="0.75", label=PUBLISHED[0])
    style = {"color": "0.45", "linestyle": "--", "label": PUBLISHED[1]}
    axis.plot(sincnet.epoch, getattr(sincnet, key), **style)


def plot_det(miss, false_alarm, path):
    """Detection error trade-off: misses against false alarms.

    The rates, from 0 to 1, are those of :func:`amsincnet_sb.inference.scoring
    .det_points`. Both axes are scaled by the quantiles of a normal
    distribution, on which the curve of normally distributed scores is straight.
    Rates of zero are beyond the axes: without errors there is no curve to see.
    """
    percent = np.array([0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60])
    rates = np.array([false_alarm, miss], dtype=float)
    # Nothing finer than a single trial can be seen, nor is a system of use
    # that is wrong more often than right.
    inside = rates[(rates > 0) & (rates < 1)]
    least = min(0.005, inside.min() / 2) if inside.size else 0.005
    most = 0.6
    ticks = percent[(percent / 100 >= least) & (percent / 100 <= most)]
    limits = _quantiles([least, most])
    title = "Detection error trade-off"
    if not rates.sum(0).all():
        title += ": a threshold has no errors"

    def fill(_, axis):
        """Draw into the axes."""
        x, y = _quantiles(rates.clip(least / 10, 1 - least / 10))
        axis.plot(x, y, drawstyle="steps-post")
        style = {"color": "0.6", "linestyle": ":", "label": "equal errors"}
        axis.plot(limits, limits, **style)
        for axes in (axis.xaxis, axis.yaxis):
            labels = [f"{tick:g}" for tick in ticks]
            axes.set_ticks(_quantiles(ticks / 100), labels)
        axis.set(
            title=title,
            xlabel="False alarms (%)",
            ylabel="Misses (%)",
            xlim=limits,
            ylim=limits,
            aspect="equal",
        )
        axis.grid(alpha=0.3)
        axis.legend()

    return _draw(path, 1, (5.2, 5), fill)


def _quantiles(rates):
    return torch.special.ndtri(torch.as_tensor(rates)).numpy()


def plot_confusions(sentences_file, path):
    """Confusions of a ``sentences.csv``: a matrix, and the worst pairs."""
    rows = [
        (r["speaker"], r["decision"]) for r in read_sentences(sentences_file)
    ]
    wrong = Counter(pair for pair in rows if pair[0] != pair[1])

    def fill(figure, matrix, pairs):
        """Draw into the axes."""
        _matrix(figure, matrix, rows, wrong)
        _worst_pairs(pairs, wrong.most_common(PAIRS))
        title = f"{wrong.total()} of {len(rows)} utterances wrong"
        pairs.set(title=title, xlabel="Utterances")

    return _draw(path, 2, (12, 5.2), fill)


def _matrix(figure, axis, rows, wrong):
    names = sorted({name for pair in rows for name in pair})
    if len(names) > MATRIX:
        # Hundreds of speakers show nothing: those most often wrong.
        often = Counter()
        for pair, count in wrong.items():
            often.update(dict.fromkeys(pair, count))
        names = sorted(name for name, _ in often.most_common(MATRIX))
    index = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(names), len(names)))
    for speaker, decision in rows:
        if speaker in index and decision in index:
            matrix[index[speaker], index[decision]] += 1
    picture = axis.imshow(matrix, cmap="Blues", vmin=0)
    labels = [_short(name) for name in names]
    axis.set_xticks(range(len(names)), labels, rotation=90, fontsize=7)
    axis.set_yticks(range(len(names)), labels, fontsize=7)
    axis.set(title="Test utterances", xlabel="Decision", ylabel="Speaker")
    bar = figure.colorbar(picture, ax=axis, label="Utterances")
    bar.locator = _pyplot().MaxNLocator(integer=True)
    bar.update_ticks()


def _worst_pairs(axis, pairs):
    if not pairs:
        axis.axis("off")
        return
    names = [f"{_short(a)} taken for {_short(b)}" for (a, b), _ in pairs]
    rows = range(len(names))  # shortened names may be alike
    axis.barh(rows, [count for _, count in pairs], color="C3")
    axis.set_yticks(rows, names)
    axis.set_ylim(max(len(pairs), 12) - 0.5, -0.5)
    axis.xaxis.set_major_locator(_pyplot().MaxNLocator(integer=True))


def plot_segments(segments, path):
    """Who speaks when: a row for each voice, in the order they speak first.

    ``segments`` are those of :meth:`amsincnet_sb.inference.identifier.
    SpeakerIdentifier.segments`; the paler, the less probable.
    """
    names = list(dict.fromkeys(s.speaker for s in segments))

    def fill(_, axis):
        """Draw into the axes."""
        for s in segments:
            row, color = names.index(s.speaker), f"C{names.index(s.speaker)}"
            bar = [(s.start, s.end - s.start)]
            shade = 0.3 + 0.7 * s.probability
            axis.broken_barh(bar, (row - 0.4, 0.8), color=color, alpha=shade)
        axis.set_yticks(range(len(names)), [_short(name) for name in names])
        axis.invert_yaxis()
        axis.xaxis.set_major_formatter(
            lambda second, _: f"{int(second) // 60}:{int(second) % 60:02}"
        )
        axis.set(title="Who speaks when", xlabel="Time (min:s)")
        axis.grid(alpha=0.3)

    return _draw(path, 1, (11, 1.6 + 0.3 * len(names)), fill)


def plot_margins(table, path, published=False):
    """Error against margin: mean over seeds, and their range.

    ``table`` is a CSV with a row per run and the columns ``recipe``,
    ``margin``, ``seed``, ``frame_error`` and ``sentence_error`` (in per cent).
    A recipe that was run with several margins is a curve, another one a
    horizontal band. ``published`` draws the published errors on TIMIT beside
    them: means of the last eight evaluations.
    """
    recipes = read_margins(table)
    if not any(len(runs) > 1 for runs in recipes.values()):
        raise InputError(f"{table} has no recipe with two margins to compare.")

    def fill(figure, *axes):
        """Draw into the axes."""
        for column, (axis, key) in enumerate(zip(axes, ERRORS)):
            for number, (name, runs) in enumerate(recipes.items()):
                errors = {
                    margin: [run[column] for run in runs[margin]]
                    for margin in sorted(runs)
                }
                _margin_curve(axis, name, errors, f"C{number}")
            if published:
                _published_margins(axis, key)
            axis.set(xlabel="Margin", ylabel=ERRORS[key], ylim=(0, None))
            axis.grid(alpha=0.3)
        figure.suptitle("Mean over seeds; shaded: their range")
        handles = axes[-1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside right center")

    return _draw(path, 2, (13, 4), fill)


def _margin_curve(axis, name, errors, color):
    """A curve over margins; a band where there is one margin or none."""
    means = [np.mean(each) for each in errors.values()]
    low, high = zip(*((min(each), max(each)) for each in errors.values()))
    counts = [len(each) for each in errors.values()]
    fewest, most = min(counts), max(counts)
    seeds = f"{fewest} to {most}" if fewest < most else f"{most}"
    label = f"{_short(name)} ({seeds} seed{'s' * (most > 1)})"
    if len(errors) > 1:
        axis.plot([*errors], means, color=color, marker=".", label=label)
        axis.fill_between([*errors], low, high, color=color, alpha=0.2)
    else:
        axis.axhline(means[0], color=color, linestyle="--", label=label)
        axis.axhspan(low[0], high[0], color=color, alpha=0.2)


def _published_margins(axis, key):
    curves = published_curves()
    sincnet = getattr(curves.pop(None), key)[-8:].mean()
    errors = [getattr(curve, key)[-8:].mean() for curve in curves.values()]
    style = {"color": "0.5", "marker": ".", "label": PUBLISHED[0]}
    axis.plot([*curves], errors, **style)
    axis.axhline(sincnet, color="0.5", linestyle="--", label=PUBLISHED[1])


def plot_filters(sinc, path):
    """Filters of a SincConv after training against those it starts with.

    Three panels: the band of every filter, the frequency responses of a few,
    and the cumulative response of all of them (as in the SincNet paper),
    which shows the frequencies a network listens to.
    """
    if not isinstance(sinc, SincConv):
        return False  # without cut-offs
    start = type(sinc)(
        sinc.out_channels,
        sinc.kernel_size,
        sinc.sample_rate,
        sinc.min_low_hz,
        sinc.min_band_hz,
    )
    before, after = (
        torch.stack(layer.cutoffs_hz()).cpu() for layer in (start, sinc)
    )
    moved = (after - before).abs().mean().item()
    shown = np.linspace(1, sinc.out_channels - 2, 6).round().astype(int)
    shown = np.unique(shown.clip(0, sinc.out_channels - 1))

    def fill(_, bands, few, sums):
        """Draw into the axes."""
        dashed = {"color": "0.6", "linestyle": "--"}
        _filters((bands, few, sums), start, shown, -0.4, "start", dashed)
        _filters((bands, few, sums), sinc, shown, 0, "trained", {"color": "C0"})
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
        bands.legend(loc="upper left")
        few.legend(loc="upper center", ncols=2)
        sums.legend()
        for axis in (bands, few, sums):
            axis.grid(alpha=0.3)

    return _draw(path, 3, (15, 4.2), fill)


def _filters(axes, sinc, shown, shift, label, style):
    bands, few, sums = axes
    low, high = (hz.cpu().numpy() / 1000 for hz in sinc.cutoffs_hz())
    numbers = np.arange(1, sinc.out_channels + 1) + shift
    bands.vlines(numbers, low, high, color=style["color"], label=label)
    impulses = sinc.filters().detach().cpu().double().numpy()
    response = np.abs(np.fft.rfft(impulses, 4096))
    khz = np.fft.rfftfreq(4096, 1 / sinc.sample_rate) / 1000
    with np.errstate(divide="ignore"):
        decibel = 20 * np.log10(response[shown] / response.max())
    first, *_ = few.plot(khz, decibel.T, **style, linewidth=1)
    first.set_label(label)
    cumulative = response.sum(0)
    sums.plot(khz, cumulative / cumulative.max(), **style, label=label)

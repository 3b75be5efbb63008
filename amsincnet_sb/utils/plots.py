"""Pictures of a run."""

import logging

import numpy as np

from amsincnet_sb.published import published_curves
from amsincnet_sb.utils.files import atomic_write
from amsincnet_sb.utils.history import History

__all__ = ["plot_curves"]


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

"""Learning curves, and error against margin."""

import builtins
import errno
import os

import pytest

from amsincnet_sb.cli import main
from amsincnet_sb.plots import plot_curves, plot_margins
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.utils.errors import InputError

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def metrics(tmp_path):
    history = MetricsLog(tmp_path / "metrics.jsonl")
    for epoch in (1, 2, 3):
        history.append(
            epoch=epoch,
            step=10 * epoch,
            split="valid",
            train_loss=5.0 / epoch,
            train_frame_error=90.0 / epoch,
            loss=6.0 / epoch,
            frame_error=80.0 / epoch,
            sentence_error=40.0 / epoch,
        )
    # A test of a finished model: nothing has been trained.
    history.append(epoch=3, step=30, split="test", loss=1.0, frame_error=2.0)
    return history.path


def test_what_is_drawn(metrics, tmp_path, monkeypatch):
    drawn = {}

    def remember(figure):
        for axis in figure.axes:
            drawn[axis.get_title()] = {
                line.get_label(): (
                    list(line.get_xdata()),
                    list(line.get_ydata()),
                )
                for line in axis.get_lines()
            }

    monkeypatch.setattr(pyplot, "close", remember)
    assert plot_curves(metrics, tmp_path / "new" / "curves.png") is True
    x = [1, 2, 3]
    assert drawn == {
        "Loss": {
            "training": (x, [5.0, 2.5, 5 / 3]),
            "valid": (x, [6.0, 3.0, 2.0]),
        },
        "Frame error (%)": {
            "training": (x, [90.0, 45.0, 30.0]),
            "valid": (x, [80.0, 40.0, 80 / 3]),
        },
        "Sentence error (%)": {"valid": (x, [40.0, 20.0, 40 / 3])},
    }
    png = (tmp_path / "new" / "curves.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    monkeypatch.undo()
    pyplot.close("all")


def test_published_errors_beside_ours(metrics, tmp_path, monkeypatch):
    labels = {}

    def remember(figure):
        for axis in figure.axes:
            texts = axis.get_legend().get_texts()
            labels[axis.get_title()] = {text.get_text() for text in texts}

    monkeypatch.setattr(pyplot, "close", remember)
    assert plot_curves(metrics, tmp_path / "curves.png", published=True)
    monkeypatch.undo()
    pyplot.close("all")
    theirs = {"published AM-SincNet (TIMIT)", "published SincNet (TIMIT)"}
    assert labels == {
        "Loss": {"training", "valid"},
        "Frame error (%)": {"training", "valid"} | theirs,
        "Sentence error (%)": {"valid"} | theirs,
    }


def test_figures_are_closed(metrics, tmp_path):
    before = pyplot.get_fignums()
    plot_curves(metrics, tmp_path / "curves.png")
    assert pyplot.get_fignums() == before


def test_nothing_trained(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert plot_curves(path, tmp_path / "curves.png") is False
    MetricsLog(path).append(epoch=0, step=0, split="test", loss=1.0)
    assert plot_curves(path, tmp_path / "curves.png") is False
    assert not (tmp_path / "curves.png").exists()


def test_without_matplotlib(metrics, tmp_path, monkeypatch):
    found = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert plot_curves(metrics, tmp_path / "curves.png") is False
    assert not (tmp_path / "curves.png").exists()


def test_a_full_disk_keeps_the_old_picture(metrics, tmp_path, monkeypatch):
    def no_space(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "curves.png"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(InputError, match="No space"):
        plot_curves(metrics, path)
    pyplot.close("all")
    assert path.read_text() == "old"


TABLE = """recipe,margin,seed,frame_error,sentence_error
am,0.1,1,30,2
am,0.1,2,34,4
am,0.3,1,20,1
sincnet,,1,50,5
sincnet,,2,52,7
"""


class TestMargins:
    @pytest.fixture
    def table(self, tmp_path):
        path = tmp_path / "margins.csv"
        path.write_text(TABLE)
        return path

    @pytest.mark.parametrize("published", [False, True])
    def test_what_is_drawn(self, table, tmp_path, monkeypatch, published):
        seen = []
        monkeypatch.setattr(pyplot, "close", seen.append)
        assert plot_margins(table, tmp_path / "m.png", published) is True
        monkeypatch.undo()
        (figure,) = seen
        frames, sentences = figure.axes
        curve, baseline, *theirs = frames.get_lines()
        assert curve.get_xydata().tolist() == [[0.1, 32.0], [0.3, 20.0]]
        assert list(baseline.get_ydata()) == [51.0, 51.0]
        low, high = curve_range(frames, 0.1)
        assert (low, high) == (30.0, 34.0)
        assert sentences.get_lines()[0].get_ydata().tolist() == [3.0, 1.0]
        assert frames.get_xlabel() == "Margin"
        assert frames.get_ylabel() == "Frame error (%)"
        (legend,) = figure.legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels[:2] == ["am (1 to 2 seeds)", "sincnet (2 seeds)"]
        if published:
            # As docs and README quote them: 28.0 and 44.65 per cent.
            margins, errors = theirs[0].get_data()
            assert len(margins) == 19
            assert errors.mean() == pytest.approx(28.0, abs=0.1)
            assert labels[2].startswith("published AM-SincNet")
        else:
            assert not theirs
        pyplot.close(figure)

    def test_the_command(self, table, tmp_path, capsys):
        for source in (table, tmp_path):
            assert main(["plot", "margins", str(source)]) == 0
            picture = tmp_path / "margins.png"
            assert capsys.readouterr().out.split() == [str(picture)]
            picture.unlink()

    @pytest.mark.parametrize(
        "change, complaint",
        [
            (lambda text: text.replace("frame_error", "error"), "columns"),
            (lambda text: text.replace("20", "x"), "columns"),
            (lambda text: text.replace("20", "nan"), "not finite"),
            (lambda text: text.replace("0.3", ""), "with and without"),
            (lambda text: text.replace("0.3", "0.1"), "two margins"),
            (lambda text: text.splitlines()[0], "two margins"),
            (lambda text: "", "two margins"),
        ],
    )
    def test_bad_tables(self, table, tmp_path, change, complaint):
        table.write_text(change(TABLE))
        with pytest.raises(InputError, match=complaint):
            plot_margins(table, tmp_path / "m.png")
        assert not (tmp_path / "m.png").exists()


def curve_range(axis, x):
    """What is shaded at x."""
    points = axis.collections[0].get_paths()[0].vertices
    inside = [y for at, y in points if at == x]
    return min(inside), max(inside)

"""Pictures: learning curves, DET, confusions, filters, margins."""

import pytest
import torch

from amsincnet_sb.cli import main
from amsincnet_sb.nnet.sinc import SincConv
from amsincnet_sb.plots import (
    plot_confusions,
    plot_curves,
    plot_det,
    plot_filters,
    plot_margins,
)
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.utils.errors import InputError

pyplot = pytest.importorskip("matplotlib.pyplot")

THEIRS = {"published AM-SincNet (TIMIT)", "published SincNet (TIMIT)"}


@pytest.fixture
def figures(monkeypatch):
    """The figures that have been saved, still open."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(pyplot, "close", seen.append)
        yield seen
    pyplot.close("all")


@pytest.fixture
def metrics(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for epoch in (1, 2, 3):
        log.append(
            epoch=epoch,
            step=10 * epoch,
            split="valid",
            train_loss=5.0 / epoch,
            train_frame_error=90.0 / epoch,
            loss=6.0 / epoch,
            frame_error=80.0 / epoch,
            sentence_error=40.0 / epoch,
        )
    # The test of the trained model is no point of the curves.
    log.append(epoch=3, step=30, split="test", loss=1.0, frame_error=2.0)
    return log.path


def test_curves(metrics, tmp_path, figures):
    path = tmp_path / "new" / "curves.png"
    assert plot_curves(metrics, path) is True
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    drawn = {
        axis.get_title(): {
            line.get_label(): line.get_xydata().tolist()
            for line in axis.get_lines()
        }
        for axis in figures[0].axes
    }
    assert drawn == {
        title: {
            label: [[epoch, first / epoch] for epoch in (1, 2, 3)]
            for label, first in lines.items()
        }
        for title, lines in {
            "Loss": {"training": 5.0, "valid": 6.0},
            "Frame error (%)": {"training": 90.0, "valid": 80.0},
            "Sentence error (%)": {"valid": 40.0},
        }.items()
    }


def test_published_errors_beside_ours(metrics, tmp_path, figures):
    assert plot_curves(metrics, tmp_path / "curves.png", published=True)
    labels = [
        {text.get_text() for text in axis.get_legend().get_texts()}
        for axis in figures[0].axes
    ]
    ours = {"training", "valid"}
    assert labels == [ours, ours | THEIRS, {"valid"} | THEIRS]


def test_nothing_trained(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert plot_curves(path, tmp_path / "curves.png") is False
    MetricsLog(path).append(epoch=0, step=0, split="test", loss=1.0)
    assert plot_curves(path, tmp_path / "curves.png") is False
    assert not (tmp_path / "curves.png").exists()


def test_det(figures, tmp_path):
    assert plot_det([0.0, 0.1, 0.5], [0.5, 0.1, 0.0], tmp_path / "d.png")
    (axis,) = figures[0].axes
    assert "(%)" in axis.get_xlabel() and "(%)" in axis.get_ylabel()
    x, y = axis.get_lines()[0].get_data()
    normal = torch.distributions.Normal(0.0, 1.0)
    assert x[1] == y[1] == pytest.approx(normal.icdf(torch.tensor(0.1)))


def test_det_without_errors_says_so(figures, tmp_path):
    """Both rates are zero somewhere, so that the curve is out of sight."""
    for miss in ([0.0, 0.0, 0.5], [0.0, 0.1, 0.5]):
        assert plot_det(miss, [0.5, 0.0, 0.0], tmp_path / "d.png")
    titles = [figure.axes[0].get_title() for figure in figures]
    assert ["no errors" in title for title in titles] == [True, False]


def test_confusions(figures, tmp_path):
    path = tmp_path / "sentences.csv"
    rows = ["a,a", "a,b", "a,b", "b,b", "c,a"]
    path.write_text("speaker,decision\n" + "\n".join(rows) + "\n")
    assert plot_confusions(path, tmp_path / "c.png")
    left, right, *_ = figures[0].axes
    matrix = left.get_images()[0].get_array()
    assert matrix.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
    labels = [text.get_text() for text in right.get_yticklabels()]
    assert labels == ["a taken for b", "c taken for a"]
    assert [bar.get_width() for bar in right.patches] == [2, 1]
    assert right.get_title() == "3 of 5 utterances wrong"


def test_letters_that_no_font_has(tmp_path, caplog, recwarn):
    path = tmp_path / "sentences.csv"
    path.write_text("speaker,decision\n\U000f0000,b\n\U000f0001,b\n")
    assert plot_confusions(path, tmp_path / "c.png")
    (record,) = caplog.records
    assert "c.png has boxes" in record.getMessage() and not recwarn.list


def test_confusions_of_names_that_are_shortened_alike(figures, tmp_path):
    path, long = tmp_path / "sentences.csv", "x" * 60
    rows = [f"{long}{a},{long}{b}" for a, b in ("12", "13", "21")]
    path.write_text("speaker,decision\n" + "\n".join(rows) + "\n")
    assert plot_confusions(path, tmp_path / "c.png")
    _, right, *_ = figures[0].axes
    assert len({bar.get_y() for bar in right.patches}) == 3


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "speaker,decision\n"])
def test_no_utterances(tmp_path, text):
    path = tmp_path / "sentences.csv"
    path.write_text(text)
    with pytest.raises(InputError, match="sentences.csv"):
        plot_confusions(path, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_filters(figures, tmp_path):
    layer = SincConv(10, 101)
    with torch.no_grad():
        layer.low += 100 / 16000  # every cut-off, by 100 Hz
    assert plot_filters(layer, tmp_path / "f.png")
    bands, few, sums = figures[0].axes
    assert "moved 100 Hz" in bands.get_title()
    for axis in (bands, few, sums):
        texts = [text.get_text() for text in axis.get_legend().get_texts()]
        assert texts == ["start", "trained"]
    assert len(few.get_lines()) == 12
    start, learned = sums.get_lines()
    assert start.get_ydata().max() == learned.get_ydata().max() == 1.0
    khz = learned.get_xdata()
    assert khz[0] == 0.0 and khz[-1] == 8.0
    assert abs(start.get_ydata() - learned.get_ydata()).max() > 0.05


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
    def test_curves_and_bands(self, table, tmp_path, figures, published):
        assert plot_margins(table, tmp_path / "m.png", published) is True
        frames, sentences = figures[0].axes
        curve, baseline, *theirs = frames.get_lines()
        assert curve.get_xydata().tolist() == [[0.1, 32.0], [0.3, 20.0]]
        assert list(baseline.get_ydata()) == [51.0, 51.0]
        shaded = frames.collections[0].get_paths()[0].vertices
        assert {y for x, y in shaded if x == 0.1} == {30.0, 34.0}
        assert sentences.get_lines()[0].get_ydata().tolist() == [3.0, 1.0]
        assert frames.get_xlabel() == "Margin"
        assert frames.get_ylabel() == "Frame error (%)"
        (legend,) = figures[0].legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels[:2] == ["am (1 to 2 seeds)", "sincnet (2 seeds)"]
        assert set(labels[2:]) == (THEIRS if published else set())
        assert [len(line.get_xdata()) for line in theirs[:1]] == [
            19
        ] * published

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

"""EER, detection cost and DET curve, and what is evaluated with them."""

import pytest
import torch
from hypothesis import (
    given,
    settings,
    strategies as st,
)
from speechbrain.utils.metric_stats import EER, minDCF

from amsincnet_sb.inference.evaluation import all_pairs, read_trials
from amsincnet_sb.inference.scoring import det_points, eer, error_rates, min_dcf
from amsincnet_sb.plots import plot_confusions, plot_det, plot_filters
from amsincnet_sb.utils.errors import InputError


def together(positive, negative):
    scores = torch.cat([positive, negative])
    labels = torch.arange(len(scores)) < len(positive)
    order = torch.randperm(len(scores))
    return scores[order], labels[order]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    targets=st.integers(1, 70),
    others=st.integers(1, 70),
    steps=st.sampled_from([0, 1, 3]),
    shift=st.sampled_from([-1.0, 0.0, 1.0, 4.0]),
)
def test_the_same_as_speechbrain(seed, targets, others, steps, shift):
    torch.manual_seed(seed)
    positive, negative = torch.randn(targets) + shift, torch.randn(others)
    if steps:  # ties
        positive = (positive * steps).round() / steps
        negative = (negative * steps).round() / steps
    scores, labels = together(positive, negative)
    assert eer(scores, labels) == EER(positive, negative)
    cost, threshold = min_dcf(scores, labels, p_target=0.2)
    theirs, _ = minDCF(positive, negative, p_target=0.2)
    # Theirs never accepts everything, which costs 4 here.
    assert cost == pytest.approx(min(theirs / 0.2, 4.0), rel=1e-5)
    miss = (positive <= threshold).double().mean()
    alarm = (negative > threshold).double().mean()
    assert cost == pytest.approx((0.2 * miss + 0.8 * alarm).item() / 0.2)


def test_a_million_trials_take_seconds():
    torch.manual_seed(0)
    labels = torch.rand(1_000_000) < 0.1
    rate, threshold = eer(torch.randn(1_000_000) + 2 * labels, labels)
    # Normal distributions two apart cross at one: Q(1).
    assert rate == pytest.approx(0.158655, abs=2e-3)
    assert threshold == pytest.approx(1.0, abs=1e-2)


def test_rates_count_trials():
    torch.manual_seed(1)
    scores, labels = together(
        torch.randint(0, 9, (30,)) / 4.0, torch.randint(0, 9, (50,)) / 4.0 - 1
    )
    for threshold, miss, alarm in zip(*error_rates(scores, labels)):
        rejected = scores <= threshold
        assert miss == pytest.approx((rejected & labels).sum() / 30)
        assert alarm == pytest.approx((~rejected & ~labels).sum() / 50)


def test_det_points_are_on_the_curve_and_few():
    torch.manual_seed(2)
    scores, labels = together(torch.randn(3000) + 2, torch.randn(90_000))
    miss, alarm = det_points(scores, labels)
    _, every_miss, every_alarm = error_rates(scores, labels)
    curve = set(
        zip(every_miss.double().tolist(), every_alarm.double().tolist())
    )
    assert set(zip(miss, alarm)) <= curve and len(miss) < 1000
    assert miss == sorted(miss) and alarm == sorted(alarm, reverse=True)
    rate, _ = eer(scores, labels)
    gap = min(abs(m - a) + abs(m + a - 2 * rate) for m, a in zip(miss, alarm))
    assert gap < 0.01


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_trials_of_one_kind(labels):
    with pytest.raises(InputError, match="at least one of each"):
        eer(torch.tensor([0.1, 0.2]), torch.tensor(labels))


def test_nan():
    with pytest.raises(InputError, match="NaN"):
        min_dcf(torch.tensor([0.1, float("nan")]), torch.tensor([0, 1]))


def test_all_pairs():
    names = ["a", "b", "a", "c", "b"]
    first, second, same = all_pairs(names)
    found = {
        (i, j): s
        for i, j, s in zip(first.tolist(), second.tolist(), same.tolist())
    }
    assert found == {
        (i, j): names[i] == names[j] for i in range(5) for j in range(i + 1, 5)
    }


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("1 a b\n2 a c\n", "line 2: a trial is 0 or 1"),
        ("1 a b\n\n0 a\n", "line 3: a trial is 0 or 1"),
        ("1 a b\n0 a zed\n", "'zed' is no sentence"),
        ("1 a b\n", "at least one of each"),
        ("", "at least one of each"),
    ],
)
def test_bad_trials(tmp_path, text, complaint):
    path = tmp_path / "trials.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_trials(path, ["a", "b", "c"])


def test_missing_trials(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_trials(tmp_path / "none.txt", ["a"])


class TestPictures:
    @pytest.fixture
    def axes(self, monkeypatch):
        pyplot = pytest.importorskip("matplotlib.pyplot")
        seen = []
        monkeypatch.setattr(
            pyplot, "close", lambda figure: seen.extend(figure.axes)
        )
        yield seen
        monkeypatch.undo()
        pyplot.close("all")

    def test_det(self, axes, tmp_path):
        assert plot_det([0.0, 0.1, 0.5], [0.5, 0.1, 0.0], tmp_path / "d.png")
        (axis,) = axes
        assert "(%)" in axis.get_xlabel() and "(%)" in axis.get_ylabel()
        x, y = axis.get_lines()[0].get_data()
        normal = torch.distributions.Normal(0.0, 1.0)
        assert x[1] == y[1] == pytest.approx(normal.icdf(torch.tensor(0.1)))
        assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")

    def test_confusions(self, axes, tmp_path):
        path = tmp_path / "sentences.csv"
        rows = ["a,a", "a,b", "a,b", "b,b", "c,a"]
        path.write_text("speaker,decision\n" + "\n".join(rows) + "\n")
        assert plot_confusions(path, tmp_path / "c.png")
        matrix = axes[0].get_images()[0].get_array()
        assert matrix.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
        labels = [text.get_text() for text in axes[1].get_yticklabels()]
        assert labels == ["a taken for b", "c taken for a"]
        assert [bar.get_width() for bar in axes[1].patches] == [2, 1]
        assert axes[1].get_title() == "3 of 5 sentences wrong"

    @pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "speaker,decision\n"])
    def test_no_sentences(self, tmp_path, text):
        path = tmp_path / "sentences.csv"
        path.write_text(text)
        with pytest.raises(InputError, match="sentences.csv"):
            plot_confusions(path, tmp_path / "c.png")
        assert not (tmp_path / "c.png").exists()

    def test_filters(self, axes, tmp_path):
        from amsincnet_sb.nnet.sinc import SincConv

        layer = SincConv(10, 101)
        with torch.no_grad():
            layer.low += 100 / 16000  # every cut-off, by 100 Hz
        assert plot_filters(layer, tmp_path / "f.png")
        assert "moved 100 Hz" in axes[0].get_title()
        start, learned = axes[2].get_lines()
        assert start.get_ydata().max() == learned.get_ydata().max() == 1.0
        khz = learned.get_xdata()
        assert khz[0] == 0.0 and khz[-1] == 8.0
        assert abs(start.get_ydata() - learned.get_ydata()).max() > 0.05

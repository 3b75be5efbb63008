"""Reports and pictures of folders whose files are not what they should be."""

import json

import pytest

from amsincnet_sb.plots import _pyplot, plot_confusions
from amsincnet_sb.report import draw_picture, write_report
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.utils.errors import InputError

RECORD = {
    "epoch": 1,
    "step": 3,
    "split": "test",
    "loss": 1.0,
    "frame_error": 2.0,
    "sentence_error": 3.0,
    "train_loss": 4.0,
    "train_frame_error": 5.0,
}
DET = {"miss": [0.0, 1.0], "false_alarm": [1.0, 0.0]}
VERIFIED = {"eer": 1.0, "threshold": 0.5, "targets": 1, "nontargets": 1}
EVALUATION = {
    "sentences": 2,
    "speakers": 1,
    "closed_set": None,
    "open_set": None,
    "verification": {**VERIFIED, "min_dcf": 1.0, "det": DET},
}


def changed(tree, path, value):
    """JSON of a tree with another value at a path."""
    tree = json.loads(json.dumps(tree))
    *above, last = path
    place = tree
    for key in above:
        place = place[key]
    place[last] = value
    return json.dumps(tree)


HUGE = 10**400
BAD = {
    "evaluation.json": [
        "[1]",
        "{}",
        "[" * 10**5,
        changed(EVALUATION, ["verification", "eer"], "high"),
        changed(EVALUATION, ["verification", "eer"], HUGE),
        changed(EVALUATION, ["verification", "det", "miss"], 3),
        changed(EVALUATION, ["verification", "det", "miss"], [[1]]),
        changed(EVALUATION, ["verification", "calibrated"], [0.5]),
        changed(EVALUATION, ["closed_set"], [[]]),
    ],
    "metrics.jsonl": [
        "[1]\n",
        "[" * 10**5 + "\n",
        changed(RECORD, ["epoch"], "one") + "\n",
        changed(RECORD, ["epoch"], HUGE) + "\n",
        changed(RECORD, ["step"], -1) + "\n",
        changed(RECORD, ["frame_error"], None) + "\n",
        changed(RECORD, ["train_loss"], HUGE) + "\n",
        changed(RECORD, ["seconds"], [[]]) + "\n",
        json.dumps({"step": 1, "train_loss": 1.0}) + "\n",
    ],
    "sentences.csv": [
        "",
        "a,b\n1,2\n",
        "speaker,decision\nann\n",
        "speaker,decision\nann,bob,cat\n",
        "\udcff",
    ],
}


@pytest.mark.parametrize(
    "name, text", [(name, text) for name, all in BAD.items() for text in all]
)
def test_one_sentence_about_the_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, errors="surrogateescape")
    with pytest.raises(InputError, match=name):
        write_report(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_right_ones(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl").append(**RECORD)
    (tmp_path / "evaluation.json").write_text(json.dumps(EVALUATION))
    page = write_report(tmp_path).read_text()
    assert "1.000 %" in page


@pytest.mark.parametrize("name", [r"$\no$", "<script>", "x" * 9999, "a\nb"])
def test_names_of_any_kind(tmp_path, name):
    path = tmp_path / "sentences.csv"
    path.write_text(f'speaker,decision\n"{name}",ann\nann,ann\n')
    page = write_report(tmp_path).read_text()
    assert "<script>" not in page
    if _pyplot() is not None:
        assert plot_confusions(path, tmp_path / "small.png")
        assert (tmp_path / "small.png").stat().st_size < 500_000


def test_what_pictures_are_written_to(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl").append(**RECORD)
    for draw in (
        lambda: draw_picture(tmp_path, "curves", tmp_path / "metrics.jsonl"),
        lambda: write_report(tmp_path, tmp_path / "metrics.jsonl"),
    ):
        with pytest.raises(InputError, match=r"must end with \.(png|html)"):
            draw()
    assert MetricsLog(tmp_path / "metrics.jsonl").records() == [RECORD]

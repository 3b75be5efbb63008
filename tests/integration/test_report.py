"""The HTML report: complete, and nothing but itself."""

import base64
import re
import shutil
import sys
from html.parser import HTMLParser

import pytest

from amsincnet_sb import cli
from amsincnet_sb.report import write_report
from amsincnet_sb.utils.errors import InputError

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page whose tags close in order; its text, tags and pictures."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.pictures, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open += [tag] * (tag not in VOID)
        attrs = dict(attrs)
        # Nothing is fetched from anywhere.
        assert not attrs.keys() & {"href", "srcset", "onerror", "onload"}
        if tag == "img":
            kind, data = attrs["src"].split(",")
            assert kind == "data:image/png;base64"
            assert base64.b64decode(data).startswith(b"\x89PNG")
            self.pictures.append(attrs["alt"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def results(finished, tmp_path):
    parts = shutil.ignore_patterns("save", "*.png")
    return shutil.copytree(finished, tmp_path / "results", ignore=parts)


def test_everything_is_in_it(recipe, results, corpus, capsys):
    pytest.importorskip("matplotlib")
    evaluate = ["evaluate", str(results), "--data_folder", str(corpus)]
    cli.main([*evaluate, "--manifest", str(results / "manifests" / "test.csv")])
    capsys.readouterr()
    assert cli.main(["report", str(results)]) == 0
    assert capsys.readouterr().out.strip() == str(results / "report.html")
    page = Page(results / "report.html")
    assert page.pictures == [
        "Learning curves",
        "Detection error trade-off",
        "Confusions",
        "Filters after training and at its start",
    ]
    assert "script" not in page.tags and "link" not in page.tags
    *_, last = recipe.metrics(results)
    for key in ("frame_error", "sentence_error", "loss"):
        assert f"{last[key]:.3f}" in page.text
    assert "minDCF" in page.text and "speakers4" in page.text
    assert (results / "hyperparams.yaml").read_text() in page.text


def test_names_are_text(results):
    name = "<script>alert(1)</script>&amp;"
    path = results / "sentences.csv"
    rows = path.read_text().splitlines()
    cells = rows[1].split(",")
    rows[1] = ",".join([*cells[:2], name, *cells[3:]])
    path.write_text("\n".join(rows) + "\n")
    page = Page(write_report(results))
    assert name in page.text and "script" not in page.tags


def test_only_a_model(results, tmp_path):
    page = Page(write_report(results / "pretrained", tmp_path / "page.html"))
    assert re.search(r"d-vector\s*8 dimensions", page.text)
    assert not (results / "pretrained" / "report.html").exists()


def test_without_matplotlib(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Page(write_report(results))
    assert page.pictures == [] and "frame error %" in page.text


@pytest.mark.parametrize(
    "name, content, complaint",
    [
        ("evaluation.json", "{}", "evaluation.json"),
        ("evaluation.json", "[", "evaluation.json"),
        ("metrics.jsonl", "x\n", "metrics.jsonl"),
        ("pretrained/config.json", "{}", "config.json"),
    ],
)
def test_damaged_results(results, name, content, complaint):
    (results / name).write_text(content)
    with pytest.raises(InputError, match=complaint):
        write_report(results)
    assert not (results / "report.html").exists()

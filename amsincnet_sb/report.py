"""A results folder as one page that can be sent to somebody."""

import base64
import csv
import json
import tempfile
from html import escape
from pathlib import Path

from amsincnet_sb.inference.evaluation import report
from amsincnet_sb.inference.pretrained import find_pretrained, read_pretrained
from amsincnet_sb.plots import (
    plot_confusions,
    plot_curves,
    plot_det,
    plot_filters,
)
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = ["write_report"]

WRONG = 50  # sentences to list

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70em;
       margin: 2em auto; padding: 0 1em; color: #222; }}
h2 {{ margin-top: 2em; border-bottom: 1px solid #ccc; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .2em .8em; border-bottom: 1px solid #ddd;
         text-align: left; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; }}
pre {{ background: #f6f6f6; padding: 1em; overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
{sections}
</body>
</html>
"""


def write_report(results, path=None, published=False):
    """Write a page with all there is to see of a results folder.

    The page holds its pictures and needs no other file and no network: errors
    and learning curves, what ``amsincnet evaluate`` has found, who is taken
    for whom, the learned filters, and the hyperparameters. What the folder
    does not have is left out.

    Arguments
    ---------
    results : str or Path
        Results folder.
    path : str or Path, optional
        The page (HTML); ``report.html`` in the folder if not given.
    published : bool
        Draw the published curves on TIMIT beside the learning curves.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If there is nothing to report on, a file of the folder is damaged, or
        the page cannot be written.
    """
    results = Path(results)
    path = Path(path) if path else results / "report.html"
    if not results.is_dir():
        raise InputError(
            f"{results} is not a folder; give the results folder of a run."
        )
    with tempfile.TemporaryDirectory() as pictures:
        picture = Path(pictures) / "picture.png"
        sections = [
            *_model(results),
            *_training(results, picture, published),
            *_evaluation(results, picture),
            *_sentences(results, picture),
            *_filters(results, picture),
            *_hyperparameters(results),
        ]
    if not sections:
        raise InputError(
            f"{results} holds nothing to report on; give the results folder "
            "of a run."
        )
    title = escape(f"Speaker identification: {results.resolve().name}")
    with atomic_write(path) as file:
        file.write(PAGE.format(title=title, sections="\n".join(sections)))
    return path


def _has_model(results):
    return (find_pretrained(results) / "config.json").is_file()


def _model(results):
    if not _has_model(results):
        return
    embedding_model, classifier, config = read_pretrained(results)
    size = sum(
        each.numel()
        for module in (embedding_model, classifier)
        for each in module.parameters()
    )
    rate = embedding_model.sample_rate
    yield _table(
        [
            ("speakers", len(config["speakers"])),
            ("parameters", f"{size / 1e6:.2f} million"),
            ("sample rate", f"{rate} Hz"),
            ("window", f"{1000 * embedding_model.window / rate:g} ms"),
            ("hop", f"{1000 * embedding_model.hop / rate:g} ms"),
            ("d-vector", f"{embedding_model.embedding_size} numbers"),
        ]
    )


def _training(results, picture, published):
    metrics = results / "metrics.jsonl"
    records = MetricsLog(metrics).records()
    if not records:
        return
    yield "<h2>Errors</h2>"
    keys = {
        "epoch": "epoch",
        "step": "step",
        "split": "sentences",
        "frame_error": "frame error %",
        "sentence_error": "sentence error %",
        "loss": "loss",
        "train_frame_error": "training frame error %",
        "train_loss": "training loss",
    }
    rows = [[record.get(key, "") for key in keys] for record in records[-1:]]
    yield _table(rows, keys.values())
    if plot_curves(metrics, picture, published):
        yield _image(picture, "Learning curves")


def _evaluation(results, picture):
    path = results / "evaluation.json"
    if not path.is_file():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        lines = report(found)
        det = found["verification"] and found["verification"]["det"]
        drawn = det and plot_det(path=picture, **det)
    except (LookupError, OSError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error!r}); run amsincnet evaluate again."
        ) from error
    yield "<h2>Identification and verification</h2>"
    yield f"<pre>{escape(chr(10).join(lines))}</pre>"
    if drawn:
        yield _image(picture, "Detection error trade-off")


def _sentences(results, picture):
    path = results / "sentences.csv"
    if not path.is_file():
        return
    drawn = plot_confusions(path, picture)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wrong = [row for row in rows if row["speaker"] != row["decision"]]
    yield "<h2>Test sentences</h2>"
    yield f"<p>{len(wrong)} of {len(rows)} are decided for somebody else."
    if len(wrong) > WRONG:
        yield f"The first {WRONG}:"
    yield "</p>"
    if wrong:
        yield _table([row.values() for row in wrong[:WRONG]], wrong[0])
    if drawn:
        yield _image(picture, "Who is taken for whom")


def _filters(results, picture):
    if not _has_model(results):
        return
    if plot_filters(read_pretrained(results)[0].sinc, picture):
        yield "<h2>Filters</h2>"
        yield _image(picture, "Learned filters and those of the start")


def _hyperparameters(results):
    path = results / "hyperparams.yaml"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    yield "<h2>Hyperparameters</h2>"
    yield f"<details><summary>{path.name}</summary>"
    yield f"<pre>{escape(text)}</pre></details>"


def _table(rows, header=()):
    """Rows of values; numbers to the right."""
    lines = ["<table>"]
    if header:
        cells = "".join(f"<th>{escape(str(name))}</th>" for name in header)
        lines.append(f"<tr>{cells}</tr>")
    for row in rows:
        cells = []
        for value in row:
            number = isinstance(value, int | float)
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            style = ' class="number"' * number
            cells.append(f"<td{style}>{escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def _image(picture, text):
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<p><img alt="{text}" src="data:image/png;base64,{data}"></p>'

"""A results folder as one page, or one picture of it."""

import base64
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
    plot_margins,
)
from amsincnet_sb.training.metrics_log import MetricsLog
from amsincnet_sb.training.results import read_sentences
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write, check_output, is_plain_file
from amsincnet_sb.utils.reading import read_json

__all__ = ["draw_picture", "read_evaluation", "write_report"]

WRONG = 50  # utterances to list
COLUMNS = {
    "epoch": "epoch",
    "step": "step",
    "split": "utterances",
    "frame_error": "frame error %",
    "sentence_error": "sentence error %",
    "loss": "loss",
    "train_frame_error": "training frame error %",
    "train_loss": "training loss",
}

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
    """Write a results folder as one HTML page.

    The page holds its pictures and needs no other file and no network: errors
    and learning curves, ``evaluation.json``, confusions, the filters, and the
    hyperparameters, as far as the folder has them. ``published`` draws the
    published curves on TIMIT beside the learning curves. Returns the path,
    ``report.html`` in the folder if not given.

    Raises InputError where a file of the folder cannot be read or is a link
    out of it: nothing from elsewhere gets into the page.
    """
    results = Path(results)
    path = results / "report.html" if path is None else Path(path)
    if not results.is_dir():
        raise InputError(
            f"{results} is not a folder; give the results folder of a run."
        )
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path} must end with .html.")
    check_output(path)
    model = None
    if _own_file(results, find_pretrained(results) / "config.json"):
        model = read_pretrained(results)
    with tempfile.TemporaryDirectory() as pictures:
        picture = Path(pictures) / "picture.png"
        sections = [
            *_model(model),
            *_training(results, picture, published),
            *_evaluation(results, picture),
            *_confusions(results, picture),
            *_filters(model, picture),
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


def _own_file(results, path):
    """Whether the folder has such a file; InputError for a link out of it."""
    if not is_plain_file(path):
        return False
    if not path.resolve().is_relative_to(results.resolve()):
        raise InputError(
            f"{path} is a link out of the folder, and a report shows nothing "
            "from elsewhere; copy the file."
        )
    return True


def _model(model):
    if not model:
        return
    net, classifier, config = model
    modules = net, classifier
    size = sum(p.numel() for each in modules for p in each.parameters())
    rate = net.sample_rate
    yield _table(
        [
            ("network", type(net).__name__),
            ("parameters", f"{size / 1e6:.2f} million"),
            ("speakers", len(config["speakers"])),
            ("sample rate", f"{rate} Hz"),
            ("window", f"{1000 * net.window / rate:g} ms"),
            ("hop", f"{1000 * net.hop / rate:g} ms"),
            ("d-vector", f"{net.embedding_size} dimensions"),
        ]
    )


def _training(results, picture, published):
    metrics = results / "metrics.jsonl"
    if not _own_file(results, metrics):
        return
    records = MetricsLog(metrics).records()
    if not records:
        return
    yield "<h2>Errors</h2>"
    row = [records[-1].get(key, "") for key in COLUMNS]
    yield _table([row], COLUMNS.values())
    if plot_curves(metrics, picture, published):
        yield _image(picture, "Learning curves")


def _evaluation(results, picture):
    path = results / "evaluation.json"
    if not _own_file(results, path):
        return
    lines, rates = read_evaluation(path)
    yield "<h2>Identification and verification</h2>"
    yield f"<pre>{escape(chr(10).join(lines))}</pre>"
    if rates and plot_det(*rates, picture):
        yield _image(picture, "Detection error trade-off")


def read_evaluation(path):
    """An evaluation.json as text, and its miss and false-alarm rates."""
    found = read_json(path, "run amsincnet evaluate again")
    try:
        det = found["verification"] and found["verification"]["det"]
        rates = det and [
            [float(rate) for rate in det[name]]
            for name in ("miss", "false_alarm")
        ]
        if rates and len(rates[0]) != len(rates[1]):
            raise ValueError("not a false-alarm rate for each miss rate")
        return report(found), rates
    except Exception as error:  # whatever other types of values raise
        raise InputError(
            f"{path} cannot be read ({error!r}); run amsincnet evaluate again."
        ) from error


def _confusions(results, picture):
    path = results / "sentences.csv"
    if not _own_file(results, path):
        return
    drawn = plot_confusions(path, picture)
    rows = read_sentences(path)
    wrong = [row for row in rows if row["speaker"] != row["decision"]]
    yield "<h2>Test utterances</h2>"
    yield f"<p>{len(wrong)} of {len(rows)} are decided for another speaker."
    if len(wrong) > WRONG:
        yield f"The first {WRONG}:"
    yield "</p>"
    if wrong:
        yield _table([row.values() for row in wrong[:WRONG]], wrong[0])
    if drawn:
        yield _image(picture, "Confusions")


def _filters(model, picture):
    if model and plot_filters(model[0].sinc, picture):
        yield "<h2>Filters</h2>"
        yield _image(picture, "Filters after training and at its start")


def _hyperparameters(results):
    path = results / "hyperparams.yaml"
    if not _own_file(results, path):
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    yield "<h2>Hyperparameters</h2>"
    yield f"<details><summary>{path.name}</summary>"
    yield f"<pre>{escape(text)}</pre></details>"


def _table(rows, header=()):
    """Rows of values; numeric ones to the right."""
    lines = ["<table>"]
    if header:
        cells = "".join(f"<th>{escape(str(name))}</th>" for name in header)
        lines.append(f"<tr>{cells}</tr>")
    for row in rows:
        cells = []
        for value in row:
            style = ' class="number"' * isinstance(value, int | float)
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            cells.append(f"<td{style}>{escape(text)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def _image(picture, text):
    data = base64.b64encode(picture.read_bytes()).decode()
    return f'<p><img alt="{text}" src="data:image/png;base64,{data}"></p>'


# The file that a picture is of, and where it comes from.
DRAWN = {
    "curves": ("metrics.jsonl", "give the results folder of a run"),
    "det": ("evaluation.json", "amsincnet evaluate writes it"),
    "confusions": ("sentences.csv", "give the folder of a finished run"),
    "margins": ("margins.csv", "amsincnet sweep writes it"),
}


def draw_picture(results, kind, picture=None, published=False):
    """Draw one picture of a results folder, or of the file it is made from.

    ``kind`` is ``curves``, ``det``, ``confusions``, ``margins`` or
    ``filters``. Returns the path of the PNG, ``<kind>.png`` in the folder if
    not given.
    """
    path = Path(results)
    folder = path.parent if path.is_file() else path
    picture = folder / f"{kind}.png" if picture is None else Path(picture)
    check_output(picture, path)
    if picture.suffix.lower() != ".png":
        raise InputError(f"{picture} must end with .png.")
    if kind in DRAWN and not path.is_file():
        name, hint = DRAWN[kind]
        path = path / name
        if not path.is_file():
            raise InputError(f"{path} does not exist; {hint}.")
    if kind == "curves":
        drawn = plot_curves(path, picture, published)
    elif kind == "margins":
        drawn = plot_margins(path, picture, published)
    elif kind == "confusions":
        drawn = plot_confusions(path, picture)
    elif kind == "det":
        _, rates = read_evaluation(path)
        if not rates:
            raise InputError(
                f"{path} holds no verification errors to draw; run amsincnet "
                "evaluate on utterances of which some share a speaker."
            )
        drawn = plot_det(*rates, picture)
    else:
        drawn = plot_filters(read_pretrained(path)[0].sinc, picture)
    if not drawn:
        raise InputError(
            "There is nothing to draw, or matplotlib is missing: install it "
            "with pip install 'amsincnet_sb[plots]'."
        )
    return picture

"""The ``README.md`` of a trained model: a model card, ready for a hub."""

import hashlib
import importlib
import logging
import re
import shutil
from pathlib import Path

from amsincnet_sb.dataio.manifest import Provenance, read_manifest
from amsincnet_sb.utils.files import atomic_write, is_plain_file

__all__ = ["CARD", "describe_errors", "describe_training", "put_card"]

logger = logging.getLogger(__name__)

CARD = "README.md"
PACKAGES = "amsincnet_sb", "speechbrain", "torch"
SPLITS = "train", "valid", "test"
MEASURED = "step", "frame_error", "sentence_error"
CORPORA = "TIMIT", "LibriSpeech"  # by the scripts that prepare them
GENERATED = "GENERATED SPEECH"  # first line of a demo corpus' README.TXT
HOMES = "home", "Users"

# Behind the text: it is ours as long as this is true of it.
SEAL = (
    "\n<!-- Written by amsincnet_sb, which replaces this file when it writes "
    "the model again, unless you have changed it. sha256 {digest} -->\n"
)
MEANING = """
On the sets above. The frame error counts windows, the sentence error decisions
by all windows of an utterance.
"""
SINC = "a bank of band-pass filters with learned\ncut-offs"
# What the first layer is, by the name of other filters.
PLACED = (
    "a bank of band-pass filters, which start\n"
    "where those of a training on speechocean762 ended (`{}`)"
)
HZ = SINC + " (`{}`)"
OTHER = "`{}`, in place of\nsinc filters"
FIRST = {"sinc": SINC, "sinc_placed": PLACED, "sinc_hz": HZ}
PAGE = """\
---
library_name: speechbrain
pipeline_tag: audio-classification
tags:
- speechbrain
- speaker-identification
- speaker-verification
- SincNet
- AM-SincNet
---

# Speaker identification: {network}, {speakers} speakers

Names the speaker of a recording, one of the {speakers} it was trained on, from
the raw waveform; the first layer is {first}
([SincNet](https://arxiv.org/abs/1808.00158),
[AM-SincNet](https://arxiv.org/abs/1901.10826)). {more}

## Use

With the Python package `amsincnet_sb` installed:

```python
from amsincnet_sb import SpeakerIdentifier
who = SpeakerIdentifier.from_results("this folder")
who.identify("a.wav")[0].speaker
who.verify("a.wav", "b.wav").accepted
{enrol}```

{speechbrain}## Training data

{data}
## Errors

{errors}
## Configuration

{settings}{configuration}
## Limits

- Without a threshold the answer is always one of the speakers above: calibrate
  one on recordings like yours (`amsincnet evaluate --calibrate`) before unknown
  speakers are to be rejected or pairs verified.
- The errors hold for recordings like those above. Another language, room,
  microphone or telephone raises them; measure on your own.
- Voices identify people: name, enrol and verify only those who agreed. The
  speakers' names are in `config.json`.
- Nobody has said under which licence the weights may be used. Whoever publishes
  them adds `license:` to the lines at the top.
"""
# With class vectors, which an enrolled speaker gets too, and without.
ENROL = 'who.enroll("anna", ["anna1.wav", "anna2.wav", "anna3.wav"])\n'
MORE = {
    True: "Speakers can be enrolled and\n"
    "pairs of recordings verified without training.",
    False: "Pairs of recordings can be\nverified without training.",
}
SPEECHBRAIN = """\
SpeechBrain's interface loads it too, once `amsincnet_sb` is installed. It runs
the folder's `hyperparams.yaml`, so only from people you trust, and embeds a
recording as a whole, where the errors below are means over windows.

```python
from speechbrain.inference.classifiers import EncoderClassifier
model = EncoderClassifier.from_hparams(source="this folder")
```

"""


def describe_training(hparams, records=()):
    """What a model card says of a training run, as a dict.

    ``hparams`` has the attributes of the recipe's hyperparameter files, whose
    lists are read, ``records`` are for :func:`describe_errors`. No path gets
    into it, only the name of the data folder where that is not somebody's
    home. It consists of text and numbers, for ``config.json``.
    """
    keys = ("loss", "margin", "scale", "batch_size", "seed")
    if not hasattr(hparams.compute_cost, "margin"):
        keys = ("loss", "batch_size", "seed")  # a plain softmax has neither
    found = {key: getattr(hparams, key, None) for key in keys}
    sets = {}
    for split in SPLITS:
        path = getattr(hparams, f"{split}_annotation")
        if split == "valid" and not hparams.validation_sentences:
            continue
        rows = read_manifest(path)
        sets[split] = {
            "speakers": len({row.spk_id for row in rows}),
            "utterances": len(rows),
            "hours": sum(row.duration for row in rows) / 3600,
        }
    return {
        "data": _data_name(hparams),
        "sets": sets,
        "errors": describe_errors(records),
        "settings": {k: v for k, v in found.items() if v is not None},
    }


def describe_errors(records):
    """Split -> step and errors of its last record in ``metrics.jsonl``."""
    return {
        record["split"]: {key: record[key] for key in MEASURED}
        for record in records
        if {"split", *MEASURED} <= record.keys()
    }


def put_card(earlier, folder, network, config, loads):
    """Write a model's card, or keep the one that somebody changed.

    Arguments
    ---------
    earlier : Path
        The folder that the model had until now, if it exists.
    folder : Path
        Where the model is being written.
    network : torch.nn.Module
        The embedding model.
    config : dict
        Content of ``config.json``; what it has under ``training`` is from
        :func:`describe_training`.
    loads : bool
        Whether SpeechBrain can load it.
    """
    there = earlier / CARD
    if is_plain_file(there) and not _is_ours(there):
        shutil.copyfile(there, folder / CARD)
        logger.info(
            "%s was changed by hand and is kept; see whether it still fits.",
            there,
        )
        return
    with atomic_write(folder / CARD) as file:
        file.write(_sealed(_card(network, config, loads)))


def _is_ours(path):
    """Whether a card is as :func:`put_card` left it."""
    found = path.read_text(encoding="utf-8", errors="replace")
    return found == _sealed(found.rpartition(SEAL.partition("{")[0])[0])


def _sealed(text):
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text + SEAL.format(digest=digest)


def _card(network, config, loads):
    filters = network.arguments["filters"]
    enrols = config["classifier"]["name"] == "CosineClassifier"
    return PAGE.format(
        network=type(network).__name__,
        first=FIRST.get(filters, OTHER).format(filters),
        speakers=len(config["speakers"]),
        more=MORE[enrols],
        enrol=ENROL * enrols,
        speechbrain=SPEECHBRAIN * loads,
        **_training(config.get("training")),
        configuration=_configuration(network, config),
    )


def _training(training):
    """The tables of data and errors, as far as a config.json has them."""
    try:
        name = _escape(training["data"])
        sets = [
            [*map(_escape, (split, n["speakers"], n["utterances"]))]
            + [f"{n['hours']:.2f}"]
            for split, n in training["sets"].items()
        ]
        errors = [
            [_escape(split), _escape(n["step"])]
            + [f"{n[key]:.2f}" for key in MEASURED[1:]]
            for split, n in training["errors"].items()
        ]
        settings = [map(_escape, row) for row in training["settings"].items()]
    except (AttributeError, LookupError, TypeError, ValueError):
        unknown = "Not known to the program that wrote this folder.\n"
        return {"data": unknown, "errors": unknown, "settings": ""}
    data = _table(("set", "speakers", "utterances", "hours"), sets)
    header = ("set", "steps", "frame error %", "sentence error %")
    return {
        "data": f"{name}:\n\n{data}" if name else data,
        "errors": _table(header, errors) + MEANING,
        "settings": _table(("option", "value"), settings) + "\n",
    }


def _configuration(network, config):
    rate = network.sample_rate
    size = sum(parameter.numel() for parameter in network.parameters())
    rows = [
        ("network", type(network).__name__),
        ("parameters", f"{size / 1e6:.2f} million"),
        ("classifier", config["classifier"]["name"]),
        ("sample rate", f"{rate} Hz"),
        ("window", f"{1000 * network.window / rate:g} ms"),
        ("hop", f"{1000 * network.hop / rate:g} ms"),
        ("speaker embedding", f"{network.embedding_size} dimensions"),
        *((n, importlib.import_module(n).__version__) for n in PACKAGES),
    ]
    return _table(("part", "value"), rows)


def _data_name(hparams):
    """What the data are called: a corpus, or the last part of their path."""
    folder = Path(hparams.data_folder).absolute()
    readme = folder / "README.TXT"
    if is_plain_file(readme):
        with open(readme, encoding="utf-8", errors="replace") as file:
            if file.readline(80).strip() == GENERATED:
                return "Generated speech (a demo corpus, nobody's voice)"
    prepared = Provenance.read(Path(hparams.train_annotation).parent)
    corpus = prepared and prepared.options.get("corpus")
    if corpus in CORPORA:
        return corpus
    is_home = folder.parent.name in HOMES or folder == Path.home()
    return "" if is_home else folder.name


def _escape(value):
    """Text from strangers, so that Markdown and HTML show it as it is."""
    if isinstance(value, int | float):
        return str(value)
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return re.sub(
        r"([!#$&(-+./:<=>@\[-`{-~-])", r"\\\1", " ".join(text.split())
    )


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

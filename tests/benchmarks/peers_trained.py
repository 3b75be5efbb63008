"""Errors of other systems that learn from the same sentences as ours.

    amsincnet prepare CORPUS --output manifests
    python tests/benchmarks/peers_trained.py ecapa xvector lda resemblyzer \\
        results/sinc_tdnn/m0.3/1 --manifests manifests --data_folder CORPUS \\
        --seconds 30 --seeds 1 2 3 --json peers.json

Systems, as many as wanted:

* ``ecapa``, ``xvector``: SpeechBrain's, trained from scratch as its recipe for
  VoxCeleb does (peer_networks.py), as far as nothing has to be downloaded, for
  --seconds or --steps. Decisions by the cosine with the trained class vectors
  and with the centroids of the training utterances, both told;
* ``lda``: statistics of MFCCs and linear discriminants (peer_lda.py), whose
  one parameter is chosen on training utterances;
* ``resemblyzer``: the pretrained embedding of its package, with centroids;
  what is shorter than its 1.6 s is repeated;
* a results folder: our model, as its own evaluation has it, a window every
  10 ms. It has to know the speakers of the manifests. Of folders named by
  their seeds the mean is told;
* a JSON file of an earlier run: its rows once more, in the same table.

Everybody decides the same utterances from their start: whole, and cut to the
first --lengths seconds; and, whole, in --conditions of robustness.py, such as
``white10 telephone room0.3``. To choose options take ``--split valid``: it is
valid.csv of the manifests or, where there is none, the last training utterance
of each speaker, which is then not trained on.

Prints a table of sentence errors in per cent, the mean and the range over
seeds. JSON has a row for each system, way of deciding and seed, with the IDs
of the utterances that were decided wrongly.
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from peer_lda import MfccLda
from peer_networks import NETWORKS, OURS, THEIRS, train, unit_vectors
from peers import centroids, resemblyzer
from train_step import command_line, machine

from amsincnet_sb.dataio.audio import read_audio
from amsincnet_sb.dataio.manifest import read_manifest
from amsincnet_sb.dataio.prefetch import prefetch
from amsincnet_sb.inference import SpeakerIdentifier
from amsincnet_sb.utils.errors import InputError, exit_on_input_error

RATE = 16000
WHOLE = "whole"
UNNAMED = "seeds", "seconds", "steps"  # not among the options in a name
RESEMBLYZERS = 25600  # samples it always takes; more right than silence
LDA, RESEMBLYZER = "lda", "resemblyzer"


def arguments(argv=None):
    """The command line."""
    parser = command_line(__doc__)
    add = parser.add_argument
    add("systems", nargs="+")
    add("--manifests", help="folder with train.csv and test.csv")
    add("--data_folder")
    add("--split", choices=["test", "valid"], default="test")
    add("--lengths", type=float, nargs="*", default=[2.0, 1.0, 0.5])
    add("--conditions", nargs="*", default=[])
    add("--json", help="file for the rows, written after each")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group = parser.add_argument_group("training of ecapa and xvector")
    add = group.add_argument
    add("--seeds", type=int, nargs="+", default=[1])
    budget = group.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, default=30.0)
    budget.add_argument("--steps", type=int, help="in place of --seconds")
    add("--channels", type=int, default=512)
    add("--dropout", type=float, default=0.0, help="of ecapa")
    add("--crop", type=float, nargs="+", default=[3.0], help="in turns, s")
    add("--batch", type=int, default=32, help="chunks before augmentation")
    add(
        "--augment",
        nargs="*",
        choices=[*OURS, *THEIRS],
        default=list(THEIRS),
        help=f"{', '.join(OURS)}: of every chunk; the others: of a copy",
    )
    add(
        "--distinct",
        action="store_true",
        help="copies are of other chunks, as many in all",
    )
    add("--speeds", type=float, nargs="*", default=[], help="such as 0.9 1.1")
    add(
        "--speed_speakers",
        action="store_true",
        help="speeds are further speakers",
    )
    add("--lr", type=float, default=0.001)
    add("--schedule", choices=["cosine", "triangular"], default="cosine")
    add("--weight_decay", type=float, default=2e-6)
    add("--margin", type=float, default=0.2)
    add("--scale", type=float, default=30.0)
    args = parser.parse_args(argv)
    # What the rows of these options are called.
    defaults = parser.parse_args(["-"])
    told = [f"{args.steps} steps" if args.steps else f"{args.seconds:g} s"]
    for name in (action.dest for action in group._group_actions):
        value = getattr(args, name)
        if value == getattr(defaults, name) or name in UNNAMED:
            continue
        several = isinstance(value, list)
        text = "+".join(map(str, value)) or "none" if several else value
        told.append(f"{name}={text}")
    args.called = " ".join(told)
    return args


class Corpus:
    """What is learned from and what is asked, and in which forms.

    ``asked`` maps the name of a column to its waveforms ``[T]``.
    """

    def __init__(self, args):
        learned, asked = _splits(Path(args.manifests), args.split)
        self.speakers = sorted({u.spk_id for u in learned})
        label = {name: i for i, name in enumerate(self.speakers)}
        for u in asked:
            if u.spk_id not in label:
                raise InputError(
                    f"{args.manifests}: {u.id} is by {u.spk_id}, of whom "
                    f"there is nothing to learn from; leave it out."
                )
        self.labels = [label[u.spk_id] for u in learned]
        self.truth = torch.tensor([label[u.spk_id] for u in asked])
        self.ids = [u.id for u in asked]

        def read(u):
            """The waveform of an utterance."""
            path = Path(args.data_folder, u.wav)
            return read_audio(path, u.start, u.stop)

        waves = list(prefetch(read, learned + asked, group=16))
        self.waves, whole = waves[: len(learned)], waves[len(learned) :]
        self.asked = {WHOLE: whole}
        for seconds in args.lengths:
            cut = [wave[: round(seconds * RATE)] for wave in whole]
            self.asked[f"{seconds:g} s"] = cut
        self.asked |= _in_conditions(whole, args.conditions)


def _splits(folder, split):
    """Utterances to learn from and to ask about."""
    learned = read_manifest(folder / "train.csv")
    file = folder / f"{split}.csv"
    if split == "test" or file.exists():
        return learned, read_manifest(file)
    by_speaker = defaultdict(list)
    for u in learned:
        by_speaker[u.spk_id].append(u)
    asked = [own[-1] for own in by_speaker.values() if len(own) > 1]
    out = {u.id for u in asked}
    return [u for u in learned if u.id not in out], asked


def _in_conditions(waves, wanted):
    """Conditions of robustness.py -> the changed waveforms."""
    if not wanted:
        return {}
    import multiprocessing

    # Here, because without conditions it takes none of what it imports.
    import robustness

    names = [condition(text, robustness.CONDITIONS) for text in wanted]
    robustness.WAVES[:] = [wave.numpy() for wave in waves]
    found = {}
    # Before a GPU is touched, which a forked process cannot use.
    with multiprocessing.get_context("fork").Pool() as pool:
        for name in names:
            tasks = [(name, i, RATE) for i in range(len(waves))]
            changed = pool.map(robustness.changed, tasks, chunksize=8)
            found[name] = [torch.from_numpy(wave) for wave in changed]
    return found


def condition(text, names):
    """The one name with all the words and numbers of ``text``."""

    def words(name):
        """In small letters."""
        return set(re.findall(r"[^\W\d_]+|\d+(?:\.\d+)?", name.lower()))

    found = [name for name in names if words(text) <= words(name)]
    if len(found) != 1:
        raise InputError(
            f"--conditions: {text!r} is {'none' if not found else 'several'} "
            f"of {'; '.join(names)}."
        )
    return found[0]


def ours(folder, corpus, args):
    """Our model, deciding as in the evaluation of its training."""
    model = SpeakerIdentifier.from_results(folder, args.device)
    model.hop = model.embedding_model.hop
    label = {name: i for i, name in enumerate(corpus.speakers)}
    if missing := sorted(label.keys() - set(model.speakers)):
        raise InputError(
            f"{folder}: the model does not know {missing[0]}, who is in "
            f"{args.manifests}; give the manifests it was trained on."
        )

    def decide(waves):
        """-1: a speaker who is not in the manifests."""
        found = model.identify(waves, top_k=1)
        return {"": [label.get(best.speaker, -1) for (best,) in found]}

    # A run is in a folder named by its seed.
    path = Path(folder)
    seed = int(path.name) if path.name.isdecimal() else None
    name = path if seed is None else path.parent
    yield str(name), seed, {}, decide


def lda(name, corpus, args):
    """Statistics of MFCCs."""
    classifier = MfccLda(corpus.waves, corpus.labels, args.lengths)

    def decide(waves):
        """By one way."""
        return {"": classifier.decide(waves)}

    yield "MFCC, LDA", None, {"shrinkage": classifier.shrinkage}, decide


def by_vectors(embed, vectors):
    """Decisions for the nearest of each set of vectors ``[speakers, size]``."""

    def decide(waves):
        """By cosines."""
        found = embed(waves)
        return {
            name: (found @ each.T).argmax(1) for name, each in vectors.items()
        }

    return decide


def pretrained(name, corpus, args):
    """Resemblyzer."""
    found = resemblyzer()
    if found is None:
        raise InputError("resemblyzer: the package is missing; leave it out.")

    def embed(waves):
        """``[waves, size]``."""
        given = (
            np.resize(wave.numpy(), max(len(wave), RESEMBLYZERS))
            for wave in waves
        )
        vectors = found(given)
        return torch.stack([torch.as_tensor(each) for each in vectors])

    yield "Resemblyzer", None, {}, by_vectors(embed, _centroids(embed, corpus))


def _centroids(embed, corpus):
    label, speakers = torch.tensor(corpus.labels), len(corpus.speakers)
    return {"centroids": centroids(embed(corpus.waves), label, speakers)}


def networks(kind, corpus, args):
    """Train a network with each seed."""
    for seed in args.seeds:
        net, told = train(
            kind, corpus.waves, corpus.labels, args, seed, args.device
        )
        vectors = {"class vectors": unit_vectors(net, len(corpus.speakers))}
        vectors |= _centroids(net.embed, corpus)
        name = f"{kind} {args.called}"
        yield name, seed, told, by_vectors(net.embed, vectors)


def judged(systems, corpus, args):
    """A row for each system, way of deciding and seed."""
    makers = {LDA: lda, RESEMBLYZER: pretrained}
    makers |= dict.fromkeys(NETWORKS, networks)
    for given in systems:
        make = makers.get(given, ours)
        for name, seed, told, decide in make(given, corpus, args):
            rows = defaultdict(lambda: {"errors": {}, "wrong": {}})
            for column, waves in corpus.asked.items():
                for way, labels in decide(waves).items():
                    bad = torch.as_tensor(labels).cpu() != corpus.truth
                    ids = [i for i, is_bad in zip(corpus.ids, bad) if is_bad]
                    rows[way]["wrong"][column] = ids
                    rows[way]["errors"][column] = 100 * len(ids) / len(bad)
            for way, row in rows.items():
                yield {
                    "system": name,
                    "decided_by": way,
                    "seed": seed,
                    "split": args.split,
                    "utterances": len(corpus.ids),
                    "training": told,
                    "options": vars(args) if given in NETWORKS else {},
                    "machine": machine(torch.device(args.device).type),
                    **row,
                }


def table(rows):
    """Markdown: means over seeds, and their ranges."""
    groups, columns = defaultdict(list), {}
    for row in rows:
        groups[row["system"], row["decided_by"], row["split"]].append(row)
        columns |= dict.fromkeys(row["errors"])
    yield (
        "| "
        + " | ".join(
            ["system", "decided by", "split", "steps", "s", "loss", *columns]
        )
        + " |"
    )
    yield "|---" * (6 + len(columns)) + "|"
    for names, own in groups.items():
        cells = list(names)
        for key, digits in (("steps", 0), ("seconds", 1), ("loss", 2)):
            told = [row["training"].get(key) for row in own]
            known = None not in told
            cells.append(f"{statistics.mean(told):.{digits}f}" if known else "")
        for column in columns:
            found = [
                row["errors"][column] for row in own if column in row["errors"]
            ]
            cell = f"{statistics.mean(found):.2f}" if found else ""
            if len(found) > 1:
                cell += f" ({min(found):.2f}-{max(found):.2f})"
            cells.append(cell)
        yield "| " + " | ".join(cells) + " |"


def _write(rows, path):
    if path:
        Path(path).write_text(json.dumps(rows, indent=1))


def main(argv=None):
    """Judge, print, and write JSON."""
    args = arguments(argv)
    earlier = [name for name in args.systems if name.endswith(".json")]
    rows = [
        row for path in earlier for row in json.loads(Path(path).read_text())
    ]
    systems = [name for name in args.systems if name not in earlier]
    if systems:
        if not (args.manifests and args.data_folder):
            raise InputError("Give --manifests and --data_folder.")
        for row in judged(systems, Corpus(args), args):
            rows.append(row)
            short = {k: round(v, 2) for k, v in row["errors"].items()}
            print(
                row["system"],
                row["decided_by"],
                row["seed"],
                short,
                row["training"],
                file=sys.stderr,
            )
            _write(rows, args.json)
    _write(rows, args.json)
    print(*table(rows), sep="\n")


if __name__ == "__main__":
    with exit_on_input_error():
        main()

"""What a run is: kept beside its checkpoints, so that no other goes on in it.

``run.json`` in the folder of the checkpoints has the options, what
:func:`amsincnet_sb.dataio.identity.describe_list` says of the lists, and the
fingerprint of the weights that the run started from, if any. A run may
be continued with

- other options of :data:`amsincnet_sb.training.permitted.HOW`, another device,
  and any run option but those in :data:`MATTERS`;
- the corpus, the preparation or the results in another place;
- another ``number_of_epochs``: its schedules are then those of a run of that
  length, from the step on at which it is continued;
- other ``minutes``, which have chosen the number of steps once for all;
- another number of processes, and another ``batch_size`` if that of all
  processes together stays.

Whatever else differs is refused. Results of versions that kept no ``run.json``
are continued, and it is written.
"""

import contextlib
import json
import os
from pathlib import Path

from speechbrain.utils.distributed import if_main_process

from amsincnet_sb.dataio.identity import describe_list
from amsincnet_sb.dataio.manifest import Provenance, read_manifest
from amsincnet_sb.training.arguments import is_text
from amsincnet_sb.training.hparams import plain_options
from amsincnet_sb.training.permitted import HOW
from amsincnet_sb.training.recipe_keys import LATER
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write
from amsincnet_sb.utils.reading import read_json

__all__ = ["RunRecord", "as_json", "describe_lists", "manifests_put_back"]

FORMAT = 1
FILE = "run.json"
SHOWN = 3  # differences in a message
ADVICE = "remove it, and nothing is compared"
#: Run options of SpeechBrain that make a run what it is.
MATTERS = (
    "max_grad_norm",
    "grad_accumulation_factor",
    "remove_vector_weight_decay",
)
# Told by the lists, by other keys, or free.
_LEFT_OUT = HOW | {
    *("n_speakers", "number_of_epochs", "epoch_counter", "modules"),
    *("checkpointer", "train_logger", "processes", "minutes"),
}
#: Objects of earlier versions' files, and what makes the same ones today, and
#: arguments that came later, with the values that change nothing.
_BECAME = {
    "!new:speechbrain.nnet.losses.AMSoftmax": "make_loss",
    "!new:speechbrain.lobes.models.AMSincNet.CosineClassifier": (
        "make_classifier"
    ),
    "!name:amsincnet_sb.nnet.scoring.log_posteriors": "make_scores",
}
_LATER = {
    "filters": "sinc",
    "sinc_norm": "layer",
    "loss": "am",
    "subcentres": 1,
    "sample_rate": 16000,
    "std_db": 3.0,
}
_PLAIN_LATER = {
    key: value for key, value in LATER.items() if not callable(value)
}
SPLITS = {"train": "training", "test": "test", "valid": "validation"}


class RunRecord:
    """Tells whether the run in a folder may be continued.

    Arguments
    ---------
    hparams_file : str
        Hyperparameter file of the run that starts.
    run_opts : RunOptions
        From the command line.
    processes : int
        How many train together.
    """

    def __init__(self, hparams_file, run_opts, processes=1):
        self.hparams_file = hparams_file
        self.run_opts = run_opts
        self.processes = processes

    def steps_of_minutes(self, options):
        """Overrides for the run that is continued with ``minutes``, if one is.

        Its number of steps was measured when it started, and stays; see
        :mod:`amsincnet_sb.training.budget`. ``options`` are plain values of
        the hyperparameter file.
        """
        path = Path(options["save_folder"], FILE)
        if not options["minutes"] or not any(path.parent.glob("CKPT*")):
            return {}
        found = {"minutes": 0}
        if path.exists():
            known = read_json(path, ADVICE)
            try:
                for key in ("number_of_epochs", "batches_per_epoch"):
                    found[key] = int(known["options"][key])
            except (LookupError, TypeError, ValueError) as error:
                raise InputError(f"{path} is damaged; {ADVICE}.") from error
        return found

    def keep(self, overrides, lists, start=""):
        """Refuse another run in the folder, or write down which it is.

        Arguments
        ---------
        overrides : dict
            With the manifests; see
            :func:`amsincnet_sb.training.hparams.plain_options`.
        lists : dict
            From :func:`describe_lists`.
        start : str or None
            Fingerprint of the weights that the run starts from, empty for
            random ones; None if they are not there any more.

        Raises
        ------
        InputError
            The folder holds a run with another option, list or start, which
            the sentence names.
        """
        options = plain_options(self.hparams_file, overrides)
        path = Path(options["save_folder"], FILE)
        described = self._described(options)
        new = {"format": FORMAT, "options": described, "lists": lists}
        new["start"] = start
        known = None
        if path.exists() and any(path.parent.glob("CKPT*")):
            known = read_json(path, ADVICE)
            try:
                if start is None:
                    new["start"] = known.get("start", "")
                what = self._difference(known, overrides, new)
            except (LookupError, TypeError, AttributeError) as error:
                raise InputError(f"{path} is damaged; {ADVICE}.") from error
            if what:
                raise InputError(
                    f"{options['output_folder']} holds {what}; give another "
                    "--output_folder (--start_from takes over the weights of "
                    "this one), or remove that one."
                )
        epochs = described["number_of_epochs"]
        same = known and known["options"]["number_of_epochs"] == epochs
        if self.real and not same:
            with atomic_write(path) as file:
                json.dump(new, file, indent=1)

    @property
    def real(self):
        """Whether the run trains for good: is not debugged, or only tested."""
        debugged = self.run_opts.debug and not self.run_opts.debug_persistently
        return not (debugged or self.run_opts.test_only)

    def _described(self, options):
        """The options of a run as JSON has them."""
        described = {
            key: as_json(value, options["output_folder"])
            for key, value in options.items()
            if not is_text(key) and not str(key).startswith("__")
        }
        for key in MATTERS:
            given = key in self.run_opts.overridden_args
            if given or key not in described:
                described[key] = self.run_opts[key]
        return described | {"processes": self.processes}

    def _difference(self, known, overrides, new):
        """What else the folder holds, in words, or nothing."""
        before, now = known["options"], new["options"]
        if before["number_of_epochs"] != now["number_of_epochs"]:
            # Whatever follows from it is then that of before.
            same = {"number_of_epochs": before["number_of_epochs"]}
            now = plain_options(self.hparams_file, {**overrides, **same})
            now = self._described(now)
        plain, nested = _option_differences(before, now)
        what = _list_difference(known["lists"], new["lists"])
        start = known.get("start", "")
        if not what and start != new["start"]:
            old, here = (
                text or "random ones" for text in (start, new["start"])
            )
            what = f"a run that started from other weights ({old}, not {here})"
        if what and not plain:
            return what
        found = (plain or nested)[:SHOWN]
        return f"another run: {', '.join(found)}" if found else ""


def describe_lists(options):
    """Describe the lists of a run, which ``options`` names.

    Returns split -> :func:`amsincnet_sb.dataio.identity.describe_list`;
    without "valid" where no utterance is held out. Raises InputError for a
    speaker who is tested or watched, but not trained.
    """
    found, trained = {}, None
    for split in SPLITS:  # "train" is the first
        if split == "valid" and not options["validation_sentences"]:
            continue
        path = options[f"{split}_annotation"]
        rows = read_manifest(path, trained)
        trained = trained or {row.spk_id for row in rows}
        found[split] = describe_list(path, rows, options["data_folder"])
    return found


@contextlib.contextmanager
def manifests_put_back(options):
    """Put the manifests of a folder's run back if another run is refused.

    A corpus is prepared before it can be compared with that of the run.
    """
    paths = [Path(options[f"{split}_annotation"]) for split in SPLITS]
    paths.append(paths[0].parent / Provenance.FILE)
    started = Path(options["save_folder"], FILE).exists()
    before = {
        path: path.read_bytes() if path.is_file() else None
        for path in paths * started
    }
    try:
        yield
    except InputError:
        for path, content in before.items() if if_main_process() else ():
            if content is None:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_bytes() != content:
                with atomic_write(path, "wb") as file:
                    file.write(content)
        raise


def _list_difference(before, now):
    for split, name in SPLITS.items():
        old, new = before.get(split), now.get(split)
        if old == new:
            continue
        if old is None or new is None:
            return f"a run {'without' if old is None else 'with'} a {name} list"
        counts = (
            f"its {name} list has {old['utterances']} utterances of "
            f"{old['speakers']} speakers, this one {new['utterances']} of "
            f"{new['speakers']}"
        )
        if old["names"] != new["names"]:
            return f"a run on other speakers ({counts})"
        if old["rows"] != new["rows"]:
            return f"a run on other utterances ({counts})"
        return f"a run on other recordings (those of its {name} list changed)"
    return ""


def _option_differences(before, now):
    """In words, those of keys' own values and those of arguments of objects."""
    joint = [o["batch_size"] * o["processes"] for o in (before, now)]
    left_out = _LEFT_OUT | ({"batch_size"} if joint[0] == joint[1] else set())
    plain, nested = [], []
    # Earlier versions' runs lack keys that came later.
    before = {**_PLAIN_LATER, **before}
    for key in before:
        if key in now and key not in left_out:
            old, new = before[key], now[key]
            found = nested if isinstance(old, dict) else plain
            found.extend(_leaves(key, old, new))
    return plain, nested


def _leaves(name, old, new):
    alike = isinstance(old, dict) and isinstance(new, dict)
    if alike and _same_kind(old.get("!"), new.get("!")):
        for key in dict.fromkeys([*old, *new]):
            if key != "!":
                before = old.get(key, _LATER.get(key))
                yield from _leaves(f"{name}.{key}", before, new.get(key))
    elif old != new:
        old, new = (_shown(value) for value in (old, new))
        yield f"{name} is {old} there and {new} here"


def _same_kind(old, new):
    now = f"!apply:amsincnet_sb.lobes.heads.{_BECAME.get(old)}"
    return new in (old, now)


def _shown(value):
    if isinstance(value, dict):
        value = value.get("!", "a mapping")
    return "absent" if value is None else str(value)


def as_json(tree, folder):
    """A tree of ruamel.yaml as JSON has it.

    A tag becomes a key "!", and paths in the output folder, relative to it.
    """
    tag = getattr(getattr(tree, "tag", None), "value", None)
    if isinstance(tree, dict):
        plain = {str(k): as_json(v, folder) for k, v in tree.items()}
    elif isinstance(tree, list):
        plain = [as_json(value, folder) for value in tree]
    elif isinstance(tree, str):
        plain = tree.replace(os.path.join(folder, ""), "")
    elif tree is None or isinstance(tree, (bool, int, float)):
        plain = tree
    else:
        plain = str(getattr(tree, "value", tree))
    if not tag:
        return plain
    return {"!": tag, **(plain if isinstance(plain, dict) else {"": plain})}

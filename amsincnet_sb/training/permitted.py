"""The options of a recipe: what each may be, and which may change in a run.

:data:`PERMITTED` is the one table of both; :func:`check_options` is asked
before anything is written or allocated.
"""

import math
from dataclasses import dataclass

from amsincnet_sb.dataio.codecs import CODECS
from amsincnet_sb.lobes.heads import LOSSES, check_subcentres
from amsincnet_sb.lobes.sinc_tdnn import SINC_NORMS
from amsincnet_sb.nnet.filterbanks import FILTERS
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "HOW",
    "PERMITTED",
    "check_options",
    "is_path",
    "is_text",
    "permitted",
]

PATHS = ("_folder", "_file", "_annotation", "_log", "manifest", "_from")
LARGEST_BATCH = 2**31  # samples: 8 GiB in float32
LARGEST_MATRIX = 2**30  # weights: 4 GiB in float32

#: Options that say how a run is computed, stored or watched, not what it is:
#: a run may be continued with others.
HOW = {
    "skip_prep",
    "max_resident_gb",
    "tensorboard",
    "valid_interval",
    "windows_per_batch",
    "capture_step",
    "compile_step",
    "sync_batchnorm",
    "precision",
    "eval_precision",
}


@dataclass(frozen=True)
class Number:
    """A number in a range; ``above`` excludes its lower end.

    Example
    -------
    >>> Number(0, 1, above=True).accepts(0), str(Whole(1, 9))
    (False, 'a whole number of at least 1 and at most 9')
    """

    low: float
    high: float
    above: bool = False

    kinds, noun = (int, float), "a number"

    def accepts(self, value):
        """Whether the value is such a number; NaN and True are not."""
        if isinstance(value, bool) or not isinstance(value, self.kinds):
            return False
        return self.low <= value <= self.high and not (
            self.above and value == self.low
        )

    def __str__(self):
        start = "above" if self.above else "of at least"
        return (
            f"{self.noun} {start} {self.low:g} and at most {_shown(self.high)}"
        )


@dataclass(frozen=True)
class Whole(Number):
    """A whole number in a range, both ends included."""

    kinds, noun = (int,), "a whole number"


@dataclass(frozen=True)
class Wholes:
    """A list of whole numbers in a range."""

    each: Whole

    def accepts(self, value):
        """Whether the value is such a list; an empty one is not."""
        listed = isinstance(value, list) and 0 < len(value) <= 64
        return listed and all(map(self.each.accepts, value))

    def __str__(self):
        return f"a list of up to 64, each {self.each}"


@dataclass(frozen=True)
class OneOf:
    """One of a few values."""

    values: tuple

    def accepts(self, value):
        """Whether the value is one of them, and of its type."""
        return any(value == v and type(value) is type(v) for v in self.values)

    def __str__(self):
        return " or ".join(map(str, self.values))


@dataclass(frozen=True)
class Shares:
    """Shares of a whole, by name."""

    names: tuple

    def accepts(self, value):
        """Whether the value maps some of the names to such shares."""
        return (
            isinstance(value, dict)
            and all(name in self.names for name in value)
            and all(map(SHARE.accepts, value.values()))
            and sum(value.values()) <= 1
        )

    def __str__(self):
        return (
            f"a share of each of some of {', '.join(self.names)}, at most 1 "
            "together, as in {" + self.names[0] + ": 0.1}"
        )


class Text:
    """Text; also of paths."""

    def accepts(self, value):
        """Whether it is text."""
        return isinstance(value, str)

    def __str__(self):
        return "text (in a file: in quotes)"


SWITCH = OneOf((True, False))
SIZE = Whole(1, 2**16)
SIZES = Wholes(SIZE)
COUNT = Whole(1, 10**9)
RATE = Number(0, 1e38, above=True)
SHARE = Number(0, 1)

#: Key -> what it may be. The arguments of objects stand under their own names,
#: or as ``object.argument`` where that is ambiguous.
PERMITTED = {
    "seed": Whole(0, 2**32 - 1),
    "tensorboard": SWITCH,
    # corpus
    "all_speakers": SWITCH,
    "balance_speakers": SWITCH,
    "validation_sentences": Whole(0, 10**6),
    "skip_prep": SWITCH,
    "max_resident_gb": Number(0, 10**6),
    "n_speakers": Whole(1, 10**6),
    # training
    "minutes": Number(0, 10**6),
    "number_of_epochs": Whole(1, 10**6),
    "batches_per_epoch": Whole(1, 10**7),
    "batch_size": Whole(2, 2**16),
    "valid_interval": Whole(1, 10**6),
    "total_steps": Whole(1, 10**13),
    "max_grad_norm": Number(0, math.inf, above=True),
    "capture_step": SWITCH,
    "compile_step": SWITCH,
    "sharpness_radius": Number(0, 1000),
    "sync_batchnorm": SWITCH,
    "precision": OneOf(("auto", "fp32", "fp16", "bf16")),
    "eval_precision": OneOf(("auto", "fp32", "fp16", "bf16")),
    "loss": OneOf(tuple(LOSSES)),
    "subcentres": Whole(1, 64),
    "margin": SHARE,
    "margin_schedule": OneOf((None,)),
    "margin_schedule.final": SHARE,
    "ramp_steps": Whole(0, 10**13),
    "scale": Number(0, 1000, above=True),
    "lr": RATE,
    "lr_final": Number(0, 1e38),
    "lr_schedule.peak": RATE,
    "lr_schedule.final": Number(0, 1e38),
    "warmup_steps": Whole(0, 10**13),
    "cutoff_lr_factor": Number(0, 10**6),
    "weight_decay": Number(0, 1),
    "fused": SWITCH,
    "alpha": Number(0, 1),
    "eps": Number(0, 1),
    "momentum": SHARE,
    "linears": SWITCH,
    "equalizer_std_db": Number(0, 100),
    "std_db": Number(0, 100),
    "snr_low": Number(-200, 200),
    "snr_high": Number(-200, 200),
    "mixture_probability": SHARE,
    "splice_probability": SHARE,
    "codecs": Shares(tuple(CODECS)),
    "probability": SHARE,
    # evaluation
    "windows_per_batch": Whole(1, 2**20),
    "released_evaluation": SWITCH,
    # model
    "sample_rate": Whole(1000, 384_000),
    "window": Whole(1, 2**22),
    "hop": Whole(1, 2**22),
    "filters": OneOf(tuple(FILTERS)),
    "sinc_norm": OneOf(SINC_NORMS),
    "cnn_channels": SIZES,
    "cnn_kernel_sizes": SIZES,
    "cnn_pools": SIZES,
    "sinc_channels": SIZE,
    "sinc_kernel_size": SIZE,
    "sinc_pool": SIZE,
    "log_floor": Number(0, 1),
    "band_mask": Whole(0, 2**16),
    "tdnn_channels": SIZES,
    "tdnn_kernel_sizes": SIZES,
    "tdnn_strides": SIZES,
    "embedding_size": SIZE,
    "fc_neurons": SIZES,
    "dropout": Number(0, 1),
    "linear_embedding": SWITCH,
    "released_init": SWITCH,
    "negative_slope": SHARE,
    "min_low_hz": Number(0, 10**5),
    "min_band_hz": Number(0, 10**5),
    "input_size": SIZE,
    "out_neurons": Whole(1, 10**6),
    # bookkeeping
    "limit": Whole(1, 10**6),
    "train_logger.precision": Whole(0, 17),
    # of SpeechBrain's run options
    "grad_accumulation_factor": COUNT,
    "nonfinite_patience": Whole(0, 10**9),
    "debug_batches": COUNT,
    "profile_steps": COUNT,
    "profile_warmup": Whole(0, 10**9),
}


def is_path(key):
    """Whether a key of a recipe holds a path, which its name's end tells."""
    return str(key).endswith(PATHS)


def is_text(key):
    """Whether a value on the command line is text, not yaml."""
    return is_path(key) or key == "experiment"  # a part of a path


def permitted(path):
    """What a key, with those it lies within, may be; None if not known.

    Example
    -------
    >>> str(permitted(["opt_class", "lr"]))
    'a number above 0 and at most 1e+38'
    """
    key = path[-1]
    if is_text(key) or key == "checkpoints_dir":
        return Text()
    return PERMITTED.get(".".join(path), PERMITTED.get(key))


def check_options(options):
    """Refuse values that cannot be, alone or together.

    They are out of their range, contradict each other, or are sizes that no
    memory holds.

    Arguments
    ---------
    options : dict
        Plain values of the recipe, as
        :func:`amsincnet_sb.training.hparams.plain_options` gives them, or of
        ``run_opts``; keys that :data:`PERMITTED` has not are passed over.

    Raises
    ------
    InputError
        Names the key and what it may be.

    Example
    -------
    >>> check_options({"batch_size": 128, "dropout": 1.5})
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: dropout is 1.5 but must be a number ...
    """
    _check(options, [])
    window = options.get("window", 1)
    for key in ("batch_size", "windows_per_batch"):
        if options.get(key, 1) * window > LARGEST_BATCH:
            raise InputError(
                f"{key} is {options[key]}, but with a window of {window} "
                f"samples must be at most {LARGEST_BATCH // window}."
            )
    for key, weights in _matrices(options):
        if weights > LARGEST_MATRIX:
            raise InputError(
                f"{key} is {_shown(options[key])}: a layer would have "
                f"{weights} weights, but may have {LARGEST_MATRIX}."
            )
    if "loss" in options:
        check_subcentres(options["loss"], options.get("subcentres", 1))
    if {"embedding_size", "fc_neurons"} <= options.keys():
        size, last = options["embedding_size"], options["fc_neurons"][-1]
        if size != last:
            raise InputError(
                f"embedding_size is {size} but the last of fc_neurons is "
                f"{last}; make them equal."
            )


def _matrices(options):
    """(key, number of weights) of the layers whose sizes are keys."""
    for kind in ("cnn", "tdnn"):
        sizes = options.get(f"{kind}_channels", [])
        kernels = options.get(f"{kind}_kernel_sizes", [])
        for first, second, kernel in zip(sizes, sizes[1:], kernels[1:]):
            yield f"{kind}_channels", first * second * kernel
    dense = options.get("fc_neurons", [])
    if dense and {"window", "cnn_channels", "cnn_pools"} <= options.keys():
        length = options["window"] // math.prod(options["cnn_pools"])
        dense = [length * options["cnn_channels"][-1], *dense]
    for first, second in zip(dense, dense[1:]):
        yield "fc_neurons", first * second
    if "embedding_size" in options:
        count = options.get("n_speakers", 1)
        yield "embedding_size", options["embedding_size"] * count


def _check(tree, path):
    for key, value in tree.items():
        here = [*path, str(key)]
        kind = permitted(here)
        if isinstance(value, dict) and _tag(value):
            _check(value, here)
        elif isinstance(value, list) and kind is None:
            for part in value:
                if isinstance(part, dict):
                    _check(part, here)
        elif kind is not None and not _tag(value) and not kind.accepts(value):
            raise InputError(
                f"{'.'.join(here)} is {_shown(value)} but must be {kind}."
            )


def _shown(value):
    """A value as a person writes it, not longer than a line."""
    if isinstance(value, float) and value == math.inf:
        return "infinity"
    text = repr(value)
    if isinstance(value, (list, int, float)) and not isinstance(value, bool):
        text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tag(node):
    """The tag of a node of ruamel.yaml, such as ``!new:list``, or nothing."""
    return getattr(getattr(node, "tag", None), "value", None) or ""

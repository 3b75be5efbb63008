"""What a recipe checks before it trains."""

import math
from dataclasses import replace

import speechbrain as sb
from torch.nn import Module

from amsincnet_sb.nnet.losses import MarginWarmup
from amsincnet_sb.training.checkpoints import steps_done
from amsincnet_sb.training.device import own_device
from amsincnet_sb.training.distributed import common_error, world_size
from amsincnet_sb.training.permitted import check_options
from amsincnet_sb.utils.errors import InputError

__all__ = [
    "check_length",
    "check_lists",
    "check_network",
    "check_profiling",
    "check_run_options",
    "check_sharpness",
    "given_run_options",
    "step_changes",
]

logger = sb.utils.logger.get_logger(__name__)


def check_run_options(run_opts):
    """Refuse options that this recipe cannot honour; choose the device.

    Arguments
    ---------
    run_opts : RunOptions
        From speechbrain.parse_arguments.

    Returns
    -------
    RunOptions
        With the device of this process.
    """
    check_options(run_opts.as_dict())
    limit = run_opts["optimizer_step_limit"]
    if isinstance(limit, str):  # SpeechBrain's parser knows no type for it
        if not (limit.isdecimal() and int(limit)):
            raise InputError(
                f"--optimizer_step_limit is {limit!r} but must be a whole "
                "number from 1."
            )
        run_opts = replace(run_opts, optimizer_step_limit=int(limit))
    if run_opts["grad_accumulation_factor"] != 1:
        raise InputError(
            "--grad_accumulation_factor: a step here is one batch, by which "
            "schedules and what is drawn go; give a larger --batch_size."
        )
    if run_opts["jit"] or run_opts["jit_module_keys"]:
        raise InputError(
            "--jit: TorchScript cannot compile this model's kernels; leave it "
            "out, or use --compile."
        )
    return replace(run_opts, device=own_device(run_opts["device"]))


def given_run_options(run_opts, options):
    """Options of SpeechBrain on the command line that are keys as well.

    Such as ``precision``: as overrides they get into ``hyperparams.yaml``,
    which repeats the run.

    Arguments
    ---------
    run_opts : RunOptions
        From the command line.
    options : dict
        Plain values of the recipe.

    Returns
    -------
    dict

    Example
    -------
    >>> options = {"precision": "auto", "seed": 1}
    >>> given = sb.utils.run_opts.RunOptions.from_dictionary(
    ...     {"precision": "bf16", "device": "cpu"}
    ... )
    >>> given_run_options(given, options)
    {'precision': 'bf16'}
    """
    both = run_opts.overridden_args & options.keys()
    return {key: run_opts[key] for key in sorted(both)}


def step_changes(option):
    """SpeechBrain's options that change the training step.

    Arguments
    ---------
    option : callable
        Gives the value of a run option by its name.

    Returns
    -------
    dict
        Whether each is given.

    Example
    -------
    >>> given = step_changes(sb.utils.run_opts.RunOptions().__getitem__)
    >>> any(given.values()), *given
    (False, '--compile or --jit', '--data_parallel_backend', \
'--precision=fp16', '--grad_accumulation_factor', '--skip_nonfinite_grads', \
'--profile_training')
    """
    return {
        "--compile or --jit": option("compile") or option("jit"),
        "--data_parallel_backend": option("data_parallel_backend"),
        "--precision=fp16": option("precision") == "fp16",
        "--grad_accumulation_factor": option("grad_accumulation_factor") != 1,
        "--skip_nonfinite_grads": option("skip_nonfinite_grads"),
        "--profile_training": option("profile_training"),
    }


def check_sharpness(radius, option):
    """Refuse sharpness-aware minimisation where the step is SpeechBrain's.

    Arguments
    ---------
    radius : float
        See :class:`~amsincnet_sb.training.sharpness.Sharpness`.
    option : callable
        Gives the value of a run option by its name.
    """
    given = [name for name, given in step_changes(option).items() if given]
    if radius > 0 and given:
        raise InputError(
            f"sharpness_radius is {radius:g} and cannot be combined with "
            f"{given[0]}; leave it out, or give --sharpness_radius=0."
        )


def check_length(hparams):
    """Refuse fewer epochs than a run that goes on has trained already.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    """
    epochs, length = hparams["number_of_epochs"], hparams["batches_per_epoch"]
    done = steps_done(hparams["checkpointer"])
    if done > epochs * length:
        raise InputError(
            f"{hparams['output_folder']} holds a run that has trained {done} "
            f"steps; with number_of_epochs of {epochs} it would have "
            f"{epochs * length}: give at least {math.ceil(done / length)}, or "
            "another --output_folder."
        )


def check_profiling(hparams, option):
    """Refuse a profile of more steps than the epoch has.

    SpeechBrain starts the profiler in each epoch, and torch's cannot be
    started twice.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    option : callable
        Gives the value of a run option by its name.
    """
    if not option("profile_training"):
        return
    length = hparams["batches_per_epoch"]
    left = length - steps_done(hparams["checkpointer"]) % length
    if option("debug"):
        left = min(left, option("debug_batches"))
    steps = option("profile_warmup") + option("profile_steps")
    if steps > left:
        raise InputError(
            f"--profile_training takes {steps} steps (profile_warmup and "
            f"profile_steps), but the epoch has {left}; give fewer of them, or "
            "more --batches_per_epoch."
        )


def check_lists(options, overrides):
    """Refuse single lists of a command line beside ``manifest``, which has all.

    Arguments
    ---------
    options : dict
        Plain values of the recipe.
    overrides : dict
        Keys of the command line.
    """
    given = [key for key in overrides if key.endswith("_annotation")]
    if options["manifest"] and given:
        raise InputError(
            f"--{given[0]} has no effect beside the manifest "
            f"{options['manifest']}, which has a list of its own; prepare the "
            "list with `amsincnet prepare`, and give its folder as --manifest."
        )


def check_network(hparams):
    """Log the network; refuse losses that do not fit this loop.

    Those that several processes cannot share, and one that counts its calls:
    a step may be a replay without a call, or call it twice.

    Arguments
    ---------
    hparams : dict
        The hyperparameters.
    """
    network = hparams["embedding_model"]
    loss = hparams["compute_cost"]
    parts = loss.modules() if isinstance(loss, Module) else ()
    if any(isinstance(part, MarginWarmup) for part in parts):
        raise common_error(
            "compute_cost is a MarginWarmup, which counts its calls, and a "
            "step here may have none or two; make the loss in it the "
            "compute_cost, and a LinearRamp its margin_schedule."
        )
    if world_size() > 1 and isinstance(loss, Module) and loss.state_dict():
        raise common_error(
            f"The loss {type(loss).__name__} follows the batches of one "
            "process; train with one, or with another --loss."
        )
    parameters = sum(
        parameter.numel()
        for module in hparams["modules"].values()
        for parameter in module.parameters()
    )
    logger.info(
        "Network: %s, %.1f M parameters with its classifier (%d speakers).",
        type(network).__name__,
        parameters / 1e6,
        hparams["n_speakers"],
    )

"""The command line of a recipe.

SpeechBrain's parser joins all options to one yaml text, in which ``run #2`` is
``run``, ``2024_11_28`` a number, ``a=b`` is ``a b``, and one bad value spoils
the rest. Here each value is read by itself, and a path is text.
"""

import contextlib
import io
import os
import re

import speechbrain as sb
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import RunOptions

from amsincnet_sb.training.permitted import is_path, is_text
from amsincnet_sb.training.recipe_files import find_hparams
from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import absolute

__all__ = ["parse_arguments"]

RUN_OPTIONS = {"help", *RunOptions().as_dict()}
# What not even a quoted scalar of yaml keeps, or no file name has.
_UNUSABLE = re.compile("[\0\x85\ud800-\udfff]")


def parse_arguments(arguments):
    """Read a recipe's command line, as ``speechbrain.parse_arguments``.

    Arguments
    ---------
    arguments : list of str
        ``sys.argv[1:]``. Keys of the recipe are written ``--key=value`` or
        ``--key value``, hyphens in a key are underscores. A path is taken
        literally, but for a leading ``~``; other values are yaml.

    Returns
    -------
    hparams_file : str
        By :func:`~amsincnet_sb.training.recipe_files.find_hparams`.
    run_opts : RunOptions
    overrides : dict

    Raises
    ------
    InputError
        There is no such file, or a key has no value or two, or a value that
        cannot be read.

    Example
    -------
    >>> line = ["my/a.yaml", "--output-folder=run #2", "--sizes", "[1, 2]"]
    >>> file, run_opts, overrides = parse_arguments([*line, "--debug"])
    >>> file, run_opts.debug, overrides
    ('my/a.yaml', True, {'output_folder': 'run #2', 'sizes': [1, 2]})
    """
    overrides, others, pending = {}, [], list(arguments)
    while pending:
        argument = pending.pop(0)
        key, equals, text = argument.removeprefix("--").partition("=")
        key = key.replace("-", "_")
        if not argument.startswith("--"):
            others.append(argument)
            continue
        if key in RUN_OPTIONS:
            others.append(f"--{key}{equals}{text}")
            continue
        if not equals and pending and not pending[0].startswith("--"):
            text = pending.pop(0)
        if key in overrides:
            raise InputError(f"The command line has --{key} twice; give one.")
        overrides[key] = _value(key, text)
    hparams_file, run_opts, rest = _speechbrains(others)
    if rest:
        raise InputError(
            f"The command line has {rest!r} where --key=value was expected."
        )
    return find_hparams(hparams_file), run_opts, overrides


def _speechbrains(arguments):
    """SpeechBrain's parser, whose complaint is one sentence here."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return sb.parse_arguments(arguments)
    except SystemExit as stopped:
        if not stopped.code:
            raise  # after --help
        *_, problem = complaint.getvalue().strip().rpartition("error: ")
        if "param_file" in problem:
            problem = "a configuration (`amsincnet hparams` lists them) or the"
            problem += " path of a hyperparameter file is missing"
        raise InputError(f"The command line: {problem}.") from stopped


def _path(text):
    """As it was typed, unless logging would take link/../a for another."""
    path = os.path.expanduser(text)
    found = absolute(path)
    return path if found == os.path.abspath(path) else found


def _value(key, text):
    if is_text(key):
        if _UNUSABLE.search(text):
            raise InputError(
                f"--{key} is {text!r}, which has characters that are not of "
                "UTF-8 or that yaml cannot keep; give the path another name."
            )
        value = _path(text) if is_path(key) else text
    else:
        try:
            value = YAML().load(text)
        except (YAMLError, ValueError, RecursionError) as error:
            problem = getattr(error, "problem", None) or error
            raise InputError(
                f"--{key}={text} cannot be read as yaml: "
                f"{str(problem).splitlines()[0]}; put a text in quotes."
            ) from error
    if value is None or not text:
        raise InputError(
            f"The command line has --{key} without a value; write "
            f"--{key}=VALUE (True or False for a switch)."
        )
    return value

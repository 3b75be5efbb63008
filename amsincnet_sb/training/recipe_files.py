"""Where the recipes and their hyperparameter files are.

In a clone they are the repository's own; a wheel has copies (see setup.py).
"""

import importlib.util
import os
import sys
from pathlib import Path

from amsincnet_sb.utils.errors import InputError, did_you_mean

__all__ = ["HPARAMS", "RECIPES", "find_hparams", "recipe_module"]

_PACKAGE = Path(__file__).absolute().parents[1]
_COPY = _PACKAGE / "recipes"
RECIPES = _COPY if _COPY.is_dir() else _PACKAGE.parent / "recipes"
HPARAMS = RECIPES / "TIMIT" / "speaker_id" / "hparams"


def find_hparams(name):
    """The hyperparameter file that a name or path on a command line means.

    A file that exists where the user is comes first, then one of the package;
    ``.yaml`` may be left out of either name.

    Raises
    ------
    InputError
        A name without a folder is neither; the sentence tells one like it.

    Example
    -------
    >>> os.path.basename(find_hparams("am_sincnet_m005"))
    'am_sincnet_m005.yaml'
    >>> find_hparams("am_sincnet_m05")
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: am_sincnet_m05 is no file and no ...
    """
    for path in (name, f"{name}.yaml"):
        if os.path.isfile(path):
            return path
    if os.path.basename(name) != name:
        return name  # whoever reads it says what is wrong
    ours = {path.stem: str(path) for path in HPARAMS.glob("*.yaml")}
    wanted = name.removesuffix(".yaml")
    if wanted in ours:
        return ours[wanted]
    raise InputError(
        f"{name} is no file and no configuration of the package, which "
        f"`amsincnet hparams` lists{did_you_mean(wanted, ours)}"
    )


def recipe_module(name):
    """A script of the recipes, such as ``TIMIT/demo_corpus.py``, as a module."""
    path = RECIPES / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

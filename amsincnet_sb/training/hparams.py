"""Reading hyperparameter files before HyperPyYAML makes objects of them.

A recipe's yaml is either complete or includes a complete one under the key
``recipe`` and changes some of its keys::

    margin: 0.05
    recipe: !include:am_sincnet.yaml
        margin: !ref <margin>

HyperPyYAML loads both. It accepts any key, though, so misspelt ones are found
here, and options of the command line are put where they take effect.
"""

import difflib
import os
import re

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from amsincnet_sb.utils.errors import InputError

__all__ = ["parse_overrides", "place_overrides", "plain_options"]

RECIPE = "recipe"
INCLUDE = "!include:"
COMMAND_LINE = "The command line"


def parse_overrides(overrides):
    """The yaml text of ``speechbrain.parse_arguments`` as a mapping.

    An InputError if it is not a mapping, or a key has no value.
    """
    if isinstance(overrides, str):
        try:
            overrides = YAML().load(overrides)
        except (YAMLError, ValueError, RecursionError) as error:
            raise InputError(
                "The options on the command line cannot be read as yaml: "
                f"{_one_line(error)}; write them as --key=value."
            ) from error
    if overrides is not None and not isinstance(overrides, dict):
        raise InputError(
            f"The command line has {str(overrides)!r} where --key=value was "
            "expected."
        )
    for key, value in (overrides or {}).items():
        if value is None:
            raise InputError(
                f"The command line has --{key} without a value; write "
                f"--{key}=VALUE (True or False for a switch)."
            )
    return dict(overrides or {})


def place_overrides(hparams_file, overrides):
    """Overrides for ``load_hyperpyyaml``, checked and put where they belong.

    A key that an included file has goes into the overrides of that file too.
    An InputError for a file that is missing or is not yaml, files that include
    each other, and keys that the recipe does not have.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text("margin: 0.5\\nscale: 30")
    >>> file = folder / "m.yaml"
    >>> _ = file.write_text("recipe: !include:base.yaml\\n    margin: 0.1")
    >>> place_overrides(str(file), {"scale": 20})
    {'recipe': {'scale': 20}}
    >>> place_overrides(str(file), {"scal": 20})
    Traceback (most recent call last):
        ...
    amsincnet_sb.utils.errors.InputError: The command line: there is no key ...
    """
    return _place(_trees(hparams_file), overrides, hparams_file)


def plain_options(hparams_file, overrides, hints=None):
    """The recipe's values, without making its objects.

    References are resolved; what carries a tag such as ``!new:`` stays
    text. For what a recipe does before it loads the file. ``hints`` has the
    advice to the user by key left at ``!PLACEHOLDER``; such a key, and a
    reference that leads nowhere, is an InputError.

    Example
    -------
    >>> file = getfixture("tmp_path") / "a.yaml"
    >>> _ = file.write_text("a: 3\\nb: !ref <a>/x\\nc: !new:list")
    >>> options = plain_options(str(file), {"a": 4})
    >>> options["a"], options["b"]
    (4, '4/x')
    """
    trees = _trees(hparams_file)
    placed = _place(trees, overrides, hparams_file)
    values = {}
    for path, tree in reversed(trees):
        values.update({key: (path, value) for key, value in tree.items()})
        changes = tree.get(RECIPE, {})
        values.update({key: (path, value) for key, value in changes.items()})
    for key, (path, value) in values.items():
        if _tag(value) == "!PLACEHOLDER" and key not in overrides:
            hint = (hints or {}).get(key, f"give one with --{key}=VALUE.")
            raise InputError(f"{path}: `{key}` has no value yet; {hint}")
    try:
        with open(hparams_file, encoding="utf-8") as file:
            resolved = YAML().load(resolve_references(file, placed))
    except YAMLError as error:
        reason = _one_line(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    except (ValueError, KeyError, RecursionError) as error:
        reason = str(error.args[0]).rstrip(".")
    else:
        while RECIPE in resolved:
            resolved = resolved[RECIPE]
        return dict(resolved)
    raise InputError(f"{hparams_file} cannot be resolved: {reason}.")


def _place(trees, overrides, hparams_file):
    """The overrides of each tree, those of an included one within."""
    known = {}
    for _, tree in reversed(trees):
        known.update(tree)
    _check_keys(overrides, known, COMMAND_LINE, hparams_file)

    placed = None
    for _, tree in reversed(trees):
        mine = _following(tree, overrides)
        _merge(mine, {k: v for k, v in overrides.items() if k in tree})
        if placed is not None:
            mine[RECIPE] = placed
        placed = mine
    return placed


def _trees(hparams_file):
    """(path, tree) of a file, of the one it includes, and so on."""
    path = os.fspath(hparams_file)
    trees, seen = [(path, _read(path))], [os.path.realpath(path)]
    while RECIPE in trees[-1][1]:
        path, tree = trees[-1]
        recipe = tree[RECIPE]
        if not _tag(recipe).startswith(INCLUDE):
            # The yaml of a finished run, in which the file was included.
            if not isinstance(recipe, dict):
                raise InputError(
                    f"{path}: `{RECIPE}` must be {INCLUDE}FILE.yaml."
                )
            trees.append((path, recipe))
            continue
        base = _tag(recipe)[len(INCLUDE) :]
        base = os.path.join(os.path.dirname(path), base)
        if os.path.realpath(base) in seen:
            raise InputError(f"{path}: {base} includes it in turn.")
        seen.append(os.path.realpath(base))
        trees.append((base, _read(base)))
        if not isinstance(recipe, dict):  # HyperPyYAML could not override it
            raise InputError(
                f"{path}: `{RECIPE}` must change at least one key of {base}."
            )
        _check_keys(recipe, trees[-1][1], path, base)
    return trees


def _following(tree, overrides):
    """Overrides with which the paths of a finished run follow its folder.

    The yaml of a finished run has every path spelled out; repeated from it
    with another folder, the run would write into the first one.
    """
    old, new = tree.get("output_folder"), overrides.get("output_folder")
    if new is None or not isinstance(old, str):
        return {}

    def follow(value):
        """The value with the new folder; None where nothing changes."""
        if isinstance(value, dict):
            found = {key: follow(each) for key, each in value.items()}
            return {k: v for k, v in found.items() if v is not None} or None
        if isinstance(value, list):
            found = [follow(each) for each in value]
            if all(each is None for each in found):
                return None
            return [b if a is None else a for a, b in zip(found, value)]
        if isinstance(value, str) and value.startswith(os.path.join(old, "")):
            return os.path.join(str(new), value[len(old) :].lstrip(os.sep))
        return None

    return follow({k: v for k, v in tree.items() if k != RECIPE}) or {}


def _merge(into, changes):
    """Mappings key by key, anything else as a whole."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _read(path):
    """The tree of a yaml file, with its tags."""
    try:
        with open(path, encoding="utf-8") as file:
            tree = YAML().load(file)
    except OSError as error:
        raise InputError(
            f"{path}: this hyperparameter file cannot be read "
            f"({error.strerror})."
        ) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a yaml file: {_one_line(error)}."
        ) from error
    except NotImplementedError as error:  # of ruamel.yaml, which keeps comments
        line = re.search(r"line: ([0-9]+)", str(error))
        where = f", line {int(line[1]) + 1}" if line else ""
        raise InputError(
            f"{path}{where}: a comment stands where it cannot be kept; give it "
            "a line of its own."
        ) from error
    if not isinstance(tree, dict):
        raise InputError(
            f"{path} is not a hyperparameter file: it must hold `key: value` "
            "lines."
        )
    return tree


def _check_keys(changes, base, where, base_file, prefix=""):
    """Every changed key must be one of the base's, with its tag."""
    for key, value in changes.items():
        at = where if where == COMMAND_LINE else where + _line(changes, key)
        if key not in base or (key == RECIPE and not prefix):
            near = difflib.get_close_matches(str(key), map(str, base), 1)
            meant = f"; did you mean `{prefix}{near[0]}`?" if near else "."
            raise InputError(
                f"{at}: there is no key `{prefix}{key}` in {base_file}{meant}"
            )
        if isinstance(value, dict) and isinstance(base[key], dict):
            # HyperPyYAML would merge the arguments and keep the base's tag.
            new, old = _tag(value), _tag(base[key])
            if new and new != old:
                raise InputError(
                    f"{at}: `{prefix}{key}` is {old or 'a mapping'} in "
                    f"{base_file} and cannot become {new}; change it in a "
                    "copy of that file."
                )
            _check_keys(value, base[key], where, base_file, f"{prefix}{key}.")


def _one_line(error):
    """A yaml error in one line, with its place."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).split("\n")[0]
    return f"{problem}{place}"


def _line(changes, key):
    """Where a key of a file is; unknown if it was merged in by `<<`."""
    place = (changes.lc.data or {}).get(key)
    return f" (line {place[0] + 1})" if place else ""


def _tag(node):
    """The HyperPyYAML tag of a node, such as `!new:list`, or nothing."""
    return getattr(getattr(node, "tag", None), "value", None) or ""

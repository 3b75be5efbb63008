"""Small hyperparameter files that change a few keys of a larger one."""

import difflib
import os
import re

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.error import YAMLError

from amsincnet_sb.utils.errors import InputError
from amsincnet_sb.utils.files import atomic_write

__all__ = ["follow_folder", "plain_options", "resolve_overlay"]

COMMAND_LINE = "The command line"


def resolve_overlay(hparams_file, overrides=None):
    """Turn an overlay into its base file and the changes to it.

    An overlay is a HyperPyYAML file with a key ``base``, the file it changes
    (relative to its own folder, and possibly an overlay itself), and the keys
    it changes. HyperPyYAML has no such thing at the root of a file; with
    this, everything after it is SpeechBrain's own: ``load_hyperpyyaml(base,
    overrides)`` and ``create_experiment_directory``.

    Arguments
    ---------
    hparams_file : str or Path
        An overlay, or any other HyperPyYAML file, which is its own base.
    overrides : str or dict, optional
        Further changes, which win: what ``speechbrain.parse_arguments``
        returns for the command line.

    Returns
    -------
    base_file : str
        Path of the file that is not an overlay.
    overrides : dict
        All changes to it, with their HyperPyYAML tags.

    Raises
    ------
    InputError
        For a file that is missing or is not yaml, bases in a circle, and
        keys that the base does not have.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "base.yaml").write_text("margin: 0.5\\nscale: 30")
    >>> _ = (folder / "m.yaml").write_text("base: base.yaml\\nmargin: 0.1")
    >>> base, changes = resolve_overlay(folder / "m.yaml", "scale: 20")
    >>> base.endswith("base.yaml"), dict(changes)
    (True, {'margin': 0.1, 'scale': 20})
    """
    path = os.fspath(hparams_file)
    layers = [(_parse_overrides(overrides), COMMAND_LINE)]
    seen = []
    while True:
        if os.path.realpath(path) in seen:
            raise InputError(
                f"{path}: the files named by `base:` lead back to it; one of "
                "them must stand alone."
            )
        seen.append(os.path.realpath(path))
        tree = _read(path)
        if "base" not in tree:
            break
        base = tree.pop("base")
        layers.append((tree, path))
        path = os.path.join(os.path.dirname(path), str(base))

    merged = {}
    for layer, where in reversed(layers):
        _check_keys(layer, tree, where, path)
        _merge(merged, layer)
    return path, merged


def plain_options(hparams_file, overrides, hints=None):
    """The values of a hyperparameter file, without making its objects.

    References are resolved; what carries a tag such as ``!new:`` stays
    text. For decisions that come before the objects.

    Arguments
    ---------
    hparams_file : str
        The base file.
    overrides : dict
        From :func:`resolve_overlay`.
    hints : dict, optional
        What to tell the user about a key left at ``!PLACEHOLDER``.

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If a placeholder has not been replaced, or a reference leads nowhere.

    Example
    -------
    >>> file = getfixture("tmp_path") / "a.yaml"
    >>> _ = file.write_text("a: 3\\nb: !ref <a>/x\\nc: !new:list")
    >>> options = plain_options(str(file), {"a": 4})
    >>> options["a"], options["b"]
    (4, '4/x')
    """
    for key, value in {**_read(hparams_file), **overrides}.items():
        if _tag(value) == "!PLACEHOLDER":
            hint = f"give one with --{key}=VALUE."
            raise InputError(
                f"{hparams_file}: `{key}` has no value yet; "
                f"{(hints or {}).get(key, hint)}"
            )
    try:
        with open(hparams_file, encoding="utf-8") as file:
            resolved = YAML().load(resolve_references(file, overrides))
    except YAMLError as error:
        raise InputError(
            f"{hparams_file} cannot be resolved: {_one_line(error)}."
        ) from error
    except OSError as error:  # of an !include
        raise InputError(
            f"{hparams_file} cannot be resolved: {error.filename}: "
            f"{error.strerror}."
        ) from error
    except (ValueError, KeyError, RecursionError) as error:
        reason = str(error.args[0]).rstrip(".")
        raise InputError(
            f"{hparams_file} cannot be resolved: {reason}."
        ) from error
    return dict(resolved)


def follow_folder(file, key):
    """Have the paths in a yaml file follow the folder that a key names.

    SpeechBrain keeps the hyperparameters of a run with every path spelled
    out; repeated from them with another folder, the run would write into the
    first one. Paths within the folder become references to the key.

    Arguments
    ---------
    file : str or Path
        Changed in place; comments stay.
    key : str
        At the root of the file.

    Example
    -------
    >>> file = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = file.write_text("out: /a b\\nsave: /a b/save\\nelse: /a bc/d\\n")
    >>> follow_folder(file, "out")
    >>> print(file.read_text())
    out: /a b
    save: !ref <out>/save
    else: /a bc/d
    <BLANKLINE>
    """
    yaml = YAML()
    yaml.width = 2**16  # nothing is broken into lines
    with open(file, encoding="utf-8") as stream:
        tree = yaml.load(stream)
    folder = os.path.join(tree[key], "")

    def following(value):
        """The same, with references."""
        if isinstance(value, dict):
            for name in value:
                value[name] = following(value[name])
        elif isinstance(value, list):
            value[:] = [following(each) for each in value]
        elif isinstance(value, str) and value.startswith(folder):
            path = f"<{key}>/{value[len(folder) :]}"
            value = TaggedScalar(path, style=None, tag="!ref")
        return value

    following(tree)
    with atomic_write(file) as stream:
        yaml.dump(tree, stream)


def _parse_overrides(overrides):
    """A mapping, whether given as one or as yaml text."""
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
    return overrides or {}


def _read(path):
    """The tree of a yaml file, tags and all."""
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


def _one_line(error):
    """A yaml error in one line, with its place."""
    mark = getattr(error, "problem_mark", None)
    place = f" in line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).split("\n")[0]
    return f"{problem}{place}"


def _check_keys(layer, base, where, base_file, prefix=""):
    """Every key of a layer must be one of the base's."""
    for key, value in layer.items():
        at = where if where == COMMAND_LINE else where + _line(layer, key)
        if key not in base:
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


def _line(layer, key):
    """Where a key of a file is; unknown if it was merged in by `<<`."""
    place = (layer.lc.data or {}).get(key)
    return f" (line {place[0] + 1})" if place else ""


def _tag(node):
    """The HyperPyYAML tag of a node, such as `!new:list`, or nothing."""
    return getattr(getattr(node, "tag", None), "value", None) or ""


def _merge(into, layer):
    """Mappings key by key, anything else as a whole."""
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value

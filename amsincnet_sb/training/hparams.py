"""Reading hyperparameter files before HyperPyYAML makes objects of them.

A recipe's yaml is either complete or includes a complete one under the key
``recipe`` and changes some of its keys::

    margin: 0.05
    recipe: !include:am_sincnet.yaml
        margin: !ref <margin>

HyperPyYAML loads both. It accepts any key, though, so misspelt ones are found
here, and options of the command line are put where they take effect. It reads
``<x>`` in a text as a reference and ``5 #`` as a number, so a path goes through
it as a token.

The yaml of a finished run has every reference spelled out: a changed key would
not reach what was made from it, and is refused.
"""

import os
import re
import uuid
from datetime import date

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML, Loader
from ruamel.yaml.constructor import ConstructorError
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from amsincnet_sb.training.permitted import HOW, is_text, permitted
from amsincnet_sb.training.recipe_keys import LATER
from amsincnet_sb.utils.errors import InputError, as_input_error, did_you_mean
from amsincnet_sb.utils.files import atomic_write, is_plain_file

__all__ = [
    "load_recipe",
    "place_overrides",
    "plain_options",
    "save_hyperparams",
]

RECIPE = "recipe"
INCLUDE = "!include:"
COMMAND_LINE = "The command line"
GENERATED = (
    "# Generated "  # first line of a finished run's file; as SpeechBrain
)
# Keys that nothing else in a file is made from, or that everything follows.
ALONE = {
    *("data_folder", "manifest", "output_folder"),
    *("start_from", "filters_from", "max_grad_norm"),
}

OPEN = {"codecs"}  # mappings whose keys are not those of the file


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
    return _complete(_recipe(_resolved(hparams_file, placed)))


def load_recipe(hparams_file, overrides):
    """The recipe with its objects, made by HyperPyYAML.

    ``overrides`` as in :func:`plain_options`; what HyperPyYAML or an object
    complains of is an InputError. **This runs what the file names.**
    """
    literal = _Literal(place_overrides(hparams_file, overrides))
    with open(hparams_file, encoding="utf-8") as file:
        try:
            with as_input_error(hparams_file):
                loader = literal.loader()
                # False: a key may be a LATER one; others have been checked.
                hparams = load_hyperpyyaml(file, literal.tokens, False, loader)
        except YAMLError as error:  # of a tag that there is not
            raise InputError(
                f"{hparams_file} with the command line's values cannot be "
                f"loaded: {_one_line(error)}."
            ) from error
    return _complete(_recipe(hparams))


def save_hyperparams(hparams_file, overrides):
    """Write hyperparams.yaml, without references, into the output folder.

    As ``speechbrain.create_experiment_directory`` does, which folds long paths
    such that not all can be read again.
    """
    tree = _resolved(hparams_file, place_overrides(hparams_file, overrides))
    path = os.path.join(_recipe(tree)["output_folder"], "hyperparams.yaml")
    source = repr(os.path.abspath(hparams_file))[1:-1]
    yaml = YAML()
    yaml.width = 2**31
    with atomic_write(path) as file:
        file.write(f"{GENERATED}{date.today()} from:\n# {source}\n")
        file.write("# yamllint disable\n")
        yaml.dump(tree, file)


class _Literal:
    """Overrides whose texts pass through HyperPyYAML as they are."""

    def __init__(self, overrides):
        self._texts, self._prefix = [], f"text{uuid.uuid4().hex}n"
        self.tokens = self._hide(overrides)

    def _hide(self, overrides):
        hidden = {}
        for key, value in overrides.items():
            if key == RECIPE:
                value = self._hide(value)
            elif is_text(key) and isinstance(value, str):
                self._texts.append(value)
                value = f"{self._prefix}{len(self._texts) - 1}n"
            hidden[key] = value
        return hidden

    def show(self, tree):
        """A tree of ruamel.yaml with the texts in place of their tokens."""
        if isinstance(tree, str):
            return self._shown(tree)
        if isinstance(getattr(tree, "value", None), str):  # with a tag
            tree.value = self._shown(tree.value)
        items = tree.items() if isinstance(tree, dict) else ()
        items = enumerate(tree) if isinstance(tree, list) else items
        for key, value in list(items):
            tree[key] = self.show(value)
        return tree

    def loader(self):
        """A loader for HyperPyYAML that sees the texts."""
        shown = self._shown

        class _Loader(Loader):
            """ruamel.yaml's, which sees the texts."""

            def construct_scalar(self, node):
                """The text of a scalar."""
                return shown(super().construct_scalar(node))

        return _Loader

    def _shown(self, text):
        return re.sub(
            f"{self._prefix}([0-9]+)n",
            lambda token: self._texts[int(token[1])],
            text,
        )


def _resolved(hparams_file, placed):
    """The whole tree, with its tags, without references."""
    literal = _Literal(placed)
    try:
        with open(hparams_file, encoding="utf-8") as file:
            text = resolve_references(file, literal.tokens)
        return literal.show(YAML().load(text))
    except YAMLError as error:
        reason = _one_line(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    except (ValueError, KeyError, RecursionError, ArithmeticError) as error:
        reason = str(error.args[0]).rstrip(".")
    raise InputError(f"{hparams_file} cannot be resolved: {reason}.")


def _recipe(tree):
    while RECIPE in tree:  # a file that includes another
        tree = tree[RECIPE]
    return tree


def _complete(recipe):
    """A recipe with the keys that are younger than its file."""
    missing = {k: v for k, v in LATER.items() if k not in recipe}
    return {**recipe, **missing}


def _place(trees, overrides, hparams_file):
    """The overrides of each tree, those of an included one within."""
    known = dict(LATER)
    for _, tree in reversed(trees):
        known.update(tree)
    _check_keys(overrides, known, COMMAND_LINE, hparams_file)

    placed = None
    for number, (path, tree) in reversed([*enumerate(trees)]):
        changes = trees[number - 1][1][RECIPE] if number else {}
        has = tree if RECIPE in tree else {**LATER, **tree}
        mine = {k: v for k, v in overrides.items() if k in has}
        _check_spelled_out(path, tree, {**changes, **mine})
        values = {**tree, **changes}
        own = {k: v for k, v in values.items() if is_text(k) and type(v) is str}
        _merge(own, _following(tree, overrides))
        _merge(own, mine)
        if placed is not None:
            own[RECIPE] = placed
        placed = own
    return placed


def _check_spelled_out(path, tree, changes):
    """Refuse changes of a finished run's file that would not reach all uses."""
    with open(path, encoding="utf-8") as file:
        start, source = file.readline(), file.readline()
    if not start.startswith(GENERATED):
        return
    for key, value in changes.items():
        alone = key in HOW or key in ALONE or str(key).endswith("_annotation")
        if not alone and key in tree and value != tree[key]:
            raise InputError(
                f"{path} is of a finished run, with {key} spelled out wherever "
                f"it is used; to change it to {value}, start from the file it "
                f"was made of, {source.removeprefix('# ').strip()}."
            )


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
        _check_keys(recipe, {**LATER, **trees[-1][1]}, path, base)
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
    is_plain_file(path)  # a pipe would block
    try:
        with open(path, encoding="utf-8") as file:
            tree = YAML().load(file)
    except OSError as error:
        raise InputError(
            f"{path}: this hyperparameter file cannot be read "
            f"({error.strerror})."
        ) from error
    except (YAMLError, ValueError, RecursionError) as error:
        twice = isinstance(error, ConstructorError) and _twice(path)
        raise InputError(
            f"{path} is not a yaml file: {twice or _one_line(error)}."
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


def _twice(path):
    """What is said of a key that a mapping has twice; None without one.

    Within a tag, ruamel.yaml takes it for a tag that is not known.
    """
    with open(path, encoding="utf-8") as file:
        nodes = [YAML().compose(file)]
    for node in nodes:
        if isinstance(node, MappingNode):
            known = set()
            for key, _ in node.value:
                name = str(key.tag), str(key.value)
                if name in known:
                    line = key.start_mark.line + 1
                    return f"the key `{key.value}` occurs again in line {line}"
                known.add(name)
            inner = [value for _, value in node.value]
        else:
            inner = node.value if isinstance(node, SequenceNode) else []
        nodes += [each for each in inner if each not in nodes]  # or in a circle
    return None


def _check_keys(changes, base, where, base_file, prefix=""):
    """Every changed key must be one of the base's, with its tag."""
    for key, value in changes.items():
        at = where if where == COMMAND_LINE else where + _line(changes, key)
        if key == RECIPE and key in base and not prefix:
            raise InputError(
                f"{at}: `{RECIPE}` is the file that {base_file} includes, and "
                "stays; give single keys on the command line, or include "
                "another file."
            )
        if key not in base:
            meant = did_you_mean(key, base, f"`{prefix}{{}}`")
            inner = _tag(base.get(RECIPE)).removeprefix(INCLUDE)
            if inner and meant == "." and where != COMMAND_LINE:
                meant = (
                    f"; keys of {inner}, which it includes, are changed in a "
                    "copy of it, or on the command line."
                )
            raise InputError(
                f"{at}: there is no key `{prefix}{key}` in {base_file}{meant}"
            )
        plain = not isinstance(value, dict) and not _tag(value)
        if where == COMMAND_LINE and plain and _makes(base[key]):
            raise InputError(
                f"{at}: `{prefix}{key}` is {_tag(base[key])} in {base_file} "
                f"and cannot become {value}; change it in a copy of that file."
            )
        if where == COMMAND_LINE:
            _check_kind(f"{prefix}{key}", value, base[key])
        other = _reference(base[key]) if prefix else None
        if where == COMMAND_LINE and other:
            raise InputError(
                f"{at}: `{prefix}{key}` is !ref <{other}> in {base_file}, as "
                f"others may be; give --{other}={value}, which reaches them all."
            )
        if not prefix and key in OPEN:
            continue
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


def _check_kind(key, value, node):
    """Refuse mappings, and what carries a tag, in place of a single value."""
    tag, kind = _tag(value), permitted(key.split("."))
    single = kind is not None and not kind.accepts(None)
    mapping = isinstance(value, dict) and not isinstance(node, dict)
    tagged = single and tag not in ("", "!ref", "!copy")
    if tagged or (mapping and not tag and key not in OPEN):
        must = f"be {kind}" if single else "not be a mapping"
        raise InputError(
            f"{COMMAND_LINE}: {key} is {tag or dict(value)} but must {must}."
        )


def _makes(node):
    """Whether a node of a file is an object or a function to be made."""
    return _tag(node).startswith(("!new:", "!name:", "!apply:", "!module:"))


def _reference(node):
    """The key that a node of a file is no more than a reference to, if so."""
    if _tag(node) == "!ref":
        found = re.fullmatch(r"<([^<>]+)>", str(node.value).strip())
        return found and found[1]
    return None


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

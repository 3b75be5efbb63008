"""Hyperparameter files: overrides reach their place, mistakes are named."""

import os

import pytest
from ruamel.yaml import YAML

from amsincnet_sb.training.hparams import (
    load_recipe,
    place_overrides,
    plain_options,
)
from amsincnet_sb.utils.errors import InputError

BASE = """\
seed: 1
folder: !ref results/<seed>
data_folder: !PLACEHOLDER
margin: 0.35
sizes: [1, 2, 3]
nested:
    a: 1
    deep:
        b: 2
        c: 3
counter: !new:collections.Counter
    x: !ref <margin>
    y: 5
function: !name:builtins.int
copied: !ref <sizes>
"""
INCLUDE = "recipe: !include:base.yaml\n"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    write("base.yaml", BASE)
    return write


def load(path, command_line=""):
    """As a recipe does it; the placeholder is filled in."""
    overrides = YAML().load(command_line) or {}
    return load_recipe(path, {"data_folder": "/data", **overrides})


def message(path, command_line=""):
    overrides = command_line
    if isinstance(overrides, str):
        overrides = YAML().load(overrides) or {}
    with pytest.raises(InputError) as error:
        place_overrides(path, overrides)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_complete_file(write):
    path = write("base.yaml", BASE)
    assert place_overrides(path, {"seed": 2}) == {"seed": 2}
    options = plain_options(path, {"data_folder": "/x", "seed": 3})
    assert options["folder"] == "results/3"
    assert options["sizes"] == [1, 2, 3] == options["copied"]
    assert options["nested"]["deep"]["b"] == 2
    assert not hasattr(options["counter"], "most_common")
    assert options["counter"]["x"] == 0.35


def test_the_command_line_wins_on_every_level(write):
    write("m.yaml", "margin: 0.1\n" + INCLUDE + "    margin: !ref <margin>\n")
    path = write(
        "n.yaml", "seed: 5\nrecipe: !include:m.yaml\n    margin: 0.2\n"
    )
    assert load(path)["counter"]["x"] == 0.2
    hparams = load(path, "margin: 0.3\nseed: 6")
    assert hparams["counter"]["x"] == 0.3
    assert hparams["folder"] == "results/6"
    options = plain_options(path, {"data_folder": "/x", "margin": 0.3})
    assert options["margin"] == 0.3 and options["folder"] == "results/1"


def test_mappings_merge_and_lists_do_not(write):
    path = write("m.yaml", INCLUDE + "    nested: {deep: {b: 20}}\n")
    hparams = load(path, "{nested: {a: 10}, sizes: [7]}")
    assert hparams["nested"] == {"a": 10, "deep": {"b": 20, "c": 3}}
    assert hparams["sizes"] == [7] == hparams["copied"]


def test_a_finished_run_follows_its_folder(write):
    """Its yaml has every path spelled out."""
    text = (
        "output_folder: /a b\nmargin: 0.1\nsave: /a b/save\nelse: /a bc/d\n"
        "logger: {file: /a b/log.txt}\nfiles: [x, /a b/c]\n"
    )
    indented = "recipe:\n" + "".join(f"    {x}\n" for x in text.splitlines())
    for path in (write("a.yaml", text), write("b.yaml", indented)):
        for folder, overrides in (
            ("/a b", {}),
            ("/new", {"output_folder": "/new"}),
        ):
            options = plain_options(path, overrides)
            assert options["save"] == f"{folder}/save"
            assert options["else"] == "/a bc/d"
            assert options["logger"]["file"] == f"{folder}/log.txt"
            assert options["files"] == ["x", f"{folder}/c"]


def test_another_class_with_arguments_is_refused(write):
    # HyperPyYAML would quietly go on making the old one.
    path = write("m.yaml", INCLUDE + "    counter: !new:dict\n        y: 6\n")
    text = message(path)
    assert "m.yaml (line 2): `counter` is !new:collections.Counter in" in text
    assert "!new:dict" in text
    text = message(write("n.yaml", BASE), "nested: !new:dict {a: 1}")
    assert text.startswith("The command line: `nested` is a mapping in ")


@pytest.mark.parametrize(
    "given", ["{x: 0.4}", "!new:collections.Counter {x: 0.4}"]
)
def test_one_of_several_uses_of_a_key_is_refused(write, given):
    # The schedule would go on with the old margin.
    text = message(write("n.yaml", BASE), f"counter: {given}")
    assert "`counter.x` is !ref <margin> in" in text
    assert "give --margin=0.4" in text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("\n    margni: 0.1", "(line 3)|`margni`|`margin`?"),
        ("    nested: {aa: 1}", "(line 2)|`nested.aa`|`nested.a`?"),
        (
            "    nested:\n        deep:\n            x: 1",
            "(line 4)|`nested.deep.x`|base.yaml.",
        ),
        ("    qqq: 1", "(line 2)|`qqq`|base.yaml."),
        ("    <<: {margni: 1}", "`margni`|`margin`?"),
        ("    5: 1", "(line 2)|`5`"),
        ("    recipe: 1", "`recipe`"),
    ],
)
def test_unknown_keys(write, text, expected):
    found = message(write("m.yaml", INCLUDE + text))
    for part in ["m.yaml", "base.yaml", *expected.split("|")]:
        assert part in found
    assert ("did you mean" in found) == expected.endswith("?")


def test_what_an_included_file_includes_stays(write):
    middle = write("m.yaml", INCLUDE + "    margin: 0.1")
    path = write("n.yaml", "recipe: !include:m.yaml\n    recipe: {margin: 0.2}")
    expected = f"`recipe` is the file that {middle} includes, and stays; "
    assert f"{path} (line 2): {expected}" in message(path)
    assert f"The command line: {expected}" in message(middle, "recipe: x")


def test_keys_of_what_an_included_file_includes(write):
    write("m.yaml", INCLUDE + "    margin: 0.1")
    found = message(write("n.yaml", "recipe: !include:m.yaml\n    scale: 2"))
    assert "no key `scale` in" in found
    assert "; keys of base.yaml, which it includes, are changed in a" in found


def test_unknown_keys_of_the_command_line(write):
    path = write("m.yaml", INCLUDE + "    margin: 0.1")
    text = message(path, "margni: 0.2")
    assert text.startswith("The command line: there is no key `margni` in ")
    assert text.endswith("did you mean `margin`?")


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_circles(write, chain):
    for name, after in zip(chain, chain[1:] + chain[:1]):
        path = write(
            f"{name}.yaml", f"a: 1\nrecipe: !include:{after}.yaml\n    a: 1"
        )
    assert "includes" in message(path)


def test_a_missing_base(write, tmp_path):
    path = write("m.yaml", "recipe: !include:nowhere.yaml\n    a: 1")
    text = message(path)
    assert str(tmp_path / "nowhere.yaml") in text and "No such file" in text
    assert "No such file" in message(str(tmp_path / "none.yaml"))
    path = write("n.yaml", "recipe: !include:.\n    a: 1")
    assert "is a folder and not a file" in message(path)
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "is a pipe" in message(str(tmp_path / "pipe.yaml"))
    including = write("i.yaml", "recipe: !include:pipe.yaml\n    a: 1")
    assert "pipe.yaml is a pipe" in message(including)
    path = write("o.yaml", "recipe: base.yaml")
    assert "must be !include:FILE" in message(path)
    assert "at least one key" in message(write("p.yaml", INCLUDE))
    (tmp_path / "q.yaml").write_bytes(b"a: \xff\xfe")
    assert "q.yaml is not a yaml file" in message(str(tmp_path / "q.yaml"))


@pytest.mark.parametrize(
    "text, word",
    [
        ("a: [1, 2", "line"),
        ("a: 1\na: 2", "line 2"),
        ("a: !x\n  b: 1\n  b: 2", "the key `b` occurs again in line 3"),
        ("a: !x [{b: 1, b: 2}]", "the key `b` occurs again in line 1"),
        ("b: &b {c: *b, 1: 0, '1': 0}\na: !x {d: *b, d: 1}", "`d` occurs"),
        ("a: 1\n\tb: 2", "line"),
        ("a: *b", "line 1"),
        ("a: 2024-13-45", "month"),
        ("a: !!int x", "invalid literal"),
        ("[" * 4000, "recursion"),
        ("a: 1\nb: # where\n    c\n\n", "line 2: a comment"),
        ("- 1\n- 2", "key: value"),
        ("", "key: value"),
        ("text", "key: value"),
    ],
)
def test_bad_yaml(write, text, word):
    path = write("m.yaml", text)
    found = message(path)
    assert found.startswith(path) and word in found
    # The same when it is included.
    including = write("n.yaml", "recipe: !include:m.yaml\n    a: 1")
    assert path in message(including)


def test_a_tag_that_there_is_not(write):
    path = write("m.yaml", "a: !nwe:list")
    for given in ("", "a: !foo b"):
        with pytest.raises(InputError, match="m.yaml .* for the tag '!"):
            load_recipe(path, YAML().load(given) or {})


def test_nothing_is_executed(write, tmp_path):
    canary = tmp_path / "canary"
    path = write(
        "m.yaml",
        f"{INCLUDE}    margin: !apply:os.mkdir ['{canary}']\n"
        f"    seed: !!python/object/apply:os.mkdir ['{canary}']\n",
    )
    plain_options(path, {"data_folder": "x"})
    assert not canary.exists()


def test_placeholders(write):
    path = write("m.yaml", INCLUDE + "    seed: 2")
    with pytest.raises(InputError) as error:
        plain_options(path, {})
    assert str(error.value).endswith(
        "base.yaml: `data_folder` has no value yet; give one with "
        "--data_folder=VALUE."
    )
    with pytest.raises(InputError, match="no value yet; get it there"):
        plain_options(path, {}, {"data_folder": "get it there."})
    # An including file can fill it in.
    path = write("n.yaml", INCLUDE + "    data_folder: /x")
    assert plain_options(path, {})["data_folder"] == "/x"

"""Overlays: what they change, and what is said about what they cannot."""

import pytest
from hyperpyyaml import load_hyperpyyaml

from amsincnet_sb.training.hparams import plain_options, resolve_overlay
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


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return str(path)

    write("base.yaml", BASE)
    return write


def load(path, command_line=""):
    """As a recipe does it; the placeholder is filled in."""
    base, overrides = resolve_overlay(path, command_line)
    overrides.setdefault("data_folder", "/data")
    with open(base) as file:
        return load_hyperpyyaml(file, overrides)


def message(path, command_line=None):
    with pytest.raises(InputError) as error:
        resolve_overlay(path, command_line)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_file_that_is_no_overlay(write, tmp_path):
    path = write("base.yaml", BASE)
    assert resolve_overlay(path) == (path, {})
    assert resolve_overlay(tmp_path / "base.yaml", "") == (path, {})
    assert load(path)["margin"] == 0.35


def test_changes_reach_what_refers_to_them(write):
    hparams = load(write("m.yaml", "base: base.yaml\nseed: 7\nmargin: 0.1\n"))
    assert hparams["folder"] == "results/7"
    assert hparams["counter"]["x"] == 0.1 and hparams["counter"]["y"] == 5
    assert "base" not in hparams


def test_nesting_and_precedence(write):
    write("a.yaml", "base: base.yaml\nmargin: 0.1\nseed: 10\nsizes: [9]")
    write("b.yaml", "base: a.yaml\nmargin: 0.2\nnested: {a: 11}")
    path = write("sub/c.yaml", "base: ../b.yaml\nmargin: 0.3")
    hparams = load(path, "seed: 30\n")
    assert (hparams["margin"], hparams["seed"]) == (0.3, 30)
    assert hparams["sizes"] == [9] and hparams["nested"]["a"] == 11
    base, overrides = resolve_overlay(path, {"margin": 0.4})
    assert overrides["margin"] == 0.4
    assert base.endswith("base.yaml")


def test_mappings_merge_and_lists_do_not(write):
    write("a.yaml", "base: base.yaml\nnested:\n  deep: {b: 20}\nsizes: [7]")
    path = write("b.yaml", "base: a.yaml\nnested:\n  deep: {c: 30}\n")
    hparams = load(path, "nested: {a: 10}")
    assert hparams["nested"] == {"a": 10, "deep": {"b": 20, "c": 30}}
    assert hparams["sizes"] == [7] == hparams["copied"]


def test_a_mapping_from_the_command_line_is_left_as_it_was(write):
    write("a.yaml", "base: base.yaml\nnested: {a: 5}")
    path = write("b.yaml", "base: a.yaml\nnested: {a: 6}")
    command_line = {"nested": {"deep": {"b": 9}}}
    _, overrides = resolve_overlay(path, command_line)
    assert overrides["nested"] == {"a": 6, "deep": {"b": 9}}
    assert command_line == {"nested": {"deep": {"b": 9}}}


def test_tags_survive(write):
    path = write(
        "m.yaml",
        "base: base.yaml\n"
        "folder: !ref <data_folder>/<seed>\n"
        "margin: !new:collections.Counter\n    z: !ref <seed>\n"
        "function: !name:builtins.max\n    default: !ref <seed>\n"
        "sizes: [!ref <seed>, 2]\n",
    )
    with pytest.raises(ValueError):  # HyperPyYAML's: arguments for a tag
        load(path)
    path = write(
        "m.yaml",
        "base: base.yaml\n"
        "folder: !ref <data_folder>/<seed>\n"
        "margin: !apply:builtins.max [!ref <seed>, 3]\n"
        "function: !name:builtins.max\n"
        "sizes: [!ref <seed>, 2]\n"
        "counter:\n    y: !ref <seed>\n"
        "copied: !new:collections.Counter [ab]\n",
    )
    hparams = load(path, "seed: 4")
    assert hparams["folder"] == "/data/4"
    assert hparams["margin"] == 4 == hparams["counter"]["x"]
    assert hparams["function"]([1, 3, 2]) == 3
    assert hparams["sizes"] == [4, 2]
    assert type(hparams["counter"]).__name__ == "Counter"
    assert hparams["counter"]["y"] == 4
    # The same tag may be repeated, as it stands in the base.
    path = write(
        "m.yaml",
        "base: base.yaml\ncounter: !new:collections.Counter\n    y: 6\n",
    )
    assert load(path)["counter"] == {"x": 0.35, "y": 6}


def test_another_class_with_arguments_is_refused(write):
    # HyperPyYAML would quietly go on making the old one.
    path = write(
        "m.yaml", "base: base.yaml\nmargin: 0\ncounter: !new:dict\n  y: 6\n"
    )
    text = message(path)
    assert "m.yaml (line 3): `counter` is !new:collections.Counter in" in text
    assert "!new:dict" in text
    text = message(write("n.yaml", BASE), "nested: !new:dict {a: 1}")
    assert text.startswith("The command line: `nested` is a mapping in ")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("base: base.yaml\n\nmargni: 0.1", "(line 3)|`margni`|`margin`?"),
        (
            "base: base.yaml\nnested: {aa: 1}",
            "(line 2)|`nested.aa`|`nested.a`?",
        ),
        (
            "base: base.yaml\nnested:\n  deep:\n    x: 1",
            "(line 4)|`nested.deep.x`|base.yaml.",
        ),
        ("base: base.yaml\nqqq: 1", "(line 2)|`qqq`|base.yaml."),
        ("base: base.yaml\n<<: {margni: 1}", "`margni`|`margin`?"),
        ("base: base.yaml\n5: 1", "(line 2)|`5`"),
    ],
)
def test_unknown_keys(write, text, expected):
    found = message(write("m.yaml", text))
    for part in ["m.yaml", "base.yaml", *expected.split("|")]:
        assert part in found
    assert ("did you mean" in found) == expected.endswith("?")


def test_unknown_keys_of_a_layer_in_between(write):
    write("a.yaml", "base: base.yaml\nmargni: 0.1")
    path = write("b.yaml", "base: a.yaml\nmargin: 0.2")
    assert "a.yaml (line 2): there is no key `margni`" in message(path)


@pytest.mark.parametrize("as_text", [False, True])
def test_unknown_keys_of_the_command_line(write, as_text):
    path = write("m.yaml", "base: base.yaml\nmargin: 0.1")
    overrides = "margni: 0.2" if as_text else {"margni": 0.2}
    text = message(path, overrides)
    assert text.startswith("The command line: there is no key `margni` in ")
    assert text.endswith("did you mean `margin`?")


@pytest.mark.parametrize(
    "overrides", ["a: [1", "a: 1: 2", "- 1", "just text", "d: 2024-13-01"]
)
def test_an_unreadable_command_line(write, overrides):
    path = write("base.yaml", BASE)
    text = message(path, overrides)
    assert "command line" in text and "--key=value" in text


@pytest.mark.parametrize("chain", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_circles(write, chain):
    for name, after in zip(chain, chain[1:] + chain[:1]):
        path = write(f"{name}.yaml", f"base: {after}.yaml")
    text = message(path)
    assert text.startswith(path) and "lead back" in text


def test_a_missing_base(write, tmp_path):
    path = write("m.yaml", "base: nowhere.yaml")
    text = message(path)
    assert str(tmp_path / "nowhere.yaml") in text and "No such file" in text
    assert "No such file" in message(tmp_path / "none.yaml")
    assert "directory" in message(write("n.yaml", "base: ."))


@pytest.mark.parametrize(
    "text, word",
    [
        ("a: [1, 2", "line"),
        ("a: 1\na: 2", "line 2"),
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
    # The same when it is the base of another.
    assert path in message(write("n.yaml", "base: m.yaml"))


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_bytes(b"a: \xff\xfe")
    assert "m.yaml is not a yaml file" in message(path)


def test_nothing_is_executed(write, tmp_path):
    canary = tmp_path / "canary"
    path = write(
        "m.yaml",
        "base: base.yaml\n"
        f"margin: !apply:os.mkdir ['{canary}']\n"
        f"seed: !!python/object/apply:os.mkdir ['{canary}']\n",
    )
    base, overrides = resolve_overlay(path, "data_folder: x")
    plain_options(base, overrides)
    assert not canary.exists()


# Values without objects --------------------------------------------------------


def test_plain_options(write):
    path = write("base.yaml", BASE)
    options = plain_options(path, {"data_folder": "/x", "seed": 3})
    assert options["folder"] == "results/3"
    assert options["sizes"] == [1, 2, 3] == options["copied"]
    assert options["nested"]["deep"]["b"] == 2
    assert not hasattr(options["counter"], "most_common")
    assert options["counter"]["x"] == 0.35


def test_placeholders(write):
    base, overrides = resolve_overlay(write("m.yaml", "base: base.yaml"))
    with pytest.raises(InputError) as error:
        plain_options(base, overrides)
    assert str(error.value) == (
        f"{base}: `data_folder` has no value yet; give one with "
        "--data_folder=VALUE."
    )
    with pytest.raises(InputError, match="no value yet; get it there"):
        plain_options(base, overrides, {"data_folder": "get it there."})
    # An overlay can fill it in, and take it away again.
    path = write("m.yaml", "base: base.yaml\ndata_folder: /x")
    assert plain_options(*resolve_overlay(path))["data_folder"] == "/x"
    path = write("n.yaml", "base: m.yaml\nmargin: !PLACEHOLDER")
    with pytest.raises(InputError, match="`margin` has no value yet"):
        plain_options(*resolve_overlay(path))


@pytest.mark.parametrize(
    "change", [{"folder": {"a": 1}}, {"sizes": {"a": 1}}, {"seed": {"a": 1}}]
)
def test_a_mapping_where_there_is_none(write, change):
    path = write("base.yaml", BASE)
    base, overrides = resolve_overlay(path, {"data_folder": "/x", **change})
    with pytest.raises(InputError, match="base.yaml cannot be resolved"):
        plain_options(base, overrides)


def test_a_reference_to_nothing(write):
    path = write("a.yaml", "a: !ref <nothing>")
    with pytest.raises(InputError, match="a.yaml cannot be resolved.*nothing"):
        plain_options(path, {})

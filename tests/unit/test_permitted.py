"""Options out of range, whatever the key: one sentence, or documented."""

import math
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest

from amsincnet_sb.training.arguments import parse_arguments
from amsincnet_sb.training.hparams import plain_options
from amsincnet_sb.training.permitted import check_options, is_text, permitted
from amsincnet_sb.utils.errors import InputError

HPARAMS = Path(__file__).parents[2] / "hparams"
COMPLETE = [
    path.name
    for path in sorted(HPARAMS.glob("*.yaml"))
    if "!include:" not in path.read_text(encoding="utf-8")
]
WRONG = [
    *(math.nan, math.inf, -math.inf, -1, 0, 10**20, 1e300, 2.5, 1.5),
    *(True, None, "", "text", "1", "-1", b"1", [], [1], [-1], [[1]], ["a"]),
    *([10**20], [math.nan], {}, {"a": 1}),
]


def options_of(name):
    return plain_options(str(HPARAMS / name), {"data_folder": "/data"})


def tag(node):
    return getattr(getattr(node, "tag", None), "value", None)


def values(tree, path=()):
    """(path, value) of every number, switch, text and list of them."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        here = (*path, key)
        parts = isinstance(value, list) and all(map(tag, value))
        if isinstance(value, dict) or (parts and value):
            if key not in ("modules", "recoverables"):
                yield from values(value, here)
        elif not tag(value) and not str(key).startswith("__"):
            yield here, value


def complaint(options):
    """The sentence, or None where all is well."""
    try:
        check_options(options)
    except InputError as error:
        assert "\n" not in str(error) and str(error).endswith(".")
        return str(error)
    return None


@pytest.mark.parametrize("name", COMPLETE)
def test_every_value_of_every_file(name):
    """Each is in the table, and wrong ones are refused by its name."""
    options = options_of(name)
    assert complaint(options) is None
    found = list(values(options))
    assert len(found) > 60
    for path, right in found:
        place = reduce(getitem, path[:-1], options)
        names = [str(part) for part in path if not isinstance(part, int)]
        kind = permitted(names)
        assert kind is not None, f"{path} is not in PERMITTED"
        for wrong in WRONG:
            place[path[-1]] = wrong
            said = complaint(options)
            if said is None:
                assert kind.accepts(wrong), (path, wrong)
            elif not kind.accepts(wrong):
                assert f"{names[-1]} is " in said and str(kind) in said
        place[path[-1]] = right
        # A text and a switch are never a number, nor a number a list.
        assert sum(map(kind.accepts, WRONG)) < 10, path


@pytest.mark.parametrize(
    "option, words",
    [
        ("lr=-1", "lr is -1 but must be a number above 0"),
        ("lr=0", "lr is 0 but"),
        ("windows_per_batch=0", "of at least 1 and at most 1048576"),
        (f"seed={10**20}", "of at least 0 and at most 4294967295"),
        ("seed=-1", "seed is -1"),
        ("dropout=.nan", "dropout is nan but must be a number of at"),
        ("batch_size=1000000000", "of at least 2 and at most 65536"),
        ("batch_size=yes", "batch_size is 'yes'"),
        ("margin=[0.1]", "margin is [0.1] but"),
        ("number_of_epochs=2.5", "a whole number of at least 1"),
        ("number_of_epochs=2024-11-28", "number_of_epochs is datetime.date"),
        ("capture_step=1", "capture_step is 1 but must be True or False"),
        ("all_speakers=no", "all_speakers is 'no' but must be True or False"),
        ("sample_rate=0", "sample_rate is 0"),
        ("window=4000000", "4096, but with a window of 4000000"),
        ("fc_neurons=[65536, 65536]", "fc_neurons is [65536, 65536]: a layer"),
        ("fc_neurons=text", "fc_neurons is 'text' but must be a list"),
        ("weight_decay=-1", "weight_decay is -1 but must be"),
        ("margin={a: 1}", "margin is {'a': 1} but must be a number of at"),
        ("seed={}", "seed is {} but must be a whole number"),
        ("batch_size=!new:list", "batch_size is !new:list but must be a whole"),
        ("loss=!!str am", "loss is tag:yaml.org,2002:str but must be"),
        ("opt_class={lr: {a: 1}}", "opt_class.lr is {'a': 1} but must be"),
        ("augment=5", "`augment` is !new:torch.nn.Sequential"),
        ("classifier=[1]", "cannot become [1]"),
    ],
)
def test_the_command_line(option, words):
    """From what is typed to the sentence."""
    file = str(HPARAMS / "am_sincnet.yaml")
    with pytest.raises(InputError) as error:
        *_, overrides = parse_arguments([file, f"--{option}"])
        overrides["data_folder"] = "/data"
        check_options(plain_options(file, overrides))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_texts_need_quotes_in_a_file(tmp_path):
    for text in ("2024_11_28", "true", "null", "[a]"):
        path = tmp_path / "a.yaml"
        path.write_text(f"output_folder: {text}\n")
        sentence = complaint(plain_options(str(path), {}))
        assert sentence.startswith("output_folder is ") and "quotes" in sentence
    assert is_text("output_folder") and not is_text("seed")

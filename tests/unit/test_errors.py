"""Errors of a user are one sentence; bugs in code keep their traceback."""

import sys

import pytest
from hyperpyyaml import load_hyperpyyaml

from amsincnet_sb.utils.errors import (
    InputError,
    as_input_error,
    exit_on_input_error,
)


def load(yaml):
    with as_input_error("a.yaml"):
        return load_hyperpyyaml(yaml)


@pytest.mark.parametrize(
    "yaml, sentence",
    [
        ("a: !new:fractions.Fraction ['x']", "a.yaml: Invalid literal"),
        ("a: !new:torch.nn.Linear\n    in: 3", "Linear: .*unexpected keyword"),
        ("a: !new:nowhere.Thing", "a.yaml: There is no such class"),
    ],
)
def test_values_that_an_object_refuses(yaml, sentence):
    with pytest.raises(InputError, match=sentence):
        load(yaml)


def test_a_type_error_shows_its_traceback(monkeypatch):
    with pytest.raises(TypeError), as_input_error("a.yaml"):
        len(3)
    of_yaml = "a: !new:torch.nn.Linear\n    in: 3"
    with pytest.raises(InputError, match="--debug shows the traceback"):
        load(of_yaml)
    monkeypatch.setattr(sys, "argv", ["train.py", "a.yaml", "--debug"])
    with pytest.raises(TypeError):
        load(of_yaml)


def test_exit(capsys):
    for told_elsewhere, printed in ((False, "Error: Too short.\n"), (True, "")):
        with pytest.raises(SystemExit) as stopped, exit_on_input_error():
            error = InputError("Too short.")
            error.told_elsewhere = told_elsewhere
            raise error
        assert stopped.value.code == 2
        assert capsys.readouterr() == ("", printed)

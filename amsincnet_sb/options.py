"""Commands and their options, made of functions and tables."""

import argparse
import inspect
import math
import re

from amsincnet_sb.utils.errors import InputError

__all__ = [
    "COMMANDS",
    "Parser",
    "argument",
    "command",
    "make_parser",
    "number",
    "one_spelling",
]

LARGEST = 2**63 - 1  # of a number
COMMANDS = {}  # name -> function, arguments


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are InputErrors."""

    def error(self, message):
        """Raise an InputError instead of printing the usage."""
        # Sentences of number() name the option themselves.
        message = re.sub("^argument [^:]+: (?=--)", "", message).rstrip(".")
        raise InputError(f"{message}; see {self.prog} --help.")


def number(name, kind=int, least=-math.inf, most=math.inf):
    """The ``type`` of an option: finite, from ``least`` to ``most``.

    Example
    -------
    >>> number("--top", least=1)("0")
    Traceback (most recent call last):
        ...
    argparse.ArgumentTypeError: --top is 0 but must be a whole number from 1 on
    """
    what = "a whole number" if kind is int else "a number"
    if least > -math.inf:
        what += f" from {least}" + (" on" if most == math.inf else "")
    if most < math.inf:
        what += f" to {most}"

    def read(text):
        """The number of a text."""
        try:
            value = kind(text)
            right = least <= value <= most and abs(value) <= LARGEST
        except (ValueError, OverflowError):
            right = False
        if not right:
            raise argparse.ArgumentTypeError(
                f"{name} is {text[:99]} but must be {what}"
            )
        return value

    return read


def argument(name, help, kind=str, default=None, **keywords):
    """An argument of a command; an option with a default tells it.

    A number may have its ``least`` and ``most``.
    """
    if kind is bool:
        return name, {"action": "store_true", "help": help}
    if default is not None:
        help = f"{help} (default: {default})"
    if kind in (int, float):
        limits = {
            k: keywords.pop(k) for k in ("least", "most") & keywords.keys()
        }
        kind = number(name, kind, **limits)
    return name, dict(help=help, type=kind, default=default, **keywords)


def command(*arguments):
    """Make a command of a function: its docstring is the help."""

    def add(function):
        """Enter the command under its name."""
        name = function.__name__.replace("_", "-")
        COMMANDS[name] = function, arguments
        return function

    return add


def make_parser(prog, description, version, epilog):
    """The parser of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(
        title="commands", required=True, metavar="COMMAND"
    )
    for name, (function, arguments) in COMMANDS.items():
        *text, example = inspect.getdoc(function).split("\n\n")
        add = commands.add_parser(
            name,
            help=text[0][0].lower() + text[0].rstrip(".")[1:],
            description="\n\n".join(text),
            epilog=example,
            formatter_class=raw,
        )
        for own, keywords in arguments:
            add.add_argument(own, **keywords)
        add.set_defaults(run=function)
    return parser


def one_spelling(arguments):
    """Spell options with hyphens, as the parsers do.

    Example
    -------
    >>> one_spelling(["a_b", "--data_folder=c_d", "--data-folder"])
    ['a_b', '--data-folder=c_d', '--data-folder']
    """
    return [
        re.sub("^--[^=]+", lambda name: name[0].replace("_", "-"), argument)
        for argument in arguments
    ]

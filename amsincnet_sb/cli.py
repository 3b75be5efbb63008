"""The console command ``amsincnet``.

Each command is a function in ``amsincnet_sb/commands``.
"""

import os
import sys

from amsincnet_sb import __version__
from amsincnet_sb.commands import training
from amsincnet_sb.options import make_parser, one_spelling
from amsincnet_sb.utils.errors import exit_on_input_error

__all__ = ["main", "one_spelling"]

STATUSES = """\
exit status: 0 done; 1 the answer is no (verify) or a run failed (sweep); 2
wrong input, options or place, or some of several recordings could not be used;
70 a bug; 75 a training that was stopped and can go on; 130 interrupted
(Ctrl-C); 141 the output is not read any more.
"""
# Names of version 0.1.0, which still work.
OLD_NAMES = {"import-released": "import-original"}


def main(arguments=None):
    """Run a command, by default that of the process; returns its exit status.

    Errors of the user are one sentence and status 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with exit_on_input_error():
        parser = _parser()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks; ends the process
            import argcomplete

            argcomplete.autocomplete(parser)
        if arguments[:1] == ["train"]:
            return training.train(arguments[1:]) or 0
        if arguments[:1] == ["sweep"]:
            return training.sweep(arguments[1:])
        arguments[:1] = [OLD_NAMES.get(word, word) for word in arguments[:1]]
        options = parser.parse_args(one_spelling(arguments))
        return options.run(options) or 0


def _parser():
    return make_parser(
        "amsincnet",
        "Speaker identification with AM-SincNet.",
        __version__,
        STATUSES,
    )


if __name__ == "__main__":
    sys.exit(main())

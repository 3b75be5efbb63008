"""The command as a shell sees it."""

from amsincnet_sb import cli


def status_of(arguments, main=cli.main):
    """Exit status of a command line."""
    try:
        return main([str(argument) for argument in arguments]) or 0
    except SystemExit as stopped:
        return stopped.code

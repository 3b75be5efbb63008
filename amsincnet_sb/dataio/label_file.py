"""The file of the speakers' labels, in the format of SpeechBrain."""

__all__ = ["label_file"]


def label_file(speakers):
    """The text that a CategoricalEncoder loads, whatever the names.

    Its own ``save`` leaves the separator in a name as it is, so that a speaker
    called ``x => y`` cannot be loaded; here an escape stands for it.

    Example
    -------
    >>> print(label_file(["ann", "x => y"]), end="")
    'ann' => 0
    'x \\x3d> y' => 1
    ================
    'starting_index' => 0
    """
    names = [repr(name).replace("=>", "\\x3d>") for name in speakers]
    lines = [f"{name} => {index}" for index, name in enumerate(names)]
    return "\n".join([*lines, "=" * 16, "'starting_index' => 0\n"])
